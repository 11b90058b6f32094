//! A client's connection, from its first byte to its last.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;

use super::relay::{Served, requests};
use super::service::Service;
use super::sniff::detect;
use super::streams::{Passing, Streams};
use super::translate::exchange;
use super::tunnel::{tcp, tunnel};
use super::{BUFFER, WINDOW};
use crate::config::{ConnectionMeta, ServiceConfig};
use crate::framing::Guard;
use crate::leg::{Leg, LegState};
use crate::observe::{AccessRecord, Protocol, Recorder};
use crate::run::{Alarm, Deadline};
use crate::stage::ServiceId;
use crate::upstream::Lease;
use crate::{Now, Reject, Stream};

/// Bytes that are thrown away at most, of a client that goes on sending after its last response.
const LINGER: usize = 256 << 10;

/// A client's connection, as its requests see it.
pub(super) struct Client {
    pub(super) meta: ConnectionMeta,
    pub(super) protocol: Protocol,
    pub(super) leg: Rc<LegState>,
    /// The connection is to end with the request that is under way, or now.
    pub(super) ending: Cell<bool>,
    heads: Cell<u64>,
    underway: Cell<usize>,
    idle_since: Cell<Now>,
    /// Some connections to endpoints are this client's own, and go with it.
    pub(super) owns: Cell<bool>,
    /// For the next request: an alarm that is moved costs less than a new one.
    pub(super) spare: Cell<Deadline>,
    /// Of HTTP/2: between a stream and its response's body.
    pub(super) passing: Cell<Passing>,
    /// What the connection goes on as, once the response is out.
    pub(super) upgrade: RefCell<Option<(Lease, Recorder)>>,
}

impl Client {
    fn new(meta: ConnectionMeta, protocol: Protocol, leg: &Rc<LegState>, now: Now) -> Self {
        Self {
            meta,
            protocol,
            leg: Rc::clone(leg),
            ending: Cell::new(false),
            heads: Cell::new(0),
            underway: Cell::new(0),
            idle_since: Cell::new(now),
            owns: Cell::new(false),
            spare: Cell::default(),
            passing: Cell::default(),
            upgrade: RefCell::default(),
        }
    }

    /// What is known of a request, or a tunnel, that begins now.
    pub(super) fn record(&self, service: ServiceId, now: Now) -> AccessRecord {
        AccessRecord {
            at: now,
            service,
            client: self.meta.client,
            vip: self.meta.vip,
            protocol: self.protocol,
            method: None,
            authority: "".into(),
            path: "".into(),
            status: 0,
            flag: None,
            detail: None,
            rule: None,
            backend: None,
            endpoint: None,
            retries: 0,
            received: 0,
            sent: 0,
            queued: None,
            backend_first_byte: None,
            total: Duration::ZERO,
            trace: None,
        }
    }

    /// The number of the next request, from 1.
    pub(super) fn next_head(&self) -> u64 {
        self.heads.set(self.heads.get() + 1);
        self.heads.get()
    }

    /// A request has begun.
    pub(super) fn begin(self: &Rc<Self>) -> Underway {
        self.underway.set(self.underway.get() + 1);
        Underway(Rc::clone(self))
    }
}

/// A request that is under way.
pub(super) struct Underway(pub(super) Rc<Client>);

impl Drop for Underway {
    fn drop(&mut self) {
        let client = &self.0;
        client.underway.set(client.underway.get().saturating_sub(1));
        client.idle_since.set(client.leg.now());
    }
}

/// Serves a connection to its end.
pub(crate) fn serve<S: Stream>(
    service: Rc<Service<S>>,
    stream: S,
    meta: ConnectionMeta,
) -> impl Future<Output = ()> {
    let open = Open::new(&service);
    // Not an `async fn`, which would hold a second copy of each argument for as long as the connection waits.
    async move {
        let mut open = open;
        let config = service.config();
        // What is over while the connection waits is boxed, so that it does not wait with it.
        if let Some(begun) = Box::pin(begin(&service, &config, stream, meta)).await {
            let client = Rc::clone(&begun.1);
            serve_protocol(&service, &config, begun).await;
            if client.owns.get() {
                service.forget(client.meta.client);
            }
        }
        open.ended = true;
    }
}

/// A connection whose protocol is known.
type Begun<S> = (Leg<S>, Rc<Client>);

