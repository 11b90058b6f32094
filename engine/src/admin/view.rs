//! What the admin socket answers with: the stable JSON of `--json`.
//!
//! Counts are packets unless a name says bytes; times are in the unit that their name ends in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::http::HttpService;
use super::traffic::ServiceTraffic;
use crate::config::{ConfigError, Errors};

/// Counts by name, in the order of their names.
pub type Counts = BTreeMap<String, u64>;

/// `weft status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// `node.name` of the configuration.
    pub node: String,
    /// Version of the node process.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Since it took over traffic.
    pub uptime_s: u64,
    /// When this was read, by a clock that only goes on.
    #[serde(default)]
    pub at_us: u64,
    /// The configuration files, as given.
    pub files: Vec<String>,
    /// Generation of the published tables.
    pub generation: u64,
    /// `workers.fast_path`.
    pub fast_path: String,
    /// Keys that changed on disk and wait for a restart.
    pub restart_needed: Vec<String>,
    /// Why the last reload was refused, if it was.
    pub last_refusal: Vec<String>,
    /// How long accepted reloads took.
    pub reloads: Reloads,
    /// How this program came into another one's place, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgraded>,
    /// One a worker.
    pub workers: Vec<Worker>,
    /// The enrolled pods.
    pub pods: Vec<Pod>,
    /// The other nodes.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Services that are served at layer 7.
    #[serde(default)]
    pub http: Vec<HttpService>,
    /// Records of the access log that were lost, because they could not be written as fast as they came.
    #[serde(default)]
    pub access_log_lost: u64,
    /// Services' traffic, when it is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<ServiceTraffic>,
    /// Sums over all workers and hooks.
    pub ledger: Ledger,
    /// The checked equations, with `--audit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
}

/// How long accepted reloads took, since the process started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reloads {
    /// From the start of reading the files to a configuration that is valid on this machine.
    pub parse: Latency,
    /// From there until every worker and the kernel's maps had it.
    pub switch: Latency,
}

/// A histogram of durations.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum_us: u64,
    /// The last one.
    pub last_us: u64,
    /// The longest one.
    pub max_us: u64,
    /// By duration; the last bucket has no bound.
    pub buckets: Vec<Bucket>,
}

/// One bucket of a histogram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The longest duration in it, none in the last bucket.
    pub le_us: Option<u64>,
    /// How many of those that no bucket before it has.
    pub count: u64,
}

/// One worker and its queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    /// Its number, which is its queue of weft1.
    pub queue: u16,
    /// The core that it is pinned to.
    pub core: usize,
    /// `workers.poll`.
    pub poll: String,
    /// How the XDP program is attached to weft1, asked of the kernel: `native`, `generic` or `none`.
    pub xdp_mode: String,
    /// What the kernel says of the socket: `copy` or `zero-copy`.
    pub socket_mode: String,
    /// Since its last heartbeat.
    pub heartbeat_age_ms: u64,
    /// CPU time of its thread, if the kernel says. With `poll = "spin"` that is all the time.
    #[serde(default)]
    pub cpu_us: Option<u64>,
    /// Generation of the tables that its last burst saw.
    pub generation: u64,
    /// Flows in its table.
    pub flows: u64,
    /// What the table holds at most.
    pub flows_max: u64,
    /// Flows that made room for new ones before their time was over.
    pub flows_evicted: u64,
    /// Clients of services with session affinity that others pushed out of the table.
    pub affinity_evicted: u64,
    /// Fragments that wait for the first of their packet.
    pub fragments_waiting: u64,
    /// Owner entries that it has in the kernel.
    pub pins: u64,
    /// Owner entries that the kernel refused.
    pub pin_errors: u64,
    /// Where the frames of its UMEM are.
    pub frames: Frames,
    /// Frames received, forwarded and so on.
    pub packets: Packets,
    /// `XDP_STATISTICS` of the socket.
    pub socket: Counts,
    /// Its TCP stack, once a connection has ended there.
    pub tcp: Option<Tcp>,
}

/// A worker's TCP stack. docs/tcp.md says what the names mean.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tcp {
    /// Connections that are opening, open or closing: two for each one that is proxied.
    pub connections: u64,
    /// Those of them with a socket and buffers: they are not idle.
    pub sockets: u64,
    /// Half-open connections.
    pub half_open: u64,
    /// Connections in TIME-WAIT.
    pub time_wait: u64,
    /// Segments taken by a connection.
    pub delivered: u64,
    /// Segments answered without being taken.
    pub answered: u64,
    /// Segments dropped, by reason.
    pub dropped: Counts,
    /// What happened to connections.
    pub events: Counts,
    /// Accepted connections that were reset because no flow could be made for them, by reason.
    pub refused: Counts,
}

