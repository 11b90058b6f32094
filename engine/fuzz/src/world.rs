//! A small node whose control side does what a real one may: pods come, go, drain, swap addresses.

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use weft_datapath::*;

use crate::support::*;

/// The interfaces that are pods at times: all of support's and two more.
pub const PODS: [u32; 5] = [CLIENT, BACKEND_1, BACKEND_2, 15, 16];
/// Ports of each VIP whose connections may end here: joined from the client's address, and from the node's.
pub const ENDS_HERE: [(u16, UpstreamSource); 2] = [
    (TARGET, UpstreamSource::Client),
    (1000, UpstreamSource::Node),
];
/// Where hosts 4 and up have their addresses from: host 4 is never enrolled.
const KERNEL_HOST: u8 = 4;

/// What control does to a pod.
#[derive(Arbitrary, Copy, Clone, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// Not enrolled; its flows are over.
    Gone,
    /// Enrolled with its grace still running.
    Grace,
    /// Enrolled for long.
    Settled,
    /// Leaving.
    Draining,
    /// Another pod behind the same interface.
    Replaced,
}

/// A change of the configuration.
#[derive(Arbitrary, Clone, Debug)]
pub struct Change {
    /// Which pod, and what happens to it.
    pub pod: Option<(u8, Enrolment)>,
    /// The addresses of the two backends change places.
    pub swap: bool,
    /// Another algorithm, and whether connections end here ([`staged`]).
    pub algorithm: Option<u8>,
}

/// Every Maglev table that a change may ask for, made once: a case lives from what it does, not from these.
static MAGLEV: LazyLock<Tables> = LazyLock::new(|| {
    let mut builder = TablesBuilder::new();
    let mut port = 0;
    for net in Net::BOTH {
        for hosts in [&[1][..], &[2], &[3], &[4], &[2, 3]] {
            port += 1;
            builder.add_service_port(ServicePortSpec {
                id: 0,
                address: net.vip(1),
                port,
                proto: Protocol::Tcp,
                algorithm: Algorithm::Maglev,
                options: ServiceOptions::default(),
                backends: hosts
                    .iter()
                    .map(|host| kernel_backend(net.pod(*host), TARGET))
                    .collect(),
            });
        }
    }
    builder.build(0).expect("tables that keep every rule")
});

/// The control side: as `Registry` and `Compiled` do it, epochs move whenever flows must end.
pub struct World {
    stages: [Option<Standing>; PODS.len()],
    epochs: Vec<u32>,
    members: Vec<u32>,
    swapped: bool,
    algorithm: Algorithm,
    staged: bool,
    pub tables: Tables,
}

impl World {
    pub fn new(algorithm: u8) -> Self {
        let mut world = Self {
            stages: [Some(Standing::Settled); PODS.len()],
            epochs: vec![1; 32],
            members: vec![1; 32],
            swapped: false,
            algorithm: by_number(algorithm),
            staged: staged(algorithm),
            tables: Tables::default(),
        };
        world.compile();
        world
    }

    pub fn apply(&mut self, change: &Change) {
        if let Some((pod, enrolment)) = change.pod {
            let pod = usize::from(pod) % PODS.len();
            let stage = match enrolment {
                Enrolment::Gone => None,
                Enrolment::Grace => Some(Standing::Grace),
                Enrolment::Settled | Enrolment::Replaced => Some(Standing::Settled),
                // Only what is there can leave.
                Enrolment::Draining => self.stages[pod].map(|_| Standing::Draining),
            };
            if stage == Some(Standing::Draining) {
                self.members[PODS[pod] as usize] += 1; // Leaves its services.
            }
            let ends = stage.is_none() || self.stages[pod].is_none();
            if ends || enrolment == Enrolment::Replaced {
                self.end(PODS[pod]);
            }
            self.stages[pod] = stage;
        }
        if change.swap {
            self.swapped = !self.swapped;
            self.end(BACKEND_1);
            self.end(BACKEND_2);
        }
        if let Some(algorithm) = change.algorithm {
            self.algorithm = by_number(algorithm);
            self.staged = staged(algorithm);
        }
        self.compile();
    }

    /// Whether an enrolled or draining pod with this address is behind the interface.
    pub fn at_home(&self, ifindex: u32, address: &Address) -> bool {
        self.tables
            .pod_by_ifindex(ifindex)
            .is_some_and(|pod| pod.addresses.contains(address))
    }

    /// The last part of the address of the pod behind an interface.
    pub fn host(&self, ifindex: u32) -> u8 {
        match (self.swapped, ifindex) {
            (true, BACKEND_1) => (BACKEND_2 - 10) as u8,
            (true, BACKEND_2) => (BACKEND_1 - 10) as u8,
            _ => (ifindex - 10) as u8,
        }
    }

