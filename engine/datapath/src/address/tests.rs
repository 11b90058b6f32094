use std::net::IpAddr;

use super::*;

#[test]
fn both_families_round_trip_through_text() {
    for text in ["10.96.0.80", "0.0.0.0", "fd00:10:96::50", "::"] {
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(address.is_v4(), text.contains('.'));
        assert_eq!(IpAddr::from(address), text.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn ipv4_is_v4_mapped() {
    let address = Address::from_v4([10, 0, 0, 1]);
    assert_eq!(
        address.0,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1]
    );
    assert_eq!(address.v4_octets(), [10, 0, 0, 1]);
}

#[test]
fn svc_40_leading_zeros_and_other_nonsense_are_refused() {
    for text in [
        "010.0.0.1",
        "10.0.0.01",
        "10.0.0",
        "10.0.0.1/24",
        "",
        "localhost",
        "fe80::1%eth0",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text}");
    }
}

#[test]
fn reversed_twice_is_the_same() {
    let tuple = Tuple {
        src: "10.0.0.1".parse().unwrap(),
        dst: "10.0.0.2".parse().unwrap(),
        sport: 40000,
        dport: 80,
        proto: Protocol::Tcp,
    };
    assert_eq!(tuple.reversed().reversed(), tuple);
    assert_eq!(tuple.to_string(), "tcp 10.0.0.1:40000 > 10.0.0.2:80");
    assert_eq!(
        tuple.reversed().to_string(),
        "tcp 10.0.0.2:80 > 10.0.0.1:40000"
    );
}

#[test]
fn protocols_have_their_numbers() {
    for proto in [Protocol::Tcp, Protocol::Udp] {
        assert_eq!(Protocol::from_number(proto.number()), Some(proto));
    }
    assert_eq!(Protocol::from_number(1), None);
    assert_eq!((Protocol::Tcp.number(), Protocol::Udp.number()), (6, 17));
}