/// Where the frames of a UMEM are. The parts add up to `total`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Frames {
    /// All.
    pub total: u64,
    /// On the free list.
    pub free: u64,
    /// On the fill ring, waiting for a packet.
    pub fill: u64,
    /// Received and not yet taken.
    pub rx: u64,
    /// In the worker's hands.
    pub app: u64,
    /// On the transmit ring, or sent and not yet completed.
    pub tx: u64,
}

/// What became of frames.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Packets {
    /// Taken from the socket.
    pub received: u64,
    /// Put into a pod.
    pub forwarded: u64,
    /// Turned into an answer to their sender.
    pub replied: u64,
    /// Taken from another worker.
    pub handed_in: u64,
    /// Given to another worker.
    pub handed_out: u64,
    /// Large packets taken from the bulk lane.
    pub bulk: u64,
    /// Taken by the TCP stack.
    pub terminated: u64,
    /// Sent by the TCP stack.
    pub originated: u64,
    /// Fragments sent beyond the first of each packet that was too long for a tunnel.
    pub fragments: u64,
    /// Those that found no room.
    pub fragments_lost: u64,
    /// Of the TCP stack's packets, those to a peer that no route led to.
    pub unrouted: u64,
    /// Fragments held until the first of their packet comes.
    pub held: u64,
    /// Of those, decided about again since, or given up.
    pub released: u64,
    /// Given back to the kernel, by reason.
    pub kernel: Counts,
    /// Dropped, by reason.
    pub dropped: Counts,
}

/// Another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// This node's there.
    pub from: IpAddr,
    /// The interface that leads there now; none while there is no route by an uplink.
    pub uplink: Option<String>,
    /// Bytes of the longest packet of a pod's that gets there.
    pub mtu: u16,
    /// Whether packets go there without being wrapped.
    pub native: bool,
    /// Ranges of its pods.
    pub pods: Vec<String>,
}

/// One enrolled pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The host side of its veth.
    pub interface: String,
    /// Index of that interface, none while it does not exist.
    pub ifindex: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `enrolled`, `grace` (recently enrolled), `draining` or `absent` (its interface is gone, or cannot be served).
    pub state: String,
    /// Whether both ends of its veth are up; none while there is no interface. Nothing looks at it when a backend is chosen.
    #[serde(default)]
    pub carrier: Option<bool>,
    /// Since its enrolment.
    pub enrolled_s: u64,
}

/// The way of the packets, from the pods' hooks to the pods.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Sums over the workers.
    pub engine: Packets,
    /// Counters of the BPF programs.
    pub hooks: Counts,
    /// Drops between the hooks and the sockets.
    pub path: Counts,
}

/// The checked ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Audit {
    /// Whether every equation holds.
    pub balanced: bool,
    /// The equations.
    pub equations: Vec<Equation>,
}

/// `left = right + in_flight`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Equation {
    /// What is compared.
    pub name: String,
    /// Packets that came.
    pub left: u64,
    /// Packets accounted for.
    pub right: u64,
    /// Packets that may be under way between the two points of counting.
    pub in_flight_max: u64,
    /// Whether `0 <= left - right <= in_flight_max`.
    pub balanced: bool,
}

/// `weft lb list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LbList {
    /// Generation of the snapshot that this was read from.
    pub generation: u64,
    /// One a VIP, port and protocol.
    pub services: Vec<ServicePort>,
}

/// One VIP, port and protocol.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServicePort {
    /// The service's name.
    pub service: String,
    /// The port's name, empty when it has none.
    pub port_name: String,
    /// The VIP and port.
    pub vip: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `maglev`, `round_robin`, `random` or `least_connections`.
    pub algorithm: String,
    /// Slots of its Maglev table, 0 without one.
    pub maglev_size: usize,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// One backend of a port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// Address and port.
    pub address: SocketAddr,
    /// The pod's name, if it is enrolled here.
    pub pod: Option<String>,
    /// `ready`, `terminating` (and serving still) or `unready`.
    pub state: String,
    /// Whether new flows go to it: to those that are ready, to those that are terminating while none is
    /// ready, and to none of weight 0.
    pub new_flows: bool,
    /// `pod` (straight into the enrolled pod) or `kernel` (not enrolled, or on the host network).
    pub path: String,
    /// Its share of new flows; 0 while they go to others.
    pub weight: u16,
    /// Flows to it now.
    pub flows: u64,
    /// Packets of these flows, both ways.
    pub packets: u64,
}

