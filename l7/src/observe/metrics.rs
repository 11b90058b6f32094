//! Counters and histograms of one service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::Reject;
use crate::route::BackendId;

use super::{AccessRecord, Flag, Protocol};

/// Upper bounds of a histogram's buckets in microseconds; one more bucket holds what is above.
pub const BUCKETS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 10_000_000,
];

/// How often a duration was in which range.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// By bucket of [`BUCKETS`], each without those below.
    pub counts: [u64; BUCKETS.len() + 1],
    /// The sum in microseconds.
    pub sum: u64,
}

impl Histogram {
    pub(crate) fn observe(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(micros);
    }

    /// Adds those of another worker.
    pub fn add(&mut self, other: &Self) {
        add(&mut self.counts, &other.counts);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What requests are counted by. As many as rules times backends times the statuses that backends use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Series {
    /// Route and rule, if one matched.
    pub rule: Option<(Arc<str>, usize)>,
    /// Backend, if one was chosen.
    pub backend: Option<BackendId>,
    /// Status; 0 for what is none of 100 to 599, or where none was sent.
    pub status: u16,
}

/// What became of a service's connections and requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceMetrics {
    /// Clients' connections that were given to the service.
    pub connections: u64,
    /// Those that were reset at once, for being more than may be.
    pub connections_refused: u64,
    /// Those that a panic has reset, or the removal of the service.
    pub connections_lost: u64,
    /// Those that became a tunnel: an upgrade, or no HTTP.
    pub tunnels: u64,
    /// Connections that were reset because their client took nothing, or sent nothing it had announced, for too long.
    pub stalled: u64,
    /// Panics that were contained.
    pub panics: u64,
    /// Connections opened to endpoints.
    pub upstream_connections: u64,
    /// Requests that were sent again because an idle connection had ended.
    pub retries: u64,
    /// Requests that were refused, by [`Reject`].
    pub rejected: [u64; Reject::ALL.len()],
    /// Responses that were refused, by [`Reject`].
    pub upstream_rejected: [u64; Reject::ALL.len()],
    /// Requests, and connections that are no HTTP, by [`Flag`].
    pub flags: [u64; Flag::ALL.len()],
    /// Requests that have ended.
    pub requests: BTreeMap<Series, u64>,
    /// Bytes of their bodies, and of tunnels.
    pub received: u64,
    /// Bytes of the responses' bodies, and of tunnels.
    pub sent: u64,
    /// From the request's header to the end of the response.
    pub duration: Histogram,
    /// From sending a request to an endpoint to its response's header.
    pub backend_duration: Histogram,
}

impl Default for ServiceMetrics {
    fn default() -> Self {
        Self {
            connections: 0,
            connections_refused: 0,
            connections_lost: 0,
            tunnels: 0,
            stalled: 0,
            panics: 0,
            upstream_connections: 0,
            retries: 0,
            rejected: [0; Reject::ALL.len()],
            upstream_rejected: [0; Reject::ALL.len()],
            flags: [0; Flag::ALL.len()],
            requests: BTreeMap::new(),
            received: 0,
            sent: 0,
            duration: Histogram::default(),
            backend_duration: Histogram::default(),
        }
    }
}

fn add<const N: usize>(sums: &mut [u64; N], more: &[u64; N]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

impl ServiceMetrics {
    /// Adds those of another worker.
    pub fn add(&mut self, other: &Self) {
        let Self {
            connections,
            connections_refused,
            connections_lost,
            tunnels,
            stalled,
            panics,
            upstream_connections,
            retries,
            rejected,
            upstream_rejected,
            flags,
            requests,
            received,
            sent,
            duration,
            backend_duration,
        } = self;
        *connections += other.connections;
        *connections_refused += other.connections_refused;
        *connections_lost += other.connections_lost;
        *tunnels += other.tunnels;
        *stalled += other.stalled;
        *panics += other.panics;
        *upstream_connections += other.upstream_connections;
        *retries += other.retries;
        *received += other.received;
        *sent += other.sent;
        add(rejected, &other.rejected);
        add(upstream_rejected, &other.upstream_rejected);
        add(flags, &other.flags);
        for (series, count) in &other.requests {
            *requests.entry(series.clone()).or_default() += count;
        }
        duration.add(&other.duration);
        backend_duration.add(&other.backend_duration);
    }

    /// Requests that have ended.
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Requests that ended with this status.
    pub fn with_status(&self, status: u16) -> u64 {
        let found = self
            .requests
            .iter()
            .filter(|(series, _)| series.status == status);
        found.map(|(_, count)| count).sum()
    }

    pub(crate) fn record(&mut self, record: &AccessRecord) {
        if let Some(flag) = record.flag {
            self.flags[flag as usize] += 1;
        }
        self.received += record.received;
        self.sent += record.sent;
        if record.protocol == Protocol::Tcp {
            return; // No request, and it may have lasted for days.
        }
        let known = (100..=599).contains(&record.status);
        let series = Series {
            rule: record.rule.clone(),
            backend: record.backend,
            status: if known { record.status } else { 0 },
        };
        *self.requests.entry(series).or_default() += 1;
        self.retries += u64::from(record.retries);
        self.duration.observe(record.total);
        if let Some(first_byte) = record.backend_first_byte {
            self.backend_duration.observe(first_byte);
        }
    }
}
