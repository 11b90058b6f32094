//! A connection in memory, with bounded buffers and faults on request: what tests run the stage over.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::Stream;

/// What goes one way.
#[derive(Debug)]
struct Lane {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// Most bytes that one read sees.
    split: usize,
    /// Nothing arrives, and nothing is acknowledged.
    stalled: bool,
    fin: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            split: usize::MAX,
            stalled: false,
            fin: false,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum State {
    Opening,
    Open,
    Failed(ErrorKind),
}

#[derive(Debug)]
struct Wire {
    /// `lanes[n]` is what end n sends.
    lanes: [Lane; 2],
    state: State,
    dropped: [bool; 2],
}

impl Wire {
    /// What has come can still be read, as with the TCP stack's connections.
    fn fail(&mut self, kind: ErrorKind) {
        self.state = State::Failed(kind);
        self.lanes.iter_mut().for_each(Lane::wake);
    }
}

/// One end of a connection in memory.
#[derive(Debug)]
pub struct MemoryStream {
    wire: Rc<RefCell<Wire>>,
    end: usize,
}

/// What a test does to a connection from outside.
#[derive(Clone, Debug)]
pub struct Faults {
    wire: Rc<RefCell<Wire>>,
}

/// Two ends of a connection, each with room for `capacity` bytes that the other has not read.
pub fn pair(capacity: usize) -> (MemoryStream, MemoryStream) {
    connection(capacity, State::Open)
}

/// As [`pair`], with a connection that opens only once [`Faults::open`] is called.
pub fn opening(capacity: usize) -> (MemoryStream, MemoryStream) {
    connection(capacity, State::Opening)
}

fn connection(capacity: usize, state: State) -> (MemoryStream, MemoryStream) {
    let wire = Rc::new(RefCell::new(Wire {
        lanes: [Lane::new(capacity), Lane::new(capacity)],
        state,
        dropped: [false; 2],
    }));
    let end = |end| MemoryStream {
        wire: Rc::clone(&wire),
        end,
    };
    (end(0), end(1))
}

impl Faults {
    /// Lets the connection open.
    pub fn open(&self) {
        let mut wire = self.wire.borrow_mut();
        wire.state = State::Open;
        wire.lanes.iter_mut().for_each(Lane::wake);
    }

    /// Ends the connection for both ends with this error.
    pub fn fail(&self, kind: ErrorKind) {
        self.wire.borrow_mut().fail(kind);
    }

    /// Holds back, or lets go, what both ends send.
    pub fn stall(&self, on: bool) {
        for lane in &mut self.wire.borrow_mut().lanes {
            lane.stalled = on;
            lane.wake();
        }
    }

    /// Lets one read see `most` bytes at most.
    pub fn split(&self, most: usize) {
        for lane in &mut self.wire.borrow_mut().lanes {
            lane.split = most.max(1);
        }
    }

    /// How the connection failed, if it did.
    pub fn failure(&self) -> Option<ErrorKind> {
        match self.wire.borrow().state {
            State::Failed(kind) => Some(kind),
            State::Opening | State::Open => None,
        }
    }

    /// Bytes on their way to each end.
    pub fn in_flight(&self) -> [usize; 2] {
        let wire = self.wire.borrow();
        [wire.lanes[1].bytes.len(), wire.lanes[0].bytes.len()]
    }
}

impl MemoryStream {
    /// What a test can do to the connection.
    pub fn faults(&self) -> Faults {
        Faults {
            wire: Rc::clone(&self.wire),
        }
    }

    /// Writes what fits, at once.
    pub fn write_now(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_write_vectored(&mut cx, &[IoSlice::new(data)]) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(0),
        }
    }

    /// Reads all that has come, at once; `None` behind the peer's end, if nothing came before it.
    pub fn read_now(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        // Bound: what a lane holds, a piece at a time.
        loop {
            let read = self.poll_peek(&mut cx, |data| {
                all.extend_from_slice(data);
                data.len()
            });
            match read {
                Poll::Ready(Ok(0)) => return Ok((!all.is_empty()).then_some(all)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) if all.is_empty() => return Err(error),
                Poll::Ready(Err(_)) | Poll::Pending => return Ok(Some(all)),
            }
        }
    }

    /// Ends our half, at once.
    pub fn shutdown_now(&mut self) {
        let mut wire = self.wire.borrow_mut();
        wire.lanes[self.end].fin = true;
        wire.lanes[self.end].wake();
    }
}

impl Stream for MemoryStream {
    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.wire.borrow_mut();
        match wire.state {
            State::Open => Poll::Ready(Ok(())),
            State::Failed(kind) => Poll::Ready(Err(kind.into())),
            State::Opening => {
                wire.lanes[self.end].writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.wire.borrow_mut();
        let state = wire.state;
        let lane = &mut wire.lanes[1 - self.end];
        if let State::Failed(kind) = state
            && lane.bytes.is_empty()
        {
            return Poll::Ready(Err(kind.into()));
        }
        if !lane.stalled {
            let piece = lane.bytes.as_slices().0;
            if !piece.is_empty() {
                let shown = piece.len().min(lane.split);
                let taken = take(&piece[..shown]).min(shown);
                lane.bytes.drain(..taken);
                if taken > 0 {
                    if let Some(writer) = lane.writer.take() {
                        writer.wake();
                    }
                    return Poll::Ready(Ok(taken));
                }
                if let State::Failed(kind) = state {
                    return Poll::Ready(Err(kind.into()));
                }
            } else if lane.fin {
                return Poll::Ready(Ok(0));
            }
        }
        lane.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.wire.borrow_mut();
        let opening = wire.state == State::Opening;
        if let State::Failed(kind) = wire.state {
            return Poll::Ready(Err(kind.into()));
        }
        let lane = &mut wire.lanes[self.end];
        if lane.fin {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let mut room = lane.capacity.saturating_sub(lane.bytes.len());
        if opening || lane.stalled || room == 0 {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut written = 0;
        for piece in pieces {
            let fits = piece.len().min(room);
            lane.bytes.extend(&piece[..fits]);
            room -= fits;
            written += fits;
        }
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Failed(kind) = self.wire.borrow().state {
            return Poll::Ready(Err(kind.into()));
        }
        self.shutdown_now();
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        self.wire.borrow_mut().fail(ErrorKind::ConnectionReset);
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        let mut wire = self.wire.borrow_mut();
        wire.dropped[self.end] = true;
        let unread = !wire.lanes[1 - self.end].bytes.is_empty();
        let open = !matches!(wire.state, State::Failed(_));
        // What is on its way when its reader is gone is answered with a reset (RFC 9293 section 3.10.4).
        if open && (unread || wire.state == State::Opening) {
            wire.fail(ErrorKind::ConnectionReset);
        } else if open {
            wire.lanes[self.end].fin = true;
            wire.lanes[self.end].wake();
        }
    }
}

#[cfg(test)]
mod tests;
