//! Rate of new flows: every packet has a 5-tuple that the node has not seen.

use super::flood::Sink;
use super::placement::LOAD_CORE;
use super::services::{FLOOD_PORT, NEW_FLOW_PORTS};
use super::topology::Topology;
use super::{Sample, tool};
use crate::lab::Family;
use crate::tools::new_flows::NewFlows;
use anyhow::{Result, ensure};

/// Flows that are measured, and those before them. Together they stay below the 262,144 entries
/// that a connection table and Weft's flow table hold by default, and nothing times out meanwhile.
const FLOWS: usize = 190_000;
const WARM_UP: usize = 10_000;

/// Measures once at the placement that `topology` is in.
pub fn measure(topology: &Topology) -> Result<Sample> {
    let sink = Sink::start(topology, NEW_FLOW_PORTS)?;
    let flows = topology.effort().operations(FLOWS);
    let words = [
        topology.target(Family::V4, FLOOD_PORT).to_string(),
        NEW_FLOW_PORTS.to_string(),
        flows.to_string(),
        topology.effort().operations(WARM_UP).to_string(),
        sink.counter().to_string(),
        LOAD_CORE.to_string(),
    ];
    let [to, ports, count, warm_up, counter, core] = &words;
    let found: NewFlows = tool::run(
        &topology.client.namespace,
        &[
            "new-flows",
            to,
            "--ports",
            ports,
            "--flows",
            count,
            "--warm-up",
            warm_up,
            "--counter",
            counter,
            "--core",
            core,
        ],
    )?;
    ensure!(found.arrived > 0, "no packet arrived");
    if found.lost > 0 {
        eprintln!(
            "weft-lab: {} of {flows} packets did not arrive; the rate is of those that did",
            found.lost
        );
    }
    // Each packet counted has to have made a flow, where the path can say how many there are.
    if let Some(tracked) = topology.tracked()? {
        ensure!(
            tracked >= found.arrived,
            "{} packets arrived, but only {tracked} flows were made",
            found.arrived
        );
    }
    let arrived = found.arrived as f64;
    Ok(Sample::rate(
        arrived / found.seconds / 1e6,
        found.busy * 1e6 / arrived,
    ))
}
