//! What has happened between two looks at a node process, by the second.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::admin::http::HttpService;
use crate::admin::traffic::ServiceTraffic;
use crate::admin::view::{Bucket, Counts, Packets, Status, Worker};

/// Rates, and what there is now. `weft top --json` prints one a line.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Rates {
    /// `node.name`.
    pub node: String,
    /// Version of the node process.
    pub version: String,
    /// How long it has run.
    pub uptime_s: u64,
    /// Time between the two looks.
    pub interval_s: f64,
    /// Packets that the hooks forwarded by themselves.
    pub fast_path_per_s: f64,
    /// What the hooks dropped, and what was lost on the way to the workers, by reason; those that are not zero.
    pub lost_per_s: BTreeMap<String, f64>,
    /// The services.
    pub services: Vec<ServiceRates>,
    /// The workers.
    pub workers: Vec<WorkerRates>,
}

/// A port of a service.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct ServiceRates {
    /// `namespace/name:port`.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l4`, `tcp` or `http`.
    pub stage: String,
    /// Flows of clients, in HTTP stages their connections, that there are.
    pub flows: u64,
    /// New ones.
    pub new_per_s: f64,
    /// Packets, both ways; none in HTTP stages.
    pub packets_per_s: Option<f64>,
    /// Requests that ended; none but in HTTP stages.
    pub requests_per_s: Option<f64>,
    /// Bytes both ways: of IP packets, in HTTP stages of bodies.
    pub bytes_per_s: f64,
    /// The share, 0 to 1, of requests that were answered with 5xx, or not at all; none without requests.
    pub error_share: Option<f64>,
    /// Half of the requests took no longer; none without requests.
    pub p50_ms: Option<f64>,
    /// 99 of 100 requests took no longer; none without requests.
    pub p99_ms: Option<f64>,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct WorkerRates {
    /// Its number.
    pub queue: u16,
    /// Its core.
    pub core: usize,
    /// The share of its core's time that its thread uses, 0 to 1; none where the kernel does not say.
    pub busy: Option<f64>,
    /// Packets that it took.
    pub received_per_s: f64,
    /// Packets that it sent, its own included.
    pub sent_per_s: f64,
    /// Packets that it dropped.
    pub dropped_per_s: f64,
    /// By reason, those that are not zero.
    pub drops_per_s: BTreeMap<String, f64>,
    /// Flows in its table.
    pub flows: u64,
    /// What the table holds at most.
    pub flows_max: u64,
}

/// What happened between the two; `None` when they are of different processes, whose counters have nothing to do with one another.
pub fn between(before: &Status, now: &Status) -> Option<Rates> {
    let elapsed_us = now.at_us.checked_sub(before.at_us)?;
    if elapsed_us == 0 || now.pid != before.pid || now.uptime_s < before.uptime_s {
        return None;
    }
    let seconds = elapsed_us as f64 / 1_000_000.0;
    let per_s = PerSecond(seconds);
    let hooks = (&before.ledger.hooks, &now.ledger.hooks);
    let mut lost_per_s = per_s.all((&before.ledger.path, &now.ledger.path));
    for name in ["malformed", "src_spoof", "punt_rate"] {
        let rate = per_s.of(count(hooks.0, name), count(hooks.1, name));
        if rate > 0.0 {
            lost_per_s.insert(name.into(), rate);
        }
    }
    Some(Rates {
        node: now.node.clone(),
        version: now.version.clone(),
        uptime_s: now.uptime_s,
        interval_s: seconds,
        fast_path_per_s: per_s.of(
            count(hooks.0, "from_pod_forwarded"),
            count(hooks.1, "from_pod_forwarded"),
        ),
        lost_per_s,
        services: services(before, now, per_s),
        workers: workers(&before.workers, &now.workers, per_s),
    })
}

fn count(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or_default()
}

#[derive(Copy, Clone)]
struct PerSecond(f64);

impl PerSecond {
    fn of(self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.0
    }

    /// Those that are not zero.
    fn all(self, (before, now): (&Counts, &Counts)) -> BTreeMap<String, f64> {
        let rates = now
            .iter()
            .map(|(name, now)| (name.clone(), self.of(count(before, name), *now)));
        rates.filter(|(_, rate)| *rate > 0.0).collect()
    }
}

