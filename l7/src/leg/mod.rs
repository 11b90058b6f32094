//! A connection as the relay and hyper read and write it: framing is checked on the way, and what happens is noted.

mod state;

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::framing::{Body, Guard, Progress};
use crate::run::Timers;
use crate::{Reject, Stream};
pub(crate) use state::LegState;

/// What came of a look.
enum Step {
    /// The peer has ended its half.
    End,
    /// Something of a head.
    Kept,
    /// Something of a body.
    Passed,
}

/// A stream and its framing. Dropping it resets the connection, unless [`LegState::end_in_order`] was called.
pub(crate) struct Leg<S: Stream> {
    stream: S,
    /// What has been read of the stream already.
    prefix: Vec<u8>,
    state: Rc<LegState>,
}

impl<S: Stream> Leg<S> {
    pub(crate) fn new(stream: S, prefix: Vec<u8>, guard: Option<Guard>, timers: &Timers) -> Self {
        let state = LegState {
            timers: timers.clone(),
            guard: RefCell::new(guard),
            asks: Cell::default(),
            refused: Cell::default(),
            failed: Cell::default(),
            head_since: Cell::default(),
            refused_since: Cell::default(),
            read_blocked: Cell::default(),
            write_blocked: Cell::default(),
            read: Cell::default(),
            no_http2: Cell::default(),
            ended: Cell::default(),
            lost: Cell::default(),
            orderly: Cell::default(),
            reader: RefCell::default(),
        };
        Self {
            stream,
            prefix,
            state: Rc::new(state),
        }
    }

    pub(crate) fn state(&self) -> &Rc<LegState> {
        &self.state
    }

    /// Shows what comes next, unchecked; as [`Stream::poll_peek`].
    pub(crate) fn poll_raw(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let taken = if self.prefix.is_empty() {
            let peeked = ready!(self.stream.poll_peek(cx, take));
            let taken = peeked.inspect_err(|error| self.state.lose(error))?;
            self.state.ended.set(taken == 0);
            taken
        } else {
            let taken = take(&self.prefix).min(self.prefix.len());
            self.prefix.drain(..taken);
            if self.prefix.is_empty() {
                self.prefix = Vec::new();
            }
            if taken == 0 {
                return Poll::Pending; // Only whoever has room later asks for it again.
            }
            taken
        };
        self.state.read.set(self.state.read.get() + taken as u64);
        Poll::Ready(Ok(taken))
    }

    pub(crate) fn poll_write_raw(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &self.state;
        match self.stream.poll_write_vectored(cx, pieces) {
            Poll::Ready(Ok(written)) => {
                state.write_blocked.set(None);
                // Not before: what comes while nothing can be sent is no answer.
                if written > 0
                    && let Some(to_head) = state.asks.take()
                    && let Some(guard) = &mut *state.guard.borrow_mut()
                {
                    guard.await_response(to_head);
                }
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => {
                state.lose(&error);
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let since = state.write_blocked.get().unwrap_or(state.timers.now());
                state.write_blocked.set(Some(since));
                Poll::Pending
            }
        }
    }

    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }

