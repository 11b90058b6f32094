//! What a scenario is.

use super::http::Asks;
use super::path::PathKind;
use super::{Figure, SCENARIOS, lookup_scale};
use crate::lab::Family;
use anyhow::{Context, Result};

/// A kind of traffic. Scenarios that differ only in what they read from it share one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// One flow of 64-byte UDP at full speed, the generator on a core of its own.
    Flood(Family),
    /// The same with everything on one core.
    FloodOneCore,
    /// A flow of 64-byte UDP at full speed from each core at once.
    FloodNode,
    /// One byte there and back over one TCP connection.
    RoundTrip(Family),
    /// 64-byte UDP, every packet a flow of its own.
    NewFlows(Family),
    /// The same from each core at once.
    NewFlowsNode,
    /// 64-byte UDP over very many flows in turn.
    LiveFlows(Family),
    /// TCP connect, request, response, close, one after another.
    Connections(Family),
    /// The same, several at once.
    Crowd,
    /// TCP connections in which nothing happens.
    IdleMemory,
    /// One byte there and back over UDP, each time from a source port of its own.
    FreshRoundTrip,
    /// One TCP stream at full speed.
    Bulk,
    /// Requests over HTTP.
    Http(Asks),
    /// No traffic: one endpoint of very many changes.
    ConfigUpdate,
    /// No node: first packets of flows to some of many services, in process.
    LookupScale,
}

/// What a node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Services, the measured one in the middle of them.
    pub services: usize,
    /// Endpoints of each of the others.
    pub endpoints: usize,
    /// Where the server is.
    pub server: Place,
}

/// Where the server of a measurement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On the client's node.
    Here,
    /// On another one, over an uplink that takes large packets whole.
    There,
    /// On another one, over an uplink that takes packets no longer than its MTU.
    ThereInSegments,
}

impl Node {
    /// The measured service and so many others of one endpoint.
    pub const fn of(services: usize) -> Self {
        Self {
            services,
            endpoints: 1,
            server: Place::Here,
        }
    }
}

/// A kind of traffic, what the node knows while it runs, and the ways it is made to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// What the node knows.
    pub node: Node,
    /// The traffic.
    pub probe: Probe,
    /// The paths, in the order each repetition takes them; the others are compared with the first. None where the
    /// probe has its own.
    pub paths: &'static [PathKind],
}

/// A row of the report.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line and in the report.
    pub id: &'static str,
    /// What it measures, for people.
    pub about: &'static str,
    /// The unit of its figures.
    pub unit: &'static str,
    /// True for rates, false for times.
    pub higher_is_better: bool,
    /// True when it runs unless others are named.
    pub by_default: bool,
    /// What it needs to run.
    pub workload: Workload,
    /// Its figure in a sample.
    pub figure: Figure,
    /// Of that figure, what a path has more than `direct`.
    pub beyond_direct: bool,
    /// The scenario over IPv4 that each path is compared with itself in.
    pub over_ipv4: Option<&'static str>,
}

impl Scenario {
    /// The pairs of paths whose quotients tell something, out of those measured.
    pub fn pairs<'p>(&self, paths: impl IntoIterator<Item = &'p str>) -> Vec<(&'p str, &'p str)> {
        let paths: Vec<&str> = paths.into_iter().collect();
        // The first that was measured.
        let mut own = self.workload.paths.iter().map(|own| own.id());
        let own = own.find(|own| paths.contains(own));
        let base = |path: &str| -> Option<&'static str> {
            match self.workload.probe {
                Probe::LookupScale => lookup_scale::smallest(path),
                _ => own.filter(|own| *own != path),
            }
        };
        let pair = |path: &&'p str| {
            let base = base(path)?;
            let base = paths
                .iter()
                .copied()
                .find(|other| *other == base && base != *path)?;
            Some(match self.workload.probe {
                Probe::LookupScale => (*path, base),
                _ => (base, *path),
            })
        };
        paths.iter().filter_map(pair).collect()
    }

    /// The scenario called `id`.
    pub fn find(id: &str) -> Result<&'static Self> {
        let known = || {
            SCENARIOS
                .iter()
                .map(|s| s.id)
                .collect::<Vec<_>>()
                .join(", ")
        };
        SCENARIOS
            .iter()
            .find(|scenario| scenario.id == id)
            .with_context(|| format!("no scenario {id}; there are {}", known()))
    }
}
