//! Streams: how tasks read and write connections.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::connection::{Connection, End, Phase};
use crate::core::Core;
use crate::reason::Event;

/// One end of a connection. Dropping it closes the connection in order; with unread data in it, the peer is reset
/// instead (RFC 9293 section 3.10.4, RFC 2525 section 2.17).
///
/// Not `Send`: a stream belongs to the worker of its stack. One task reads and one writes; the last that was told to
/// wait for one of the two is the one that is woken.
pub struct Stream {
    core: Rc<RefCell<Core>>,
    id: u32,
}

impl Stream {
    pub(crate) fn new(core: &Rc<RefCell<Core>>, id: u32) -> Self {
        Self {
            core: Rc::clone(core),
            id,
        }
    }

    /// Gives the connection away, without closing it.
    pub(crate) fn into_id(self) -> u32 {
        // The drop that follows finds no connection of this number.
        let mut this = self;
        std::mem::replace(&mut this.id, u32::MAX)
    }

    /// Whether the connection is open, and an error if it never will be.
    pub fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.core.borrow_mut();
        let Some(connection) = core.connections.get_mut(self.id) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        match connection.phase {
            Phase::Opening => {
                connection.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Phase::Open | Phase::Over(End::Closed) => Poll::Ready(Ok(())),
            Phase::Over(end) => Poll::Ready(Err(error(end))),
        }
    }

