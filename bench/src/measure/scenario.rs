//! What can be measured.

use super::path::PathKind;
use super::{Figure, lookup_scale};
use crate::lab::Family;
use anyhow::{Context, Result};

/// A kind of traffic. Scenarios that differ only in what they read from it share one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// One flow of 64-byte UDP at full speed, the generator on a core of its own.
    Flood(Family),
    /// The same with everything on one core.
    FloodOneCore,
    /// One byte there and back over one TCP connection.
    RoundTrip(Family),
    /// 64-byte UDP, every packet a flow of its own.
    NewFlows,
    /// TCP connect, request, response, close, one after another.
    Connections,
    /// The same, several at once.
    Crowd,
    /// TCP connections in which nothing happens.
    IdleMemory,
    /// One byte there and back over UDP, each time from a source port of its own.
    FreshRoundTrip,
    /// One TCP stream at full speed.
    Bulk,
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
}

impl Node {
    /// The measured service and so many others of one endpoint.
    pub const fn of(services: usize) -> Self {
        Self {
            services,
            endpoints: 1,
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

/// Weft's layer 4, and what it stands in for.
const BALANCERS: &[PathKind] = &[
    PathKind::Weft,
    PathKind::WeftUser,
    PathKind::Iptables,
    PathKind::Nftables,
    PathKind::Ebpf,
    PathKind::Direct,
];
/// Those that know services.
const TABLES: &[PathKind] = BALANCERS.split_last().unwrap().1;
/// Weft's TCP stage, and what terminates connections elsewhere.
const PROXIES: &[PathKind] = &[
    PathKind::WeftTcp,
    PathKind::Haproxy,
    PathKind::Envoy,
    PathKind::Direct,
];
/// For streams that are worth splicing.
const BULK_PROXIES: &[PathKind] = &[
    PathKind::WeftTcp,
    PathKind::Haproxy,
    PathKind::HaproxySplice,
    PathKind::Envoy,
    PathKind::Direct,
];
/// Those that hold connections.
const HOLDERS: &[PathKind] = PROXIES.split_last().unwrap().1;

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
}

/// New flows among so many services.
macro_rules! new_flows {
    ($services:literal, $by_default:literal) => {
        Scenario {
            by_default: $by_default,
            workload: Workload {
                node: Node::of($services),
                probe: Probe::NewFlows,
                paths: BALANCERS,
            },
            ..rate(
                concat!("l4-new-flows-", $services),
                concat!(
                    "64-byte UDP, each packet a new 5-tuple; services: ",
                    $services
                ),
                "Mpps",
                Probe::NewFlows,
            )
        }
    };
}

/// Short connections among so many services.
macro_rules! connections {
    ($services:literal, $by_default:literal) => {
        Scenario {
            by_default: $by_default,
            workload: Workload {
                node: Node::of($services),
                probe: Probe::Connections,
                paths: BALANCERS,
            },
            ..rate(
                concat!("l4-crr-", $services),
                concat!(
                    "TCP connect, 64-byte request and response, close, one after another; services: ",
                    $services
                ),
                "connections/s",
                Probe::Connections,
            )
        }
    };
}

/// Every scenario there is.
pub static SCENARIOS: &[Scenario] = &[
    rate(
        "l4-established",
        "64-byte UDP of one established flow, pod -> VIP -> pod, generator on one core, forwarding on the other",
        "Mpps",
        Probe::Flood(Family::V4),
    ),
    rate(
        "l4-established-v6",
        "the same over IPv6",
        "Mpps",
        Probe::Flood(Family::V6),
    ),
    rate(
        "l4-established-1core",
        "l4-established with generator and forwarding on one core",
        "Mpps",
        Probe::FloodOneCore,
    ),
    median(
        "l4-rr-p50",
        "one byte there and back over an established TCP connection, median",
        Probe::RoundTrip(Family::V4),
    ),
    tail(
        "l4-rr-p99",
        "the same, 99th percentile",
        Probe::RoundTrip(Family::V4),
    ),
    median(
        "l4-rr-p50-v6",
        "l4-rr-p50 over IPv6",
        Probe::RoundTrip(Family::V6),
    ),
    tail(
        "l4-rr-p99-v6",
        "l4-rr-p99 over IPv6",
        Probe::RoundTrip(Family::V6),
    ),
    new_flows!(1, true),
    new_flows!(1000, false),
    new_flows!(5000, true),
    new_flows!(30000, false),
    connections!(1, true),
    connections!(1000, false),
    connections!(5000, true),
    connections!(30000, false),
    median(
        "l4-dns-rr-p50",
        "one byte there and back over UDP, from a new source port each time, median",
        Probe::FreshRoundTrip,
    ),
    tail(
        "l4-dns-rr-p99",
        "the same, 99th percentile",
        Probe::FreshRoundTrip,
    ),
    rate(
        "l4-bulk",
        "one TCP stream of iperf3; cpu us/op is per megabyte",
        "Gbit/s",
        Probe::Bulk,
    ),
    in_process(
        "l4-lookup-scale",
        "the engine alone, in process: the whole decision about a SYN of a new flow; paths are popularity and services",
        Probe::LookupScale,
    ),
    change(
        "config-update",
        "one of 100,000 endpoints of 10,000 services changes: from its text until it is live",
        Figure::Change,
    ),
    change(
        "config-update-switch",
        "the same without weft's parsing of its whole file, which the kernel's paths have no part like",
        Figure::Switch,
    ),
    over(
        BULK_PROXIES,
        rate(
            "tcp-proxy-bulk",
            "one TCP stream of iperf3 through a proxy; cpu us/op is per megabyte",
            "Gbit/s",
            Probe::Bulk,
        ),
    ),
    over(
        PROXIES,
        median(
            "tcp-proxy-rr-p50",
            "one byte there and back over one connection through a proxy, median",
            Probe::RoundTrip(Family::V4),
        ),
    ),
    over(
        PROXIES,
        tail(
            "tcp-proxy-rr-p99",
            "the same, 99th percentile",
            Probe::RoundTrip(Family::V4),
        ),
    ),
    over(
        PROXIES,
        rate(
            "tcp-proxy-cps",
            "TCP connect, 64-byte request and response, close through a proxy, one after another",
            "connections/s",
            Probe::Connections,
        ),
    ),
    over(
        PROXIES,
        rate(
            "tcp-proxy-cps-32",
            "the same, 32 connections at a time",
            "connections/s",
            Probe::Crowd,
        ),
    ),
    over(
        HOLDERS,
        Scenario {
            unit: "bytes",
            figure: Figure::Memory,
            ..median(
                "tcp-idle-memory",
                "resident memory of the proxy's process per connection that is idle, of 10,000",
                Probe::IdleMemory,
            )
        },
    ),
];

/// A rate at one service.
const fn rate(id: &'static str, about: &'static str, unit: &'static str, probe: Probe) -> Scenario {
    Scenario {
        id,
        about,
        unit,
        higher_is_better: true,
        by_default: true,
        workload: Workload {
            node: Node::of(1),
            probe,
            paths: BALANCERS,
        },
        figure: Figure::Rate,
    }
}

/// A median time at one service.
const fn median(id: &'static str, about: &'static str, probe: Probe) -> Scenario {
    Scenario {
        higher_is_better: false,
        figure: Figure::Median,
        ..rate(id, about, "us", probe)
    }
}

/// A 99th percentile at one service.
const fn tail(id: &'static str, about: &'static str, probe: Probe) -> Scenario {
    Scenario {
        figure: Figure::Tail,
        ..median(id, about, probe)
    }
}

/// A median time without a node, over the probe's own paths.
const fn in_process(id: &'static str, about: &'static str, probe: Probe) -> Scenario {
    Scenario {
        unit: "ns",
        ..over(&[], median(id, about, probe))
    }
}

/// `scenario` over `paths`.
const fn over(paths: &'static [PathKind], scenario: Scenario) -> Scenario {
    let Workload { node, probe, .. } = scenario.workload;
    Scenario {
        workload: Workload { node, probe, paths },
        ..scenario
    }
}

/// How long a change of one endpoint among very many takes.
const fn change(id: &'static str, about: &'static str, figure: Figure) -> Scenario {
    let node = Node {
        services: 10_000,
        endpoints: 10,
    };
    let probe = Probe::ConfigUpdate;
    Scenario {
        unit: "ms",
        by_default: false,
        workload: Workload {
            node,
            probe,
            paths: TABLES,
        },
        figure,
        ..median(id, about, probe)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_one_line_of_help() {
        let names: BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.id).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        for scenario in SCENARIOS {
            assert!(!scenario.about.is_empty() && !scenario.about.contains('\n'));
            assert!(
                scenario.id.len() <= 22,
                "{}: --list is a table",
                scenario.id
            );
        }
    }
}