    fn end(&mut self, ifindex: u32) {
        self.epochs[ifindex as usize] += 1;
        self.members[ifindex as usize] += 1;
    }

    fn slot(&self, ifindex: u32) -> SlotRef {
        SlotRef {
            slot: ifindex,
            epoch: self.epochs[ifindex as usize],
        }
    }

    /// A backend on an interface's pod: by the kernel while that is not enrolled.
    fn backend(&self, net: Net, ifindex: u32) -> Option<Backend> {
        let at = PODS.iter().position(|pod| *pod == ifindex)?;
        let address = net.pod(self.host(ifindex));
        match self.stages[at] {
            Some(Standing::Draining) => None,
            None => Some(kernel_backend(address, TARGET)),
            Some(_) => Some(Backend {
                address,
                slot: self.slot(ifindex),
                ..enrolled_backend(net, ifindex, TARGET)
            }),
        }
    }

    fn compile(&mut self) {
        let mut builder = TablesBuilder::following(&MAGLEV);
        let mut id = 0;
        for net in Net::BOTH {
            for (vip, proto) in [80, 81]
                .into_iter()
                .flat_map(|vip| [(vip, Protocol::Tcp), (vip, Protocol::Udp)])
            {
                let kernel = kernel_backend(net.pod(KERNEL_HOST), TARGET);
                for (port, backends) in [
                    (
                        SERVED,
                        vec![self.backend(net, BACKEND_1), self.backend(net, BACKEND_2)],
                    ),
                    (WITHOUT_BACKENDS, vec![]),
                    (BY_KERNEL, vec![Some(kernel)]),
                    (ONLY_CLIENT, vec![self.backend(net, CLIENT)]),
                    (ONE_BACKEND, vec![self.backend(net, BACKEND_1)]),
                ] {
                    id += 1;
                    builder.add_service_port(ServicePortSpec {
                        id,
                        address: net.vip(vip),
                        port,
                        proto,
                        algorithm: self.algorithm,
                        options: ServiceOptions::default(),
                        backends: backends.into_iter().flatten().collect(),
                    });
                }
            }
        }
        for net in Net::BOTH {
            for (vip, (port, source)) in [80, 81]
                .into_iter()
                .flat_map(|vip| ENDS_HERE.map(|at| (vip, at)))
            {
                let backends = match source {
                    UpstreamSource::Client => {
                        [BACKEND_1, BACKEND_2].map(|at| self.backend(net, at))
                    }
                    UpstreamSource::Node => [BACKEND_1, CLIENT].map(|at| self.backend(net, at)),
                };
                let kernel = (vip == 81).then(|| kernel_backend(net.pod(KERNEL_HOST), TARGET));
                let member = |backend: Backend| match backend.path {
                    BackendPath::Pod { ifindex } => Backend {
                        member: SlotRef::member(ifindex, self.members[ifindex as usize]),
                        ..backend
                    },
                    BackendPath::Kernel => backend,
                };
                id += 1;
                builder.add_service_port(ServicePortSpec {
                    id,
                    address: net.vip(vip),
                    port,
                    proto: Protocol::Tcp,
                    // A Maglev table for each set of backends would cost more than a case.
                    algorithm: Algorithm::LeastConnections,
                    options: ServiceOptions {
                        stage: if self.staged {
                            Stage::Tcp(source)
                        } else {
                            Stage::L4
                        },
                        reset_on_removal: vip == 80,
                        max_flows: (vip == 81).then_some(4),
                        ..ServiceOptions::default()
                    },
                    backends: backends
                        .into_iter()
                        .flatten()
                        .chain(kernel)
                        .map(member)
                        .collect(),
                });
            }
        }
        for (ifindex, net) in PODS
            .into_iter()
            .flat_map(|pod| Net::BOTH.map(|net| (pod, net)))
        {
            builder.set_node_address(ifindex, net.node());
        }
        for (ifindex, stage) in PODS.into_iter().zip(self.stages) {
            let Some(stage) = stage else { continue };
            let addresses = Net::BOTH.map(|net| net.pod(self.host(ifindex)));
            builder.add_pod(Pod {
                addresses: addresses.into(),
                slot: self.slot(ifindex),
                ..pod(ifindex, stage)
            });
        }
        builder.set_epochs(self.epochs.clone());
        builder.set_members(self.members.clone());
        self.tables = builder
            .build(self.tables.generation + 1)
            .expect("tables that keep every rule");
    }
}

fn by_number(number: u8) -> Algorithm {
    [Algorithm::Maglev, Algorithm::RoundRobin, Algorithm::Random][usize::from(number) % 3]
}

/// Whether connections to [`ENDS_HERE`] do.
fn staged(number: u8) -> bool {
    number / 3 % 4 != 3
}
