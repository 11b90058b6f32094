//! Latency: one byte there and back, over one TCP connection or over a new UDP flow each time.

use super::placement::{LOAD_CORE, Placement};
use super::services::{datagram_port, echo_port};
use super::topology::Topology;
use super::{Sample, tool};
use crate::lab::Family;
use crate::machine::busy_time;
use crate::tools::rr::RoundTrips;
use anyhow::{Result, ensure};
use std::net::SocketAddr;

/// Round trips a run.
const COUNT: usize = 20_000;

/// Measures once at `placement`.
pub fn measure(topology: &Topology, placement: &Placement, family: Family) -> Result<Sample> {
    let to = topology.target(family, echo_port(placement.server_core));
    exchange(topology, to, "tcp")
}

/// As [`measure`], each exchange from a source port of its own, as DNS clients ask.
pub fn measure_fresh(topology: &Topology, placement: &Placement) -> Result<Sample> {
    let to = topology.target(Family::V4, datagram_port(placement.server_core));
    exchange(topology, to, "fresh-udp")
}

fn exchange(topology: &Topology, to: SocketAddr, transport: &str) -> Result<Sample> {
    let to = to.to_string();
    let trips = topology.effort().operations(COUNT);
    let (count, core) = (trips.to_string(), LOAD_CORE.to_string());
    let before = busy_time()?;
    let times: RoundTrips = tool::run(
        &topology.client.namespace,
        &[
            "rr",
            &to,
            "--transport",
            transport,
            "--count",
            &count,
            "--core",
            &core,
        ],
    )?;
    let busy = busy_time()? - before;
    ensure!(
        times.lost == 0,
        "{} of {} round trips were lost",
        times.lost,
        times.count
    );
    // The warm-up is a tenth on top.
    let cpu = busy.as_secs_f64() * 1e6 / (trips as f64 * 1.1);
    Ok(Sample::times(times.p50, times.p99, cpu))
}
