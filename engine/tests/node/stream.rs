//! Connections as clients and backends use them: looked at when their stack says that there is something, or at a time of
//! their own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use weft_datapath::Now;
use weft_stack::Stream;

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// When somebody is to be looked at.
pub struct Attention {
    flag: Arc<Flag>,
    waker: Waker,
    due: Option<Now>,
}

impl Attention {
    /// Whoever it is has something to do at that time.
    pub fn at(due: Now) -> Self {
        let flag = Arc::new(Flag::default());
        Self {
            waker: Arc::clone(&flag).into(),
            flag,
            due: Some(due),
        }
    }

    /// Whether it is time, or the stack has called.
    pub fn take(&mut self, now: Now) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = None;
        }
        self.flag.0.swap(false, Ordering::Relaxed) || due
    }

    pub fn due(&self, now: Now) -> Option<Now> {
        match self.flag.0.load(Ordering::Relaxed) {
            true => Some(now),
            false => self.due,
        }
    }

    /// Sets the next time, if there is none before.
    pub fn by(&mut self, due: Now) {
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }

    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    pub fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

/// Takes all that has come. `true` at the end.
pub fn read(stream: &Stream, attention: &Attention, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    loop {
        match stream.poll_read(&mut attention.context(), &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Ok(true),
            Poll::Ready(Ok(read)) => input.extend_from_slice(&buffer[..read]),
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
}

/// Writes as much as there is room for.
pub fn write(
    stream: &Stream,
    attention: &Attention,
    output: &mut Vec<u8>,
    most: usize,
) -> io::Result<()> {
    let piece = output.len().min(most);
    if piece == 0 {
        return Ok(());
    }
    match stream.poll_write(&mut attention.context(), &output[..piece]) {
        Poll::Pending => Ok(()),
        Poll::Ready(written) => written.map(|written| drop(output.drain(..written))),
    }
}
