//! A request's body on its way to an endpoint.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

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
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
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
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.as_ref().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
