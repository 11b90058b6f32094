//! Time passes in `next`: a worker that sleeps until then misses nothing.

use std::time::Duration;

use crate::support::*;

#[test]
fn a_worker_that_sleeps_until_next_misses_nothing() {
    let mut pair = Pair::new(small());
    let (client, server) = pair.open(&Net::both()[0], 40_000);
    let data = pattern(200_000);
    let (mut sent, mut got, mut turns) = (0, Vec::new(), 0);
    while got.len() < data.len() {
        sent += write(&client, &data[sent..]);
        pair.exchange();
        got.extend(read(&server).0);
        pair.exchange();
        let next = [pair.a.stack.next(), pair.b.stack.next()]
            .into_iter()
            .flatten()
            .min();
        pair.now = pair
            .now
            .max(next.expect("a timer is set while data is under way"));
        turns += 1;
        assert!(turns < 10_000);
    }
    assert!(got == data);
    drop((client, server));
    // To the end of TIME-WAIT, from timer to timer.
    for _ in 0..200 {
        pair.exchange();
        match [pair.a.stack.next(), pair.b.stack.next()]
            .into_iter()
            .flatten()
            .min()
        {
            Some(next) => pair.now = pair.now.max(next) + Duration::from_micros(1),
            None => break,
        }
    }
    assert_eq!(pair.a.stack.next(), None);
    assert_eq!(pair.a.stack.holdings().time_wait, 0);
}
