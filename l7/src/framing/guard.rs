//! Follows one direction of an HTTP/1.1 connection and lets through what is sound.

use super::chunk::Chunks;
use super::{Body, HeadLimits, Reject, head};

/// Bytes of a refused request's first line that are kept for the log: what the log takes of a target, and a method.
const KEPT: usize = 1_024 + 32;

/// What stands in for a request that is refused: it closes the connection, and whoever serves it knows its number.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// Collecting a head.
    Head,
    Length(u64),
    Chunked(Box<Chunks>),
    UntilEnd,
    /// Behind a request that may turn the connection over to another protocol: nothing is read until that is decided.
    Hold,
    /// Nothing more is read.
    Over,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Side {
    /// Requests of a client.
    Requests,
    /// Responses of a backend to one request at a time.
    Responses { awaited: bool, to_head: bool },
}

/// What came of some bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Bytes taken that stay with the guard: more are needed.
    Kept(usize),
    /// Bytes taken that are to be passed on as they are.
    Passed(usize),
    /// Bytes taken, with which a head is complete: it is in [`Guard::ready`].
    Head(usize),
    /// The message is not to be passed on.
    Failed(Reject),
}

/// The state of one direction.
#[derive(Debug)]
pub(crate) struct Guard {
    side: Side,
    state: State,
    limits: HeadLimits,
    head: Vec<u8>,
    /// Where the present line begins in it.
    line: usize,
    /// Whether an empty line has come before it.
    blank: bool,
    /// How much of a complete head has been passed on.
    passed: Option<usize>,
    heads: u64,
    status: u16,
    /// The last request asks for nothing but its answer.
    plain: bool,
    /// How the last message's body ends.
    body: Body,
    /// Bytes of it so far, without what frames them.
    body_bytes: u64,
    /// Its trailer fields, a line each.
    trailers: Vec<u8>,
    /// What had come of the first line of a request that was refused, for the log.
    refused: Box<[u8]>,
}

impl Guard {
    /// For what a client sends.
    pub(crate) fn requests(limits: HeadLimits) -> Self {
        Self::new(Side::Requests, limits)
    }

    /// For what a backend sends.
    pub(crate) fn responses(limits: HeadLimits) -> Self {
        let side = Side::Responses {
            awaited: false,
            to_head: false,
        };
        Self::new(side, limits)
    }

    fn new(side: Side, limits: HeadLimits) -> Self {
        Self {
            side,
            state: State::Head,
            limits,
            head: Vec::new(),
            line: 0,
            blank: false,
            passed: None,
            heads: 0,
            status: 0,
            plain: false,
            body: Body::None,
            body_bytes: 0,
            trailers: Vec::new(),
            refused: Box::default(),
        }
    }

    /// Whether the last request is of HTTP/1.1, with nothing about it but a head and perhaps a body.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// How the last message's body ends.
    pub(crate) fn body(&self) -> Body {
        self.body
    }

