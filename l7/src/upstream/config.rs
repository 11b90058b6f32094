//! Backends as they are configured.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A backend service: what a rule's `backendRefs` name.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    /// `namespace/name:port`.
    pub name: Arc<str>,
    /// Where it is served.
    pub endpoints: Vec<EndpointConfig>,
    /// How an endpoint is chosen for a request.
    pub algorithm: Algorithm,
    /// What its endpoints speak.
    pub protocol: BackendProtocol,
    /// How much of it may be in use.
    pub limits: BackendLimits,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long an endpoint may keep a request without an answer that its rule gives no time, from when nothing of it came any more.
    pub response_timeout: Duration,
    /// How long a connection may be idle before it is closed.
    pub idle_timeout: Duration,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            name: "".into(),
            endpoints: Vec::new(),
            algorithm: Algorithm::LeastRequest,
            protocol: BackendProtocol::AsClient,
            limits: BackendLimits::default(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// One endpoint of a backend.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct EndpointConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it takes requests.
    pub state: EndpointState,
    /// It sees the client whatever the service's source is, so a connection to it is one client's only.
    pub sees_client: bool,
}

/// Whether an endpoint takes requests (KEP-1669, as at layer 4). One that is not listed any more takes none, and what it
/// is still doing goes on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum EndpointState {
    /// It does.
    Ready,
    /// It is going: it does only while no other is ready.
    Draining,
    /// It does not, and may again.
    Unready,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// One after another.
    RoundRobin,
    /// Of two at random, the one with fewer requests under way.
    LeastRequest,
    /// By a hash of the client that whoever accepts its connection gives along, such as a Maglev table's.
    Hash(Arc<dyn Picker>),
}

/// Maps hashes to endpoints.
pub trait Picker: Debug + Send + Sync {
    /// The place of an endpoint in [`BackendConfig::endpoints`]. If that one is not ready the next one is taken.
    fn pick(&self, hash: u64) -> usize;
}

/// What endpoints speak.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum BackendProtocol {
    /// What the client speaks: it would have spoken it to the endpoint itself.
    AsClient,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge (`kubernetes.io/h2c`).
    H2c,
}

/// How much of an endpoint may be in use. Beyond it the answer is 503.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct BackendLimits {
    /// Connections to an endpoint.
    pub connections: usize,
    /// Requests that wait for one.
    pub pending: usize,
    /// Requests under way at an endpoint, those that wait included.
    pub requests: usize,
    /// Requests under way on one connection of HTTP/2.
    pub streams: usize,
}

impl Default for BackendLimits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            pending: 1_024,
            requests: 4_096,
            streams: 100,
        }
    }
}
