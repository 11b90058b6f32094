//! Short TCP connections a second.

use super::path::Topology;
use super::placement::{LOAD_CORE, Placement};
use super::services::once_port;
use super::{Sample, tool};
use crate::lab::Family;
use crate::tools::crr::Connections;
use anyhow::{Result, ensure};

/// Connections a run, at most: fewer than the client has ports.
const COUNT: usize = 20_000;
/// And for how long.
const SECONDS: f64 = 2.0;

/// Measures once at `placement`.
pub fn measure(topology: &Topology, placement: &Placement) -> Result<Sample> {
    let to = topology
        .target(Family::V4, once_port(placement.server_core))
        .to_string();
    let [count, seconds, core] = [
        topology.effort().operations(COUNT).to_string(),
        SECONDS.to_string(),
        LOAD_CORE.to_string(),
    ];
    let found: Connections = tool::run(
        &topology.client.namespace,
        &[
            "crr",
            &to,
            "--count",
            &count,
            "--seconds",
            &seconds,
            "--core",
            &core,
        ],
    )?;
    ensure!(found.failed == 0, "{} connections failed", found.failed);
    ensure!(found.count > 0, "no connection was made");
    let count = found.count as f64;
    Ok(Sample::rate(
        count / found.seconds,
        found.busy * 1e6 / count,
    ))
}
