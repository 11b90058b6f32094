//! One connection, and the request that it carries.

use crate::poll::Poll;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read, write};
use rustix::net::sockopt::set_tcp_nodelay;
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Instant;

/// Field lines of an answer that are looked at.
const FIELDS: usize = 64;
/// Bytes that are read at once.
const READ: usize = 256 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// What came of an event.
pub(super) enum Step {
    /// Nothing yet.
    Waits,
    /// The request that was due then is answered; `closed`: and there will be no other.
    Answered { due: Instant, closed: bool },
    /// The server has closed a connection without a request.
    Closed,
}

/// How much of an answer is to come.
enum Answer {
    /// What has come of its head.
    Head(Vec<u8>),
    Body {
        left: u64,
        closed: bool,
    },
}

pub(super) struct Connection {
    socket: OwnedFd,
    connected: bool,
    due: Option<Instant>,
    unsent: usize,
    answer: Answer,
}

impl Connection {
    /// Begins to open a connection, known to `poll` by `number`.
    pub(super) fn open(to: SocketAddr, poll: &Poll, number: u64) -> Result<Self> {
        let socket = poll.connect(to, number)?;
        set_tcp_nodelay(&socket, true)?;
        Ok(Self {
            socket,
            connected: false,
            due: None,
            unsent: 0,
            answer: Answer::Head(Vec::new()),
        })
    }

    /// When the request was due that it carries.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sends `request`, as soon as that can be.
    pub(super) fn ask(&mut self, request: &[u8], due: Instant) -> Result<()> {
        self.due = Some(due);
        self.unsent = request.len();
        if self.connected {
            return self.send(request);
        }
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> Result<()> {
        let rest = &request[request.len() - self.unsent..];
        if rest.is_empty() {
            return Ok(());
        }
        match write(&self.socket, rest) {
            Ok(sent) => self.unsent -= sent,
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Goes as far as it gets.
    pub(super) fn step(&mut self, request: &[u8], flags: EventFlags) -> Result<Step> {
        if flags.contains(EventFlags::OUT) {
            self.connected = true;
            if self.due.is_some() {
                self.send(request)?;
            }
        }
        if !flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP | EventFlags::RDHUP)
        {
            return Ok(Step::Waits);
        }
        BUFFER.with_borrow_mut(|buffer| self.receive(buffer))
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Step> {
        // Ends, because all that has come is finite, and what is not asked for is an error.
        loop {
            let length = match read(&self.socket, &mut *buffer) {
                Ok(0) if self.due.is_none() => return Ok(Step::Closed),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(Errno::AGAIN) => return Ok(Step::Waits),
                Err(error) => return Err(error.into()),
            };
            if self.take(&buffer[..length])? {
                let closed = matches!(self.answer, Answer::Body { closed: true, .. });
                self.answer = Answer::Head(Vec::new());
                let due = self.due.take().ok_or(ErrorKind::InvalidData)?;
                return Ok(Step::Answered { due, closed });
            }
            // Less than there was room for: there is no more for now.
            if length < buffer.len() {
                return Ok(Step::Waits);
            }
        }
    }

    /// Takes bytes of an answer; true at its end.
    fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        let mut length = bytes.len();
        if let Answer::Head(kept) = &mut self.answer {
            let whole = if kept.is_empty() {
                Cow::Borrowed(bytes)
            } else {
                kept.extend_from_slice(bytes);
                Cow::Owned(std::mem::take(kept))
            };
            let Some((head, left, closed)) = head(&whole)? else {
                *kept = whole.into_owned();
                return Ok(false);
            };
            length = whole.len() - head;
            self.answer = Answer::Body { left, closed };
        }
        let Answer::Body { left, .. } = &mut self.answer else {
            return Ok(false);
        };
        *left = left
            .checked_sub(length as u64)
            .ok_or_else(|| Error::other("the server says too much"))?;
        Ok(*left == 0)
    }
}

/// The length of an answer's head, that of its body, and whether the connection ends with it; `None` while it is not whole.
fn head(bytes: &[u8]) -> Result<Option<(usize, u64, bool)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = answer.parse(bytes).map_err(Error::other)? else {
        return Ok(None);
    };
    if answer.code != Some(200) {
        return Err(Error::other(format!("status {:?}", answer.code)));
    }
    let field = |name: &str| {
        let found = answer
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| str::from_utf8(field.value).ok())
    };
    let left = field("content-length").and_then(|value| value.parse().ok());
    let left = left.ok_or_else(|| Error::other("an answer without a length"))?;
    let closed = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some((length, left, closed)))
}
