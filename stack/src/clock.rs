//! A connection's own clock, which may run faster than time (design: clock scale).
//!
//! A socket's retransmission timeout is at least a second of its clock, far beyond what a path within a node or a
//! rack needs. A clock that runs K times as fast makes that 1/K s. K is 1 until the round trip is known, and
//! never so high that the timeout could fire on a peer that delays its ACK for 40 ms, as Linux does.

use std::time::Duration;

use smoltcp::time::Instant;
use weft_datapath::Now;

/// A peer may delay its ACK for so long without its being lost: Linux's TCP_DELACK_MIN of 40 ms, and room for a
/// busy machine.
const ACK_MARGIN: Duration = Duration::from_millis(50);
/// The least retransmission timeout of a socket, by its clock (RFC 6298 section 2.4).
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

/// An affine clock: continuous where its rate changes, so that nothing already due moves.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Clock {
    scale: u32,
    /// What it showed when its rate last changed, in microseconds.
    base: u64,
    since: Now,
}

impl Clock {
    /// A clock that runs as time does.
    pub(crate) fn new(now: Now) -> Self {
        // Not 0, which a socket takes for never.
        Self {
            scale: 1,
            base: 1_000_000,
            since: now,
        }
    }

    pub(crate) fn scale(&self) -> u32 {
        self.scale
    }

    /// What it shows at that time.
    pub(crate) fn at(&self, now: Now) -> Instant {
        let passed = now.since(self.since).as_nanos() as u64;
        Instant::from_micros((self.base + passed * u64::from(self.scale) / 1000) as i64)
    }

    /// When it will show that, rounded up.
    pub(crate) fn when(&self, at: Instant) -> Now {
        let ahead = (at.total_micros().max(0) as u64).saturating_sub(self.base);
        self.since + Duration::from_nanos((ahead * 1000).div_ceil(u64::from(self.scale)))
    }

    /// A length of time as it shows it.
    pub(crate) fn stretch(&self, duration: Duration) -> smoltcp::time::Duration {
        smoltcp::time::Duration::from_micros(duration.as_micros() as u64 * u64::from(self.scale))
    }

    /// Makes it run `scale` times as fast as time from now on.
    pub(crate) fn set_scale(&mut self, scale: u32, now: Now) {
        self.base = self.at(now).total_micros() as u64;
        self.since = now;
        self.scale = scale.max(1);
    }
}

/// The scale for a path with this round trip, at most `most`: the least timeout stays four round trips above a
/// delayed ACK.
pub(crate) fn scale_for(round_trip: Duration, most: u32) -> u32 {
    let least = ACK_MARGIN + 4 * round_trip;
    let scale = LEAST_TIMEOUT.as_micros() / least.as_micros();
    (scale as u32).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_change_of_rate_moves_nothing() {
        let mut clock = Clock::new(at(100));
        let due = clock.at(at(100)) + smoltcp::time::Duration::from_millis(1000);
        assert_eq!(clock.when(due), at(1100));
        clock.set_scale(20, at(600));
        assert_eq!(
            clock.when(due),
            at(625),
            "half a second left, twenty times as fast"
        );
        clock.set_scale(1, at(620));
        assert_eq!(clock.when(due), at(720));
        assert_eq!(clock.at(at(720)), due);
    }

    #[test]
    fn rfc_6298_the_timeout_stays_above_a_delayed_ack() {
        for (micros, scale) in [(0, 20), (100, 19), (10_000, 11), (50_000, 4), (250_000, 1)] {
            let found = scale_for(Duration::from_micros(micros), 20);
            assert_eq!(found, scale, "{micros} us");
            let timeout = LEAST_TIMEOUT / found;
            assert!(
                timeout >= Duration::from_millis(50) + Duration::from_micros(4 * micros)
                    || found == 1
            );
        }
        assert_eq!(scale_for(Duration::from_micros(100), 1), 1);
    }
}
