//! The validated configuration: what a set of files says, with nothing left to check but the machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::FastPath;
use super::error::Location;
use super::http::Http;
pub use weft_datapath::{Encapsulation, Stage, UpstreamSource};

/// A whole configuration, of one file or several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `[node]`.
    pub node: Node,
    /// `[workers]`.
    pub workers: Workers,
    /// `[overlay]`.
    pub overlay: Option<Arc<Overlay>>,
    /// Every `[[pod]]`, in the order of the files and of their text.
    pub pods: Vec<Pod>,
    /// Every `[[service]]`, in the order of the files and of their text. A reload keeps the memory of
    /// those that it does not change.
    pub services: Vec<Arc<Service>>,
}

/// `[node]`: the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The node's name, as in Kubernetes.
    pub name: String,
    /// Its addresses on the underlay: at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The interfaces that lead to other nodes, and where they are configured.
    pub uplinks: Vec<(String, Location)>,
    /// How long a pod that has left the configuration keeps its flows.
    pub drain: Duration,
    /// How long after a pod's enrolment its unknown flows are taken for older than the enrolment.
    pub enrolment_grace: Duration,
    /// What a pod that reaches itself through a service sees as its client: one or two, of different families.
    pub hairpin_ips: Vec<IpAddr>,
    /// Whether services' addresses answer echo requests.
    pub vip_echo: bool,
    /// Where requests to HTTP stages are logged.
    pub access_log: AccessLog,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
}

/// `[overlay]`: the pods of other nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overlay {
    /// The virtual network, 24 bits.
    pub vni: u32,
    /// How packets are wrapped.
    pub encapsulation: Encapsulation,
    /// The UDP port that wrapped packets go to.
    pub port: u16,
    /// Whether the outer checksum is written over IPv4, too.
    pub checksum: bool,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// Where it is configured.
    pub at: Location,
}

/// `[[overlay.peer]]`: another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its name, unique.
    pub name: String,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// Where that is configured.
    pub address_at: Location,
    /// Whether packets go there and come from there as they are.
    pub native: bool,
    /// Its pods' addresses, each range once among all peers.
    pub pods: Vec<IpNet>,
}

/// Where requests to HTTP stages are logged, one JSON object a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AccessLog {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output.
    Stdout,
    /// To the end of this file.
    File(PathBuf),
}

/// `[workers]`: the data cores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workers {
    /// One worker a core; at least one, each once.
    pub cores: Vec<usize>,
    /// Where `cores` stands, or where it would.
    pub cores_at: Location,
    /// What a worker does when there is nothing to do.
    pub poll: Poll,
    /// How much the kernel forwards without the engine.
    pub fast_path: FastPath,
    /// Flows that a worker can hold.
    pub max_flows: usize,
    /// Frames of 4 KiB that a worker has.
    pub frames: u32,
    /// How long a worker may be silent before its packets fall to the kernel.
    pub heartbeat: Duration,
    /// Packets a second that one pod may bring to the engine; 0 is unlimited.
    pub punt_rate: u64,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Poll {
    /// Spin while there is traffic, sleep when there is none.
    #[default]
    Adaptive,
    /// Never sleep.
    Spin,
    /// Always sleep.
    Sleep,
}

impl Poll {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Spin => "spin",
            Self::Sleep => "sleep",
        }
    }
}

/// `[[pod]]`: an enrolled pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its name, unique, such as `default/reviews-v1-0`.
    pub name: String,
    /// Its addresses: one or two, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The host side of its veth.
    pub interface: String,
    /// Its labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Its named ports.
    pub ports: BTreeMap<String, u16>,
    /// Where it stands as an endpoint of the services that select it.
    pub conditions: Conditions,
    /// Its own limit in place of [`Workers::punt_rate`].
    pub punt_rate: Option<u64>,
    /// Where it is configured; the key is `pod[3]`.
    pub at: Location,
    /// Where its interface is configured.
    pub interface_at: Location,
}

/// `[[service]]`: addresses and ports that stand for a set of backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its name, unique.
    pub name: String,
    /// Its addresses: one or two, at most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Its ports, at least one.
    pub ports: Vec<ServicePort>,
    /// Its backends.
    pub backends: Backends,
    /// Its endpoints count as ready and serving whatever they say.
    pub publish_not_ready_addresses: bool,
    /// TCP flows to an endpoint that leaves are reset rather than left alone.
    pub rst_on_removal: bool,
    /// A client's flows go to one backend until it opened none for this long; `None` without affinity.
    pub session_affinity: Option<Duration>,
    /// Flows to one of its ports that a worker may hold.
    pub max_flows: Option<u32>,
    /// What an HTTP stage makes of it; `None` where nothing is said of that, which is as by default.
    pub http: Option<Arc<Http>>,
}

/// How a service chooses a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// By a consistent hash of the flow.
    #[default]
    Maglev,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The one with the fewest flows.
    LeastConnections,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Its name, unique within the service; never `None` when the service has several ports.
    pub name: Option<String>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: u16,
    /// The port of the backend.
    pub target_port: TargetPort,
    /// How far up the port is served, and as whom its backends are spoken to.
    pub stage: Stage,
}

/// The transport protocol of a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The port of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetPort {
    /// The same number on every backend.
    Number(u16),
    /// Looked up in the `ports` of the backend; one without that name is no backend of the port.
    Named(String),
}

/// The backends of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backends {
    /// The enrolled pods that have all of these labels; never empty.
    Selector(BTreeMap<String, String>),
    /// These, and no others. May be empty: every connection is then refused.
    Endpoints(Vec<Endpoint>),
}

/// What is known of an endpoint, as in an EndpointSlice (KEP-1672).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conditions {
    /// It wants new flows.
    pub ready: bool,
    /// It can still answer.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            ready: true,
            serving: true,
            terminating: false,
        }
    }
}

/// One backend of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its address, once within a service.
    pub address: IpAddr,
    /// Where it stands.
    pub conditions: Conditions,
    /// Its share against the other endpoints, 0 to 1000; 0 takes no new flows.
    pub weight: u16,
    /// Its named ports.
    pub ports: BTreeMap<String, u16>,
}
