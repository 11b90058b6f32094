//! Durations in buckets.

use std::time::Duration;

use super::view::{Bucket, Latency};

/// Bounds of the buckets. The first is below what one system call can cost, and the last is where a
/// person begins to wait.
const BOUNDS: [Duration; 10] = [
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

impl Latency {
    /// Counts one duration.
    pub fn record(&mut self, took: Duration) {
        if self.buckets.is_empty() {
            let bounds = BOUNDS.iter().map(|bound| Some(micros(*bound)));
            let bounds = bounds.chain([None]);
            self.buckets = bounds.map(|le_us| Bucket { le_us, count: 0 }).collect();
        }
        let took_us = micros(took);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(took_us);
        self.last_us = took_us;
        self.max_us = self.max_us.max(took_us);
        let bucket = BOUNDS.partition_point(|bound| micros(*bound) < took_us);
        self.buckets[bucket].count += 1;
    }
}

/// Whole microseconds, as the admin socket speaks of durations.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svc_45_each_duration_is_in_the_bucket_of_the_least_bound_that_holds_it() {
        let mut latency = Latency::default();
        for took_us in [0, 100, 101, 5_000, 2_000_001] {
            latency.record(Duration::from_micros(took_us));
        }
        let filled = latency.buckets.iter().filter(|bucket| bucket.count > 0);
        let filled: Vec<_> = filled.map(|bucket| (bucket.le_us, bucket.count)).collect();
        assert_eq!(
            filled,
            [(Some(100), 2), (Some(200), 1), (Some(5_000), 1), (None, 1)]
        );
        assert_eq!((latency.count, latency.sum_us), (5, 2_005_202));
        assert_eq!((latency.last_us, latency.max_us), (2_000_001, 2_000_001));
    }
}
