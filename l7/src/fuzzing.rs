//! Drives a stage with arbitrary bytes, for fuzzers and property tests: whatever they are, it does not panic, comes to rest,
//! keeps nothing, and passes on only what is sound.

mod framing;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::framing::{Guard, Progress};
use crate::memory::{MemoryStream, pair};
use crate::route::{
    Action, BackendId, HeaderModifier, Route, RouteTable, Rule, Timeouts, WeightedBackend,
};
use crate::upstream::{BackendConfig, BackendProtocol, EndpointConfig, EndpointState};
use crate::{
    Budget, ConnectRequest, ConnectionMeta, HeadLimits, Now, ServiceConfig, ServiceId, Stage,
    Upstreams,
};

pub use self::framing::{Side, framing};

const SERVICE: ServiceId = ServiceId(0);
const BACKEND: BackendId = BackendId(0);
const ENDPOINT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A client sends these bytes; the first says in which pieces. Endpoints answer every request.
///
/// # Panics
///
/// If something reaches an endpoint that is no sound request, or the stage does not come to rest.
pub fn requests(input: &[u8]) {
    let (size, input) = input
        .split_first()
        .map_or((1, input), |(size, rest)| (*size, rest));
    let mut world = World::new();
    for piece in input.chunks(usize::from(size).max(1)) {
        let _ = world.client.write_now(piece);
        world.rounds(None);
    }
    world.finish();
}

