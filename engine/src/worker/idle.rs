//! What a worker does when nobody sends: it forgets flows whose time is over, and sleeps in between.

use std::time::Duration;

use weft_datapath::{Now, PacketIo, Tables};

use super::{HOUSEKEEPING_EVERY, PinSink, Worker};

/// Places of the flow table that the clock hand moves over in a millisecond, whether the worker has packets or
/// sleeps: each of 262,144 flows is looked at within 4.1 s, for 64 cache misses (under 5 us) a millisecond.
const PLACES: usize = 64;
/// Milliseconds that a step makes up for at most: as many as the longest nap of a worker with flows. 1,600
/// places are 100 us.
const ARREARS_MAX: usize = 25;
/// Flows that a step forgets at most, give or take [`PLACES`]: with the owner entries of several workers, 300 us.
const FORGOTTEN_MAX: usize = 256;

impl<IO: PacketIo, P: PinSink> Worker<IO, P> {
    /// Forgets flows whose time is over among the places that are due after `since`.
    pub(super) fn forget_flows(&mut self, now: Now, since: Duration, tables: &Tables) {
        let due = since.as_millis() / HOUSEKEEPING_EVERY.as_millis();
        let due = usize::try_from(due).unwrap_or(ARREARS_MAX).min(ARREARS_MAX);
        let mut forgotten = 0;
        for _ in 0..due {
            forgotten += self.state.expire(now, tables, PLACES);
            if forgotten >= FORGOTTEN_MAX {
                break;
            }
        }
        self.forgetting = forgotten > 0;
    }

    /// How long the worker may sleep when nobody sends.
    ///
    /// Four naps within the heartbeat limit, so that one late wake-up does not look like death; with flows no
    /// longer than a step can make up for, and briefly while their time is running out.
    pub fn nap(&self, now: Now) -> Duration {
        let longest = self.heartbeat_limit / 4;
        let due = self.tcp.next().into_iter().chain(self.http.next()).min();
        let longest = match due {
            Some(due) => longest.min(due.since(now)),
            None => longest,
        };
        if self.forgetting {
            longest.min(HOUSEKEEPING_EVERY)
        } else if self.state.flows.is_empty() && self.state.fragments.is_empty() {
            longest
        } else {
            longest.min(HOUSEKEEPING_EVERY * ARREARS_MAX as u32)
        }
    }
}
