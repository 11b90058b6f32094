//! Rate of packets of very many UDP flows: of flows that the node has not seen, or of such as are live.

use super::flood::Sink;
use super::services::{FLOOD_PORT, NEW_FLOW_PORTS, datagram_port};
use super::topology::Topology;
use super::{Sample, tool};
use crate::lab::Family;
use crate::tools::flows::Outcome;
use crate::tools::greet::Greeted;
use anyhow::{Result, ensure};

/// New flows that are measured, and those before them. Together they stay below the 262,144 entries
/// that a connection table and Weft's flow table hold by default, and nothing times out meanwhile.
const NEW: usize = 190_000;
const NEW_BEFORE: usize = 10_000;
/// Live flows, and how often each has its turn: as often as takes the fastest path a second.
const LIVE: usize = 50_000;
const TURNS: usize = 20;
/// Flows that a node may track besides: neighbour discovery, say.
const STRANGERS: u64 = 16;
/// Ports that live flows go to, of servers that answer.
const LIVE_PORTS: u16 = 2;

/// Measures new flows once at the placement that `topology` is in, from each of `cores` at once.
pub fn measure_new(topology: &Topology, family: Family, cores: &[usize]) -> Result<Sample> {
    let sink = Sink::start(topology, FLOOD_PORT, NEW_FLOW_PORTS)?;
    let effort = topology.effort();
    let (packets, before) = (effort.operations(NEW), effort.operations(NEW_BEFORE));
    let traffic = Traffic {
        family,
        port: FLOOD_PORT,
        ports: NEW_FLOW_PORTS,
        flows: packets + before,
        packets,
        warm_up: before,
    };
    let found = traffic.send(topology, &sink, cores)?;
    // Each packet counted has to have made a flow, where the path can say how many there are.
    if let Some(tracked) = topology.tracked()? {
        ensure!(
            tracked >= found.arrived,
            "{} packets arrived, but only {tracked} flows were made",
            found.arrived
        );
    }
    Ok(sample(&found))
}

/// Measures live flows once, which packets take in turn: each has been answered before.
pub fn measure_live(topology: &Topology, family: Family, cores: &[usize]) -> Result<Sample> {
    let flows = topology.effort().operations(LIVE);
    let traffic = Traffic {
        family,
        port: datagram_port(0),
        ports: LIVE_PORTS,
        flows,
        packets: flows * TURNS,
        warm_up: flows,
    };
    traffic.greet(topology, cores)?;
    let sink = Sink::start(topology, traffic.port, traffic.ports)?;
    let found = traffic.send(topology, &sink, cores)?;
    // No packet may have made a flow, where the path can say how many there are.
    if let Some(tracked) = topology.tracked()? {
        ensure!(
            (flows as u64..=flows as u64 + STRANGERS).contains(&tracked),
            "{flows} flows were greeted, {tracked} are there"
        );
    }
    Ok(sample(&found))
}

/// What generators send.
struct Traffic {
    family: Family,
    /// The first port that it goes to.
    port: u16,
    /// And how many from there on.
    ports: u16,
    flows: usize,
    packets: usize,
    warm_up: usize,
}

impl Traffic {
    fn send(&self, topology: &Topology, sink: &Sink, cores: &[usize]) -> Result<Outcome> {
        let words = [
            self.packets.to_string(),
            self.warm_up.to_string(),
            sink.counter().to_string(),
        ];
        let [packets, warm_up, counter] = &words;
        let more = [
            "--packets",
            packets,
            "--warm-up",
            warm_up,
            "--counter",
            counter,
        ];
        let found: Outcome = self.run(topology, "udp-flows", cores, &more)?;
        ensure!(found.arrived > 0, "no packet arrived");
        if found.lost > 0 {
            eprintln!(
                "weft-lab: {} of {packets} packets did not arrive; the rate is of those that did",
                found.lost
            );
        }
        Ok(found)
    }

    fn greet(&self, topology: &Topology, cores: &[usize]) -> Result<()> {
        let _: Greeted = self.run(topology, "udp-greet", &cores[..1], &[])?;
        Ok(())
    }

    /// Runs a tool over the flows, in the client pod.
    fn run<T: serde::de::DeserializeOwned>(
        &self,
        topology: &Topology,
        tool: &str,
        cores: &[usize],
        more: &[&str],
    ) -> Result<T> {
        let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
        let words = [
            topology.target(self.family, self.port).to_string(),
            self.ports.to_string(),
            self.flows.to_string(),
            cores.join(","),
        ];
        let [to, ports, flows, core] = &words;
        let words = [tool, to, "--ports", ports, "--flows", flows, "--core", core];
        tool::run(&topology.client.namespace, &[&words, more].concat())
    }
}

fn sample(found: &Outcome) -> Sample {
    let arrived = found.arrived as f64;
    Sample::rate(arrived / found.seconds / 1e6, found.busy * 1e6 / arrived)
}
