//! Which changes wait for a restart.

use super::model::Config;

/// The keys whose change takes effect at the next start: they make a worker what it is, or size
/// memory that it has handed to the kernel, or stand in its flows; or what is opened at the start.
pub const RESTART_KEYS: [&str; 9] = [
    "workers.cores",
    "workers.poll",
    "workers.fast_path",
    "workers.max_flows",
    "workers.frames",
    "workers.heartbeat",
    "node.hairpin_ips",
    "node.access_log",
    "node.metrics",
];

/// The keys among [`RESTART_KEYS`] in which `new` differs from `old`.
///
/// A reload that changes them is accepted, and says that they wait for a restart.
pub fn restart_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let (node, next) = (&old.node, &new.node);
    let hairpins = node.hairpin_ips != next.hairpin_ips;
    let access_log = node.access_log != next.access_log;
    let metrics = node.metrics != next.metrics;
    let (old, new) = (&old.workers, &new.workers);
    let changed = [
        old.cores != new.cores,
        old.poll != new.poll,
        old.fast_path != new.fast_path,
        old.max_flows != new.max_flows,
        old.frames != new.frames,
        old.heartbeat != new.heartbeat,
        hairpins,
        access_log,
        metrics,
    ];
    RESTART_KEYS
        .into_iter()
        .zip(changed)
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
}
