//! A connection as hyper reads and writes it: framing is checked on the way, and what happens is noted.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::framing::{Body, Guard, Progress};
use crate::run::Timers;
use crate::{Now, Reject, Stream};

/// What is known of a leg, shared with whoever serves it.
#[derive(Debug)]
pub(crate) struct LegState {
    timers: Timers,
    /// None for what is no HTTP/1.1.
    guard: RefCell<Option<Guard>>,
    /// A request is about to be written; whether it is a `HEAD`.
    asks: Cell<Option<bool>>,
    /// The number of the head that was refused, and why: a request that stands in for it has been passed on.
    refused: Cell<Option<(u64, Reject)>>,
    /// Why a body, or anything of a backend, was not passed on.
    failed: Cell<Option<Reject>>,
    /// When the head began that is not complete.
    head_since: Cell<Option<Now>>,
    /// Since when the peer has sent nothing of a body, though it is asked for.
    read_blocked: Cell<Option<Now>>,
    /// Since when the peer has taken nothing.
    write_blocked: Cell<Option<Now>>,
    read: Cell<u64>,
    written: Cell<u64>,
    /// The first bytes that came are no SETTINGS frame, with which each end of HTTP/2 begins (RFC 9113 section 3.4).
    no_http2: Cell<bool>,
    /// The peer has ended its half.
    ended: Cell<bool>,
    /// How the stream failed.
    lost: Cell<Option<ErrorKind>>,
    /// The connection is to be closed in order when the leg goes; otherwise it is reset.
    orderly: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl LegState {
    /// The time.
    pub(crate) fn now(&self) -> Now {
        self.timers.now()
    }

    /// Whether nothing is read until the outcome of an upgrade is known.
    pub(crate) fn holds(&self) -> bool {
        self.guard.borrow().as_ref().is_some_and(Guard::holds)
    }

    /// The reason for which the head of this number, from 1, was refused.
    pub(crate) fn refusal(&self, head: u64) -> Option<Reject> {
        let refused = self.refused.get();
        refused
            .filter(|(number, _)| *number == head)
            .map(|(_, reject)| reject)
    }

    /// The reason for which the last head was refused, which is then the last of its connection.
    pub(crate) fn refused(&self) -> Option<Reject> {
        self.refused.get().map(|(_, reject)| reject)
    }

    /// The first line of the request that was refused, as far as it is known: nobody has checked it.
    pub(crate) fn refused_line(&self) -> Box<[u8]> {
        let guard = self.guard.borrow();
        guard
            .as_ref()
            .map_or_else(Box::default, |guard| guard.refused().into())
    }

    /// Why a body, or anything of a backend, was not passed on.
    pub(crate) fn failed(&self) -> Option<Reject> {
        self.failed.get()
    }

    /// How the stream failed, if it did.
    pub(crate) fn lost(&self) -> Option<ErrorKind> {
        self.lost.get()
    }

    /// When the incomplete head began.
    pub(crate) fn head_since(&self) -> Option<Now> {
        self.head_since.get()
    }

    /// The first head began before the leg did.
    pub(crate) fn began(&self, since: Option<Now>) {
        self.head_since.set(since);
    }

    /// Since when the peer stands still: it takes nothing, or sends nothing of a body that is asked for.
    pub(crate) fn blocked_since(&self) -> Option<Now> {
        let (read, write) = (self.read_blocked.get(), self.write_blocked.get());
        read.into_iter().chain(write).min()
    }

    /// Bytes that came.
    pub(crate) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Whether what the peer began with is not HTTP/2, where nothing else is followed.
    pub(crate) fn is_not_http2(&self) -> bool {
        self.no_http2.get()
    }

    /// Status of the last response.
    pub(crate) fn status(&self) -> u16 {
        self.guard.borrow().as_ref().map_or(0, Guard::status)
    }

    /// A request goes out on this leg with the next write. What has come before that is no answer to it.
    pub(crate) fn await_response(&self, to_head: bool) {
        self.asks.set(Some(to_head));
    }

    /// Whether the next head, which is there, is of a request that is no more than head and body of HTTP/1.1.
    pub(crate) fn is_plain(&self) -> bool {
        self.guard.borrow().as_ref().is_some_and(Guard::is_plain)
    }

    /// The head that is there.
    pub(crate) fn take_head(&self) -> Vec<u8> {
        let mut guard = self.guard.borrow_mut();
        guard.as_mut().map(Guard::take_head).unwrap_or_default()
    }

    /// How the body of the last head ends.
    pub(crate) fn body(&self) -> Body {
        self.guard.borrow().as_ref().map_or(Body::None, Guard::body)
    }

    /// The trailer fields of that body, once it has come as a whole: a line each.
    pub(crate) fn take_trailers(&self) -> Vec<u8> {
        let mut guard = self.guard.borrow_mut();
        guard.as_mut().map(Guard::take_trailers).unwrap_or_default()
    }

    /// Bytes of that body so far, without what frames them.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.guard.borrow().as_ref().map_or(0, Guard::body_bytes)
    }

    /// Whether nothing of a next message has come.
    pub(crate) fn is_between(&self) -> bool {
        self.guard.borrow().as_ref().is_none_or(Guard::is_between)
    }

    /// Whether a backend has sent all of the response that it was asked for.
    pub(crate) fn is_answered(&self) -> bool {
        let ended = self.ended.get();
        let guard = self.guard.borrow();
        let answered = guard.as_ref().is_none_or(|guard| guard.is_answered(ended));
        answered && self.asks.get().is_none()
    }

    /// The leg stays with HTTP, behind a request for an upgrade.
    pub(crate) fn resume(&self) {
        if let Some(guard) = &mut *self.guard.borrow_mut() {
            guard.resume();
        }
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Gives up on the head that is not complete.
    pub(crate) fn refuse(&self, reject: Reject) {
        if let Some(guard) = &mut *self.guard.borrow_mut() {
            guard.stand_in();
            self.refused.set(Some((guard.heads(), reject)));
            self.head_since.set(None);
        }
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Lets the connection be closed in order.
    pub(crate) fn end_in_order(&self) {
        self.orderly.set(true);
    }

    fn lose(&self, error: &io::Error) {
        self.lost.set(Some(error.kind()));
    }
}

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
            read_blocked: Cell::default(),
            write_blocked: Cell::default(),
            read: Cell::default(),
            written: Cell::default(),
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
        if let Some(to_head) = state.asks.take()
            && let Some(guard) = &mut *state.guard.borrow_mut()
        {
            guard.await_response(to_head);
        }
        match self.stream.poll_write_vectored(cx, pieces) {
            Poll::Ready(Ok(written)) => {
                state.write_blocked.set(None);
                state.written.set(state.written.get() + written as u64);
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
