//! One generation of what the control side wants: services, backends, pods, epochs. Immutable.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use rustc_hash::FxHashMap;

use crate::overlay::{Overlay, is_tunnel};
use crate::{Address, Family, MaglevTable, Now, OverlaySpec, PeerSpec, Protocol};

mod builder;
mod sharded;
#[cfg(test)]
mod tests;

use sharded::Sharded;

pub use builder::{BuildError, TablesBuilder};

/// How a service port chooses among its backends. Weights count in all of them.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Algorithm {
    /// By a consistent hash of the tuple.
    #[default]
    Maglev,
    /// In turn, per worker.
    RoundRobin,
    /// By the worker's random numbers.
    Random,
    /// The backend with the fewest live flows of the worker's for its weight: of all where there are few, of
    /// two drawn at random by weight where there are many.
    LeastConnections,
}

/// A place in the epoch array and the epoch that something was made under.
///
/// What carries it is valid while `Tables::epoch(slot)` is still `epoch`. Slot 0 never moves.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SlotRef {
    /// The place.
    pub slot: u32,
    /// The epoch.
    pub epoch: u32,
}

impl SlotRef {
    /// A reference that stays valid for ever.
    pub const FIXED: Self = Self { slot: 0, epoch: 0 };

    /// Marks the slot of a service port's backend; without it, a slot is a pod's.
    const MEMBER: u32 = 1 << 31;

    /// The reference to the `index`-th place of the backends' epochs; below 2^31.
    pub const fn member(index: u32, epoch: u32) -> Self {
        Self {
            slot: index | Self::MEMBER,
            epoch,
        }
    }

    /// The place among the backends' epochs, if it is one of those.
    #[inline]
    pub const fn as_member(self) -> Option<u32> {
        if self.slot & Self::MEMBER == 0 {
            None
        } else {
            Some(self.slot & !Self::MEMBER)
        }
    }
}

/// Where an endpoint stands (KEP-1669). New flows go to those that are ready; while there is none, to those
/// that are terminating and still serve; never to others. Flows that there are keep their backend
/// whatever its state.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum BackendState {
    /// Ready and not terminating.
    #[default]
    Ready,
    /// Terminating, and serving still.
    Terminating,
    /// Not ready, or terminating and serving no more.
    Unready,
}

/// How far up a service port is served.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stage {
    /// Packets are translated.
    #[default]
    L4,
    /// Connections end here, and are joined byte for byte to others that are opened from the address given.
    Tcp(UpstreamSource),
    /// Connections end here, and their requests are sent on over others that are opened from the address given.
    Http(UpstreamSource),
}

impl Stage {
    /// Whether connections end here.
    #[inline]
    pub const fn terminates(self) -> bool {
        !matches!(self, Self::L4)
    }
}

/// Whom a backend sees as the peer of a connection that was opened on behalf of a client.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum UpstreamSource {
    /// The client's address, and its port where no other connection of the client's to that backend has it.
    #[default]
    Client,
    /// The node's address. A backend that the kernel brings packets to sees the client's all the same: its replies
    /// would otherwise be the kernel's.
    Node,
}

/// What a service wants beyond a choice among backends. The default wants nothing.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceOptions {
    /// A client's new flows go to the backend of its last one, until it opened none for this long (SVC-11).
    pub affinity: Option<Duration>,
    /// Flows that a worker may hold for the service port; `None` leaves it to the dynamic share.
    pub max_flows: Option<u32>,
    /// TCP flows to a backend that leaves the service are reset at their client's next packet,
    /// rather than left alone (SVC-24).
    pub reset_on_removal: bool,
    /// How far up it is served; beyond layer 4 only TCP can be.
    pub stage: Stage,
}

/// How packets get to a backend.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum BackendPath {
    /// An enrolled pod on this node: straight into its veth.
    Pod {
        /// The pod's veth.
        ifindex: u32,
    },
    /// By the kernel: not enrolled, or on the host's network.
    Kernel,
}

/// One end that serves a service port.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its address, of the service's family.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// The way there.
    pub path: BackendPath,
    /// What its flows depend on.
    pub slot: SlotRef,
    /// Its place in the service port: moves when the backend leaves it, and when its pod's `slot` does.
    /// UDP flows depend on it in place of `slot`, since they have no end of their own.
    /// [`SlotRef::FIXED`] stands for none: then `slot` alone counts.
    pub member: SlotRef,
    /// Where it stands.
    pub state: BackendState,
    /// Its share of new flows; 0 takes none. As compiled, 0 where the states give them to others.
    pub weight: u16,
    /// The caller's number for its name, if it has one.
    pub name: Option<u32>,
}

