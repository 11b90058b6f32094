//! What a service is configured with, and what the stage needs of its surroundings.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::HeadLimits;
use crate::route::{BackendId, RouteTable};
use crate::stage::ServiceId;
use crate::upstream::BackendConfig;

/// A service: a port of a VIP whose connections are served at layer 7.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// `namespace/name:port`.
    pub name: Arc<str>,
    /// Which rule serves a request.
    pub routes: Arc<RouteTable>,
    /// The backends that rules name.
    pub backends: BTreeMap<BackendId, Arc<BackendConfig>>,
    /// Whom backends see.
    pub source: Source,
    /// Where connections go that are no HTTP; without it they are answered 400.
    pub tcp: Option<BackendId>,
    /// Bounds.
    pub limits: ServiceLimits,
    /// Patience.
    pub timeouts: ServiceTimeouts,
    /// Whether requests without a trace context get one (OBS-07).
    pub create_trace: bool,
    /// Whether requests are logged.
    pub access_log: bool,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            name: "".into(),
            routes: Arc::default(),
            backends: BTreeMap::new(),
            source: Source::Client,
            tcp: None,
            limits: ServiceLimits::default(),
            timeouts: ServiceTimeouts::default(),
            create_trace: false,
            access_log: true,
        }
    }
}

/// Whom backends see as their client (AMB-08).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The client: a connection to an endpoint carries requests of one client's connection only.
    Client,
    /// The node: connections are everybody's, and `X-Forwarded-For` and `Forwarded` say who the client is.
    Node,
}

/// Bounds of a service.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ServiceLimits {
    /// Connections of clients; beyond it they are reset.
    pub connections: usize,
    /// Heads.
    pub head: HeadLimits,
    /// Requests of one client's connection of HTTP/2 under way.
    pub streams: u32,
    /// Streams of HTTP/2 that were reset and are still to be looked at, beyond which the connection ends (rapid reset,
    /// CVE-2023-44487).
    pub reset_streams: usize,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            head: HeadLimits::default(),
            streams: 128,
            reset_streams: 20,
        }
    }
}

/// Patience of a service with its clients.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ServiceTimeouts {
    /// For the first bytes, by which the protocol is told (ENV-02).
    pub detect: Duration,
    /// For a head, from its first byte on; then 408.
    pub head: Duration,
    /// For the next request on a connection.
    pub idle: Duration,
    /// For the next bytes of a body, and for some of the response to be taken; then the connection is reset, or in HTTP/2 the
    /// stream if it alone stands still.
    pub stall: Duration,
    /// For a client to take the last response of a connection, and end its half.
    pub linger: Duration,
}

impl Default for ServiceTimeouts {
    fn default() -> Self {
        Self {
            detect: Duration::from_secs(1),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            stall: Duration::from_secs(60),
            linger: Duration::from_secs(1),
        }
    }
}

/// Who a client's connection is from and to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ConnectionMeta {
    /// The client.
    pub client: SocketAddr,
    /// What it asked for: the VIP and port, which it sees as its peer.
    pub vip: SocketAddr,
    /// The hash by which [`crate::upstream::Algorithm::Hash`] chooses.
    pub hash: u64,
}

/// A connection that is to be opened.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ConnectRequest {
    /// For which service.
    pub service: ServiceId,
    /// To which of its backends.
    pub backend: BackendId,
    /// To which of the backend's endpoints.
    pub endpoint: SocketAddr,
    /// For which client's connection; with [`Source::Node`], the first that uses it.
    pub client: ConnectionMeta,
    /// Whom the endpoint is to see.
    pub source: Source,
}

/// Opens connections to endpoints.
pub trait Upstreams<S> {
    /// Begins to open one; it need not be open yet.
    fn connect(&mut self, request: &ConnectRequest) -> io::Result<S>;
}
