use super::*;
use std::net::IpAddr;

fn ips() -> [Ip; 2] {
    let ip = |src: &str, dst: &str| {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        Ip {
            id: 77,
            class: 0x20,
            ..Ip::new(src, dst)
        }
    };
    [
        ip("10.244.1.1", "10.96.0.10"),
        ip("fd00:244:1::1", "fd00:96::a"),
    ]
}

#[test]
fn what_is_built_reads_as_it_was_meant() {
    for ip in ips() {
        let header = Tcp {
            sport: 1000,
            dport: 80,
            flags: flag::SYN,
            seq: 5,
            ack: 6,
        };
        let seen = see(&tcp(&ip, header, b"odd")).unwrap();
        assert_eq!((seen.src, seen.dst, seen.hops), (ip.src, ip.dst, 64));
        assert_eq!((seen.id, seen.class, seen.sum), (77, 0x20, Sum::Good));
        assert_ne!(seen.header_sum, Sum::Bad);
        assert_eq!(
            (seen.ports(), &seen.payload[..]),
            (Some((1000, 80)), &b"odd"[..])
        );
        let datagram = udp(&ip, 1, 2, b"abc");
        let seen = see(&datagram).unwrap();
        assert_eq!((seen.ports(), seen.sum), (Some((1, 2)), Sum::Good));
        let seen = see(&echo(&ip, false, 9, b"x")).unwrap();
        assert_eq!(seen.sum, Sum::Good);
        let seen = see(&error(&ip.back(), Some(1400), &datagram)).unwrap();
        let L4::Icmp { about, .. } = seen.l4 else {
            panic!("{seen:?}")
        };
        assert_eq!(
            (about.unwrap().ports(), seen.sum),
            (Some((1, 2)), Sum::Good)
        );
    }
}

#[test]
fn a_flipped_bit_is_a_bad_checksum() {
    for ip in ips() {
        let mut packet = udp(&ip, 1, 2, b"abcd");
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(see(&packet).unwrap().sum, Sum::Bad);
    }
    let mut packet = udp(&ips()[0], 1, 2, b"abcd");
    packet[8] -= 1;
    assert_eq!(see(&packet).unwrap().header_sum, Sum::Bad);
}

#[test]
fn fragments_and_options_are_recognised() {
    for mut ip in ips() {
        ip.dont_fragment = false;
        let parts = fragments(&ip, 1, 2, &[7; 100]);
        let [first, second] = parts.map(|part| see(&part).unwrap());
        assert_eq!(first.ports(), Some((1, 2)));
        assert_eq!((first.payload.len(), second.payload.len()), (56, 44));
        assert_eq!(
            second.fragment,
            Some(Fragment {
                offset: 64,
                more: false
            })
        );
        // No operation; padding: in both families.
        ip.options = if ip.src.is_ipv4() {
            vec![1; 4]
        } else {
            vec![1, 4, 0, 0, 0, 0]
        };
        let seen = see(&udp(&ip, 1, 2, b"abc")).unwrap();
        assert_eq!((seen.ports(), seen.sum), (Some((1, 2)), Sum::Good));
        assert!(!seen.options.is_empty());
    }
}
