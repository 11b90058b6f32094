use super::*;

const SERVICE: (ServiceId, u32) = (ServiceId(3), u32::MAX);
const NUMBERS: Remembered = Remembered {
    nxt: Seq(1),
    rcv_nxt: Seq(2),
};

fn key(n: u32) -> Key {
    let [a, b, c, d] = n.to_be_bytes();
    let tuple = Tuple {
        src: Address::from_v4([10, a, b, c]),
        dst: Address::from_v4([10, 96, 0, 1]),
        sport: 1024 + u16::from(d),
        dport: 80,
        proto: Protocol::Tcp,
    };
    Key { tuple, tag: 7 }
}

fn at(ms: u64) -> Now {
    Now::from_nanos(ms * 1_000_000)
}

fn find(table: &TimeWaitTable, secret: &Secret, n: u32) -> Option<Remembered> {
    table.find(secret.demux(&key(n)), &key(n))
}

#[test]
fn a7_ten_thousand_cost_at_most_64_bytes_each() {
    let secret = Secret::new(&[1; 32]);
    let mut table = TimeWaitTable::new(10_000, Duration::from_secs(60));
    for n in 0..10_000 {
        let entered = table.insert(&secret, &key(n), NUMBERS, SERVICE, at(n.into()));
        assert_eq!(entered, Entered::Room);
    }
    assert_eq!(table.len(), 10_000);
    let each = table.memory() as f64 / 10_000.0;
    println!("TIME-WAIT: {each:.1} bytes each");
    assert!(each <= 64.0, "{each} bytes");
    assert!((0..10_000).all(|n| find(&table, &secret, n) == Some(NUMBERS)));
}

#[test]
fn they_go_in_time_and_the_oldest_makes_room() {
    let secret = Secret::new(&[1; 32]);
    let mut table = TimeWaitTable::new(3, Duration::from_secs(60));
    for n in 0..3 {
        table.insert(&secret, &key(n), NUMBERS, SERVICE, at(u64::from(n) * 1000));
    }
    let entered = table.insert(&secret, &key(9), NUMBERS, SERVICE, at(4_000));
    assert_eq!((entered, table.len()), (Entered::Evicted, 3));
    assert_eq!(find(&table, &secret, 0), None);
    table.expire(&secret, at(60_900), 100);
    assert_eq!(
        find(&table, &secret, 1),
        Some(NUMBERS),
        "not before its time"
    );
    table.expire(&secret, at(61_200), 100);
    assert_eq!(find(&table, &secret, 1), None);
    assert_eq!(find(&table, &secret, 2), Some(NUMBERS));
    table.forget(secret.demux(&key(2)), &key(2));
    assert_eq!((find(&table, &secret, 2), table.len()), (None, 1));
    // Started again, it goes to the end and stays its whole time.
    table.insert(&secret, &key(9), NUMBERS, SERVICE, at(62_000));
    table.expire(&secret, at(121_900), 100);
    assert_eq!(table.len(), 1);
    table.expire(&secret, at(122_200), 100);
    assert_eq!(
        (table.len(), table.entries.len(), table.index.len()),
        (0, 0, 0)
    );
}

#[test]
fn a_service_at_its_limit_leaves_the_others_alone() {
    let secret = Secret::new(&[1; 32]);
    let mut table = TimeWaitTable::new(10, Duration::from_secs(60));
    let (first, second) = ((ServiceId(0), 2), (ServiceId(1), 2));
    for n in 0..2 {
        assert_eq!(
            table.insert(&secret, &key(n), NUMBERS, first, at(0)),
            Entered::Room
        );
    }
    assert_eq!(
        table.insert(&secret, &key(2), NUMBERS, first, at(0)),
        Entered::Skipped
    );
    assert_eq!(
        table.insert(&secret, &key(3), NUMBERS, second, at(0)),
        Entered::Room
    );
    table.expire(&secret, at(61_000), 100);
    assert_eq!(
        table.insert(&secret, &key(2), NUMBERS, first, at(61_000)),
        Entered::Room
    );
}
