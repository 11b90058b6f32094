//! Who runs on which core while something is measured.

use super::path::PathKind;
use super::scenario::Probe;

/// The cores of a measurement.
pub const CORES: [usize; 2] = [0, 1];
/// The core the generator and the clients run on.
pub const LOAD_CORE: usize = 1;

/// Who runs where.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// For the report.
    pub name: &'static str,
    /// The core of the server's process, where there is one.
    pub server_core: usize,
    /// The core that receive packet steering moves the kernel's forwarding to.
    pub rps_core: Option<usize>,
    /// The core of the process that carries the traffic, where there is one, and the poll mode of Weft's worker.
    pub process: Option<(usize, &'static str)>,
}

/// The kernel's default: it forwards in the sender's system call, on the sender's core.
const KERNEL: Placement = Placement {
    name: "forwarding on the sender's core",
    server_core: LOAD_CORE,
    rps_core: None,
    process: None,
};

/// The placements of `path` to try; the best one counts.
///
/// A worker that shares its core with real-time load must sleep when idle: spinning there at
/// a real-time priority would keep the load, and the machine, from running at all.
pub fn placements(path: PathKind, probe: Probe) -> Vec<Placement> {
    let process = |name, core, poll| Placement {
        name,
        process: Some((core, poll)),
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
                process: Some((0, "sleep")),
                ..placement
            })
            .collect();
    }
    let weft = path.is_weft();
    match probe {
        // Without a node no placement.
        Probe::LookupScale => Vec::new(),
        Probe::Flood(_) | Probe::NewFlows | Probe::ConfigUpdate if weft => {
            vec![process("worker on the other core", 0, "adaptive")]
        }
        Probe::FloodOneCore if weft => {
            vec![process("worker on the same core", LOAD_CORE, "sleep")]
        }
        Probe::ConfigUpdate => vec![Placement {
            name: "wherever the kernel runs it",
            ..KERNEL
        }],
        Probe::Flood(_) | Probe::NewFlows => vec![
            KERNEL,
            kernel("forwarding on the other core", LOAD_CORE, Some(0)),
        ],
        Probe::FloodOneCore => vec![KERNEL],
        // It is not a matter of time.
        Probe::IdleMemory if weft => vec![process("worker on the other core", 0, "adaptive")],
        Probe::IdleMemory => vec![process("proxy on the other core", 0, "")],
        Probe::RoundTrip(_)
        | Probe::FreshRoundTrip
        | Probe::Connections
        | Probe::Crowd
        | Probe::Bulk => {
            if weft {
                vec![
                    process("worker on the pods' core", LOAD_CORE, "sleep"),
                    process("worker on the other core", 0, "adaptive"),
                ]
            } else if path.proxy().is_some() {
                vec![
                    process("proxy on the pods' core", LOAD_CORE, ""),
                    process("proxy on the other core", 0, ""),
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
                    let Some((core, poll)) = placement.process else {
                        continue;
                    };
                    assert!(core != LOAD_CORE || poll != "adaptive", "{placement:?}");
                    assert_ne!(poll, "spin", "{placement:?}");
                }
            }
        }
    }
}
