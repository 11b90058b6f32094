//! Building a snapshot: checks what must hold, compiles the choices, shares what did not change.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{Algorithm, Backend, BackendState, Pod, ServicePort, ServicePortSpec, Tables};
use crate::{Address, Family, MAX_IFINDEX, MaglevTable, Protocol};

/// What a snapshot cannot hold. The configuration is checked before; this is the last line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Two service ports with the same key.
    #[error("service port {address} {port}/{proto} is defined twice")]
    DuplicateService {
        /// The VIP.
        address: Address,
        /// The port.
        port: u16,
        /// The protocol.
        proto: Protocol,
    },
    /// A service port 0, which is the mark of a VIP's wildcard entry.
    #[error("service {address} has port 0: ports are 1 to 65535")]
    PortZero {
        /// The VIP.
        address: Address,
    },
    /// A backend of the other family.
    #[error("service port {address} {port}: backend {backend} is of the other address family")]
    Family {
        /// The VIP.
        address: Address,
        /// The port.
        port: u16,
        /// The backend.
        backend: Address,
    },
    /// The same backend twice in one service port.
    #[error("service port {address} {port}: backend {backend} port {backend_port} is listed twice")]
    DuplicateBackend {
        /// The VIP.
        address: Address,
        /// The port.
        port: u16,
        /// The backend.
        backend: Address,
        /// The backend's port.
        backend_port: u16,
    },
    /// More backends than a Maglev entry can name.
    #[error("service port {address} {port} has {backends} backends: 65535 are possible")]
    TooManyBackends {
        /// The VIP.
        address: Address,
        /// The port.
        port: u16,
        /// How many.
        backends: usize,
    },
    /// Two pods on one interface.
    #[error("two pods on the interface with index {ifindex}")]
    DuplicateInterface {
        /// The interface.
        ifindex: u32,
    },
    /// An interface index that a MAC cannot carry.
    #[error("interface index {ifindex} is out of range: 1 to 16777215 are possible")]
    InterfaceRange {
        /// The interface.
        ifindex: u32,
    },
    /// An address of two pods, or of a pod and a service.
    #[error("address {address} belongs to two pods, or to a pod and a service")]
    DuplicateAddress {
        /// The address.
        address: Address,
    },
}

/// Longest turn of a weighted round robin: beyond it weights are scaled down.
const SCHEDULE_MAX: usize = 4096;

/// What Maglev tables are shared by: which addresses with which weights, and the size.
type TableKey = (Box<[(Address, u16)]>, u32);

/// Collects services and pods, and compiles them into [`Tables`].
#[derive(Debug, Default)]
pub struct TablesBuilder {
    specs: Vec<ServicePortSpec>,
    pods: Vec<Pod>,
    epochs: Vec<u32>,
    members: Vec<u32>,
    grace: Duration,
    node: FxHashMap<u32, [Option<Address>; 2]>,
    vip_silent: bool,
    /// Tables there are: of the previous generation and of ports compiled before.
    shared: FxHashMap<TableKey, Arc<MaglevTable>>,
    /// Sizes in the previous generation.
    sizes: FxHashMap<(Address, u16, Protocol), u32>,
}

impl TablesBuilder {
    /// A builder of a first generation.
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder of the generation after `previous`: unchanged backend sets keep their Maglev table,
    /// and a set that shrinks keeps its size, since another size would move nearly every flow.
    pub fn following(previous: &Tables) -> Self {
        let mut builder = Self::new();
        for port in &previous.ports {
            let Some(table) = &port.maglev else { continue };
            let size = table.size() as u32;
            builder
                .shared
                .insert((identities(&port.backends), size), Arc::clone(table));
            builder
                .sizes
                .insert((port.address, port.port, port.proto), size);
        }
        builder
    }

    /// Adds a service port.
    pub fn add_service_port(&mut self, spec: ServicePortSpec) -> &mut Self {
        self.specs.push(spec);
        self
    }

    /// Adds an enrolled pod.
    pub fn add_pod(&mut self, pod: Pod) -> &mut Self {
        self.pods.push(pod);
        self
    }

    /// Sets the epochs by slot. Slot 0 is left at 0, whatever is given.
    pub fn set_epochs(&mut self, epochs: Vec<u32>) -> &mut Self {
        self.epochs = epochs;
        self
    }

    /// Sets the epochs of the backends' places ([`SlotRef::member`](crate::SlotRef::member)).
    pub fn set_members(&mut self, epochs: Vec<u32>) -> &mut Self {
        self.members = epochs;
        self
    }

    /// Sets how long an unknown flow may be one that the kernel opened; zero unless set.
    pub fn set_grace(&mut self, grace: Duration) -> &mut Self {
        self.grace = grace;
        self
    }

    /// Sets an address of the node from which the pod behind `ifindex` hears of packets that went no further;
    /// one a family, the last one counts. Without one, the pod does not hear of them.
    pub fn set_node_address(&mut self, ifindex: u32, address: Address) -> &mut Self {
        let family = if address.is_v4() {
            Family::V4
        } else {
            Family::V6
        };
        self.node.entry(ifindex).or_default()[family as usize] = Some(address);
        self
    }

    /// Sets whether VIPs answer echo requests; they do unless set.
    pub fn set_vip_echo(&mut self, answer: bool) -> &mut Self {
        self.vip_silent = !answer;
        self
    }

