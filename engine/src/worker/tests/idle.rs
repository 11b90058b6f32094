//! A node that nobody uses any more forgets what was there: flows, owner entries, and the pace of its naps.

use std::time::Duration;

use weft_datapath::{BURST_MAX, PinOp, timeouts};

use super::super::testing::{CLIENT, HEARTBEAT_LIMIT, VIP, bench_for, udp};
use super::{Now, at, balanced};

const FLOWS: u16 = 50_000;
const MOMENT: Duration = Duration::from_micros(1);

/// Before this was so, a worker looked at 64 places a nap: 20 s for these flows, 102 s for as many as there are
/// room for by default.
#[test]
fn a_full_table_is_forgotten_within_seconds_on_an_idle_node() {
    for workers in [1, 2] {
        let mut bench = bench_for(workers, 256, 128, 1 << 16);
        let worker = &mut bench.workers[0];
        assert_eq!(
            worker.nap(Now::default()),
            HEARTBEAT_LIMIT / 4,
            "nothing to forget"
        );
        let mut now = at(0);
        for first in (0..FLOWS).step_by(BURST_MAX) {
            for sport in first..FLOWS.min(first + BURST_MAX as u16) {
                assert!(worker.io_mut().push(&udp(CLIENT, sport, VIP, 0)));
            }
            worker.step(now);
            worker.io_mut().drain_sent(|_| {});
            now = now + MOMENT;
        }
        assert_eq!(worker.shared().read().flows, u64::from(FLOWS));

        // Nobody sends. What is not over stays.
        let last = now;
        while now < last + (timeouts::UDP_ONE_WAY - Duration::from_millis(100)) {
            assert_eq!(worker.nap(now), Duration::from_millis(25));
            now = now + worker.nap(now);
            worker.step(now);
        }
        assert_eq!(worker.shared().read().flows, u64::from(FLOWS));
        let over: Now = last + timeouts::UDP_ONE_WAY;
        let mut before = u64::from(FLOWS);
        while before > 0 {
            now = now + worker.nap(now);
            worker.step(now);
            let left = worker.shared().read().flows;
            assert!(
                before - left <= 320,
                "a step stays short: {}",
                before - left
            );
            before = left;
            assert!(
                now.since(over) < Duration::from_secs(2),
                "{left} flows left"
            );
        }
        // Back to sleep.
        worker.step(now + worker.nap(now));
        assert_eq!(worker.nap(now), HEARTBEAT_LIMIT / 4);
        let ops = bench.pins.0.lock().unwrap();
        let removed = ops.iter().filter(|op| matches!(op, PinOp::Remove { .. }));
        let pinned = if workers > 1 {
            2 * usize::from(FLOWS)
        } else {
            0
        };
        assert_eq!(removed.count(), pinned);
        drop(ops);
        balanced(&mut bench);
    }
}