/// Reads what tells the protocol. Nothing if there is nothing to be served.
async fn begin<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    mut stream: S,
    meta: ConnectionMeta,
) -> Option<Begun<S>> {
    let timers = &service.shared.timers;
    // A client that waits for the server to speak first is no HTTP; where only HTTP is served, it is an idle one.
    let timeouts = &config.timeouts;
    let (first, rest) = match config.tcp {
        Some(_) => (timeouts.detect, timeouts.detect),
        None => (timeouts.idle, timeouts.head),
    };
    let Ok(start) = detect(&mut stream, timers, first, rest).await else {
        stream.abort();
        return None;
    };
    let protocol = match (start.protocol, config.tcp) {
        (Some(Protocol::Http2), _) => Protocol::Http2,
        (Some(Protocol::Tcp) | None, Some(_)) => Protocol::Tcp,
        (None, None) if start.since.is_none() => return None, // It has said nothing: closed in order.
        _ => Protocol::Http1,
    };
    let guard = (protocol == Protocol::Http1).then(|| Guard::requests(config.limits.head));
    let leg = Leg::new(stream, start.bytes, guard, timers);
    if protocol == Protocol::Http1 {
        leg.state().began(start.since);
    }
    let client = Client::new(meta, protocol, leg.state(), timers.now());
    Some((leg, Rc::new(client)))
}

async fn serve_protocol<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    (mut leg, client): Begun<S>,
) {
    match client.protocol {
        Protocol::Http1 => match relay(service, config, &mut leg, &client).await {
            Served::Other => Box::pin(http1(service, config, leg, &client)).await,
            Served::Ended => Box::pin(linger(service, config, leg)).await,
            Served::Broken => {} // The leg goes without an order: a reset.
        },
        Protocol::Http2 => Box::pin(http2(service, config, leg, &client)).await,
        Protocol::Tcp => Box::pin(tcp(service, config, leg, &client)).await,
    }
}

/// Relays requests until the connection ends, or one comes that takes more than that: for hyper, with the rest of the connection.
async fn relay<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    leg: &mut Leg<S>,
    client: &Rc<Client>,
) -> Served {
    let mut patience = Patience::new(service, config, client);
    let mut requests = pin!(requests(service, client, leg));
    poll_fn(|cx| {
        // Bound: each impatience once, and the last one ends the connection.
        loop {
            if let Poll::Ready(served) = requests.as_mut().poll(cx) {
                return Poll::Ready(served);
            }
            match ready!(patience.poll(cx)) {
                Impatience::Head => client.leg.refuse(Reject::HeadTimeout),
                Impatience::Idle | Impatience::Drained => client.ending.set(true),
                Impatience::Stalled => return Poll::Ready(Served::Broken),
            }
        }
    })
    .await
}

async fn http1<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    leg: Leg<S>,
    client: &Rc<Client>,
) {
    let serve = |request: Request<Incoming>| {
        let head = client.next_head();
        let exchange = exchange(Rc::clone(service), Rc::clone(client), head, request);
        Box::pin(async move { Ok::<_, Infallible>(exchange.await) })
    };
    let mut builder = http1::Builder::new();
    // The date is the endpoint's to say, and the stage has no clock.
    builder.auto_date_header(false).max_buf_size(BUFFER);
    let mut connection = builder.serve_connection(leg, service_fn(serve));
    let mut patience = Patience::new(service, config, client);
    let ended = poll_fn(|cx| {
        // Bound: each impatience once, and the last one ends the connection.
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                let parser = ended.as_ref().is_err_and(hyper::Error::is_parse);
                if parser {
                    service.reject(Reject::Parser);
                }
                // What the parser refuses it has answered itself.
                return Poll::Ready(ended.is_ok() || parser);
            }
            match ready!(patience.poll(cx)) {
                Impatience::Head => client.leg.refuse(Reject::HeadTimeout),
                Impatience::Idle | Impatience::Drained => {
                    Pin::new(&mut connection).graceful_shutdown();
                }
                Impatience::Stalled => return Poll::Ready(false),
            }
        }
    })
    .await;
    if !ended {
        return; // The leg goes without an order: a reset.
    }
    let leg = connection.into_parts().io;
    let upgrade = client.upgrade.borrow_mut().take();
    match upgrade {
        Some((lease, mut recorder)) => {
            let upstream: Option<Leg<S>> = lease.detached().await;
            if let Some(upstream) = upstream {
                service.metrics.borrow_mut().tunnels += 1;
                tunnel(leg, upstream, &mut recorder).await;
            }
        }
        None => linger(service, config, leg).await,
    }
}

