//! A client: some requests, one connection after another, and what came of each.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use weft_l7::memory::MemoryStream;

use crate::plan::{Ask, Random, ask, content, message};
use crate::support::World;

/// Requests of a client.
const REQUESTS: u64 = 8;

/// What came of a request.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The right answer, to its last byte.
    Whole,
    /// An answer of the node's, which names its reason.
    Named,
    /// The connection was reset before the answer was whole.
    Broken,
    /// The connection was over before its turn.
    Unsent,
}

pub struct Client {
    seed: u64,
    stream: Option<MemoryStream>,
    asks: VecDeque<Ask>,
    /// Asked on this connection, and not yet answered.
    asked: VecDeque<Ask>,
    input: Vec<u8>,
    output: Vec<u8>,
    pipelines: bool,
    /// Goes away in the middle of things.
    pub aborts: bool,
    pub addresses: Vec<SocketAddr>,
    pub outcomes: Vec<(Ask, Outcome)>,
}

/// Numbers say which seed they are of.
pub fn seed_of(number: u64) -> u64 {
    number >> 32
}

impl Client {
    pub fn new(id: u64, seed: u64, random: &mut Random) -> Self {
        let asks = (0..REQUESTS)
            .map(|n| ask(seed << 32 | id << 8 | n, seed))
            .collect();
        Self {
            seed,
            stream: None,
            asks,
            asked: VecDeque::new(),
            input: Vec::new(),
            output: Vec::new(),
            pipelines: random.below(3) == 0,
            aborts: random.below(10) == 0,
            addresses: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.asks.is_empty() && self.asked.is_empty() && self.stream.is_none()
    }

    pub fn step(&mut self, world: &mut World, random: &mut Random) {
        if random.below(3) == 0 {
            return; // Elsewhere.
        }
        let Some(stream) = &mut self.stream else {
            if !self.asks.is_empty() {
                self.connect(world, random);
            }
            return;
        };
        if self.aborts && random.below(40) == 0 {
            stream.faults().fail(std::io::ErrorKind::ConnectionReset);
            return self.over(Outcome::Broken);
        }
        if self.output.is_empty() && (self.asked.is_empty() || self.pipelines) {
            match self.asks.pop_front() {
                Some(ask) => {
                    self.output = ask.bytes();
                    self.asked.push_back(ask);
                }
                None if self.asked.is_empty() => {
                    self.stream = None;
                    return;
                }
                None => {}
            }
        }
        let piece = self.output.len().min(1 + random.below(20_000) as usize);
        // What cannot be written may still have been answered.
        if let Ok(written) = stream.write_now(&self.output[..piece]) {
            self.output.drain(..written);
        }
        if random.below(4) == 0 {
            return; // Reads later.
        }
        let (mut ended, mut failed) = (false, false);
        match stream.read_now() {
            Ok(Some(bytes)) => self.input.extend(bytes),
            Ok(None) => ended = true,
            Err(_) => failed = true,
        }
        self.answers();
        if failed {
            self.check_beginning();
            self.over(Outcome::Broken);
        } else if ended {
            assert!(
                self.input.is_empty(),
                "an answer ends in the middle, in order: {self:?}"
            );
            self.over(Outcome::Unsent);
        }
    }

    fn connect(&mut self, world: &mut World, random: &mut Random) {
        let peer = world.client();
        peer.0
            .faults()
            .split([13, 500, usize::MAX, usize::MAX][random.below(4) as usize]);
        self.addresses.push(world.last_client());
        self.stream = Some(peer.0);
    }

    /// Takes the answers that have come whole, each of which must be to the first question.
    fn answers(&mut self) {
        while let Some(ask) = self.asked.front() {
            let Some(answer) = message(&self.input, ask.method == "HEAD", false) else {
                return;
            };
            self.input.drain(..answer.length);
            let ask = self.asked.pop_front().unwrap();
            let outcome = self.judge(&ask, &answer.head, &answer.body);
            self.outcomes.push((ask, outcome));
        }
        assert!(self.input.is_empty(), "an answer to nothing: {self:?}");
    }

    /// What is there of an answer that broke off has to be what it begins with, and less than all of it.
    fn check_beginning(&self) {
        let end = self
            .input
            .windows(4)
            .position(|window| window == b"\r\n\r\n");
        if let (Some(end), Some(ask)) = (end, self.asked.front())
            && String::from_utf8_lossy(&self.input[..end]).contains("content-length")
        {
            let (body, whole) = (&self.input[end + 4..], content(!ask.number, ask.gets));
            assert!(whole.starts_with(body), "wrong bytes for {ask:?}");
        }
    }

    fn judge(&self, ask: &Ask, head: &str, body: &[u8]) -> Outcome {
        let status = &head[9..12];
        if status == "200" {
            let number = format!("x-number: {}\r\n", ask.number);
            assert!(
                head.contains(&number),
                "another's answer: {head} to {ask:?}"
            );
            let whole = if ask.method == "HEAD" {
                vec![]
            } else {
                content(!ask.number, ask.gets)
            };
            assert!(
                ask.fault.is_harmless() || ask.method == "HEAD",
                "{ask:?} was answered"
            );
            assert!(body == whole, "wrong bytes for {ask:?}");
            return Outcome::Whole;
        }
        assert!(["502", "504"].contains(&status), "{head} to {ask:?}");
        if ask.method != "HEAD" {
            let body = String::from_utf8_lossy(body);
            let names = [
                "upstream_closed",
                "upstream_protocol",
                "backend_timeout",
                "request_timeout",
            ];
            assert!(
                names
                    .iter()
                    .any(|name| body.ends_with(&format!(": {name}\n"))),
                "{body}"
            );
        }
        // A request that may not be repeated can meet a connection that has just ended.
        let unlucky = !ask.is_idempotent() && status == "502";
        assert!(!ask.fault.is_harmless() || unlucky, "{head} to {ask:?}");
        Outcome::Named
    }

    /// The connection is over: what comes of the first request, and that the others were not looked at.
    fn over(&mut self, first: Outcome) {
        let within = self.asked.front().is_some_and(|ask| ask.fault.is_within());
        if first == Outcome::Broken && !self.aborts {
            assert!(within, "reset for no reason: {self:?}");
        }
        let mut outcome = first;
        for ask in self.asked.drain(..) {
            self.outcomes.push((ask, outcome));
            outcome = Outcome::Unsent;
        }
        self.stream = None;
        self.input.clear();
        self.output.clear();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("seed", &self.seed)
            .field("addresses", &self.addresses)
            .field("pipelines", &self.pipelines)
            .field("aborts", &self.aborts)
            .field("asked", &self.asked)
            .field("asks", &self.asks.len())
            .field(
                "unread",
                &String::from_utf8_lossy(&self.input[..self.input.len().min(200)]),
            )
            .field("unwritten", &self.output.len())
            .field("outcomes", &self.outcomes)
            .finish()
    }
}
