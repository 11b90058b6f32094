//! A body on its way from one leg to the other.

use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use crate::Stream;
use crate::leg::Leg;

/// Bytes that have been read and not yet written, at most, besides a head.
const ROOM: usize = 64 << 10;
/// Bytes of a head for which no more memory is asked.
const HEAD: usize = 512;

/// Which of the two failed.
#[derive(Debug)]
pub(super) enum Failed {
    Reading,
    Writing,
}

/// One direction of an exchange.
pub(super) struct Pump {
    /// What goes before the body, and of it what has been read.
    pub(super) buffer: Vec<u8>,
    written: usize,
    /// The body goes on in chunks; otherwise its length was said.
    pub(super) chunked: bool,
    /// Something has been written.
    pub(super) began: bool,
    /// All of the body has been read.
    read_all: bool,
    /// And written.
    pub(super) done: bool,
}

impl Pump {
    /// `chunked`: a body without a length that is known.
    pub(super) fn new(chunked: bool) -> Self {
        Self {
            buffer: Vec::with_capacity(HEAD),
            written: 0,
            chunked,
            began: false,
            read_all: false,
            done: false,
        }
    }

    /// Goes as far as it gets; ready once all of the body has been written, or with an error, each time anew.
    pub(super) fn poll<S: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Leg<S>,
        to: &mut Leg<S>,
    ) -> Poll<Result<(), Failed>> {
        // Bound: as much as the one has and the other takes, and both have windows.
        while !self.done {
            // First reads, so that what goes before the body goes with it.
            let room = ROOM.saturating_sub(self.buffer.len());
            let mut waits = false;
            if !self.read_all && room > 0 {
                let start = self.buffer.len();
                match from.poll_body(cx, &mut self.buffer, room) {
                    Poll::Ready(more) => self.read_all = !more.map_err(|_| Failed::Reading)?,
                    Poll::Pending => waits = true,
                }
                self.frame(start, from);
            }
            if self.written < self.buffer.len() {
                let pieces = [IoSlice::new(&self.buffer[self.written..])];
                let written = ready!(to.poll_write_raw(cx, &pieces));
                self.written += written.map_err(|_| Failed::Writing)?;
                self.began = true;
            }
            if self.written == self.buffer.len() {
                self.buffer.clear();
                self.written = 0;
                self.done = self.read_all;
                if waits && !self.done {
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Makes what has been read since `start` a chunk (RFC 9112 section 7.1), and with the last of it ends the body.
    fn frame<S: Stream>(&mut self, start: usize, from: &Leg<S>) {
        if !self.chunked {
            return;
        }
        let length = self.buffer.len() - start;
        if length > 0 {
            let size = format!("{length:x}\r\n");
            self.buffer.splice(start..start, size.bytes());
            self.buffer.extend_from_slice(b"\r\n");
        }
        if self.read_all {
            self.buffer.extend_from_slice(b"0\r\n");
            self.buffer.extend_from_slice(&from.state().take_trailers());
            self.buffer.extend_from_slice(b"\r\n");
        }
    }
}