/// What a service port is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePortSpec {
    /// The caller's number, kept in flows; stable across generations for round robin to go on.
    pub id: u32,
    /// The VIP.
    pub address: Address,
    /// The port there, not 0.
    pub port: u16,
    /// The protocol.
    pub proto: Protocol,
    /// The way to choose.
    pub algorithm: Algorithm,
    /// The backends, in any order; the same address and port at most once.
    pub backends: Vec<Backend>,
    /// What else it wants.
    pub options: ServiceOptions,
}

/// A service port as compiled. Generations share it for as long as its spec stays the same.
///
/// Two lines of memory side by side, which processors read as a pair.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(align(128))]
pub struct ServicePort {
    /// What it was compiled from, its backends by address and port.
    pub(crate) spec: ServicePortSpec,
    pub(crate) maglev: Option<MaglevTable>,
    /// One turn of the round robin, by index: each backend as often as its weight says. Empty for Maglev.
    pub(crate) schedule: Box<[u16]>,
}

const _: () = assert!(size_of::<ServicePort>() == 128);

impl ServicePort {
    /// What it was compiled from.
    pub fn spec(&self) -> &ServicePortSpec {
        &self.spec
    }

    /// The caller's number.
    pub fn id(&self) -> u32 {
        self.spec.id
    }

    /// The VIP.
    pub fn address(&self) -> Address {
        self.spec.address
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.spec.port
    }

    /// The protocol.
    pub fn proto(&self) -> Protocol {
        self.spec.proto
    }

    /// What it wants beyond a choice among backends.
    pub fn options(&self) -> &ServiceOptions {
        &self.spec.options
    }

    /// The way to choose.
    pub fn algorithm(&self) -> Algorithm {
        self.spec.algorithm
    }

    /// The backends, by address and port.
    pub fn backends(&self) -> &[Backend] {
        &self.spec.backends
    }

    /// The Maglev table, shared with every port of the same backend addresses and weights. `None` for
    /// other algorithms and without backends.
    pub fn maglev(&self) -> Option<&MaglevTable> {
        self.maglev.as_ref()
    }

    /// What a flow to that backend depends on.
    pub fn dependence(&self, backend: &Backend) -> SlotRef {
        match self.spec.proto {
            _ if backend.member == SlotRef::FIXED => backend.slot,
            Protocol::Tcp if !self.spec.options.reset_on_removal => backend.slot,
            Protocol::Tcp | Protocol::Udp => backend.member,
        }
    }

    /// Where the backend with that address and port stands in [`backends`](Self::backends).
    pub(crate) fn position(&self, (address, port): (Address, u16)) -> Option<usize> {
        let found = self
            .spec
            .backends
            .binary_search_by_key(&(address, port), |backend| (backend.address, backend.port));
        found.ok()
    }

    /// Whether any backend takes new flows.
    pub fn serves(&self) -> bool {
        self.maglev.is_some() || !self.schedule.is_empty()
    }

    /// Whether it takes new flows: with a backend, or with an HTTP stage, which answers by itself that there is none, and
    /// may send requests to other services' backends.
    pub fn accepts(&self) -> bool {
        self.serves() || matches!(self.spec.options.stage, Stage::Http(_))
    }

    /// Reads what a new flow needs of it.
    #[inline]
    pub(crate) fn touch(&self) {
        let ServicePortSpec {
            id,
            algorithm,
            options,
            backends,
            ..
        } = &self.spec;
        black_box((backends.len(), *id, *algorithm, options.max_flows));
        black_box((options.affinity, self.schedule.len()));
    }
}

/// Whether a pod takes part fully.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum PodState {
    /// Enrolled; until the time given, flows may be older than the enrolment.
    Enrolled {
        /// When the grace ends.
        grace_until: Now,
    },
    /// Has left the configuration: its flows end here, new ones are the kernel's.
    Draining,
}

