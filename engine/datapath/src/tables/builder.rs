//! Building a snapshot: checks what must hold, compiles the choices, shares what did not change.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{
    Algorithm, Backend, BackendState, Pod, Pods, PortKey, ServicePort, ServicePortSpec, Tables,
};
use crate::overlay::Overlay;
use crate::{Address, MAX_IFINDEX, MaglevTable, OverlaySpec, Protocol};

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
    /// The generation before: a port whose spec did not change is taken from it.
    previous: Tables,
    /// What the new generation starts with.
    base: Tables,
    specs: Vec<ServicePortSpec>,
    pods: Option<Vec<Pod>>,
    overlay: Option<OverlaySpec>,
    epochs: Option<Vec<u32>>,
    members: Option<Vec<u32>>,
    grace: Option<Duration>,
    node: FxHashMap<u32, [Option<Address>; 2]>,
    vip_silent: bool,
    /// Maglev tables there are: of ports of the previous generation, and of ports compiled before.
    shared: FxHashMap<TableKey, MaglevTable>,
}

impl TablesBuilder {
    /// A builder of a first generation.
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder of the generation after `previous` that is to be told everything anew: a port keeps
    /// what was compiled for it as long as its spec is the same, unchanged backend sets keep their
    /// Maglev table, and a set that shrinks keeps its size, since another size would move nearly every
    /// flow.
    pub fn following(previous: &Tables) -> Self {
        let mut builder = Self {
            previous: previous.clone(),
            base: Tables {
                pods: Arc::clone(&previous.pods),
                overlay: Arc::clone(&previous.overlay),
                epochs: Arc::clone(&previous.epochs),
                members: Arc::clone(&previous.members),
                ..Tables::default()
            },
            pods: Some(Vec::new()),
            overlay: Some(OverlaySpec::default()),
            epochs: Some(Vec::new()),
            members: Some(Vec::new()),
            ..Self::new()
        };
        for (_, port) in previous.ports.iter() {
            builder.share(port);
        }
        builder
    }

    /// A builder of the generation after `previous` that has everything of it, to be told what changes:
    /// the ports that go or are replaced ([`Self::remove_service_port`]), those that come, and whatever
    /// is set as a whole. Costs time by the change, not by what there is.
    pub fn editing(previous: &Tables) -> Self {
        Self {
            previous: previous.clone(),
            base: previous.clone(),
            ..Self::new()
        }
    }

    /// Adds a service port.
    pub fn add_service_port(&mut self, spec: ServicePortSpec) -> &mut Self {
        self.specs.push(spec);
        self
    }

    /// Takes out a service port of the previous generation; one that is to change is added again. What
    /// is not there is no error.
    pub fn remove_service_port(&mut self, key: PortKey) -> &mut Self {
        let Some(port) = self.base.ports.remove(&key) else {
            return self;
        };
        self.share(&port);
        let ports = self.base.vips.get(&key.0).map_or(0, |ports| ports - 1);
        match ports {
            0 => self.base.vips.remove(&key.0),
            ports => self.base.vips.insert(key.0, ports),
        };
        self
    }

    /// Adds an enrolled pod. The pods are told as a whole: the first one takes the place of all of the
    /// previous generation.
    pub fn add_pod(&mut self, pod: Pod) -> &mut Self {
        self.pods.get_or_insert_default().push(pod);
        self
    }

    /// Sets all enrolled pods, which may be none.
    pub fn set_pods(&mut self, pods: Vec<Pod>) -> &mut Self {
        self.pods = Some(pods);
        self
    }

    /// Sets the overlay.
    pub fn set_overlay(&mut self, overlay: OverlaySpec) -> &mut Self {
        self.overlay = Some(overlay);
        self
    }

    /// Sets the epochs by slot. Slot 0 is left at 0, whatever is given.
    pub fn set_epochs(&mut self, mut epochs: Vec<u32>) -> &mut Self {
        if let Some(fixed) = epochs.first_mut() {
            *fixed = 0;
        }
        self.epochs = Some(epochs);
        self
    }

    /// Sets the epochs of the backends' places ([`SlotRef::member`](crate::SlotRef::member)).
    pub fn set_members(&mut self, epochs: Vec<u32>) -> &mut Self {
        self.members = Some(epochs);
        self
    }

    /// Sets how long an unknown flow may be one that the kernel opened; zero unless set.
    pub fn set_grace(&mut self, grace: Duration) -> &mut Self {
        self.grace = Some(grace);
        self
    }

    /// Sets an address of the node from which the pod behind `ifindex` hears of packets that went no further;
    /// one a family, the last one counts. Without one, or with a VIP, the pod does not hear of them.
    pub fn set_node_address(&mut self, ifindex: u32, address: Address) -> &mut Self {
        self.node.entry(ifindex).or_default()[address.family() as usize] = Some(address);
        self
    }

    /// Sets whether VIPs answer echo requests; they do unless set.
    pub fn set_vip_echo(&mut self, answer: bool) -> &mut Self {
        self.vip_silent = !answer;
        self
    }

