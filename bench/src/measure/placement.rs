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
    /// The worker's core and poll mode, for Weft.
    pub worker: Option<(usize, &'static str)>,
}

/// The kernel's default: it forwards in the sender's system call, on the sender's core.
const KERNEL: Placement = Placement {
    name: "forwarding on the sender's core",
    server_core: LOAD_CORE,
    rps_core: None,
    worker: None,
};

/// The placements of `path` to try; the best one counts.
///
/// A worker that shares its core with real-time load must sleep when idle: spinning there at
/// a real-time priority would keep the load, and the machine, from running at all.
pub fn placements(path: PathKind, probe: Probe) -> Vec<Placement> {
    let weft = |name, worker| Placement {
        name,
        worker: Some(worker),
        ..KERNEL
    };
    let kernel = |name, server_core, rps_core| Placement {
        name,
        server_core,
        rps_core,
        ..KERNEL
    };
    match (path, probe) {
        (PathKind::WeftUser, Probe::Flood(_) | Probe::NewFlows) => {
            vec![weft("worker on the other core", (0, "adaptive"))]
        }
        (PathKind::WeftUser, Probe::ConfigUpdate) => {
            vec![weft("worker on the other core", (0, "adaptive"))]
        }
        // Without rules there is nothing to change, and without a node no placement.
        (PathKind::Direct, Probe::ConfigUpdate) | (_, Probe::LookupScale) => Vec::new(),
        (_, Probe::ConfigUpdate) => vec![Placement {
            name: "wherever the kernel runs it",
            ..KERNEL
        }],
        (PathKind::WeftUser, Probe::FloodOneCore) => {
            vec![weft("worker on the same core", (LOAD_CORE, "sleep"))]
        }
        (
            PathKind::WeftUser,
            Probe::RoundTrip(_) | Probe::FreshRoundTrip | Probe::Connections | Probe::Bulk,
        ) => vec![
            weft("worker on the pods' core", (LOAD_CORE, "sleep")),
            weft("worker on the other core", (0, "adaptive")),
        ],
        (_, Probe::Flood(_) | Probe::NewFlows) => vec![
            KERNEL,
            kernel("forwarding on the other core", LOAD_CORE, Some(0)),
        ],
        (_, Probe::FloodOneCore) => vec![KERNEL],
        (_, Probe::RoundTrip(_) | Probe::FreshRoundTrip | Probe::Connections | Probe::Bulk) => {
            vec![
                kernel("both pods on one core", LOAD_CORE, None),
                kernel("a core for each pod", 0, None),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::SCENARIOS;

    #[test]
    fn a_worker_on_the_load_core_never_spins() {
        for scenario in SCENARIOS {
            for path in PathKind::ALL {
                let placements = placements(path, scenario.workload.probe);
                let traffic = !matches!(
                    scenario.workload.probe,
                    Probe::ConfigUpdate | Probe::LookupScale
                );
                assert!(!traffic || !placements.is_empty());
                for placement in placements {
                    if let Some((core, poll)) = placement.worker {
                        assert!(core != LOAD_CORE || poll == "sleep", "{placement:?}");
                        assert_ne!(poll, "spin", "{placement:?}");
                    }
                }
            }
        }
    }
}
