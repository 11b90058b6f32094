//! Short TCP connections a second.

use super::placement::{LOAD_CORE, Placement};
use super::services::{crowd_port, once_port};
use super::topology::Topology;
use super::{Sample, tool};
use crate::lab::Family;
use crate::tools::crr::Connections;
use anyhow::{Result, ensure};
use std::net::SocketAddr;

/// Connections a run, at most: fewer than the client has ports.
const COUNT: usize = 20_000;
/// And for how long.
const SECONDS: f64 = 2.0;

/// Connections at a time of a crowd.
pub const AT_ONCE: usize = 32;

/// Measures once at `placement`, one connection after another.
pub fn measure(topology: &Topology, placement: &Placement, family: Family) -> Result<Sample> {
    let to = topology.target(family, once_port(placement.server_core));
    make(topology, to, &[])
}

/// Measures once at `placement`, [`AT_ONCE`] connections at a time.
pub fn measure_crowd(topology: &Topology, placement: &Placement) -> Result<Sample> {
    let at_once = AT_ONCE.to_string();
    let to = topology.target(Family::V4, crowd_port(placement.server_core));
    make(topology, to, &["--at-once", &at_once])
}

fn make(topology: &Topology, to: SocketAddr, more: &[&str]) -> Result<Sample> {
    let [to, count, seconds, core] = [
        to.to_string(),
        topology.effort().operations(COUNT).to_string(),
        SECONDS.to_string(),
        LOAD_CORE.to_string(),
    ];
    let words = [
        "crr",
        &to,
        "--count",
        &count,
        "--seconds",
        &seconds,
        "--core",
        &core,
    ];
    let words = [&words, more].concat();
    let found: Connections = tool::run(&topology.client.namespace, &words)?;
    ensure!(found.failed == 0, "{} connections failed", found.failed);
    ensure!(found.count > 0, "no connection was made");
    let count = found.count as f64;
    Ok(Sample::rate(
        count / found.seconds,
        found.busy * 1e6 / count,
    ))
}