    /// Compiles the snapshot. Costs time in proportion to the Maglev tables that are new.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(mut self, generation: u64) -> Result<Tables, BuildError> {
        let mut tables = std::mem::take(&mut self.base);
        tables.generation = generation;
        tables.grace = self.grace.unwrap_or(tables.grace);
        tables.vip_silent = self.vip_silent;
        // Equal parts stay the same memory, which the workers have in their caches.
        if let Some(epochs) = self.epochs.take().filter(|new| **new != *tables.epochs) {
            tables.epochs = epochs.into();
        }
        if let Some(members) = self.members.take().filter(|new| **new != *tables.members) {
            tables.members = members.into();
        }
        if let Some(pods) = self.pods.take() {
            let pods = index(pods)?;
            if pods != *tables.pods {
                tables.pods = Arc::new(pods);
            }
        }
        if let Some(overlay) = (self.overlay.take()).filter(|new| *new != tables.overlay.spec) {
            tables.overlay = Arc::new(Overlay::new(overlay));
        }
        // In one order, so that equal input makes the same tables shared, and the same error.
        self.specs
            .sort_by_key(|spec| (spec.address, spec.port, spec.proto));
        for spec in std::mem::take(&mut self.specs) {
            let key = (spec.address, spec.port, spec.proto);
            let port = self.compile(spec)?;
            if tables.ports.insert(key, port).is_some() {
                return Err(BuildError::DuplicateService {
                    address: key.0,
                    port: key.1,
                    proto: key.2,
                });
            }
            let ports = tables.vips.get(&key.0).map_or(1, |ports| ports + 1);
            tables.vips.insert(key.0, ports);
        }
        // kube-proxy in IPVS mode has the VIPs on an interface of the node; none of them stands for it.
        for address in self.node.values_mut().flatten() {
            *address = address.filter(|address| !tables.vip(address));
        }
        tables.node = self.node;
        let mut addresses = tables.pods.by_address.keys();
        match addresses.find(|address| tables.vip(address)) {
            Some(&address) => Err(BuildError::DuplicateAddress { address }),
            None => Ok(tables),
        }
    }

    /// Offers a port's Maglev table to other ports.
    fn share(&mut self, port: &ServicePort) {
        if let Some(table) = &port.maglev {
            let key = (identities(&port.spec.backends), table.size() as u32);
            self.shared.insert(key, table.clone());
        }
    }

    fn compile(&mut self, mut spec: ServicePortSpec) -> Result<Arc<ServicePort>, BuildError> {
        let (address, port) = (spec.address, spec.port);
        let backends = &mut spec.backends;
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
        give_new_flows(backends);
        let previous = self.previous.ports.get(&(address, port, spec.proto));
        if let Some(same) = previous.filter(|previous| previous.spec == spec) {
            return Ok(Arc::clone(same));
        }
        spec.backends.shrink_to_fit(); // It may live long.
        let backends = &spec.backends;
        let serves = backends.iter().any(|backend| backend.weight > 0);
        let size = previous.and_then(|previous| Some(previous.maglev.as_ref()?.size() as u32));
        let maglev = (serves && spec.algorithm == Algorithm::Maglev)
            .then(|| table(&mut self.shared, backends, size));
        let schedule = if serves && spec.algorithm != Algorithm::Maglev {
            schedule(backends)
        } else {
            Box::default()
        };
        Ok(Arc::new(ServicePort {
            spec,
            maglev,
            schedule,
        }))
    }
}

/// The table of these backends, at least as large as the port's table before.
fn table(
    shared: &mut FxHashMap<TableKey, MaglevTable>,
    backends: &[Backend],
    previous: Option<u32>,
) -> MaglevTable {
    let size = MaglevTable::default_size(backends.len()).max(previous.unwrap_or(0));
    let entry = shared.entry((identities(backends), size));
    let build = |key: &TableKey| MaglevTable::build(&key.0, size);
    entry.or_insert_with_key(build).clone()
}

/// Sorts the pods by interface and makes them findable.
fn index(mut pods: Vec<Pod>) -> Result<Pods, BuildError> {
    pods.sort_by_key(|pod| pod.ifindex);
    let mut indexed = Pods::default();
    for (index, pod) in (0u32..).zip(&pods) {
        let ifindex = pod.ifindex;
        if ifindex == 0 || ifindex > MAX_IFINDEX {
            return Err(BuildError::InterfaceRange { ifindex });
        }
        if indexed.by_ifindex.insert(ifindex, index).is_some() {
            return Err(BuildError::DuplicateInterface { ifindex });
        }
        for &address in &pod.addresses {
            if indexed.by_address.insert(address, index).is_some() {
                return Err(BuildError::DuplicateAddress { address });
            }
        }
    }
    let mtus = pods.iter().map(|pod| pod.mtu);
    indexed.mtu_least = mtus.min().unwrap_or_default();
    indexed.list = pods;
    Ok(indexed)
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
