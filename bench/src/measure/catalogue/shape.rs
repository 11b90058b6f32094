//! What scenarios have in common: their paths, and what is measured of them.

use crate::measure::Figure;
use crate::measure::http::Asks;
use crate::measure::path::PathKind;
use crate::measure::scenario::{Node, Place, Probe, Scenario, Workload};

/// Weft's layer 4, and what it stands in for.
pub(super) const BALANCERS: &[PathKind] = &[
    PathKind::Weft,
    PathKind::WeftUser,
    PathKind::Iptables,
    PathKind::Nftables,
    PathKind::Ebpf,
    PathKind::Direct,
];
/// Those that know services.
pub(super) const TABLES: &[PathKind] = BALANCERS.split_last().unwrap().1;
/// Weft's overlay, and the kernel's VXLAN behind kube-proxy's rules.
pub(super) const OVERLAYS: &[PathKind] = &[PathKind::Weft, PathKind::WeftUser, PathKind::Iptables];
/// Weft's TCP stage, and what terminates connections elsewhere.
pub(super) const PROXIES: &[PathKind] = &[
    PathKind::WeftTcp,
    PathKind::Haproxy,
    PathKind::Envoy,
    PathKind::Direct,
];
/// For streams that are worth splicing.
pub(super) const BULK_PROXIES: &[PathKind] = &[
    PathKind::WeftTcp,
    PathKind::Haproxy,
    PathKind::HaproxySplice,
    PathKind::Envoy,
    PathKind::Direct,
];
/// Weft's HTTP stage, and what stands between pods elsewhere.
pub(super) const GATEWAYS: &[PathKind] = &[
    PathKind::WeftHttp,
    PathKind::WeftHttpNode,
    PathKind::HaproxyHttp,
    PathKind::NginxHttp,
    PathKind::EnvoyHttp,
    PathKind::Direct,
];
/// Those that hold connections.
pub(super) const HOLDERS: &[PathKind] = PROXIES.split_last().unwrap().1;

/// A rate at one service.
pub(super) const fn rate(
    id: &'static str,
    about: &'static str,
    unit: &'static str,
    probe: Probe,
) -> Scenario {
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
        beyond_direct: false,
        over_ipv4: None,
    }
}

/// Requests a second through what works at layer 7.
pub(super) const fn requests(id: &'static str, about: &'static str, asks: Asks) -> Scenario {
    over(GATEWAYS, rate(id, about, "requests/s", Probe::Http(asks)))
}

/// How long a request takes through it.
pub(super) const fn request_time(
    id: &'static str,
    about: &'static str,
    asks: Asks,
    figure: Figure,
) -> Scenario {
    Scenario {
        figure,
        ..over(GATEWAYS, median(id, about, Probe::Http(asks)))
    }
}

/// What a request takes through it beyond what it takes without.
pub(super) const fn hop(
    id: &'static str,
    about: &'static str,
    asks: Asks,
    figure: Figure,
) -> Scenario {
    Scenario {
        beyond_direct: true,
        ..request_time(id, about, asks, figure)
    }
}

/// A median time at one service.
pub(super) const fn median(id: &'static str, about: &'static str, probe: Probe) -> Scenario {
    Scenario {
        higher_is_better: false,
        figure: Figure::Median,
        ..rate(id, about, "us", probe)
    }
}

/// A 99th percentile at one service.
pub(super) const fn tail(id: &'static str, about: &'static str, probe: Probe) -> Scenario {
    Scenario {
        figure: Figure::Tail,
        ..median(id, about, probe)
    }
}

/// A median time without a node, over the probe's own paths.
pub(super) const fn in_process(id: &'static str, about: &'static str, probe: Probe) -> Scenario {
    Scenario {
        unit: "ns",
        ..over(&[], median(id, about, probe))
    }
}

/// `scenario` to a server on another node.
pub(super) const fn between_nodes(server: Place, scenario: Scenario) -> Scenario {
    let Workload { node, probe, .. } = scenario.workload;
    Scenario {
        workload: Workload {
            node: Node { server, ..node },
            probe,
            paths: OVERLAYS,
        },
        ..scenario
    }
}

/// `scenario` over `paths`.
pub(super) const fn over(paths: &'static [PathKind], scenario: Scenario) -> Scenario {
    let Workload { node, probe, .. } = scenario.workload;
    Scenario {
        workload: Workload { node, probe, paths },
        ..scenario
    }
}

/// `scenario`, which differs from the one called `v4` only in its family.
pub(super) const fn beside(v4: &'static str, scenario: Scenario) -> Scenario {
    Scenario {
        over_ipv4: Some(v4),
        ..scenario
    }
}

/// How long a change of one endpoint among very many takes.
pub(super) const fn change(id: &'static str, about: &'static str, figure: Figure) -> Scenario {
    let node = Node {
        services: 10_000,
        endpoints: 10,
        server: Place::Here,
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