/// `weft flows`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flows {
    /// The flows of all workers.
    pub flows: Vec<Flow>,
}

/// One flow with both of its tuples.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client.
    pub client: SocketAddr,
    /// What it dialled.
    pub destination: SocketAddr,
    /// Where its packets go: the backend, or the destination itself; none for a client's connection to an HTTP stage.
    pub backend: Option<SocketAddr>,
    /// `service`, `direct`, `kernel`, `terminated`, or of HTTP stages `client` and `upstream`.
    pub kind: String,
    /// The service's name, for a flow to one.
    pub service: Option<String>,
    /// Of a flow from another node's pod, the service address that it has asked there, if that node says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<SocketAddr>,
    /// The client pod's name; of another node's pod, if that node says it.
    pub client_pod: Option<String>,
    /// The backend pod's name, if it is enrolled here.
    pub backend_pod: Option<String>,
    /// Where it stands: the client's state in RFC 9293's words (`syn_sent` to `closed`), or `one_way` and
    /// `two_way` for UDP.
    pub state: String,
    /// Packets from the client, to the backend of an `upstream` one. None for what is not counted: what Weft itself sends.
    pub packets_out: Option<u64>,
    /// Packets to the client, of an `upstream` one from the backend.
    pub packets_in: Option<u64>,
    /// Bytes of IP packets from the client.
    pub bytes_out: Option<u64>,
    /// Bytes of IP packets to the client.
    pub bytes_in: Option<u64>,
    /// Since the flow's first packet.
    pub age_ms: u64,
    /// Since its last packet.
    pub idle_ms: u64,
    /// Who decides about its packets: 0 the kernel, by what was compiled, 1 the engine, 2 the TCP stack.
    pub tier: u8,
    /// The worker that owns it, if one does.
    pub worker: Option<u16>,
}

/// One thing that the node process owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// `link`, `map`, `interface`, `file` or `directory`.
    pub kind: String,
    /// Its name or path.
    pub name: String,
    /// What it is attached to or used for.
    pub detail: String,
}

/// An accepted reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// Generation of the new tables.
    pub generation: u64,
    /// From the start of reading the files to a configuration that is valid on this machine.
    pub parse_us: u64,
    /// From there until every worker and the kernel's maps had it.
    pub switch_us: u64,
    /// Pods that joined.
    pub enrolled: Vec<String>,
    /// Pods that left and drain now.
    pub draining: Vec<String>,
    /// Keys that changed and wait for a restart.
    pub restart_needed: Vec<String>,
}

/// The beginning of an upgrade: the program is good.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upgrading {
    /// Tells one upgrade from another.
    pub id: u64,
    /// The program.
    pub binary: String,
}

/// Why a program may not take the running one's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotUpgraded {
    /// The program.
    pub binary: String,
    /// What is wrong with it.
    pub reason: String,
}

/// `weft upgrade`: how a program took another one's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upgraded {
    /// Tells one upgrade from another.
    pub id: u64,
    /// Why the program of before goes on, if it does: the kernel did not execute the other one.
    pub failed: Option<String>,
    /// The program that runs now.
    pub binary: String,
    /// Version of the one before.
    pub from: String,
    /// Its own version.
    pub to: String,
    /// From when the workers were told to stop until there were others that have the tables.
    pub without_worker_us: u64,
    /// Flows of the fast path that go on.
    pub flows_kept: u64,
    /// Those that were removed, since their backend is none any more.
    pub flows_removed: u64,
    /// Flows through user space, which ended with the workers; those that ended there are among them.
    pub flows_ended: u64,
    /// Ends of connections that ended in user space, which were reset: two a connection.
    pub terminated_reset: u64,
}

/// One fault of a refused configuration, shown as `file:line: key: reason`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The file, as given.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The full path of the key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}",
            self.file, self.line, self.key, self.reason
        )
    }
}

/// The faults of a refused configuration, as they travel to a client.
pub fn refusals(errors: &Errors) -> Vec<Refusal> {
    let refusal = |error: &ConfigError| Refusal {
        file: error.at.file.display().to_string(),
        line: error.at.line,
        key: error.at.key.clone(),
        reason: error.reason.to_string(),
    };
    errors.iter().map(refusal).collect()
}