/// A client asks, and an endpoint answers with these bytes; the first says in which pieces.
///
/// # Panics
///
/// If something reaches the client that is no sound response, or the stage does not come to rest.
pub fn responses(input: &[u8]) {
    let (size, input) = input
        .split_first()
        .map_or((1, input), |(size, rest)| (*size, rest));
    let mut world = World::new();
    let asked = world.client.write_now(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(asked.is_ok(), "the stage does not take a request");
    world.rounds(Some(&[]));
    for piece in input.chunks(usize::from(size).max(1)) {
        world.rounds(Some(piece));
    }
    world.answered();
}

/// A client sends these bytes behind the preface of HTTP/2.
///
/// # Panics
///
/// If something reaches an endpoint that is no sound request, or the stage does not come to rest.
pub fn http2(input: &[u8]) {
    let mut world = World::new();
    let _ = world.client.write_now(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for piece in input.chunks(4096) {
        let _ = world.client.write_now(piece);
        world.rounds(None);
        let _ = world.client.read_now();
    }
    world.finish();
}

/// A client sends these pieces behind the preface of HTTP/2. Endpoints answer every request.
///
/// # Panics
///
/// If something reaches an endpoint that is no sound request, or the stage does not come to rest.
pub fn http2_requests<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) {
    let mut world = World::new();
    let _ = world.client.write_now(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    for piece in pieces {
        let _ = world.client.write_now(piece);
        world.rounds(None);
        let _ = world.client.read_now();
    }
    world.finish();
}

/// A client asks, and an endpoint that is asked in HTTP/2 answers with these pieces.
///
/// # Panics
///
/// If something reaches the client that is no sound response, or the stage does not come to rest.
pub fn http2_responses<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) {
    let mut world = World::asking(BackendProtocol::H2c);
    let asked = world.client.write_now(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(asked.is_ok(), "the stage does not take a request");
    world.rounds(Some(&[]));
    for piece in pieces {
        world.rounds(Some(piece));
    }
    world.answered();
}

/// Reads what an endpoint is sent, and finds out whether it is sound.
#[derive(Debug)]
pub struct Reader(Guard);

impl Default for Reader {
    fn default() -> Self {
        Self(Guard::requests(HeadLimits::default()))
    }
}

impl Reader {
    /// Takes what has come.
    ///
    /// # Panics
    ///
    /// If it is no sound request, nor the beginning of one.
    pub fn take(&mut self, bytes: &[u8]) {
        sound(&mut self.0, bytes, "an endpoint");
    }

    /// Requests that have come whole.
    pub fn whole(&self) -> u64 {
        let partly = !self.0.is_between() && !self.0.is_in_head();
        self.0.heads() - u64::from(partly)
    }
}

struct Endpoint {
    stream: MemoryStream,
    guard: Guard,
    answered: u64,
}

struct Endpoints(Rc<RefCell<Vec<Endpoint>>>);

impl Upstreams<MemoryStream> for Endpoints {
    fn connect(&mut self, _: &ConnectRequest) -> io::Result<MemoryStream> {
        let (ours, theirs) = pair(1 << 16);
        self.0.borrow_mut().push(Endpoint {
            stream: theirs,
            guard: Guard::requests(HeadLimits::default()),
            answered: 0,
        });
        Ok(ours)
    }
}

struct World {
    protocol: BackendProtocol,
    stage: Stage<MemoryStream>,
    client: MemoryStream,
    endpoints: Rc<RefCell<Vec<Endpoint>>>,
    now: Now,
}

impl World {
    fn new() -> Self {
        Self::asking(BackendProtocol::Http1)
    }

    /// With endpoints that are asked in this protocol.
    fn asking(protocol: BackendProtocol) -> Self {
        let endpoints: Rc<RefCell<Vec<Endpoint>>> = Rc::default();
        let mut stage = Stage::new(Endpoints(Rc::clone(&endpoints)), 1, Budget::default());
        let rule = Rule {
            name: None,
            matches: Vec::new(),
            request_headers: HeaderModifier::default(),
            action: Action::Forward(vec![WeightedBackend {
                backend: Some(BACKEND),
                weight: 1,
            }]),
            timeouts: Timeouts::default(),
        };
        let route = Route {
            rules: vec![rule],
            ..Route::default()
        };
        let backend = BackendConfig {
            endpoints: vec![EndpointConfig {
                address: ENDPOINT,
                state: EndpointState::Ready,
                sees_client: false,
            }],
            protocol,
            ..BackendConfig::default()
        };
        let config = ServiceConfig {
            routes: Arc::new(RouteTable::compile(&[route]).unwrap_or_default()),
            backends: BTreeMap::from([(BACKEND, Arc::new(backend))]),
            ..ServiceConfig::default()
        };
        stage.configure(SERVICE, Arc::new(config));
        let (client, ours) = pair(1 << 16);
        let meta = ConnectionMeta {
            client: ENDPOINT,
            vip: ENDPOINT,
            hash: 0,
        };
        stage.accept(SERVICE, ours, meta);
        Self {
            protocol,
            stage,
            client,
            endpoints,
            now: Now::default(),
        }
    }

    /// Lets the stage and the endpoints come to rest. They answer with what is given, or properly.
    fn rounds(&mut self, answer: Option<&[u8]>) {
        let mut answer = answer;
        for _ in 0..10 {
            // Bound: far more turns than any input of a fuzzer needs.
            let rests =
                (0..10_000).any(|_| self.stage.turn(self.now).is_none_or(|next| next > self.now));
            assert!(rests, "the stage does not come to rest");
            for endpoint in self.endpoints.borrow_mut().iter_mut() {
                let came = endpoint.stream.read_now();
                if let (Ok(Some(bytes)), BackendProtocol::Http1) = (came, self.protocol) {
                    sound(&mut endpoint.guard, &bytes, "an endpoint");
                }
                let whole =
                    endpoint.guard.is_between() && endpoint.guard.heads() > endpoint.answered;
                match answer {
                    Some(bytes) => _ = endpoint.stream.write_now(bytes),
                    None if whole => {
                        endpoint.answered += 1;
                        let _ = endpoint.stream.write_now(ANSWER);
                    }
                    None => {}
                }
            }
            answer = answer.map(|_| &[][..]);
        }
    }

    /// The endpoint ends its answer, and the client has got what is sound.
    fn answered(mut self) {
        if let Some(endpoint) = self.endpoints.borrow_mut().last_mut() {
            endpoint.stream.shutdown_now();
        }
        self.rounds(Some(&[]));
        let mut guard = Guard::responses(HeadLimits::default());
        guard.await_response(false);
        if let Ok(Some(answer)) = self.client.read_now() {
            sound(&mut guard, &answer, "a client");
        }
        self.finish();
    }

    /// Lets all patience run out: nothing may be left.
    fn finish(mut self) {
        let _ = self.client.read_now();
        for _ in 0..8 {
            self.now = self.now + Duration::from_secs(400);
            self.rounds(Some(&[]));
            let _ = self.client.read_now();
        }
        assert_eq!(self.stage.connections(SERVICE), 0, "a connection is left");
        assert_eq!(self.stage.tasks(SERVICE), 0, "a task is left");
        let panics = self.stage.metrics(SERVICE).map(|metrics| metrics.panics);
        assert_eq!(panics, Some(0), "a task has panicked");
    }
}

/// What is passed on must stand the test that what comes in has stood.
fn sound(guard: &mut Guard, bytes: &[u8], whom: &str) {
    let mut rest = bytes;
    while !rest.is_empty() {
        guard.pass(guard.ready().len());
        guard.resume();
        let taken = match guard.advance(rest, usize::MAX) {
            Progress::Kept(taken) | Progress::Passed(taken) | Progress::Head(taken) => taken,
            Progress::Failed(reject) => {
                let text = String::from_utf8_lossy(bytes);
                panic!("{reject} has reached {whom}: {text:?}")
            }
        };
        if taken == 0 {
            return;
        }
        rest = &rest[taken..];
    }
    guard.pass(guard.ready().len());
    guard.resume(); // Whoever is asked for an upgrade here declines.
}
