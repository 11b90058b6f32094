//! A request's body on its way to an endpoint.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::framing::sound_trailers;
use crate::run::{Alarm, Timers};

/// What is known of a request's body, shared with whoever serves the request.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// Bytes passed on.
    pub(crate) received: Cell<u64>,
    /// All of it was passed on.
    pub(crate) ended: Cell<bool>,
    /// The client's connection, or its framing, failed within the body.
    pub(crate) failed: Cell<bool>,
    /// Nothing more of it has come for too long.
    pub(crate) stalled: Cell<bool>,
    /// The rest is not wanted: the response is over.
    abandoned: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Intake {
    /// Ends the body where it is: its connections are of no more use.
    pub(crate) fn abandon(&self) {
        self.abandoned.set(true);
        let reader = self.reader.borrow_mut().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenBody {
    /// The client's connection or framing failed.
    #[error("the client's request breaks off: {0}")]
    Client(hyper::Error),
    /// Nothing comes.
    #[error("the client's request stands still")]
    Stalled,
    /// There was a response before its end.
    #[error("the rest of the request is not wanted")]
    Abandoned,
}

/// The body: an empty one can be made again.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    intake: Rc<Intake>,
    patience: Option<Patience>,
}

/// How long a body may stand still, where it is not the whole connection that does.
pub(crate) struct Patience {
    alarm: Alarm,
    timers: Timers,
    time: Duration,
    waits: bool,
}

impl Patience {
    pub(crate) fn new(timers: &Timers, time: Duration) -> Self {
        Self {
            alarm: timers.alarm(),
            timers: timers.clone(),
            time,
            waits: false,
        }
    }

    /// Nothing has come: whether that is so for too long.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.waits, true) {
            self.alarm.set(self.timers.now() + self.time);
        }
        self.alarm.poll_expired(cx)
    }
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, intake: &Rc<Intake>, patience: Option<Patience>) -> Self {
        intake.ended.set(incoming.is_end_stream());
        Self {
            patience,
            incoming: (!incoming.is_end_stream()).then_some(incoming),
            intake: Rc::clone(intake),
        }
    }

    pub(crate) fn empty(intake: &Rc<Intake>) -> Self {
        Self {
            incoming: None,
            intake: Rc::clone(intake),
            patience: None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if self.incoming.is_some() && self.intake.abandoned.get() {
            self.incoming = None;
            return Poll::Ready(Some(Err(BrokenBody::Abandoned)));
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        if polled.is_pending() {
            *self.intake.reader.borrow_mut() = Some(cx.waker().clone());
            let patience = self.patience.as_mut();
            if patience.is_some_and(|patience| patience.poll_expired(cx).is_ready()) {
                self.incoming = None;
                self.intake.failed.set(true);
                self.intake.stalled.set(true);
                return Poll::Ready(Some(Err(BrokenBody::Stalled)));
            }
        }
        let frame = ready!(polled);
        if let Some(patience) = &mut self.patience {
            patience.waits = false;
        }
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let received = &self.intake.received;
                received.set(received.get() + bytes);
            }
            Some(Err(_)) => self.intake.failed.set(true),
            None => self.incoming = None,
        }
        self.intake.ended.set(self.is_end_stream());
        Poll::Ready(frame.map(|frame| frame.map(sound_trailers).map_err(BrokenBody::Client)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.as_ref().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
