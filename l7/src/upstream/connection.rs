//! A connection to an endpoint, and its use for one request.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use super::endpoint::Underway;
use super::{Endpoint, Key, RequestBody};
use crate::leg::{Leg, LegState};
use crate::{Now, Stream};

/// How requests go over a connection.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Codec {
    /// HTTP/1.1, passed on by whoever serves the client's connection.
    Relay,
    /// HTTP/1.1 by hyper.
    Http1,
    /// HTTP/2 by hyper, many at a time.
    Http2,
}

/// What requests go out by.
pub(crate) enum Sender {
    Relay(#[expect(dead_code, reason = "its drop is what it is for")] Resting),
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// The use of a connection whose leg is with whoever has this, or rests. Dropping it ends the connection.
pub(crate) struct Resting(Rc<Connection>);

impl Resting {
    pub(super) fn new(connection: &Rc<Connection>) -> Self {
        Self(Rc::clone(connection))
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.close();
        self.0.wake();
    }
}

/// A response, or the request that was not sent.
pub(crate) type Answer = Result<Response<Incoming>, (hyper::Error, Option<Request<RequestBody>>)>;

impl Sender {
    /// Another one for the same connection of HTTP/2. (Of HTTP/1.1 there is one only, which is handed on.)
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Http2(sender) => Self::Http2(sender.clone()),
            Self::Relay(_) | Self::Http1(_) => {
                unreachable!("connections of HTTP/1.1 are not shared")
            }
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Relay(_) => false,
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Self::Relay(_) => Poll::Ready(Ok(())),
            Self::Http1(sender) => sender.poll_ready(cx),
            Self::Http2(sender) => sender.poll_ready(cx),
        }
    }

    fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Option<Pin<Box<dyn Future<Output = Answer>>>> {
        match self {
            Self::Relay(_) => None,
            Self::Http1(sender) => {
                let answer = sender.try_send_request(request);
                Some(Box::pin(async move {
                    answer.await.map_err(|mut error| {
                        let message = error.take_message();
                        (error.into_error(), message)
                    })
                }))
            }
            Self::Http2(sender) => {
                let answer = sender.try_send_request(request);
                Some(Box::pin(async move {
                    answer.await.map_err(|mut error| {
                        let message = error.take_message();
                        (error.into_error(), message)
                    })
                }))
            }
        }
    }
}

/// What a task leaves behind.
#[derive(Default)]
struct Detached {
    leg: Option<Box<dyn Any>>,
    over: bool,
    waker: Option<Waker>,
}

/// A connection, shared by its task, its pool and whoever uses it.
pub(crate) struct Connection {
    pub(crate) key: Key,
    pub(crate) leg: Rc<LegState>,
    pub(crate) endpoint: Rc<Endpoint>,
    streams: Cell<usize>,
    closed: Cell<bool>,
    /// Whether its sender is on its way back into the pool.
    returning: Cell<bool>,
    /// A sender whose request is over, for the task to put back.
    returned: RefCell<Option<Sender>>,
    detached: RefCell<Detached>,
    /// A leg without a request, where there is no task that has it; and since when.
    resting: RefCell<Option<Box<dyn Any>>>,
    rested: Cell<Now>,
    task: RefCell<Option<Waker>>,
}

impl Connection {
    pub(crate) fn new(key: Key, leg: Rc<LegState>, endpoint: Rc<Endpoint>) -> Self {
        Self {
            key,
            leg,
            endpoint,
            streams: Cell::new(0),
            closed: Cell::new(false),
            returning: Cell::new(false),
            returned: RefCell::default(),
            detached: RefCell::default(),
            resting: RefCell::default(),
            rested: Cell::default(),
            task: RefCell::default(),
        }
    }

    /// Puts a leg to rest.
    pub(super) fn rest<S: Stream>(&self, leg: Box<Leg<S>>) {
        self.rested.set(leg.state().now());
        self.put_back(leg);
    }

    /// As [`Self::rest`], for one that has rested all along.
    pub(super) fn put_back<S: Stream>(&self, leg: Box<Leg<S>>) {
        *self.resting.borrow_mut() = Some(leg);
    }

    /// The leg that rests, of the type that whoever opened it knows.
    pub(super) fn resting<S: Stream>(&self) -> Option<Box<Leg<S>>> {
        let leg = self.resting.borrow_mut().take()?;
        leg.downcast().ok()
    }

    /// Since when it rests.
    pub(super) fn rested(&self) -> Now {
        self.rested.get()
    }