    /// Reads into `buffer`; 0 bytes are the end of what the peer sends.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read_vectored(cx, &mut [IoSliceMut::new(buffer)])
    }

    /// As [`Self::poll_read`], into several buffers in order.
    pub fn poll_read_vectored(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read(cx, |connection| {
            let Some(live) = &mut connection.live else {
                return 0;
            };
            let mut taken = 0;
            for buffer in buffers {
                let read = live.socket_mut().recv_slice(buffer).unwrap_or(0);
                taken += read;
                if read < buffer.len() {
                    break;
                }
            }
            taken
        })
    }

    /// Shows `take` what has come and lies in one piece, without copying it; `take` says how much of it is done with, 0
    /// to leave all of it. There may be more behind it in a second piece. Ready with 0 and without a call at the end.
    ///
    /// What has been left is not shown again until more has come: whoever leaves some waits for more.
    pub fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        self.read(cx, |connection| {
            let Some(live) = &mut connection.live else {
                return 0;
            };
            let taken = live.socket_mut().recv(|data| {
                let taken = take(data).min(data.len());
                (taken, taken)
            });
            taken.unwrap_or(0)
        })
    }

    fn read(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Connection) -> usize,
    ) -> Poll<io::Result<usize>> {
        let mut core = self.core.borrow_mut();
        let Some(connection) = core.connections.get_mut(self.id) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        if connection.readable() > 0 {
            let taken = take(connection);
            connection.wire.base = connection.wire.base + taken as u32;
            connection.growth.received(taken);
            if taken > 0 {
                core.enqueue(self.id); // The window has grown.
                return Poll::Ready(Ok(taken));
            }
            // Who does not want what is left wants to know that there will be no more.
            if let Phase::Over(end @ (End::Reset | End::TimedOut)) = connection.phase {
                return Poll::Ready(Err(error(end)));
            }
        } else {
            match connection.phase {
                Phase::Over(End::Closed) => return Poll::Ready(Ok(0)),
                Phase::Over(end) => return Poll::Ready(Err(error(end))),
                _ if connection.fin => return Poll::Ready(Ok(0)),
                _ => {}
            }
        }
        if let Some(connection) = core.connections.get_mut(self.id) {
            connection.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes as much of `data` as there is room for.
    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    /// As [`Self::poll_write`], from several pieces in order.
    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let empty = pieces.iter().all(|piece| piece.is_empty());
        self.write(cx, empty, |connection| {
            let Some(live) = &mut connection.live else {
                return 0;
            };
            let mut taken = 0;
            for piece in pieces {
                let sent = live.socket_mut().send_slice(piece).unwrap_or(0);
                taken += sent;
                if sent < piece.len() {
                    break;
                }
            }
            taken
        })
    }

    /// Lets `fill` write into the send buffer itself, where that is free in one piece; `fill` says how much it wrote.
    pub fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        self.write(cx, false, |connection| {
            let Some(live) = &mut connection.live else {
                return 0;
            };
            let taken = live.socket_mut().send(|room| {
                let written = fill(room).min(room.len());
                (written, written)
            });
            taken.unwrap_or(0)
        })
    }

    fn write(
        &self,
        cx: &mut Context<'_>,
        empty: bool,
        put: impl FnOnce(&mut Connection) -> usize,
    ) -> Poll<io::Result<usize>> {
        let mut core = self.core.borrow_mut();
        let phase = core
            .connections
            .get(self.id)
            .map(|found| (found.phase, found.sending()));
        match phase {
            Some((Phase::Open, true)) => {
                if empty {
                    return Poll::Ready(Ok(0));
                }
                if core.joined(self.id) && core.grow(self.id) {
                    // Its buffer grows once all that was sent has arrived, of which the writer learns.
                } else if core.wake(self.id).is_err() {
                    core.starve(self.id);
                } else if let Some(connection) = core.connections.get_mut(self.id) {
                    let put = put(connection);
                    connection.growth.sent(put);
                    if put > 0 {
                        core.enqueue(self.id);
                        return Poll::Ready(Ok(put));
                    }
                }
            }
            Some((Phase::Opening, _)) => {}
            Some((Phase::Open | Phase::Over(End::Closed), _)) => {
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            Some((Phase::Over(end), _)) => return Poll::Ready(Err(error(end))),
            None => return Poll::Ready(Err(ErrorKind::NotConnected.into())),
        }
        if let Some(connection) = core.connections.get_mut(self.id) {
            connection.writer = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Closes our half: the peer learns of the end when it has all that was written. Pending while the connection opens,
    /// or needs a socket that is not to be had.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.core.borrow_mut();
        match core.shutdown(self.id) {
            Poll::Pending => {
                if let Some(connection) = core.connections.get_mut(self.id) {
                    connection.writer = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            ready => ready,
        }
    }

    /// Whether all that was written, the end included, has been acknowledged.
    pub fn is_flushed(&self) -> bool {
        let core = self.core.borrow();
        core.connections
            .get(self.id)
            .is_none_or(|connection| !connection.owed())
    }

    /// Resets the connection.
    pub fn abort(&self) {
        self.core.borrow_mut().abandon(self.id);
    }

    /// Lets the device segment what is sent, so that a packet may hold up to 64 KiB; or no longer. To be changed only
    /// while nothing is in flight, where two ways out could reorder.
    pub fn set_segmentation(&self, on: bool) {
        if let Some(connection) = self.core.borrow_mut().connections.get_mut(self.id) {
            connection.segmentation = on;
        }
    }

    /// Says that a task looks after the connection, as a splice would: [`Stack::finished`](crate::Stack::finished) tells of
    /// its end, and its buffers grow.
    pub fn look_after(&self) {
        let mut core = self.core.borrow_mut();
        let Some(connection) = core.connections.get_mut(self.id) else {
            return;
        };
        let (before, key) = (connection.joined, connection.key);
        connection.joined = true;
        if !before && matches!(connection.phase, Phase::Over(_)) {
            core.finished.push_back(key);
        }
    }

    /// Smoothed round trip, if one was measured.
    pub fn round_trip(&self) -> Option<Duration> {
        let core = self.core.borrow();
        core.connections.get(self.id)?.wire.round_trip()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core.borrow();
        let Some(connection) = core.connections.get(self.id) else {
            return f.write_str("Stream(gone)");
        };
        let queued = connection.live.as_ref();
        f.debug_struct("Stream")
            .field("tuple", &format_args!("{}", connection.key.tuple))
            .field("phase", &connection.phase)
            .field("state", &connection.state())
            .field("socket", &connection.live.is_some())
            .field("to_read", &connection.readable())
            .field(
                "to_send",
                &queued.map_or(0, |live| live.socket().send_queue()),
            )
            .field("wire", &connection.wire)
            .field("queued", &connection.queued)
            .field("due", &core.wheel.due(self.id))
            .finish()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        let now = core.now;
        let Some(connection) = core.connections.get_mut(self.id) else {
            return;
        };
        connection.held = false;
        connection.orphaned_at = now;
        connection.reader = None;
        connection.writer = None;
        if connection.readable() > 0 || connection.phase == Phase::Opening {
            core.abandon(self.id);
        } else if core.shutdown(self.id).is_pending() {
            core.abandon(self.id); // No socket to close it in order with.
        }
        core.arm(self.id);
        core.forget(self.id);
    }
}

impl Core {
    /// Whether a connection's buffers grow by what its user moves.
    pub(crate) fn joined(&self, id: u32) -> bool {
        let found = self.connections.get(id);
        found.is_some_and(|found| found.joined && found.held)
    }

    /// Resets a connection on behalf of its user.
    pub(crate) fn abandon(&mut self, id: u32) {
        if self.abort(id) {
            self.counters.count(Event::Aborted);
        }
    }

    /// Closes our half of a connection.
    fn shutdown(&mut self, id: u32) -> Poll<io::Result<()>> {
        let phase = self
            .connections
            .get(id)
            .map(|found| (found.phase, found.sending()));
        match phase {
            Some((Phase::Opening, _)) => Poll::Pending,
            Some((Phase::Open, true)) => {
                if self.wake(id).is_err() {
                    self.starve(id);
                    return Poll::Pending;
                }
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.close();
                }
                self.enqueue(id);
                Poll::Ready(Ok(()))
            }
            Some((Phase::Open | Phase::Over(End::Closed), _)) => Poll::Ready(Ok(())),
            Some((Phase::Over(end), _)) => Poll::Ready(Err(error(end))),
            None => Poll::Ready(Err(ErrorKind::NotConnected.into())),
        }
    }
}

fn error(end: End) -> io::Error {
    match end {
        End::Closed => ErrorKind::BrokenPipe,
        End::Reset => ErrorKind::ConnectionReset,
        End::Refused => ErrorKind::ConnectionRefused,
        End::TimedOut => ErrorKind::TimedOut,
        End::Aborted => ErrorKind::ConnectionAborted,
    }
    .into()
}
