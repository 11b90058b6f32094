use super::*;
use crate::Protocol;

/// Computed by an independent implementation; the BPF programs and every node must agree with them.
const VECTORS: [(&str, &str, u16, u16, Protocol, u64); 7] = [
    (
        "10.244.1.7",
        "10.96.0.80",
        40000,
        9080,
        Protocol::Tcp,
        0x2866d4b5d5b6bffe,
    ),
    (
        "10.244.1.7",
        "10.96.0.80",
        40000,
        9080,
        Protocol::Udp,
        0xe1bbf1c60ead7bae,
    ),
    (
        "10.244.1.7",
        "10.96.0.80",
        40001,
        9080,
        Protocol::Tcp,
        0x53e8b2f13efc7fab,
    ),
    (
        "fd00:10:244::7",
        "fd00:10:96::50",
        40000,
        9080,
        Protocol::Tcp,
        0xcf22e41365ad9b78,
    ),
    (
        "fd00:10:244::7",
        "fd00:10:96::50",
        53,
        53,
        Protocol::Udp,
        0xe65713c51235d3b0,
    ),
    (
        "0.0.0.0",
        "0.0.0.0",
        0,
        0,
        Protocol::Tcp,
        0x6ba305f59a772ef3,
    ),
    (
        "255.255.255.255",
        "255.255.255.255",
        65535,
        65535,
        Protocol::Udp,
        0x9401082b87e6d550,
    ),
];

#[test]
fn the_committed_vectors() {
    for (src, dst, sport, dport, proto, expected) in VECTORS {
        let tuple = Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            sport,
            dport,
            proto,
        };
        assert_eq!(
            flow_hash(&tuple),
            expected,
            "{tuple}: {:#018x}",
            flow_hash(&tuple)
        );
    }
}

/// Ports of one client, as Linux gives them out (in steps of two), spread evenly over 16 places.
#[test]
fn neighbouring_ports_spread() {
    let mut places = [0u32; 16];
    for port in 0..8000u16 {
        let tuple = Tuple {
            src: "10.244.1.7".parse().unwrap(),
            dst: "10.96.0.80".parse().unwrap(),
            sport: 32768 + port * 2,
            dport: 80,
            proto: Protocol::Tcp,
        };
        places[reduce(flow_hash(&tuple), 16) as usize] += 1;
    }
    assert!(
        places.iter().all(|count| (400..=600).contains(count)),
        "{places:?}"
    );
}