    /// Looks at what comes next through the guard; what is to be passed on goes into `out`. Ready with `None` once there is
    /// something in it, or with the end.
    fn poll_guarded(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let state = Rc::clone(&self.state);
        let mut guard = state.guard.borrow_mut();
        let Some(guard) = &mut *guard else {
            return self.poll_plain(cx, out);
        };
        // Bound: each turn takes bytes that are there, and a head is of bounded length.
        loop {
            let ready = guard.ready();
            if !ready.is_empty() {
                let passed = ready.len().min(out.remaining());
                out.put_slice(&ready[..passed]);
                guard.pass(passed);
                return Poll::Ready(Ok(()));
            }
            if !guard.reads() {
                *state.reader.borrow_mut() = Some(cx.waker().clone());
                // A client that is refused may have ended its half; one that waits for the outcome of an upgrade may not.
                return match self.poll_raw(cx, |_| 0) {
                    Poll::Ready(Ok(_)) if !guard.holds() => Poll::Pending,
                    end => end.map_ok(drop),
                };
            }
            let room = out.remaining();
            let step = self.poll_step(cx, guard, |guard, bytes| {
                let progress = guard.advance(bytes, room);
                if let Progress::Passed(taken) = progress {
                    out.put_slice(&bytes[..taken]);
                }
                progress
            });
            if let Step::End | Step::Passed = ready!(step)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Looks at what comes next, once: `advance` shows it to the guard, and passes on what can be.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        guard: &mut Guard,
        advance: impl FnOnce(&mut Guard, &[u8]) -> Progress,
    ) -> Poll<io::Result<Step>> {
        let in_body = guard.is_in_body();
        let mut progress = Progress::Kept(0);
        let peeked = self.poll_raw(cx, |bytes| {
            progress = advance(guard, bytes);
            match progress {
                Progress::Kept(taken) | Progress::Head(taken) | Progress::Passed(taken) => taken,
                Progress::Failed(_) => bytes.len(),
            }
        });
        let state = &self.state;
        if peeked.is_pending() {
            if in_body && state.read_blocked.get().is_none() {
                state.read_blocked.set(Some(state.timers.now()));
            }
            return Poll::Pending;
        }
        state.read_blocked.set(None);
        if ready!(peeked)? == 0 {
            return Poll::Ready(Ok(Step::End));
        }
        match progress {
            Progress::Kept(_) => {
                let since = guard.is_in_head().then(|| state.timers.now());
                state.head_since.set(state.head_since.get().or(since));
            }
            Progress::Head(_) => state.head_since.set(None),
            Progress::Passed(_) => return Poll::Ready(Ok(Step::Passed)),
            Progress::Failed(reject) if in_body || guard.is_for_responses() => {
                state.failed.set(Some(reject));
                return Poll::Ready(Err(ErrorKind::InvalidData.into()));
            }
            Progress::Failed(reject) => {
                guard.stand_in();
                state.head_since.set(None);
                state.refused.set(Some((guard.heads(), reject)));
            }
        }
        Poll::Ready(Ok(Step::Kept))
    }

    /// Whether a head is there: sound, as a whole, or what stands in for one that is refused. False at the end between two.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let state = Rc::clone(&self.state);
        let mut guard = state.guard.borrow_mut();
        let Some(guard) = &mut *guard else {
            return Poll::Ready(Ok(false)); // Never: there are heads only where there is framing.
        };
        // Bound: each turn takes bytes that are there, and a head is of bounded length.
        while guard.ready().is_empty() {
            let between = guard.is_between();
            let step = self.poll_step(cx, guard, |guard, bytes| guard.advance(bytes, 0));
            match ready!(step)? {
                Step::Kept => {}
                Step::End | Step::Passed if between => return Poll::Ready(Ok(false)),
                Step::End | Step::Passed => {
                    return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Appends what has come of a body, without what frames it, out of `most` bytes. False at its end.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> Poll<io::Result<bool>> {
        let state = Rc::clone(&self.state);
        let mut guard = state.guard.borrow_mut();
        let Some(guard) = guard.as_mut().filter(|guard| guard.is_in_body()) else {
            return Poll::Ready(Ok(false));
        };
        let step = self.poll_step(cx, guard, |guard, bytes| {
            guard.decode(bytes, most, |data| buffer.extend_from_slice(data))
        });
        match ready!(step)? {
            Step::End if guard.body() == Body::UntilEnd => Poll::Ready(Ok(false)),
            Step::End => Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
            Step::Kept | Step::Passed => Poll::Ready(Ok(true)),
        }
    }

    /// Whether the peer has ended its half, or the connection is lost; what has come is left.
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_raw(cx, |_| 0).is_ready()
    }

    /// Whether nothing has come, and not the end: a connection between two messages is as it should be.
    pub(crate) fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        let mut said = !self.prefix.is_empty();
        let peeked = self.poll_raw(cx, |bytes| {
            said |= !bytes.is_empty();
            0
        });
        if said {
            self.state.failed.set(Some(Reject::Unsolicited));
        }
        peeked.is_pending() && !said
    }

    fn poll_plain(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let state = Rc::clone(&self.state);
        let first = state.read.get() == 0;
        let peeked = self.poll_raw(cx, |bytes| {
            if first {
                // A frame's type is its fourth byte, and 4 that of SETTINGS.
                state
                    .no_http2
                    .set(bytes.get(3).is_some_and(|kind| *kind != 4));
            }
            let taken = bytes.len().min(out.remaining());
            out.put_slice(&bytes[..taken]);
            taken
        });
        peeked.map_ok(drop)
    }
}

impl<S: Stream> Read for Leg<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_guarded(cx, &mut out)
    }
}

impl<S: Stream> Write for Leg<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_raw(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_raw(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // What the stream has taken, it sends.
    }

    /// Nothing: whoever serves the connection ends it, and may have more to do with it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> Drop for Leg<S> {
    fn drop(&mut self) {
        if !self.state.orderly.get() {
            self.stream.abort();
        }
    }
}
