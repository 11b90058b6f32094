//! Coming by a connection for a request: an idle one, a new one, or a place in the queue.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::Poll;

use hyper::client::conn::{http1, http2};

use super::connection::{Codec, Connection, Resting, Sender};
use super::endpoint::{Offer, Opening};
use super::task::{run_http1, run_http2, watch};
use super::{BackendConfig, Endpoint, Key, Lease};
use crate::Stream;
use crate::config::ConnectRequest;
use crate::framing::Guard;
use crate::leg::Leg;
use crate::observe::Flag;
use crate::run::Deadline;
use crate::serve::{BUFFER, Exec, Service, WINDOW};

/// Why there is no connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum AcquireError {
    /// Beyond a limit.
    Overflow,
    /// None could be opened.
    Connect(ErrorKind),
    /// None opened in time.
    Timeout,
    /// The endpoint is no more.
    Gone,
}

impl AcquireError {
    pub(crate) const fn flag(self) -> Flag {
        match self {
            Self::Overflow => Flag::Overflow,
            Self::Connect(_) => Flag::ConnectFailed,
            Self::Timeout => Flag::ConnectTimeout,
            Self::Gone => Flag::NoEndpoint,
        }
    }

    /// More of why, for the log.
    pub(crate) const fn detail(self) -> Option<&'static str> {
        match self {
            Self::Connect(ErrorKind::ConnectionRefused) => Some("refused"),
            Self::Connect(ErrorKind::ConnectionReset) => Some("reset"),
            Self::Connect(ErrorKind::TimedOut) => Some("timed_out"),
            Self::Connect(_) => Some("unreachable"),
            Self::Overflow | Self::Timeout | Self::Gone => None,
        }
    }
}

/// Comes by a connection to an endpoint. Requests that have to wait get theirs in the order in which they came.
pub(crate) async fn acquire<S: Stream>(
    service: &Rc<Service<S>>,
    config: &BackendConfig,
    endpoint: &Rc<Endpoint>,
    request: &ConnectRequest,
    key: Key,
) -> Result<Lease, AcquireError> {
    let underway = endpoint.begin().ok_or(AcquireError::Overflow)?;
    let mut offer = match endpoint.is_waited_for() {
        true => Offer::Wait,
        false => endpoint.take(key),
    };
    if let Offer::Wait = offer {
        let place = endpoint.queue().ok_or(AcquireError::Overflow)?;
        offer = poll_fn(|cx| {
            if !place.is_first(cx.waker()) {
                return Poll::Pending;
            }
            match endpoint.take(key) {
                Offer::Wait => Poll::Pending,
                found => Poll::Ready(found),
            }
        })
        .await;
    }
    let (connection, sender, reused) = match offer {
        Offer::Connection(connection, sender) => (connection, sender, true),
        Offer::Open(opening) => {
            let deadline = Deadline::after(&service.shared.timers, Some(config.connect_timeout));
            // In memory of its own: most requests go over a connection that is there, and need not hold what it takes to open one.
            let open = Box::pin(open(service, config, endpoint, request, key, opening));
            let opened = deadline.within(open).await;
            let opened = opened.ok_or(AcquireError::Timeout)?;
            let (connection, sender) =
                opened.map_err(|error| AcquireError::Connect(error.kind()))?;
            (connection, sender, false)
        }
        Offer::Gone => return Err(AcquireError::Gone),
        Offer::Wait => return Err(AcquireError::Overflow), // Never: it has been waited for.
    };
    Ok(Lease::new(connection, sender, underway, reused))
}

/// Opens a connection that is no pool's.
pub(crate) async fn connect<S: Stream>(
    service: &Service<S>,
    config: &BackendConfig,
    request: &ConnectRequest,
) -> Result<S, AcquireError> {
    let open = async {
        let mut stream = service.shared.connect(request)?;
        poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok::<S, io::Error>(stream)
    };
    let deadline = Deadline::after(&service.shared.timers, Some(config.connect_timeout));
    let opened = deadline.within(Box::pin(open)).await;
    let opened = opened.ok_or(AcquireError::Timeout)?;
    opened.map_err(|error| AcquireError::Connect(error.kind()))
}

/// Opens a connection and starts its task.
async fn open<S: Stream>(
    service: &Rc<Service<S>>,
    config: &BackendConfig,
    endpoint: &Rc<Endpoint>,
    request: &ConnectRequest,
    key: Key,
    opening: Opening,
) -> io::Result<(Rc<Connection>, Sender)> {
    let shared = &service.shared;
    let mut stream = shared.connect(request)?;
    poll_fn(|cx| stream.poll_connected(cx)).await?;
    let limits = service.config().limits.head;
    let guard = (key.codec != Codec::Http2).then(|| Guard::responses(limits));
    let leg = Leg::new(stream, Vec::new(), guard, &shared.timers);
    let state = Rc::clone(leg.state());
    let connection = Rc::new(Connection::new(key, state, Rc::clone(endpoint)));
    let idle = config.idle_timeout;
    let sender = if key.codec == Codec::Relay {
        connection.rest(Box::new(leg));
        service.spawn(watch::<S>(Rc::clone(service), Rc::clone(&connection), idle));
        Sender::Relay(Resting::new(&connection))
    } else if key.codec == Codec::Http2 {
        let exec = Exec::of(service);
        let mut builder = http2::Builder::new(exec);
        builder
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 16)
            .max_header_list_size(u32::try_from(limits.bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(WINDOW as usize);
        let (sender, task) = builder.handshake(leg).await.map_err(io::Error::other)?;
        let sender = Sender::Http2(sender);
        service.spawn(run_http2(
            Rc::clone(service),
            task,
            Rc::clone(&connection),
            idle,
        ));
        sender
    } else {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER);
        let (sender, task) = builder.handshake(leg).await.map_err(io::Error::other)?;
        service.spawn(run_http1(
            Rc::clone(service),
            task,
            Rc::clone(&connection),
            idle,
        ));
        Sender::Http1(sender)
    };
    opening.opened();
    service.metrics.borrow_mut().upstream_connections += 1;
    if let Sender::Http2(_) = sender {
        endpoint.put(key, &connection, sender.share());
    }
    Ok((connection, sender))
}
