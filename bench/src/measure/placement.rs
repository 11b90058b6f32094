//! Who runs on which core while something is measured.

use super::http::Asks;
use super::path::PathKind;
use super::scenario::Probe;

/// The cores of a measurement.
pub const CORES: [usize; 2] = [0, 1];
/// The core the generator and the clients run on, where they do not run on all.
pub const LOAD_CORE: usize = 1;
const LOAD: &[usize] = &[LOAD_CORE];
/// The other one.
const OTHER: &[usize] = &[0];

/// The core that those are not, if they are one.
pub fn other_core(cores: &[usize]) -> &'static [usize] {
    if cores.contains(&LOAD_CORE) {
        OTHER
    } else {
        LOAD
    }
}

/// Who runs where.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// For the report.
    pub name: &'static str,
    /// The core of the server's process, where there is one.
    pub server_core: usize,
    /// Clients and servers run wherever there is room instead, and a proxy does.
    pub floats: bool,
    /// The core that receive packet steering moves the kernel's forwarding to.
    pub rps_core: Option<usize>,
    /// The cores of the process that carries the traffic, where there is one, and the poll mode of Weft's workers.
    pub process: Option<(&'static [usize], &'static str)>,
}

/// The kernel's default: it forwards in the sender's system call, on the sender's core.
const KERNEL: Placement = Placement {
    name: "forwarding on the sender's core",
    server_core: LOAD_CORE,
    floats: false,
    rps_core: None,
    process: None,
};

/// The placements of `path` to try; the best one counts.
///
/// A worker that shares its core with real-time load must sleep when idle: spinning there at
/// a real-time priority would keep the load, and the machine, from running at all.
pub fn placements(path: PathKind, probe: Probe) -> Vec<Placement> {
    let process = |name, cores, poll| Placement {
        name,
        process: Some((cores, poll)),
        ..KERNEL
    };
    let kernel = |name, server_core, rps_core| Placement {
        name,
        server_core,
        rps_core,
        ..KERNEL
    };
    if path == PathKind::Weft && probe != Probe::ConfigUpdate {
        // The kernel forwards, so its placements are those of other kernel paths; the worker has nothing to do.
        let kernel = placements(PathKind::Ebpf, probe).into_iter();
        return kernel
            .map(|placement| Placement {
                process: Some((OTHER, "sleep")),
                ..placement
            })
            .collect();
    }
    let weft = path.is_weft();
    match probe {
        // Without a node no placement.
        Probe::LookupScale => Vec::new(),
        Probe::Flood(_) | Probe::NewFlows(_) | Probe::LiveFlows(_) | Probe::ConfigUpdate
            if weft =>
        {
            vec![process("worker on the other core", OTHER, "adaptive")]
        }
        Probe::FloodNode | Probe::NewFlowsNode if weft => vec![
            process("one worker", OTHER, "sleep"),
            process("a worker on each core", &CORES, "sleep"),
        ],
        Probe::FloodNode | Probe::NewFlowsNode => vec![KERNEL],
        Probe::FloodOneCore if weft => {
            vec![process("worker on the same core", LOAD, "sleep")]
        }
        Probe::ConfigUpdate => vec![Placement {
            name: "wherever the kernel runs it",
            ..KERNEL
        }],
        Probe::Flood(_) | Probe::NewFlows(_) | Probe::LiveFlows(_) => vec![
            KERNEL,
            kernel("forwarding on the other core", LOAD_CORE, Some(0)),
        ],
        Probe::FloodOneCore => vec![KERNEL],
        Probe::Http(asks) => http_placements(path, asks),
        // It is not a matter of time.
        Probe::IdleMemory if weft => vec![process("worker on the other core", OTHER, "adaptive")],
        Probe::IdleMemory => vec![process("proxy on the other core", OTHER, "")],
        Probe::RoundTrip(_)
        | Probe::FreshRoundTrip
        | Probe::Connections(_)
        | Probe::Crowd
        | Probe::Bulk => {
            if weft {
                vec![
                    process("worker on the pods' core", LOAD, "sleep"),
                    process("worker on the other core", OTHER, "adaptive"),
                ]
            } else if path.proxy().is_some() {
                vec![
                    process("proxy on the pods' core", LOAD, ""),
                    process("proxy on the other core", OTHER, ""),
                ]
            } else {
                vec![
                    kernel("both pods on one core", LOAD_CORE, None),
                    kernel("a core for each pod", 0, None),
                ]
            }
        }
    }
}

/// As [`placements`], of requests: what is not pinned shares both cores, which is the most that all of them together can do.
fn http_placements(path: PathKind, asks: Asks) -> Vec<Placement> {
    let floating = Placement {
        name: "wherever there is room",
        floats: true,
        ..KERNEL
    };
    let with = |name, process| Placement {
        name,
        process: Some(process),
        ..KERNEL
    };
    let (same, other, floating) = if path.is_weft() {
        (
            with("worker on the pods' core", (LOAD, "sleep")),
            with("worker on the other core", (OTHER, "adaptive")),
            Placement {
                name: "pods wherever there is room",
                process: Some((OTHER, "sleep")),
                ..floating
            },
        )
    } else if path.proxy().is_some() {
        (
            with("proxy on the pods' core", (LOAD, "")),
            with("proxy on the other core", (OTHER, "")),
            Placement {
                process: Some((&CORES, "")),
                ..floating
            },
        )
    } else {
        let both = Placement {
            name: "both pods on one core",
            ..KERNEL
        };
        let apart = Placement {
            name: "a core for each pod",
            server_core: 0,
            ..KERNEL
        };
        (both, apart, floating)
    };
    match asks {
        Asks::Idle => vec![other],
        Asks::Small(1) => vec![same, other, floating],
        _ => vec![other, floating],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{SCENARIOS, Scenario};

    #[test]
    fn a_worker_on_the_load_core_never_spins() {
        for Scenario { id, workload, .. } in SCENARIOS {
            for path in workload.paths {
                let placements = placements(*path, workload.probe);
                assert!(!placements.is_empty(), "{id}: {path:?}");
                for placement in placements {
                    let Some((cores, poll)) = placement.process else {
                        continue;
                    };
                    let loaded = match workload.probe {
                        Probe::FloodNode | Probe::NewFlowsNode => &CORES,
                        _ if placement.floats => &CORES,
                        _ => LOAD,
                    };
                    let shared = cores.iter().any(|core| loaded.contains(core));
                    assert!(!shared || poll != "adaptive", "{placement:?}");
                    assert_ne!(poll, "spin", "{placement:?}");
                }
            }
        }
    }
}
