//! A limit on what Weft sends of its own accord.

use std::time::Duration;

use crate::Now;

#[cfg(test)]
mod tests;

/// A token bucket (generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// What one packet costs.
    interval: Duration,
    /// How far ahead of now the bucket may run.
    burst: Duration,
    /// When the bucket would be full again.
    full_at: Now,
}

impl RateLimit {
    /// ICMP errors of one worker: 10,000 a second, 1,000 at once. Enough for every client of a service
    /// without backends to be told at once, and a small part of what a worker can send.
    pub const ICMP_ERRORS: Self = Self::new(10_000, 1_000);

    /// At most `rate` a second (not 0), and `burst` at once.
    pub const fn new(rate: u32, burst: u32) -> Self {
        let interval = Duration::from_nanos(1_000_000_000 / rate as u64);
        Self {
            interval,
            burst: Duration::from_nanos(interval.as_nanos() as u64 * burst as u64),
            full_at: Now::from_nanos(0),
        }
    }

    /// Takes a token; `false` when there is none.
    pub fn take(&mut self, now: Now) -> bool {
        let next = self.full_at.max(now) + self.interval;
        let conforms = next.since(now) <= self.burst;
        if conforms {
            self.full_at = next;
        }
        conforms
    }
}