/// An enrolled pod, or a peer's pods whose addresses are of one range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its veth on the node's side, at most [`MAX_IFINDEX`](crate::MAX_IFINDEX); the tunnel of a peer's.
    pub ifindex: u32,
    /// Its name, which peers are told; empty of a peer's.
    pub name: Box<str>,
    /// Its addresses, one per family; none of a peer's.
    pub addresses: ArrayVec<Address, 2>,
    /// What its flows depend on: moves when the pod is deleted.
    pub slot: SlotRef,
    /// Where it stands.
    pub state: PodState,
    /// MTU of its veth, in bytes: the longest IP packet that goes into it.
    pub mtu: u16,
}

impl Pod {
    /// Whether the pod is leaving.
    pub fn draining(&self) -> bool {
        self.state == PodState::Draining
    }

    /// Whether its flows may be older than its enrolment.
    pub fn grace(&self, now: Now) -> bool {
        matches!(self.state, PodState::Enrolled { grace_until } if now < grace_until)
    }
}

/// VIP, port and protocol.
pub(crate) type PortKey = (Address, u16, Protocol);

/// The enrolled pods.
#[derive(PartialEq, Eq, Debug, Default)]
struct Pods {
    list: Vec<Pod>,
    by_ifindex: FxHashMap<u32, u32>,
    by_address: FxHashMap<Address, u32>,
    /// What fits into every pod.
    mtu_least: u16,
}

/// An immutable snapshot, built off the data core by a [`TablesBuilder`] and read by every worker.
///
/// It shares with the generation before it whatever did not change, so a new generation costs time
/// and memory by what changed, and a worker finds most of it in its cache.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Which snapshot this is.
    pub generation: u64,
    ports: Sharded<PortKey, Arc<ServicePort>>,
    /// VIPs, and how many ports each has.
    vips: Sharded<Address, u32>,
    pods: Arc<Pods>,
    overlay: Arc<Overlay>,
    epochs: Arc<[u32]>,
    members: Arc<[u32]>,
    grace: Duration,
    /// The node's own addresses, IPv4 and IPv6, towards each pod.
    node: FxHashMap<u32, [Option<Address>; 2]>,
    vip_silent: bool,
}

impl Tables {
    /// The node's address of that family, as the pod behind this veth may see it.
    pub fn node_address(&self, ifindex: u32, family: Family) -> Option<Address> {
        self.node.get(&ifindex)?[family as usize]
    }

    /// Whether VIPs answer echo requests.
    pub fn vip_echo(&self) -> bool {
        !self.vip_silent
    }

    /// The service port at this VIP, port and protocol.
    pub fn service(&self, address: &Address, port: u16, proto: Protocol) -> Option<&ServicePort> {
        self.ports.get(&(*address, port, proto)).map(Arc::as_ref)
    }

    /// As [`service`](Self::service), to be kept: a port that did not change is the same memory in the next generation.
    pub fn shared_service(
        &self,
        address: &Address,
        port: u16,
        proto: Protocol,
    ) -> Option<&Arc<ServicePort>> {
        self.ports.get(&(*address, port, proto))
    }

    /// The hash that a service port is found by.
    #[inline]
    pub(crate) fn port_hash(port: &PortKey) -> u64 {
        sharded::hash(port)
    }

    /// Reads where the search for a service port starts.
    #[inline]
    pub(crate) fn touch_service(&self, hash: u64) {
        self.ports.touch(hash);
    }

    /// As [`service`](Self::service), for a hash that is known.
    #[inline]
    pub(crate) fn service_hashed(&self, port: &PortKey, hash: u64) -> Option<&ServicePort> {
        self.ports.get_hashed(port, hash).map(Arc::as_ref)
    }

    /// Whether any service has this address.
    pub fn vip(&self, address: &Address) -> bool {
        self.vips.get(address).is_some()
    }

    /// The enrolled pod with this address, or the peer's pods among which it is.
    pub fn pod_by_address(&self, address: &Address) -> Option<&Pod> {
        match self.pods.by_address.get(address) {
            Some(index) => self.pods.list.get(*index as usize),
            None => self.overlay.pods_at(address),
        }
    }

    /// The pod that packets from this interface or tunnel with this source are of.
    pub fn sender(&self, ifindex: u32, address: &Address) -> Option<&Pod> {
        if is_tunnel(ifindex) {
            // Whatever a peer's ranges say: a pod of this node is not there, and no packet is from a service.
            let here = self.pods.by_address.contains_key(address) || self.vip(address);
            return (self.overlay.sender(ifindex, address)).filter(|_| !here);
        }
        let pod = self.pod_by_ifindex(ifindex);
        pod.filter(|pod| pod.addresses.contains(address))
    }