fn services(before: &Status, now: &Status, per_s: PerSecond) -> Vec<ServiceRates> {
    let one = |traffic: &ServiceTraffic| {
        let same = |other: &&ServiceTraffic| {
            (&other.service, &other.protocol, &other.stage)
                == (&traffic.service, &traffic.protocol, &traffic.stage)
        };
        let known = before.traffic.iter().find(same);
        // A service that is new, or is served differently by now, has no past.
        let past = known.unwrap_or(traffic);
        let plain = ServiceRates {
            service: traffic.service.clone(),
            protocol: traffic.protocol.clone(),
            stage: traffic.stage.clone(),
            flows: traffic.flows,
            new_per_s: per_s.of(past.opened, traffic.opened),
            packets_per_s: Some(per_s.of(past.packets, traffic.packets)),
            bytes_per_s: per_s.of(past.bytes, traffic.bytes),
            ..ServiceRates::default()
        };
        let named = |service: &&HttpService| service.service == traffic.service;
        match now.http.iter().find(named) {
            Some(http) if traffic.stage == "http" => {
                requests(before.http.iter().find(named), http, plain, per_s)
            }
            _ => plain,
        }
    };
    now.traffic.iter().map(one).collect()
}

/// The same service, as its HTTP stage counts.
fn requests(
    before: Option<&HttpService>,
    now: &HttpService,
    plain: ServiceRates,
    per_s: PerSecond,
) -> ServiceRates {
    let before = before.unwrap_or(now);
    let ended = |class: &str| {
        count(&now.requests, class).saturating_sub(count(&before.requests, class)) as f64
    };
    let all: f64 = now.requests.keys().map(|class| ended(class)).sum();
    let errors = ended("5xx") + ended("none");
    let bytes = |service: &HttpService| service.received_bytes + service.sent_bytes;
    let durations = difference(&before.durations, &now.durations);
    ServiceRates {
        flows: now.open,
        new_per_s: per_s.of(before.connections, now.connections),
        packets_per_s: None,
        requests_per_s: Some(all / per_s.0),
        bytes_per_s: per_s.of(bytes(before), bytes(now)),
        error_share: (all > 0.0).then(|| errors / all),
        p50_ms: quantile(&durations, 0.5),
        p99_ms: quantile(&durations, 0.99),
        ..plain
    }
}

fn difference(before: &[Bucket], now: &[Bucket]) -> Vec<Bucket> {
    let past = |index: usize| before.get(index).map_or(0, |bucket| bucket.count);
    let buckets = now.iter().enumerate();
    let buckets = buckets.map(|(index, bucket)| Bucket {
        le_us: bucket.le_us,
        count: bucket.count.saturating_sub(past(index)),
    });
    buckets.collect()
}

/// The duration in milliseconds that this share of them does not exceed, evenly spread within a bucket, as Prometheus'
/// `histogram_quantile` has it; for the last bucket, which has no bound, that of the one before.
fn quantile(buckets: &[Bucket], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    if total == 0 {
        return None;
    }
    let rank = share * total as f64;
    let (mut below, mut lower_us) = (0.0, 0.0);
    for bucket in buckets {
        let (count, upper_us) = (bucket.count as f64, bucket.le_us.map(|us| us as f64));
        match upper_us {
            Some(upper) if count > 0.0 && below + count >= rank => {
                let us = lower_us + (upper - lower_us) * (rank - below) / count;
                return Some(us / 1_000.0);
            }
            Some(upper) => lower_us = upper,
            None => break,
        }
        below += count;
    }
    Some(lower_us / 1_000.0)
}

fn workers(before: &[Worker], now: &[Worker], per_s: PerSecond) -> Vec<WorkerRates> {
    let one = |worker: &Worker| {
        let past = before.iter().find(|other| other.queue == worker.queue);
        let past = past.unwrap_or(worker);
        let sent = |packets: &Packets| {
            let kernel: u64 = packets.kernel.values().sum();
            packets.forwarded + packets.replied + packets.originated + kernel
        };
        let drops_per_s = per_s.all((&past.packets.dropped, &worker.packets.dropped));
        let busy = past.cpu_us.zip(worker.cpu_us);
        WorkerRates {
            queue: worker.queue,
            core: worker.core,
            busy: busy.map(|(past, now)| (per_s.of(past, now) / 1_000_000.0).min(1.0)),
            received_per_s: per_s.of(
                past.packets.received + past.packets.bulk,
                worker.packets.received + worker.packets.bulk,
            ),
            sent_per_s: per_s.of(sent(&past.packets), sent(&worker.packets)),
            dropped_per_s: drops_per_s.values().fold(0.0, |sum, rate| sum + rate), // A sum of none is -0.
            drops_per_s,
            flows: worker.flows,
            flows_max: worker.flows_max,
        }
    };
    now.iter().map(one).collect()
}
