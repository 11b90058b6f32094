//! A client: some requests, one connection after another, and what came of each.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use weft_datapath::Now;
use weft_stack::Stream;

use crate::books::Outcome;
use crate::plan::{Ask, Random, content, message};
use crate::pods::Pod;
use crate::stream::{Attention, read, write};
use crate::{NAMES, PATIENCE, VIP};

pub struct Client {
    pub attention: Attention,
    /// Its pod, and the next port there.
    pub pod: usize,
    port: u16,
    stream: Option<Stream>,
    asks: VecDeque<Ask>,
    /// Asked on this connection, and not yet answered.
    asked: VecDeque<Ask>,
    /// Since when the first of them has been waited for.
    since: Now,
    input: Vec<u8>,
    output: Vec<u8>,
    pipelines: bool,
    /// Goes away in the middle of things.
    pub aborts: bool,
    /// An answer has said that the connection ends with it.
    closing: bool,
    pub outcomes: Vec<(Ask, Outcome)>,
}

impl Client {
    pub fn new(place: (usize, u16), asks: VecDeque<Ask>, start: Now, random: &mut Random) -> Self {
        Self {
            attention: Attention::at(start),
            pod: place.0,
            port: place.1,
            stream: None,
            asks,
            asked: VecDeque::new(),
            since: start,
            input: Vec::new(),
            output: Vec::new(),
            pipelines: random.below(3) == 0,
            aborts: random.below(10) == 0,
            closing: false,
            outcomes: Vec::new(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.asks.is_empty() && self.asked.is_empty() && self.stream.is_none()
    }

    pub fn step(&mut self, pod: &Pod, now: Now, random: &mut Random) {
        if random.below(4) == 0 {
            // Elsewhere.
            return (self.attention).by(now + Duration::from_micros(random.below(3_000)));
        }
        assert!(
            self.asked.is_empty() || now.since(self.since) < PATIENCE,
            "nothing comes of it: {self:?}"
        );
        let Some(stream) = self.stream.take() else {
            if !self.asks.is_empty() {
                self.closing = false;
                self.stream = Some(pod.connect(self.port, VIP, now));
                self.port += 1;
                self.attention.waker().wake_by_ref();
            }
            return;
        };
        if self.aborts && random.below(30) == 0 {
            stream.abort();
            return self.over(Outcome::Broken(self.port), now);
        }
        if self.output.is_empty() && (self.asked.is_empty() || self.pipelines) {
            match self.asks.pop_front() {
                Some(ask) => {
                    self.output = ask.bytes();
                    if self.asked.is_empty() {
                        self.since = now;
                    }
                    self.asked.push_back(ask);
                }
                None if self.asked.is_empty() => return, // With the stream, the connection ends.
                None => {}
            }
        }
        let most = 1 + random.below(20_000) as usize;
        // What cannot be written may still have been answered.
        let _ = write(&stream, &self.attention, &mut self.output, most);
        let answers = self.outcomes.len();
        let end = read(&stream, &self.attention, &mut self.input);
        self.answers(now);
        match end {
            Ok(false) => {
                self.stream = Some(stream);
                if self.outcomes.len() > answers || !self.output.is_empty() {
                    let pause = Duration::from_micros(random.below(2_000));
                    self.attention.by(now + pause);
                }
                self.attention.by(self.since + PATIENCE);
            }
            Ok(true) => {
                assert!(
                    self.input.is_empty(),
                    "an answer ends in the middle, in order: {self:?}"
                );
                self.over(Outcome::Unsent, now);
            }
            Err(_) => {
                self.check_beginning();
                if self.closing {
                    self.over(Outcome::Unsent, now);
                } else {
                    self.broken(now);
                }
            }
        }
    }

    /// Takes the answers that have come whole, each of which must be to the first question.
    fn answers(&mut self, now: Now) {
        while let Some(ask) = self.asked.front() {
            let Some(answer) = message(&self.input, ask.method == "HEAD", false) else {
                return;
            };
            self.input.drain(..answer.length);
            let ask = self.asked.pop_front().unwrap();
            self.closing |= answer.head.contains("connection: close");
            self.since = now;
            let outcome = judge(&ask, &answer.head, &answer.body);
            self.outcomes.push((ask, outcome));
        }
        assert!(self.input.is_empty(), "an answer to nothing: {self:?}");
    }

    /// What is there of an answer that broke off has to be what it begins with, and less than all of it.
    fn check_beginning(&self) {
        let mut heads = self.input.windows(4);
        let end = heads.position(|window| window == b"\r\n\r\n");
        if let (Some(end), Some(ask)) = (end, self.asked.front())
            && String::from_utf8_lossy(&self.input[..end]).contains("content-length")
        {
            let (body, whole) = (&self.input[end + 4..], content(!ask.number, ask.gets));
            assert!(whole.starts_with(body), "wrong bytes for {ask:?}");
        }
    }

    /// The connection has ended in order, or by this client: what comes of the first request. The others were not looked at.
    fn over(&mut self, first: Outcome, now: Now) {
        let mut outcome = first;
        for ask in self.asked.drain(..) {
            self.outcomes.push((ask, outcome));
            outcome = Outcome::Unsent;
        }
        self.forget(now);
    }

    /// The node has reset the connection, for an answer that it could not finish. The reset may have overtaken those before.
    fn broken(&mut self, now: Now) {
        let mut asked = self.asked.iter();
        let cause = asked.any(|ask| ask.fault.is_within() && ask.method != "HEAD");
        assert!(cause, "reset for no reason: {self:?}");
        let asked = self.asked.drain(..);
        self.outcomes
            .extend(asked.map(|ask| (ask, Outcome::Broken(self.port))));
        self.forget(now);
    }

    fn forget(&mut self, now: Now) {
        self.input.clear();
        self.output.clear();
        self.attention.by(now);
    }
}

/// Holds a whole answer against what was asked.
pub fn judge(ask: &Ask, head: &str, body: &[u8]) -> Outcome {
    let status = &head[9..12];
    if status == "200" {
        let number = format!("x-number: {}\r\n", ask.number);
        assert!(
            head.contains(&number),
            "another's answer: {head} to {ask:?}"
        );
        return right(ask, body);
    }
    let named = named(ask, status.parse().unwrap());
    if ask.method != "HEAD" {
        let body = String::from_utf8_lossy(body);
        let mut names = NAMES.iter();
        assert!(
            names.any(|name| body.ends_with(&format!(": {name}\n"))),
            "{body}"
        );
    }
    named
}

/// An answer of 200 and a whole body.
pub fn right(ask: &Ask, body: &[u8]) -> Outcome {
    let is_head = ask.method == "HEAD";
    let whole = content(!ask.number, if is_head { 0 } else { ask.gets });
    assert!(ask.fault.is_harmless() || is_head, "{ask:?} was answered");
    assert!(body == whole, "wrong bytes for {ask:?}");
    Outcome::Whole
}

/// An answer of the node's own.
pub fn named(ask: &Ask, status: u16) -> Outcome {
    assert!([502, 504].contains(&status), "{status} to {ask:?}");
    // A request can meet a connection that has just ended, and its only repeat another one.
    assert!(
        !ask.fault.is_harmless() || status == 502,
        "{status} to {ask:?}"
    );
    Outcome::Named(status)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unread = &self.input[..self.input.len().min(200)];
        f.debug_struct("Client")
            .field("pod", &self.pod)
            .field("port", &self.port)
            .field("stream", &self.stream)
            .field("pipelines", &self.pipelines)
            .field("aborts", &self.aborts)
            .field("asked", &self.asked)
            .field("asks", &self.asks.len())
            .field("unread", &String::from_utf8_lossy(unread))
            .field("unwritten", &self.output.len())
            .field("outcomes", &self.outcomes)
            .finish()
    }
}