    /// Compiles the snapshot. Costs time in proportion to the Maglev tables that are new.
    pub fn build(mut self, generation: u64) -> Result<Tables, BuildError> {
        let mut tables = Tables {
            generation,
            grace: self.grace,
            node: std::mem::take(&mut self.node),
            vip_silent: self.vip_silent,
            ..Tables::default()
        };
        if let Some(fixed) = self.epochs.first_mut() {
            *fixed = 0;
        }
        tables.epochs = std::mem::take(&mut self.epochs).into();
        tables.members = std::mem::take(&mut self.members).into();
        self.specs
            .sort_by_key(|spec| (spec.address, spec.port, spec.proto));
        for spec in std::mem::take(&mut self.specs) {
            let port = self.compile(spec)?;
            let key = (port.address, port.port, port.proto);
            if tables
                .by_key
                .insert(key, tables.ports.len() as u32)
                .is_some()
            {
                return Err(BuildError::DuplicateService {
                    address: key.0,
                    port: key.1,
                    proto: key.2,
                });
            }
            tables.vips.insert(port.address);
            tables.ports.push(port);
        }
        self.pods.sort_by_key(|pod| pod.ifindex);
        for pod in self.pods {
            let ifindex = pod.ifindex;
            if ifindex == 0 || ifindex > MAX_IFINDEX {
                return Err(BuildError::InterfaceRange { ifindex });
            }
            let index = tables.pods.len() as u32;
            if tables.by_ifindex.insert(ifindex, index).is_some() {
                return Err(BuildError::DuplicateInterface { ifindex });
            }
            for &address in &pod.addresses {
                if tables.by_address.insert(address, index).is_some()
                    || tables.vips.contains(&address)
                {
                    return Err(BuildError::DuplicateAddress { address });
                }
            }
            tables.pods.push(pod);
        }
        Ok(tables)
    }

    fn compile(&mut self, spec: ServicePortSpec) -> Result<ServicePort, BuildError> {
        let ServicePortSpec {
            id,
            address,
            port,
            proto,
            algorithm,
            mut backends,
            options,
        } = spec;
        if port == 0 {
            return Err(BuildError::PortZero { address });
        }
        if backends.len() > usize::from(u16::MAX) {
            return Err(BuildError::TooManyBackends {
                address,
                port,
                backends: backends.len(),
            });
        }
        if let Some(other) = backends
            .iter()
            .find(|backend| backend.address.is_v4() != address.is_v4())
        {
            return Err(BuildError::Family {
                address,
                port,
                backend: other.address,
            });
        }
        // One order whatever the caller's, so that ports with the same addresses share a table by index.
        backends.sort_by_key(|backend| (backend.address, backend.port));
        if let Some([first, _]) = backends
            .array_windows()
            .find(|[a, b]| (a.address, a.port) == (b.address, b.port))
        {
            let (backend, backend_port) = (first.address, first.port);
            return Err(BuildError::DuplicateBackend {
                address,
                port,
                backend,
                backend_port,
            });
        }
        give_new_flows(&mut backends);
        let serves = backends.iter().any(|backend| backend.weight > 0);
        let maglev = (serves && algorithm == Algorithm::Maglev)
            .then(|| self.table(&backends, self.sizes.get(&(address, port, proto)).copied()));
        let schedule = if serves && algorithm != Algorithm::Maglev {
            schedule(&backends)
        } else {
            Box::default()
        };
        Ok(ServicePort {
            id,
            address,
            port,
            proto,
            algorithm,
            backends: backends.into(),
            maglev,
            schedule,
            options,
        })
    }

    fn table(&mut self, backends: &[Backend], previous: Option<u32>) -> Arc<MaglevTable> {
        let size = MaglevTable::default_size(backends.len()).max(previous.unwrap_or(0));
        let key = (identities(backends), size);
        let build = || Arc::new(MaglevTable::build(&identities(backends), size));
        Arc::clone(self.shared.entry(key).or_insert_with(build))
    }
}

/// Takes the weight of backends that get no new flows (KEP-1669): of all but the ready ones, or of all but
/// the terminating ones that serve while none is ready.
fn give_new_flows(backends: &mut [Backend]) {
    let ready = |backend: &Backend| backend.state == BackendState::Ready;
    let chosen = if backends.iter().any(ready) {
        BackendState::Ready
    } else {
        BackendState::Terminating
    };
    for backend in backends.iter_mut().filter(|one| one.state != chosen) {
        backend.weight = 0;
    }
}

/// What a Maglev table knows backends by: not their ports, so that a service's ports share one.
fn identities(backends: &[Backend]) -> Box<[(Address, u16)]> {
    backends
        .iter()
        .map(|backend| (backend.address, backend.weight))
        .collect()
}

/// One turn of a smooth weighted round robin: backend i at the times (k + 1/2) / weight(i).
fn schedule(backends: &[Backend]) -> Box<[u16]> {
    let divisor = backends
        .iter()
        .fold(0, |divisor, backend| {
            gcd(divisor, u32::from(backend.weight))
        })
        .max(1);
    let weight = |backend: &Backend| u64::from(u32::from(backend.weight) / divisor);
    let total: u64 = backends.iter().map(weight).sum();
    // Scaled to the longest turn, nobody with a weight falls out.
    let limit = SCHEDULE_MAX.max(backends.len()) as u64;
    let scaled = |backend: &Backend| match weight(backend) {
        0 => 0,
        weight if total <= limit => weight,
        weight => (weight * limit / total).max(1),
    };
    let mut turns: Vec<(u64, u16)> = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        let weight = scaled(backend);
        turns.extend((0..weight).map(|k| (((2 * k + 1) << 48) / (2 * weight), index as u16)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, index)| index).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
