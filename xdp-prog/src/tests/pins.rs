use std::net::{IpAddr, Ipv4Addr};

use weft_datapath::{FlowKey, PinOp, Protocol, Tuple};

use crate::PinOutcome;

use super::support::node;

fn key(n: u16) -> FlowKey {
    let [high, low] = n.to_be_bytes();
    let tuple = Tuple {
        src: IpAddr::from(Ipv4Addr::new(10, 9, high, low)).into(),
        dst: IpAddr::from(Ipv4Addr::new(10, 96, 0, 1)).into(),
        sport: n,
        dport: 80,
        proto: Protocol::Tcp,
    };
    FlowKey {
        tuple,
        ifindex: u32::from(n) + 7,
    }
}

fn insert(n: u16, owner: u16) -> PinOp {
    PinOp::Insert {
        key: key(n),
        owner,
        cookie: u64::from(n) << 32,
        terminated: None,
    }
}

fn remove(n: u16, cookie: Option<u64>) -> PinOp {
    PinOp::Remove {
        key: key(n),
        cookie,
    }
}

/// Two workers, one key: the entry is the later one's, whichever of the flows ends first.
#[test]
fn a_flow_that_ends_leaves_the_entry_to_whoever_wrote_it_last() {
    node(|node| {
        let steering = node.steering(2);
        let mut writers = [0, 1].map(|_| steering.pin_writer(None).unwrap());
        let ours = |n: u16| u64::from(n) << 32;
        let theirs = |n: u16| 1 << 48 | ours(n);
        let inserts: Vec<PinOp> = (0..300).map(|n| insert(n, 0)).collect();
        writers[0].apply(&inserts);
        let again: Vec<PinOp> = (0..300)
            .step_by(3)
            .map(|n| PinOp::Insert {
                key: key(n),
                owner: 1,
                cookie: theirs(n),
                terminated: None,
            })
            .collect();
        writers[1].apply(&again);
        let removals: Vec<PinOp> = (0..330).map(|n| remove(n, Some(ours(n)))).collect();
        let expected = PinOutcome {
            removed: 200,
            foreign: 100,
            absent: 30,
            ..Default::default()
        };
        assert_eq!(writers[0].apply(&removals), expected);
        let pins = steering.pins().unwrap();
        assert_eq!(pins.len(), 100);
        assert!(pins.iter().all(|pin| pin.owner == 1), "{pins:?}");
        let removals = (0..300).step_by(3).map(|n| remove(n, Some(theirs(n))));
        let removals: Vec<PinOp> = removals.collect();
        assert_eq!(writers[1].apply(&removals).removed, 100);
        assert_eq!(steering.pins().unwrap(), []);
    });
}

#[test]
fn a_thousand_pins_come_and_go_in_batches() {
    node(|node| {
        let steering = node.steering(2);
        let mut writer = steering.pin_writer(None).unwrap();
        let inserts: Vec<PinOp> = (0..1000).map(|n| insert(n, n % 2)).collect();
        let outcome = writer.apply(&inserts);
        assert_eq!(
            outcome,
            PinOutcome {
                inserted: 1000,
                ..Default::default()
            }
        );

        let mut pins = steering.pins().unwrap();
        pins.sort_by_key(|pin| pin.key.tuple.sport);
        assert_eq!(pins.len(), 1000);
        for (n, pin) in (0..).zip(&pins) {
            assert_eq!(
                (pin.key, pin.owner, pin.cookie),
                (key(n), n % 2, u64::from(n) << 32)
            );
        }

        // One in three is not there: the kernel stops a batch at each, and we go on behind it.
        let removals: Vec<PinOp> = (0..1500).map(|n| remove(n, None)).collect();
        let outcome = writer.apply(&removals);
        assert_eq!(
            outcome,
            PinOutcome {
                removed: 1000,
                absent: 500,
                ..Default::default()
            }
        );
        assert_eq!(steering.pins().unwrap(), []);
    });
}

#[test]
fn the_last_operation_on_a_key_wins() {
    node(|node| {
        let steering = node.steering(1);
        let mut writer = steering.pin_writer(None).unwrap();
        writer.apply(&[
            insert(1, 0),
            remove(1, None),
            insert(1, 3),
            insert(2, 1),
            remove(2, Some(2 << 32)),
        ]);
        let pins = steering.pins().unwrap();
        assert_eq!(pins.len(), 1);
        assert_eq!((pins[0].key, pins[0].owner), (key(1), 3));
    });
}

#[test]
fn a_full_map_is_counted_and_nothing_else_is_lost() {
    node(|node| {
        let steering = node.steering(1); // Room for 4096.
        let mut writer = steering.pin_writer(None).unwrap();
        let inserts: Vec<PinOp> = (0..5000).map(|n| insert(n, 0)).collect();
        let outcome = writer.apply(&inserts);
        assert_eq!(outcome.inserted + outcome.full, 5000, "{outcome:?}");
        assert_eq!(outcome.inserted, 4096, "{outcome:?}");
        assert_eq!(steering.clear_pins().unwrap(), 4096);
        assert_eq!(steering.pins().unwrap(), []);
    });
}
