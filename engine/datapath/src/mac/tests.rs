use super::*;

#[test]
fn ingress_round_trips_and_has_the_shared_layout() {
    let ingress = Ingress {
        ifindex: 0x01_02_03,
        hook: Hook::FromPod,
        target: 0x0405,
    };
    assert_eq!(ingress.encode(), [0x06, 1, 2, 3, 4, 5]);
    assert_eq!(Ingress::decode(&ingress.encode()), Some(ingress));
    let ingress = Ingress {
        hook: Hook::ToPod,
        ..ingress
    };
    assert_eq!(ingress.encode()[0], 0x0a);
    assert_eq!(Ingress::decode(&ingress.encode()), Some(ingress));
}

#[test]
fn foreign_macs_are_none_of_ours() {
    for first in (0..=255).filter(|first| ![0x06, 0x0a].contains(first)) {
        assert_eq!(Ingress::decode(&[first, 0, 0, 1, 0, 0]), None);
        assert_eq!(Egress::decode(&[first, 0, 0, 1, 1, 0]), None);
    }
    assert_eq!(
        Egress::decode(&[0x06, 0, 0, 1, 3, 0]),
        None,
        "a reserved mode"
    );
    assert_eq!(
        Egress::decode(&[0x06, 0, 0, 1, 1, 7]),
        None,
        "the last byte is zero"
    );
}

#[test]
fn egress_round_trips_and_has_the_shared_layout() {
    assert_eq!(
        Egress::peer(0x0a_0b_0c).encode(),
        [0x06, 0x0a, 0x0b, 0x0c, 1, 0]
    );
    assert_eq!(Egress::reingress(9).encode(), [0x06, 0, 0, 9, 2, 0]);
    for egress in [Egress::peer(MAX_IFINDEX), Egress::reingress(1)] {
        assert_eq!(Egress::decode(&egress.encode()), Some(egress));
    }
}

#[test]
fn reingress_leaves_the_destination_and_peer_writes_it() {
    let ports = Ports {
        weft0_mac: [2, 2, 2, 2, 2, 2],
    };
    let mut frame = [0x11; 14];
    Egress::reingress(7).write(&mut frame, &ports);
    assert_eq!(
        frame,
        [
            0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 6, 0, 0, 7, 2, 0, 0x11, 0x11
        ]
    );
    Egress::peer(8).write(&mut frame, &ports);
    assert_eq!(frame, [2, 2, 2, 2, 2, 2, 6, 0, 0, 8, 1, 0, 0x11, 0x11]);
}
