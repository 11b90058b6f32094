//! Which changes wait for a restart.

use super::model::Config;

/// The keys whose change takes effect at the next start: they make a worker what it is, or size
/// memory that it has handed to the kernel, or stand in its flows.
pub const RESTART_KEYS: [&str; 7] = [
    "workers.cores",
    "workers.poll",
    "workers.fast_path",
    "workers.max_flows",
    "workers.frames",
    "workers.heartbeat",
    "node.hairpin_ips",
];

/// The keys among [`RESTART_KEYS`] in which `new` differs from `old`.
///
/// A reload that changes them is accepted, and says that they wait for a restart.
pub fn restart_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let hairpins = old.node.hairpin_ips != new.node.hairpin_ips;
    let (old, new) = (&old.workers, &new.workers);
    let changed = [
        old.cores != new.cores,
        old.poll != new.poll,
        old.fast_path != new.fast_path,
        old.max_flows != new.max_flows,
        old.frames != new.frames,
        old.heartbeat != new.heartbeat,
        hairpins,
    ];
    RESTART_KEYS
        .into_iter()
        .zip(changed)
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
}
