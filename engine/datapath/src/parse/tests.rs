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

#[test]
fn fragments_have_no_flow_not_even_the_first() {
    for fragment in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
        let parsed = with(|f| f[20..22].copy_from_slice(&fragment)).unwrap();
        assert!(
            matches!(
                parsed,
                Parsed::Other {
                    why: Unflowed::Fragment,
                    ..
                }
            ),
            "{fragment:?}"
        );
    }
    assert!(
        matches!(with(|f| f[20] = 0x80), Ok(Parsed::Flow(_))),
        "the reserved bit is none of our business"
    );
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

/// An empty UDP datagram with room for an extension header of 8 bytes before it.
fn ipv6_udp(next: u8, extension: [u8; 8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + 40];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[19] = 16;
    frame[20] = next;
    frame.extend(extension);
    frame.extend([0, 7, 0, 53, 0, 8, 0, 0]);
    frame
}

#[test]
fn ipv6_extension_headers_are_stepped_over() {
    for next in ipv6::FOLLOWED {
        let packet = flow(&ipv6_udp(next, [17, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(
            (packet.l4(), packet.tuple().sport, packet.tuple().dport),
            (62, 7, 53)
        );
    }
}

#[test]
fn what_has_no_ports_in_ipv6_says_why() {
    let why = |next, extension| match parse(&ipv6_udp(next, extension)) {
        Ok(Parsed::Other { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let udp = [17, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(why(ipv6::FRAGMENT, udp), Unflowed::Fragment);
    let behind = [ipv6::FRAGMENT, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(why(ipv6::DESTINATION_OPTIONS, behind), Unflowed::Fragment);
    // ICMP is a protocol like any other in the other family.
    for protocol in [1, 50, 51, ipv6::NONE, 132, 135, 139, 140, 253, 254] {
        assert_eq!(why(protocol, udp), Unflowed::Protocol(protocol));
    }
    let undone = [17, 0, 0, 1, 0, 0, 0, 0];
    assert_eq!(why(ipv6::ROUTING, undone), Unflowed::Extension);
    let too_far = [17, 2, 0, 0, 0, 0, 0, 0];
    let behind_the_end = parse(&ipv6_udp(ipv6::ROUTING, too_far));
    assert_eq!(behind_the_end, Err(DropReason::Ipv6Length));
}

#[test]
fn mapped_addresses_have_no_flow() {
    // ::ffff:10.0.0.1 in a real IPv6 header is not 10.0.0.1.
    let mut frame = ipv6_udp(ipv6::DESTINATION_OPTIONS, [17, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(parse(&frame), Ok(Parsed::Flow(_))));
    frame[38..54].copy_from_slice(&Address::from_v4([10, 0, 0, 1]).0);
    let why = Unflowed::Mapped;
    assert!(matches!(parse(&frame), Ok(Parsed::Other { why: mapped, .. }) if mapped == why));
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