    /// Whether it is of no more use.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Requests under way.
    pub(crate) fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Whether a request can be tried on it, as far as is known.
    pub(crate) fn is_usable(&self, sender: &Sender) -> bool {
        !self.closed.get() && !sender.is_closed() && self.leg.lost().is_none()
    }

    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    /// For the task: whom to wake when there is something to be done.
    pub(crate) fn register(&self, waker: &Waker) {
        *self.task.borrow_mut() = Some(waker.clone());
    }

    /// For the task: the sender that has come back.
    pub(crate) fn returned(&self) -> Option<Sender> {
        self.returned.borrow_mut().take()
    }

    /// For the task: what was on its way back is there, or lost.
    pub(crate) fn settle(&self) {
        if self.returning.replace(false) {
            self.endpoint.settled(&self.key);
        }
    }

    /// For the task: it is over, and leaves a leg that goes on as a tunnel, if it does.
    pub(crate) fn detach(&self, leg: Option<Box<dyn Any>>) {
        let mut detached = self.detached.borrow_mut();
        detached.leg = leg;
        detached.over = true;
        let waker = detached.waker.take();
        drop(detached);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wake(&self) {
        let waker = self.task.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connection in use by one request. Dropping it before the response is complete ends a connection of HTTP/1.1.
pub(crate) struct Lease {
    connection: Rc<Connection>,
    sender: Option<Sender>,
    _underway: Underway,
    /// Whether the connection has carried requests before.
    pub(crate) reused: bool,
}

impl Lease {
    pub(crate) fn new(
        connection: Rc<Connection>,
        sender: Sender,
        underway: Underway,
        reused: bool,
    ) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self {
            connection,
            sender: Some(sender),
            _underway: underway,
            reused,
        }
    }

    pub(crate) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Sends a request; `to_head`: it is a `HEAD`.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
        to_head: bool,
    ) -> Option<Pin<Box<dyn Future<Output = Answer>>>> {
        self.connection.leg.await_response(to_head);
        let answer = self.sender.as_mut()?.send(request);
        self.connection.wake();
        answer
    }

    /// The leg of a connection that is relayed over.
    pub(crate) fn leg<S: Stream>(&self) -> Option<Box<Leg<S>>> {
        self.connection.resting()
    }

    /// Whether nothing has come on that leg, nor its end, while it rested.
    pub(crate) fn is_quiet<S: Stream>(&self) -> bool {
        let Some(mut leg) = self.leg::<S>() else {
            return false;
        };
        let quiet = leg.is_quiet(&mut Context::from_waker(Waker::noop()));
        self.connection.put_back(leg);
        quiet
    }

    /// Gives that leg back: the response has come to its end, and the connection may carry another request.
    pub(crate) fn rest<S: Stream>(mut self, mut leg: Box<Leg<S>>) {
        let connection = &self.connection;
        let task = connection.task.borrow().clone();
        let waker = task.as_ref().unwrap_or(Waker::noop());
        let quiet = leg.is_quiet(&mut Context::from_waker(waker));
        connection.rest(leg);
        if let Some(sender) = self.sender.take().filter(|_| quiet) {
            // What is not taken is dropped, which ends the connection.
            connection.endpoint.put(connection.key, connection, sender);
        }
    }

    /// The response has come to its end: the connection may carry another request.
    pub(crate) fn finish(mut self) {
        let connection = &self.connection;
        let sender = self.sender.take();
        if let Some(sender @ Sender::Http1(_)) = sender
            && !connection.closed.get()
        {
            connection.returning.set(true);
            connection.endpoint.returns(connection.key);
            *connection.returned.borrow_mut() = Some(sender);
            connection.wake();
        }
    }

    /// The leg of a connection that has become a tunnel, of the type that its task knows. Nothing if it broke.
    pub(crate) async fn detached<L: 'static>(&self) -> Option<L> {
        let leg = poll_fn(|cx| {
            let mut detached = self.connection.detached.borrow_mut();
            if detached.over {
                return Poll::Ready(detached.leg.take());
            }
            detached.waker = Some(cx.waker().clone());
            Poll::Pending
        });
        let leg = leg.await?.downcast::<L>().ok()?;
        Some(*leg)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection
            .streams
            .set(connection.streams.get().saturating_sub(1));
        drop(self.sender.take());
        if connection.key.codec != Codec::Relay {
            connection.wake();
        }
        if connection.key.codec == Codec::Http2 {
            connection.endpoint.wake();
        }
    }
}
