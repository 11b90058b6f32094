//! Every scenario there is.

mod shape;

use super::Figure;
use super::http::Asks;
use super::path::PathKind;
use super::scenario::{Node, Place, Probe, Scenario, Workload};
use crate::lab::Family;
use shape::{
    BALANCERS, BULK_PROXIES, GATEWAYS, HOLDERS, PROXIES, beside, between_nodes, change, hop,
    in_process, median, over, rate, request_time, requests, tail,
};

/// New flows among so many services.
macro_rules! new_flows {
    ($services:literal, $by_default:literal) => {
        Scenario {
            by_default: $by_default,
            workload: Workload {
                node: Node::of($services),
                probe: Probe::NewFlows(Family::V4),
                paths: BALANCERS,
            },
            ..rate(
                concat!("l4-new-flows-", $services),
                concat!(
                    "64-byte UDP, each packet a new 5-tuple; services: ",
                    $services
                ),
                "Mpps",
                Probe::NewFlows(Family::V4),
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
                probe: Probe::Connections(Family::V4),
                paths: BALANCERS,
            },
            ..rate(
                concat!("l4-crr-", $services),
                concat!(
                    "TCP connect, 64-byte request and response, close, one after another; services: ",
                    $services
                ),
                "connections/s",
                Probe::Connections(Family::V4),
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
    beside(
        "l4-established",
        rate(
            "l4-established-v6",
            "the same over IPv6",
            "Mpps",
            Probe::Flood(Family::V6),
        ),
    ),
    rate(
        "l4-established-1core",
        "l4-established with generator and forwarding on one core",
        "Mpps",
        Probe::FloodOneCore,
    ),
    rate(
        "l4-node-total",
        "the same with a flow from each core at once: the whole node",
        "Mpps",
        Probe::FloodNode,
    ),
    rate(
        "l4-live-flows-50000",
        "64-byte UDP over 50,000 flows in turn, each of which has been answered; generator on one core",
        "Mpps",
        Probe::LiveFlows(Family::V4),
    ),
    beside(
        "l4-live-flows-50000",
        rate(
            "l4-live-flows-50000-v6",
            "the same over IPv6",
            "Mpps",
            Probe::LiveFlows(Family::V6),
        ),
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
    beside(
        "l4-rr-p50",
        median(
            "l4-rr-p50-v6",
            "l4-rr-p50 over IPv6",
            Probe::RoundTrip(Family::V6),
        ),
    ),
    beside(
        "l4-rr-p99",
        tail(
            "l4-rr-p99-v6",
            "l4-rr-p99 over IPv6",
            Probe::RoundTrip(Family::V6),
        ),
    ),
    new_flows!(1, true),
    new_flows!(1000, false),
    new_flows!(5000, true),
    new_flows!(30000, false),
    beside(
        "l4-new-flows-1",
        rate(
            "l4-new-flows-1-v6",
            "l4-new-flows-1 over IPv6",
            "Mpps",
            Probe::NewFlows(Family::V6),
        ),
    ),
    rate(
        "l4-new-flows-node",
        "64-byte UDP, each packet a new 5-tuple, from each core at once: the whole node; services: 1",
        "Mpps",
        Probe::NewFlowsNode,
    ),
    connections!(1, true),
    beside(
        "l4-crr-1",
        rate(
            "l4-crr-1-v6",
            "l4-crr-1 over IPv6",
            "connections/s",
            Probe::Connections(Family::V6),
        ),
    ),
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
    between_nodes(
        Place::There,
        rate(
            "overlay-established",
            "64-byte UDP of one established flow, pod -> VIP -> pod on another node, which has kernel VXLAN or Weft's tunnel",
            "Mpps",
            Probe::Flood(Family::V4),
        ),
    ),
    between_nodes(
        Place::There,
        rate(
            "overlay-1core",
            "the same with everything on one core",
            "Mpps",
            Probe::FloodOneCore,
        ),
    ),
    between_nodes(
        Place::There,
        median(
            "overlay-rr-p50",
            "one byte there and back over an established TCP connection to another node, median",
            Probe::RoundTrip(Family::V4),
        ),
    ),
    between_nodes(
        Place::There,
        tail(
            "overlay-rr-p99",
            "the same, 99th percentile",
            Probe::RoundTrip(Family::V4),
        ),
    ),
    between_nodes(
        Place::There,
        rate(
            "overlay-bulk",
            "one TCP stream of iperf3 to another node, large packets whole on the uplink; cpu us/op is per megabyte",
            "Gbit/s",
            Probe::Bulk,
        ),
    ),
    between_nodes(
        Place::ThereInSegments,
        rate(
            "overlay-bulk-nogso",
            "the same over an uplink without segmentation offload",
            "Gbit/s",
            Probe::Bulk,
        ),
    ),
    between_nodes(
        Place::There,
        rate(
            "overlay-crr",
            "TCP connect, 64-byte request and response, close, one after another, to another node",
            "connections/s",
            Probe::Connections(Family::V4),
        ),
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
            Probe::Connections(Family::V4),
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
    requests(
        "l7-rps-32",
        "1 KB over HTTP/1.1, 32 connections, each asked as soon as it has answered",
        Asks::Small(32),
    ),
    hop(
        "l7-hop-cpu-32",
        "processor time of the whole machine for a request of l7-rps-32, beyond that of direct",
        Asks::Small(32),
        Figure::Processor,
    ),
    requests(
        "l7-rps-512",
        "l7-rps-32 with 512 connections",
        Asks::Small(512),
    ),
    hop(
        "l7-hop-cpu-512",
        "processor time of the whole machine for a request of l7-rps-512, beyond that of direct",
        Asks::Small(512),
        Figure::Processor,
    ),
    request_time(
        "l7-latency-1-p50",
        "1 KB over HTTP/1.1, one connection, median",
        Asks::Small(1),
        Figure::Median,
    ),
    hop(
        "l7-hop-latency-1-p50",
        "the same beyond that of direct",
        Asks::Small(1),
        Figure::Median,
    ),
    request_time(
        "l7-latency-half-p50",
        "1 KB over HTTP/1.1, 32 connections, 10,000 requests a second, from when each was due; median",
        Asks::HalfLoad,
        Figure::Median,
    ),
    request_time(
        "l7-latency-half-p99",
        "the same, 99th percentile",
        Asks::HalfLoad,
        Figure::Tail,
    ),
    request_time(
        "l7-latency-half-p999",
        "the same, 99.9th percentile",
        Asks::HalfLoad,
        Figure::FarTail,
    ),
    Scenario {
        unit: "bodies/s",
        ..requests("l7-bulk", "1 MB over HTTP/1.1, 8 connections", Asks::Large)
    },
    Scenario {
        unit: "connections/s",
        ..requests(
            "l7-cps",
            "1 KB over HTTP/1.1, a connection for each, 32 at a time",
            Asks::Once,
        )
    },
    Scenario {
        unit: "calls/s",
        ..requests(
            "l7-grpc",
            "unary gRPC calls of 64 bytes both ways, 8 at a time on each of 4 connections",
            Asks::Grpc,
        )
    },
    Scenario {
        unit: "bytes",
        ..over(
            GATEWAYS.split_last().unwrap().1,
            request_time(
                "l7-idle-memory",
                "resident memory of the proxy's process per connection that is idle after a request, of 10,000",
                Asks::Idle,
                Figure::Memory,
            ),
        )
    },
    over(
        &[PathKind::WeftUser, PathKind::WeftUserL7],
        median(
            "l7-l4-cost",
            "l4-rr-p50 through user space, without and with a service at the HTTP stage that nobody asks",
            Probe::RoundTrip(Family::V4),
        ),
    ),
];

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
            let beside = scenario.over_ipv4.map(Scenario::find).transpose().unwrap();
            if let Some(beside) = beside {
                assert_eq!(beside.workload.paths, scenario.workload.paths);
                assert_eq!(beside.figure, scenario.figure);
            }
        }
    }
}
