use super::*;

/// An IPv4 TCP SYN, 10.0.0.1:4660 > 10.0.0.2:80.
fn ipv4_tcp() -> Vec<u8> {
    let mut frame = vec![0x11; 12];
    frame.extend([0x08, 0x00]);
    frame.extend([
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame.extend([
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
    ]);
    frame
}

fn flow(frame: &[u8]) -> Packet {
    match parse(frame) {
        Ok(Parsed::Flow(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn with(change: impl FnOnce(&mut Vec<u8>)) -> Result<Parsed, DropReason> {
    let mut frame = ipv4_tcp();
    change(&mut frame);
    parse(&frame)
}

#[test]
fn a_packet_is_what_it_says() {
    let packet = flow(&ipv4_tcp());
    assert_eq!(
        packet.tuple().to_string(),
        "tcp 10.0.0.1:4660 > 10.0.0.2:80"
    );
    assert_eq!(
        (packet.family(), packet.hops(), packet.l4(), packet.end()),
        (Family::V4, 64, 34, 54)
    );
    assert!(packet.opens());
}

#[test]
fn ethernet_padding_is_cut() {
    let mut frame = ipv4_tcp();
    frame.extend([0; 6]);
    assert_eq!(flow(&frame).end(), 54);
}

#[test]
fn only_a_bare_syn_opens() {
    for (flags, opens) in [
        (0x02, true),
        (0xc2, true),
        (0x12, false),
        (0x10, false),
        (0x06, false),
        (0x03, false),
        (0, false),
    ] {
        let mut frame = ipv4_tcp();
        frame[34 + tcp::FLAGS] = flags;
        assert_eq!(flow(&frame).opens(), opens, "{flags:#x}");
    }
}

#[test]
fn impossible_headers_are_named() {
    assert_eq!(with(|f| f.truncate(13)), Err(DropReason::EthernetHeader));
    assert_eq!(with(|f| f[12] = 0x81), Err(DropReason::EtherType));
    assert_eq!(with(|f| f[14] = 0x65), Err(DropReason::Ipv4Header));
    assert_eq!(with(|f| f[14] = 0x44), Err(DropReason::Ipv4Header));
    assert_eq!(
        with(|f| f[14] = 0x4f),
        Err(DropReason::Ipv4Header),
        "options beyond the frame"
    );
    assert_eq!(with(|f| f[17] = 19), Err(DropReason::Ipv4Length));
    assert_eq!(with(|f| f[17] = 41), Err(DropReason::Ipv4Length));
    assert_eq!(with(|f| f[17] = 39), Err(DropReason::TcpHeader));
    assert_eq!(with(|f| f[34 + 12] = 0x40), Err(DropReason::TcpHeader));
    assert_eq!(with(|f| f[34 + 12] = 0x60), Err(DropReason::TcpHeader));
    assert_eq!(
        with(|f| f[23] = 17),
        Err(DropReason::UdpHeader),
        "its length would be 0"
    );
    assert_eq!(
        with(|f| f[12..14].copy_from_slice(&[0x86, 0xdd])),
        Err(DropReason::Ipv6Header)
    );
}

fn part(parsed: Result<Parsed, DropReason>) -> Fragment {
    match parsed {
        Ok(Parsed::Fragment(fragment)) => fragment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn svc_35_a_fragment_is_what_it_says() {
    for (field, offset, more) in [
        ([0x20, 0], 0, true),
        ([0, 1], 8, false),
        ([0x3f, 0xff], 65528, true),
    ] {
        let fragment = part(with(|f| {
            f[18..20].copy_from_slice(&[7, 9]);
            f[20..22].copy_from_slice(&field);
        }));
        assert_eq!((fragment.offset(), fragment.more()), (offset, more));
        assert_eq!((fragment.id(), fragment.len()), (0x0709, 20));
        assert_eq!(fragment.is_first(), offset == 0);
        assert!(!fragment.is_atomic());
    }
    assert!(
        matches!(with(|f| f[20] = 0x80), Ok(Parsed::Flow(_))),
        "the reserved bit is none of our business"
    );
}

/// RFC 1858: a first fragment without the whole transport header says nothing that can be trusted.
#[test]
fn svc_35_a_first_fragment_must_have_the_ports_and_may_lack_the_rest() {
    let head = |length: u8, change: fn(&mut Vec<u8>)| {
        let mut frame = ipv4_tcp();
        frame[17] = length;
        frame[20] = 0x20;
        change(&mut frame);
        part(parse(&frame)).head(&frame)
    };
    let packet = head(40, |_| {}).unwrap();
    assert_eq!((packet.tuple().dport, packet.whole()), (80, false));
    for length in 20..40 {
        assert_eq!(head(length, |_| {}), Err(DropReason::FragmentTiny));
    }
    let options = head(40, |f| f[34 + tcp::DATA_OFFSET] = 0x60);
    assert_eq!(options, Err(DropReason::FragmentTiny), "cut options");
    let malformed = head(40, |f| f[34 + tcp::DATA_OFFSET] = 0x40);
    assert_eq!(malformed, Err(DropReason::TcpHeader));
    // A datagram of 60,000 bytes of which 20 are here.
    let udp = head(40, |f| {
        f[23] = 17;
        f[34 + 4..34 + 6].copy_from_slice(&60_000u16.to_be_bytes());
    });
    assert_eq!(udp.unwrap().tuple().proto, Protocol::Udp);
}

#[test]
fn svc_35_an_ipv6_fragment_header_is_read() {
    let mut frame = vec![0; 14 + 40 + 8 + 8];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[19] = 16;
    frame[20] = ipv6::FRAGMENT;
    frame[54..62].copy_from_slice(&[17, 0, 0x05, 0xa9, 1, 2, 3, 4]);
    let fragment = part(parse(&frame));
    assert_eq!((fragment.offset(), fragment.more()), (1448, true));
    assert_eq!((fragment.id(), fragment.len()), (0x0102_0304, 8));
    frame[56..58].fill(0);
    assert!(part(parse(&frame)).is_atomic());
    frame[19] = 7;
    assert_eq!(parse(&frame), Err(DropReason::FragmentHeader));
}

#[test]
fn ipv4_options_are_stepped_over() {
    let mut frame = ipv4_tcp();
    frame[14] = 0x46;
    frame[17] = 44;
    frame.splice(34..34, [1, 1, 1, 1]);
    let packet = flow(&frame);
    assert_eq!((packet.l4(), packet.tuple().dport), (38, 80));
}

#[test]
fn ipv6_extensions_and_mapped_addresses_have_no_flow() {
    let mut frame = vec![0; 14 + 40 + 8];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[19] = 8;
    let why = |frame: &[u8]| match parse(frame) {
        Ok(Parsed::Other { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    for next in ipv6::EXTENSIONS {
        frame[20] = next;
        assert_eq!(why(&frame), Unflowed::Extension, "or a fragment of one");
    }
    frame[20] = 58;
    assert_eq!(why(&frame), Unflowed::Protocol);
    // ::ffff:10.0.0.1 in a real IPv6 header is not 10.0.0.1.
    frame[20] = 17;
    frame[54 + 5] = 8;
    assert!(matches!(parse(&frame), Ok(Parsed::Flow(_))));
    frame[38..54].copy_from_slice(&Address::from_v4([10, 0, 0, 1]).0);
    assert_eq!(why(&frame), Unflowed::Mapped);
}

#[test]
fn a_udp_length_below_the_packet_is_legal() {
    let mut frame = ipv4_tcp();
    frame[23] = 17;
    for (length, right) in [(7, false), (8, true), (20, true), (21, false)] {
        frame[34 + 5] = length;
        assert_eq!(parse(&frame).is_ok(), right, "{length}");
    }
}