    /// Bytes of that body so far, without what frames them.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The trailer fields of that body, once it has been seen as a whole: a line each, with names in lower case.
    pub(crate) fn take_trailers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailers)
    }

    /// A complete head as a whole, of which nothing has been passed on.
    pub(crate) fn take_head(&mut self) -> Vec<u8> {
        self.line = 0;
        self.passed = None;
        std::mem::take(&mut self.head)
    }

    /// Heads that were complete so far, or replaced.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// The status of the last response.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// A request goes out: one response may come.
    pub(crate) fn await_response(&mut self, to_head: bool) {
        self.side = Side::Responses {
            awaited: true,
            to_head,
        };
    }

    /// Whether the next byte would be the first of a message.
    pub(crate) fn is_between(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// Whether a backend has sent a whole response; `ended`: and then the end.
    pub(crate) fn is_answered(&self, ended: bool) -> bool {
        let awaited = matches!(self.side, Side::Responses { awaited: true, .. });
        !awaited && (self.is_between() || (ended && self.state == State::UntilEnd))
    }

    /// Whether part of a head has come.
    pub(crate) fn is_in_head(&self) -> bool {
        self.state == State::Head && !self.head.is_empty() && self.passed.is_none()
    }

    /// Whether part of a body is still to come.
    pub(crate) fn is_in_body(&self) -> bool {
        matches!(
            self.state,
            State::Length(_) | State::Chunked(_) | State::UntilEnd
        )
    }

    /// Whether it follows what a backend sends.
    pub(crate) fn is_for_responses(&self) -> bool {
        matches!(self.side, Side::Responses { .. })
    }

    /// Whether it waits for the outcome of an upgrade.
    pub(crate) fn holds(&self) -> bool {
        self.state == State::Hold
    }

    /// Whether bytes may be looked at.
    pub(crate) fn reads(&self) -> bool {
        !matches!(self.state, State::Hold | State::Over)
    }

    /// The connection stays with HTTP: goes on behind a request that might have ended it.
    pub(crate) fn resume(&mut self) {
        if self.state == State::Hold {
            self.state = State::Head;
        }
    }

    /// What of a complete head is to be passed on.
    pub(crate) fn ready(&self) -> &[u8] {
        self.passed.map_or(&[], |passed| &self.head[passed..])
    }

    /// Notes that so many bytes of [`Self::ready`] were passed on. The memory of a long head is given back.
    pub(crate) fn pass(&mut self, bytes: usize) {
        let Some(passed) = &mut self.passed else {
            return;
        };
        *passed += bytes;
        if *passed >= self.head.len() {
            self.head.clear();
            self.head.shrink_to(1024);
            self.line = 0;
            self.passed = None;
        }
    }

    /// What had come of the first line of the request that was refused, at most [`KEPT`] bytes: nobody has checked it.
    pub(crate) fn refused(&self) -> &[u8] {
        &self.refused
    }

    /// Puts a request in place of the one that is refused. It is the last one of the connection.
    pub(crate) fn stand_in(&mut self) {
        let end = self
            .head
            .iter()
            .position(|byte| matches!(byte, b'\r' | b'\n'));
        let line = &self.head[..end.unwrap_or(self.head.len())];
        self.refused = line[..line.len().min(KEPT)].into();
        self.head.clear();
        self.head.extend_from_slice(STAND_IN);
        self.passed = Some(0);
        self.heads += 1;
        self.state = State::Over;
    }

    /// Looks at bytes that have come, of which `room` could be passed on. Not while a head is [`Self::ready`].
    pub(crate) fn advance(&mut self, bytes: &[u8], room: usize) -> Progress {
        self.decode(bytes, room, |_| ())
    }

    /// As [`Self::advance`]; what is passed on goes to `put`, without what frames it.
    pub(crate) fn decode(&mut self, bytes: &[u8], room: usize, put: impl FnMut(&[u8])) -> Progress {
        match self.step(bytes, room, put) {
            Ok(progress) => progress,
            Err(reject) => {
                self.state = State::Over;
                Progress::Failed(reject)
            }
        }
    }

    fn step(
        &mut self,
        bytes: &[u8],
        room: usize,
        mut put: impl FnMut(&[u8]),
    ) -> Result<Progress, Reject> {
        let bytes = match self.state {
            State::Head => bytes,
            _ => &bytes[..bytes.len().min(room)],
        };
        match &mut self.state {
            State::Head => self.collect(bytes),
            State::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                self.body_bytes += taken as u64;
                put(&bytes[..taken]);
                if *left == 0 {
                    self.state = State::Head;
                }
                Ok(Progress::Passed(taken))
            }
            State::Chunked(chunks) => {
                let body_bytes = &mut self.body_bytes;
                let put = |data: &[u8]| {
                    *body_bytes += data.len() as u64;
                    put(data);
                };
                let limits = &self.limits;
                let taken = chunks.advance(bytes, limits.bytes, limits.fields, put)?;
                if chunks.is_done() {
                    self.trailers = chunks.take_trailers();
                    self.state = State::Head;
                }
                Ok(Progress::Passed(taken))
            }
            State::UntilEnd => {
                self.body_bytes += bytes.len() as u64;
                put(bytes);
                Ok(Progress::Passed(bytes.len()))
            }
            State::Hold | State::Over => Ok(Progress::Kept(0)),
        }
    }

    /// Takes bytes of a head, up to its end, line by line.
    fn collect(&mut self, bytes: &[u8]) -> Result<Progress, Reject> {
        if matches!(self.side, Side::Responses { awaited: false, .. }) {
            return Err(Reject::Unsolicited);
        }
        let mut taken = 0;
        // Bound: each turn takes a line, or all that is left.
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let end = memchr::memchr(b'\n', rest);
            let piece = &rest[..end.map_or(rest.len(), |end| end + 1)];
            if let Err(reject) = self.room(piece.len()) {
                let kept = piece.len().min(KEPT);
                self.head.extend_from_slice(&piece[..kept]); // Part of a first line, perhaps.
                return Err(reject);
            }
            self.head.extend_from_slice(piece);
            taken += piece.len();
            if end.is_none() {
                break;
            }
            let line = &self.head[self.line..];
            let Some(line) = line.strip_suffix(b"\r\n") else {
                return Err(Reject::BareLf);
            };
            match (line.is_empty(), self.line) {
                (false, _) => self.line = self.head.len(),
                // An empty line before a request is not part of it (RFC 9112 section 2.2); one is borne.
                (true, 0) if self.side == Side::Requests && !self.blank => {
                    self.head.clear();
                    self.blank = true;
                }
                (true, 0) => return Err(Reject::StartLine),
                (true, _) => {
                    self.complete()?;
                    return Ok(Progress::Head(taken));
                }
            }
        }
        Ok(Progress::Kept(taken))
    }

    /// Whether so many bytes more are allowed.
    fn room(&self, more: usize) -> Result<(), Reject> {
        let length = self.head.len() + more;
        // A method and a version, besides the target.
        if self.line == 0 && self.side == Side::Requests && length > self.limits.target + 64 {
            return Err(Reject::TargetLength);
        }
        if length > self.limits.bytes {
            return Err(Reject::HeadLength);
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Reject> {
        let (body, upgrade) = match self.side {
            Side::Requests => {
                let found = head::request(&self.head, &self.limits)?;
                self.plain = found.plain;
                (found.body, found.upgrade)
            }
            Side::Responses { to_head, .. } => {
                let found = head::response(&self.head, to_head, &self.limits)?;
                self.status = found.status;
                let last = found.status >= 200 || found.status == 101;
                self.side = Side::Responses {
                    awaited: !last,
                    to_head,
                };
                (found.body, found.status == 101)
            }
        };
        self.state = match body {
            Body::None if upgrade => State::Hold,
            Body::None => State::Head,
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::Chunked(Box::new(Chunks::new())),
            Body::UntilEnd => State::UntilEnd,
        };
        self.body = body;
        self.body_bytes = 0;
        self.trailers = Vec::new();
        self.passed = Some(0);
        self.blank = false;
        self.heads += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
