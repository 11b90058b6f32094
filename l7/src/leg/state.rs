//! What is known of a leg.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::task::Waker;

use crate::framing::{Body, Guard};
use crate::run::Timers;
use crate::{Now, Reject};

/// What is known of a leg, shared with whoever serves it.
#[derive(Debug)]
pub(crate) struct LegState {
    pub(super) timers: Timers,
    /// None for what is no HTTP/1.1.
    pub(super) guard: RefCell<Option<Guard>>,
    /// A request is about to be written; whether it is a `HEAD`.
    pub(super) asks: Cell<Option<bool>>,
    /// The number of the head that was refused, and why: a request that stands in for it has been passed on.
    pub(super) refused: Cell<Option<(u64, Reject)>>,
    /// Why a body, or anything of a backend, was not passed on.
    pub(super) failed: Cell<Option<Reject>>,
    /// When the head began that is not complete.
    pub(super) head_since: Cell<Option<Now>>,
    /// When the head began that was given up.
    pub(super) refused_since: Cell<Option<Now>>,
    /// Since when the peer has sent nothing of a body, though it is asked for.
    pub(super) read_blocked: Cell<Option<Now>>,
    /// Since when the peer has taken nothing.
    pub(super) write_blocked: Cell<Option<Now>>,
    pub(super) read: Cell<u64>,
    /// The first bytes that came are no SETTINGS frame, with which each end of HTTP/2 begins (RFC 9113 section 3.4).
    pub(super) no_http2: Cell<bool>,
    /// The peer has ended its half.
    pub(super) ended: Cell<bool>,
    /// How the stream failed.
    pub(super) lost: Cell<Option<ErrorKind>>,
    /// The connection is to be closed in order when the leg goes; otherwise it is reset.
    pub(super) orderly: Cell<bool>,
    pub(super) reader: RefCell<Option<Waker>>,
}

impl LegState {
    /// The time.
    pub(crate) fn now(&self) -> Now {
        self.timers.now()
    }

    /// Whether nothing is read until the outcome of the upgrade is known that the head of this number asks for.
    pub(crate) fn holds(&self, head: u64) -> bool {
        let guard = self.guard.borrow();
        let guard = guard.as_ref().filter(|guard| guard.heads() == head);
        guard.is_some_and(Guard::holds)
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

    /// When the head began that was given up because it took too long.
    pub(crate) fn refused_since(&self) -> Option<Now> {
        self.refused_since.get()
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

    /// The leg stays with HTTP, behind the request of this number. That for an upgrade which has come may be another one, which waits
    /// behind it.
    pub(crate) fn resume(&self, head: u64) {
        if let Some(guard) = &mut *self.guard.borrow_mut()
            && guard.heads() == head
        {
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
            self.refused_since.set(self.head_since.take());
        }
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Lets the connection be closed in order.
    pub(crate) fn end_in_order(&self) {
        self.orderly.set(true);
    }

    pub(super) fn lose(&self, error: &io::Error) {
        self.lost.set(Some(error.kind()));
    }
}
