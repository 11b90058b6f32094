//! A request's body on its way to an endpoint.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What is known of a request's body, shared with whoever serves the request.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    /// Bytes passed on.
    pub(crate) received: Cell<u64>,
    /// All of it was passed on.
    pub(crate) ended: Cell<bool>,
    /// The client's connection, or its framing, failed within the body.
    pub(crate) failed: Cell<bool>,
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
    /// There was a response before its end.
    #[error("the rest of the request is not wanted")]
    Abandoned,
}

/// The body: an empty one can be made again.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    intake: Rc<Intake>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, intake: &Rc<Intake>) -> Self {
        intake.ended.set(incoming.is_end_stream());
        Self {
            incoming: (!incoming.is_end_stream()).then_some(incoming),
            intake: Rc::clone(intake),
        }
    }

    pub(crate) fn empty(intake: &Rc<Intake>) -> Self {
        Self {
            incoming: None,
            intake: Rc::clone(intake),
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
        }
        let frame = ready!(polled);
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
        Poll::Ready(frame.map(|frame| frame.map_err(BrokenBody::Client)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.as_ref().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
