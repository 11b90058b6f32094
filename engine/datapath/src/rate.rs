//! Limits on what Weft sends of its own accord.

use std::time::Duration;

use crate::{Now, resident};

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
        let next = self.next(self.full_at, now);
        if let Some(next) = next {
            self.full_at = next;
        }
        next.is_some()
    }

    /// When a bucket would be full again after one more token, if there is one.
    fn next(&self, full_at: Now, now: Now) -> Option<Now> {
        let next = full_at.max(now) + self.interval;
        (next.since(now) <= self.burst).then_some(next)
    }
}

/// Pods that are counted apart, as many as can be enrolled; interfaces equal modulo this share a bucket.
const PODS: usize = 4096;

/// ICMP errors of one worker, in all and about one pod's packets.
///
/// In all 10,000 a second, 1,000 at once: enough for every client of a service without backends to be told
/// at once, and a small part of what a worker can send. A pod has a tenth of that, so it takes ten
/// that ask for all they can get to leave the others without.
#[derive(Debug)]
pub(crate) struct IcmpErrors {
    all: RateLimit,
    /// The limit of each pod; its own time is not used.
    share: RateLimit,
    /// When the bucket of each pod would be full again.
    pods: Box<[Now]>,
}

impl IcmpErrors {
    /// Full buckets.
    pub(crate) fn new() -> Self {
        Self {
            all: RateLimit::new(10_000, 1_000),
            share: RateLimit::new(1_000, 100),
            pods: vec![Now::default(); PODS].into(),
        }
    }

    /// Takes all of the memory at once.
    pub(crate) fn take_memory(&mut self) {
        resident::take(&mut self.pods);
    }

    /// What the pod behind that interface may be told now.
    pub(crate) fn about(&mut self, ifindex: u32, now: Now) -> Allowance<'_> {
        Allowance {
            limits: self,
            pod: ifindex as usize % PODS,
            now,
        }
    }
}

/// Whether one more ICMP error may go out.
pub(crate) struct Allowance<'l> {
    limits: &'l mut IcmpErrors,
    pod: usize,
    now: Now,
}

impl Allowance<'_> {
    /// Takes a token of the pod's and one of all; `false`, and neither is taken, when one is missing.
    pub(crate) fn take(self) -> bool {
        let Self { limits, pod, now } = self;
        let next = limits.share.next(limits.pods[pod], now);
        match next {
            Some(next) if limits.all.take(now) => {
                limits.pods[pod] = next;
                true
            }
            _ => false,
        }
    }
}