/// Ends our half, and then waits a while for the client to end its own: what is sent to a closed connection is answered
/// with a reset, which may overtake the response (RFC 9112 section 9.6).
async fn linger<S: Stream>(service: &Rc<Service<S>>, config: &ServiceConfig, mut leg: Leg<S>) {
    let timers = &service.shared.timers;
    let deadline = Deadline::after(timers, Some(config.timeouts.linger));
    let mut left = LINGER;
    let rest = poll_fn(|cx| {
        ready!(leg.poll_end(cx))?;
        while left > 0 {
            let thrown_away = ready!(leg.poll_raw(cx, |bytes| bytes.len()))?;
            if thrown_away == 0 {
                break;
            }
            left = left.saturating_sub(thrown_away);
        }
        Poll::Ready(Ok::<(), io::Error>(()))
    });
    if let Some(Ok(())) | None = deadline.within(pin!(rest)).await {
        leg.state().end_in_order();
    }
}

async fn http2<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    leg: Leg<S>,
    client: &Rc<Client>,
) {
    let serve = {
        let (service, client) = (Rc::clone(service), Rc::clone(client));
        move |request: Request<Incoming>| {
            let head = client.next_head();
            let exchange = exchange(Rc::clone(&service), Rc::clone(&client), head, request);
            async move { Ok::<_, Infallible>(exchange.await) }
        }
    };
    let limits = &config.limits;
    let streams = Streams::new(service, client, config.timeouts.stall);
    let mut builder = http2::Builder::new(streams);
    builder
        .auto_date_header(false)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 16)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head.bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.reset_streams)
        .max_local_error_reset_streams(limits.reset_streams)
        .max_send_buf_size(WINDOW as usize);
    let state = Rc::clone(leg.state());
    let mut connection = pin!(builder.serve_connection(leg, service_fn(serve)));
    let mut patience = Patience::new(service, config, client);
    let mut ending = false;
    let ended = poll_fn(|cx| {
        // Bound: as in HTTP/1.1.
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            match ready!(patience.poll(cx)) {
                Impatience::Idle | Impatience::Drained if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                Impatience::Drained => {}
                _ => return Poll::Ready(false),
            }
        }
    })
    .await;
    // What went wrong has been said in a GOAWAY, which a reset could overtake.
    if ended && state.lost().is_none() {
        state.end_in_order();
    }
}

/// What is not waited for any longer.
enum Impatience {
    Head,
    Idle,
    /// The stage ends: once for each connection.
    Drained,
    Stalled,
}

/// The one alarm of a connection, and what it is set for.
struct Patience<'c, S> {
    service: &'c Service<S>,
    config: &'c ServiceConfig,
    client: &'c Client,
    alarm: Alarm,
    drained: bool,
}

impl<'c, S> Patience<'c, S> {
    fn new(service: &'c Service<S>, config: &'c ServiceConfig, client: &'c Client) -> Self {
        Self {
            service,
            config,
            client,
            alarm: service.shared.timers.alarm(),
            drained: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Impatience> {
        if self.service.shared.draining.get() && !std::mem::replace(&mut self.drained, true) {
            return Poll::Ready(Impatience::Drained);
        }
        let (client, timeouts) = (self.client, &self.config.timeouts);
        let idle = client.underway.get() == 0 && client.leg.is_between();
        let idle = idle.then(|| client.idle_since.get() + timeouts.idle);
        let head = client.leg.head_since().map(|since| since + timeouts.head);
        let stalled = client
            .leg
            .blocked_since()
            .map(|since| since + timeouts.stall);
        let Some(first) = [idle, head, stalled].into_iter().flatten().min() else {
            self.alarm.clear();
            return Poll::Pending;
        };
        self.alarm.set(first);
        ready!(self.alarm.poll_expired(cx));
        Poll::Ready(if head == Some(first) {
            Impatience::Head
        } else if stalled == Some(first) {
            self.service.metrics.borrow_mut().stalled += 1;
            Impatience::Stalled
        } else {
            client.idle_since.set(self.service.shared.timers.now());
            Impatience::Idle
        })
    }
}

/// A connection that is counted.
struct Open<S> {
    service: Rc<Service<S>>,
    ended: bool,
}

impl<S> Open<S> {
    fn new(service: &Rc<Service<S>>) -> Self {
        service.connections.set(service.connections.get() + 1);
        Self {
            service: Rc::clone(service),
            ended: false,
        }
    }
}

impl<S> Drop for Open<S> {
    fn drop(&mut self) {
        let service = &self.service;
        service
            .connections
            .set(service.connections.get().saturating_sub(1));
        if !self.ended {
            service.metrics.borrow_mut().connections_lost += 1;
        }
    }
}
