//! A stage in memory: clients and endpoints are streams that a test holds, and time is what it says.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weft_l7::memory::{MemoryStream, opening, pair};
use weft_l7::observe::{AccessRecord, ServiceMetrics};
use weft_l7::route::{
    Action, BackendId, HeaderModifier, Match, PathMatch, Route, RouteTable, Rule, Timeouts,
    WeightedBackend,
};
use weft_l7::upstream::{BackendConfig, EndpointConfig, EndpointState};
use weft_l7::{
    Budget, ConnectRequest, ConnectionMeta, Now, ServiceConfig, ServiceId, Stage, Upstreams,
};

/// Bytes that a connection holds each way.
pub const CAPACITY: usize = 16 << 10;
/// The service of most tests.
pub const SERVICE: ServiceId = ServiceId(1);
/// Its backend.
pub const BACKEND: BackendId = BackendId(7);

/// What endpoints do when they are connected to.
#[derive(Default)]
pub struct Network {
    /// Connections that were opened, by whom for.
    pub opened: VecDeque<(ConnectRequest, MemoryStream)>,
    /// Endpoints that refuse at once.
    pub refuses: HashMap<SocketAddr, ErrorKind>,
    /// Endpoints that never answer a connection.
    pub silent: Vec<SocketAddr>,
    /// How many were asked for.
    pub connects: usize,
}

struct Shared(Rc<RefCell<Network>>);

impl Upstreams<MemoryStream> for Shared {
    fn connect(&mut self, request: &ConnectRequest) -> io::Result<MemoryStream> {
        let mut network = self.0.borrow_mut();
        network.connects += 1;
        if let Some(kind) = network.refuses.get(&request.endpoint) {
            return Err((*kind).into());
        }
        let make = match network.silent.contains(&request.endpoint) {
            true => opening,
            false => pair,
        };
        let (ours, theirs) = make(CAPACITY);
        network.opened.push_back((*request, theirs));
        Ok(ours)
    }
}

/// A stage with a clock.
pub struct World {
    pub stage: Stage<MemoryStream>,
    pub network: Rc<RefCell<Network>>,
    pub now: Now,
    ports: u16,
}

impl World {
    /// With one service.
    pub fn new(config: ServiceConfig) -> Self {
        let network: Rc<RefCell<Network>> = Rc::default();
        let upstreams = Shared(Rc::clone(&network));
        let mut stage = Stage::new(upstreams, 1, Budget::default());
        stage.configure(SERVICE, Arc::new(config));
        Self {
            stage,
            network,
            now: Now::from_millis(1_000),
            ports: 40_000,
        }
    }

    /// A client's connection to the service.
    pub fn client(&mut self) -> Peer {
        self.client_of(SERVICE)
    }

    /// A client's connection to a service.
    pub fn client_of(&mut self, service: ServiceId) -> Peer {
        let (ours, theirs) = pair(CAPACITY);
        self.ports += 1;
        let meta = ConnectionMeta {
            client: self.last_client(),
            vip: "10.96.0.80:80".parse().unwrap(),
            hash: u64::from(self.ports),
        };
        self.stage.accept(service, theirs, meta);
        Peer(ours)
    }

    /// The address of the last client.
    pub fn last_client(&self) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, 7], self.ports))
    }

    /// Does all there is to do at this time.
    #[track_caller]
    pub fn run(&mut self) {
        for _ in 0..1_000 {
            if self.stage.turn(self.now).is_none_or(|next| next > self.now) {
                return;
            }
        }
        panic!("the stage does not come to rest");
    }

    /// Lets time pass, with every deadline on the way.
    #[track_caller]
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            match self.stage.turn(self.now) {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => {
                    self.now = end;
                    return self.run();
                }
            }
        }
        panic!("the stage does not come to rest");
    }

    /// The next connection that an endpoint was sent.
    #[track_caller]
    pub fn opened(&mut self) -> Peer {
        self.run();
        let opened = self.network.borrow_mut().opened.pop_front();
        Peer(opened.expect("no connection was opened").1)
    }

    /// Sends a request on a new connection, and answers it on the connection that it comes by.
    #[track_caller]
    pub fn exchange(&mut self, request: &str, response: &str) -> (Peer, Peer, String) {
        let mut client = self.client();
        client.send(request);
        let mut endpoint = self.opened();
        let seen = endpoint.read();
        endpoint.send(response);
        self.run();
        (client, endpoint, seen)
    }

    pub fn metrics(&self) -> ServiceMetrics {
        self.stage.metrics(SERVICE).unwrap()
    }

    /// The only record that there is.
    #[track_caller]
    pub fn record(&self) -> AccessRecord {
        let record = self.stage.record().expect("nothing was logged");
        assert_eq!(self.stage.record(), None);
        record
    }
}

/// The far end of a connection.
pub struct Peer(pub MemoryStream);

impl Peer {
    /// Writes all of it.
    #[track_caller]
    pub fn send(&mut self, data: impl AsRef<[u8]>) {
        let data = data.as_ref();
        let written = self.0.write_now(data);
        assert_eq!(written.unwrap(), data.len(), "the connection is full");
    }

    /// All that has come, as text.
    #[track_caller]
    pub fn read(&mut self) -> String {
        let read = self.0.read_now().expect("the connection has failed");
        String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
    }

    /// Whether the other end has closed in order, with nothing left to read.
    pub fn is_ended(&mut self) -> bool {
        matches!(self.0.read_now(), Ok(None))
    }

    /// Whether the other end has reset the connection.
    pub fn is_reset(&mut self) -> bool {
        self.0.faults().failure() == Some(ErrorKind::ConnectionReset)
    }
}

/// Where endpoint `n` is.
pub fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 2, 0, n], 8080))
}

/// A backend with so many endpoints.
pub fn backend(endpoints: u8) -> BackendConfig {
    BackendConfig {
        name: "default/reviews:9080".into(),
        endpoints: (1..=endpoints)
            .map(|n| EndpointConfig {
                address: address(n),
                state: EndpointState::Ready,
                sees_client: false,
            })
            .collect(),
        ..BackendConfig::default()
    }
}

/// A rule for all paths under this one.
pub fn rule(prefix: &str) -> Rule {
    let under = Match {
        path: PathMatch::Prefix(prefix.into()),
        ..Match::default()
    };
    Rule {
        name: None,
        matches: vec![under],
        request_headers: HeaderModifier::default(),
        action: Action::Forward(vec![WeightedBackend {
            backend: Some(BACKEND),
            weight: 1,
        }]),
        timeouts: Timeouts::default(),
    }
}

/// A service with these rules and this backend.
pub fn service_with(rules: Vec<Rule>, backend: BackendConfig) -> ServiceConfig {
    let route = Route {
        name: "default/reviews".into(),
        rules,
        ..Route::default()
    };
    ServiceConfig {
        name: "default/web:80".into(),
        routes: Arc::new(RouteTable::compile(&[route]).unwrap()),
        backends: BTreeMap::from([(BACKEND, Arc::new(backend))]),
        ..ServiceConfig::default()
    }
}

/// A service whose requests all go to one endpoint.
pub fn service() -> ServiceConfig {
    service_with(vec![rule("/")], backend(1))
}

/// A request.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A response.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The status of a response.
#[track_caller]
pub fn status(response: &str) -> u16 {
    let code = response
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no response: {response:?}"))
}
