//! A response's body on its way to a client, and what is done when it ends.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::Underway;
use super::streams::Passing;
use crate::framing::sound_trailers;
use crate::observe::{Flag, Recorder};
use crate::run::Deadline;
use crate::upstream::{Intake, Lease};

/// What a response is cut short by.
#[derive(Debug)]
pub(super) struct CutShort(Flag);

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response is cut short: {}", self.0)
    }
}

impl std::error::Error for CutShort {}

enum Source {
    Done,
    Bytes(Bytes),
    Endpoint(Incoming),
}

/// What a response holds until it is over.
pub(super) struct Tail {
    pub(super) recorder: Recorder,
    /// The client speaks gRPC, which has its own way to say that something failed.
    pub(super) grpc: bool,
    pub(super) intake: Rc<Intake>,
    pub(super) lease: Option<Lease>,
    pub(super) deadline: Deadline,
    pub(super) underway: Underway,
}

/// The body, the node's own or an endpoint's.
pub(super) struct ResponseBody {
    source: Source,
    sent: u64,
    tail: Option<Box<Tail>>,
}

impl ResponseBody {
    /// A text of the node's own, which has no deadline.
    pub(super) fn text(text: impl Into<Bytes>, mut tail: Tail) -> Self {
        tail.deadline = Deadline::never();
        let text = text.into();
        Self {
            source: if text.is_empty() {
                Source::Done
            } else {
                Source::Bytes(text)
            },
            sent: 0,
            tail: Some(Box::new(tail)),
        }
    }

    /// An endpoint's.
    pub(super) fn of_endpoint(body: Incoming, tail: Tail) -> Self {
        Self {
            source: Source::Endpoint(body),
            sent: 0,
            tail: Some(Box::new(tail)),
        }
    }

    /// Nothing, and nothing to be done at its end.
    pub(super) fn none() -> Self {
        Self {
            source: Source::Done,
            sent: 0,
            tail: None,
        }
    }

    /// Says how far the response is, for who looks after its stream.
    fn passes(&self, passing: Passing) {
        if let Some(tail) = &self.tail {
            tail.underway.0.passing.set(passing);
        }
    }

    /// The response is over; `flag` says why, if it is not complete.
    fn end(&mut self, flag: Option<Flag>) {
        self.source = Source::Done;
        let Some(mut tail) = self.tail.take() else {
            return;
        };
        let (sent, received) = (self.sent, tail.intake.received.get());
        tail.recorder.note(|record| {
            record.sent = sent;
            record.received = received;
            record.flag = record.flag.or(flag);
        });
        // A response before the end of its request leaves a connection that is of no more use.
        let reusable = flag.is_none() && tail.intake.ended.get();
        if !tail.intake.ended.get() {
            tail.intake.abandon();
        }
        if let Some(lease) = tail.lease.take().filter(|_| reusable) {
            lease.finish();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        self.passes(Passing::Asked);
        let expired = self
            .tail
            .as_ref()
            .map(|tail| tail.deadline.poll_expired(cx));
        if let Some(Poll::Ready(())) = expired {
            self.end(Some(Flag::RequestTimeout));
            return Poll::Ready(Some(Err(CutShort(Flag::RequestTimeout))));
        }
        let frame = match &mut self.source {
            Source::Done => None,
            Source::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Done;
                Some(Ok(Frame::data(bytes)))
            }
            Source::Endpoint(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        match frame {
            None => {
                self.end(None);
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                self.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                self.passes(Passing::Given);
                Poll::Ready(Some(Ok(sound_trailers(frame))))
            }
            Some(Err(_)) => {
                self.end(Some(Flag::UpstreamCut));
                Poll::Ready(Some(Err(CutShort(Flag::UpstreamCut))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Done => true,
            Source::Bytes(_) => false,
            Source::Endpoint(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Done => SizeHint::with_exact(0),
            Source::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Endpoint(body) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(tail) = &mut self.tail
            && tail.underway.0.passing.get() == Passing::Stalled
        {
            tail.recorder
                .note(|record| record.detail = Some("response"));
            return self.end(Some(Flag::ClientTimeout)); // Of a whole body, too, the end was not taken.
        }
        let flag = (!self.is_end_stream()).then_some(Flag::ClientGone);
        self.end(flag);
    }
}
