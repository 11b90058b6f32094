//! Connections of the worker's TCP stack as the HTTP stage reads and writes them, and those that it waits for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use weft_l7::{ConnectRequest, Upstreams};

/// A connection, or one that is wanted and that the worker has not begun to open yet.
pub(in crate::worker) struct HttpStream(Inner);

enum Inner {
    Open(weft_stack::Stream),
    Wanted(Rc<RefCell<Outcome>>),
}

/// What became of a connection that is wanted.
enum Outcome {
    Waiting(Option<Waker>),
    Begun(Option<weft_stack::Stream>),
    Failed(ErrorKind),
}

impl HttpStream {
    pub(super) fn open(stream: weft_stack::Stream) -> Self {
        Self(Inner::Open(stream))
    }

    /// The connection, once the worker has begun to open it.
    fn begun(&mut self) -> Poll<io::Result<&weft_stack::Stream>> {
        if let Inner::Wanted(outcome) = &self.0 {
            let begun = match &mut *outcome.borrow_mut() {
                Outcome::Waiting(_) => return Poll::Pending,
                Outcome::Failed(kind) => return Poll::Ready(Err((*kind).into())),
                Outcome::Begun(stream) => stream.take(),
            };
            match begun {
                Some(stream) => self.0 = Inner::Open(stream),
                None => return Poll::Ready(Err(ErrorKind::NotConnected.into())), // Never: taken once.
            }
        }
        match &self.0 {
            Inner::Open(stream) => Poll::Ready(Ok(stream)),
            Inner::Wanted(_) => Poll::Pending,
        }
    }

    /// As [`Self::begun`], with a wait.
    fn poll_begun(&mut self, cx: &Context<'_>) -> Poll<io::Result<&weft_stack::Stream>> {
        if let Inner::Wanted(outcome) = &self.0
            && let Outcome::Waiting(waker) = &mut *outcome.borrow_mut()
        {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.begun()
    }
}

impl weft_l7::Stream for HttpStream {
    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_begun(cx))?.poll_connected(cx)
    }

    fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_begun(cx))?.poll_peek(cx, take)
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_begun(cx))?.poll_write_vectored(cx, pieces)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_begun(cx))?.poll_shutdown(cx)
    }

    fn abort(&mut self) {
        if let Poll::Ready(Ok(stream)) = self.begun() {
            stream.abort();
        }
    }
}

/// A connection that the stage wants, for the worker to open.
pub(in crate::worker) struct Wanted {
    pub(super) request: ConnectRequest,
    outcome: Rc<RefCell<Outcome>>,
}

impl Wanted {
    /// Whether nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        Rc::strong_count(&self.outcome) == 1
    }

    /// Says what became of it.
    pub(super) fn settle(self, opened: Result<weft_stack::Stream, ErrorKind>) {
        let outcome = match opened {
            Ok(stream) => Outcome::Begun(Some(stream)),
            Err(kind) => Outcome::Failed(kind),
        };
        let before = std::mem::replace(&mut *self.outcome.borrow_mut(), outcome);
        if let Outcome::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

/// Connections that the stage wants. A place is a task's that waits for it, and so within the backends' limits.
#[derive(Clone, Default)]
pub(super) struct Wishes(Rc<RefCell<VecDeque<Wanted>>>);

impl Wishes {
    pub(super) fn next(&self) -> Option<Wanted> {
        self.0.borrow_mut().pop_front()
    }
}

impl Upstreams<HttpStream> for Wishes {
    /// Asks the worker, which opens connections between two turns of the stage: it has the tables and the flows.
    fn connect(&mut self, request: &ConnectRequest) -> io::Result<HttpStream> {
        let outcome = Rc::new(RefCell::new(Outcome::Waiting(None)));
        self.0.borrow_mut().push_back(Wanted {
            request: *request,
            outcome: Rc::clone(&outcome),
        });
        Ok(HttpStream(Inner::Wanted(outcome)))
    }
}