    /// What the overlay was compiled from.
    pub fn overlay(&self) -> &OverlaySpec {
        &self.overlay.spec
    }

    /// The peer whose tunnel has this number.
    pub fn peer(&self, port: u32) -> Option<&PeerSpec> {
        self.overlay.peer(port)
    }

    #[inline]
    pub(crate) fn tunnels(&self) -> &Overlay {
        &self.overlay
    }

    /// The enrolled pod behind this veth.
    pub fn pod_by_ifindex(&self, ifindex: u32) -> Option<&Pod> {
        let index = *self.pods.by_ifindex.get(&ifindex)?;
        self.pods.list.get(index as usize)
    }

    /// Bytes of the longest IP packet that fits into every enrolled pod and every tunnel.
    #[inline]
    pub(crate) fn mtu_least(&self) -> usize {
        usize::from(self.pods.mtu_least.min(self.overlay.mtu_least))
    }

    /// The MTU of the pod behind this veth, or of the tunnel, if an IP packet of `length` bytes is longer.
    #[inline]
    pub(crate) fn narrower(&self, ifindex: u32, length: usize) -> Option<u16> {
        if length <= self.mtu_least() {
            return None;
        }
        let mtu = self.mtu(ifindex)?;
        (length > usize::from(mtu)).then_some(mtu)
    }

    /// Bytes of the longest IP packet that goes into the pod behind this veth, or through the tunnel.
    pub fn mtu(&self, ifindex: u32) -> Option<u16> {
        if is_tunnel(ifindex) {
            self.overlay.peer(ifindex).map(|peer| peer.mtu)
        } else {
            self.pod_by_ifindex(ifindex).map(|pod| pod.mtu)
        }
    }

    /// The epoch of a slot now; 0 for a slot that was never set.
    #[inline]
    pub fn epoch(&self, slot: u32) -> u32 {
        let epochs = if slot & SlotRef::MEMBER == 0 {
            &self.epochs
        } else {
            &self.members
        };
        let index = (slot & !SlotRef::MEMBER) as usize;
        epochs.get(index).copied().unwrap_or(0)
    }

    /// Whether nothing has invalidated what was made under `slot`.
    #[inline]
    pub fn holds(&self, slot: SlotRef) -> bool {
        self.epoch(slot.slot) == slot.epoch
    }

    /// All service ports, by VIP, port and protocol. Sorted anew each time, so not for the data core.
    pub fn services(&self) -> Vec<&Arc<ServicePort>> {
        let mut entries: Vec<_> = self.ports.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| **key);
        entries.into_iter().map(|(_, port)| port).collect()
    }

    /// The keys of all service ports, in no order.
    pub fn service_keys(&self) -> impl Iterator<Item = (Address, u16, Protocol)> {
        self.ports.iter().map(|(key, _)| *key)
    }

    /// All VIPs, in no order.
    pub fn vips(&self) -> impl Iterator<Item = Address> {
        self.vips.iter().map(|(vip, _)| *vip)
    }

    /// All enrolled pods, by interface.
    pub fn pods(&self) -> &[Pod] {
        &self.pods.list
    }

    /// How long an unknown flow may be one that the kernel opened, from when it last could.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// What a flow to `backend` by the service port at `front` depends on, and the port's number, while the backend is
    /// reached at `ifindex`. `None`: such a flow would have ended.
    pub fn depends(
        &self,
        front: (&Address, u16, Protocol),
        backend: (Address, u16),
        ifindex: u32,
    ) -> Option<(SlotRef, u32)> {
        let service = self.service(front.0, front.1, front.2);
        let there = BackendPath::Pod { ifindex };
        let found = service.and_then(|service| {
            let backend = &service.backends()[service.position(backend)?];
            let depends = (service.dependence(backend), service.id());
            (backend.path == there).then_some(depends)
        });
        // A TCP flow outlives its backend's place in the service.
        let left = || {
            let pod = self.sender(ifindex, &backend.0)?;
            let here = front.2 == Protocol::Tcp;
            here.then_some((pod.slot, service.map_or(0, |service| service.id())))
        };
        found.or_else(left)
    }

    /// Epochs of the backends' places.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// Epochs by slot, of pods.
    pub fn epochs(&self) -> &[u32] {
        &self.epochs
    }
}
