//! Scripts of packets and calls, in the manner of packetdrill.
//!
//! A line is a time and an action. `+1.5` is that many seconds after the line before: an input then happens, an
//! output must then come (within [`TOLERANCE`]). Nothing may come out that no line expects. Numbers are relative to
//! each end's first one, and data is a known pattern by its place in the stream.
//!
//! ```text
//! # A comment; the first ones say what is shown, and where it is demanded.
//! ! service option = value         before the first line with a time
//! +0 < S 0:0(0) win 65535 <mss 1460,wscale 7,sackOK>     the peer sends
//! +0 > S. 0:0(0) ack 1 <mss 1460,wscale 7,sackOK>        the stack sends; what is not said may be anything
//! +0 connect | accept | write N | read N | read eof | read ERROR | write ERROR | shutdown | close | abort
//! +0 count NAME N                  an event or a drop, by its name in the counters
//! +0 hold connections=1 sockets=0 half_open=0 time_wait=0
//! ```

use std::time::Duration;

use weft_datapath::Now;
use weft_stack::*;

use crate::support::packet::*;
use crate::support::*;

/// How far an output may be from its time: a tick of the timer wheel and one of the clock, or a twentieth.
const TOLERANCE: Duration = Duration::from_millis(3);
/// The largest step of the clock while a script waits.
const STEP: Duration = Duration::from_millis(1);
/// The peer's first number: the stream crosses the end of the number space early.
const PEER_ISN: u32 = 0xffff_fe00;
const PEER_PORT: u16 = 40_000;

/// Runs one script in both families.
pub fn run(text: &str) {
    for net in Net::both() {
        Run::new(net, text).run(text);
    }
}

struct Run {
    net: Net,
    host: Host,
    now: Now,
    /// The peer's end, and ours.
    peer: (weft_datapath::Address, u16),
    local: (weft_datapath::Address, u16),
    isn: Option<u32>,
    stream: Option<Stream>,
    written: usize,
    read: usize,
    line: String,
}

impl Run {
    fn new(net: Net, text: &str) -> Self {
        let (mut config, mut options) = (config(7), small());
        for line in text.lines().filter_map(|line| line.strip_prefix('!')) {
            let (key, value) = line.split_once('=').unwrap();
            set(&mut config, &mut options, key.trim(), value.trim());
        }
        let active = text.lines().any(|line| line.ends_with("connect"));
        let (peer, local) = if active {
            ((net.server, 80), (net.client, PEER_PORT))
        } else {
            ((net.client, PEER_PORT), (net.server, 80))
        };
        Self {
            net,
            host: Host::new(&config, options),
            now: Now::from_nanos(5_000_000_000),
            peer,
            local,
            isn: None,
            stream: None,
            written: 0,
            read: 0,
            line: String::new(),
        }
    }

    fn run(&mut self, text: &str) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap().trim();
            if line.is_empty() || line.starts_with('!') {
                continue;
            }
            self.line = line.to_owned();
            let (time, action) = line
                .split_once(' ')
                .unwrap_or_else(|| self.fail("no action"));
            let seconds: f64 = time.strip_prefix('+').unwrap().parse().unwrap();
            let due = self.now + Duration::from_secs_f64(seconds);
            let action = action.trim();
            match action.strip_prefix('>') {
                Some(expected) => self.expect(expected.trim(), due),
                None => {
                    self.wait(due);
                    self.act(action);
                }
            }
        }
        self.line = "the end".into();
        self.wait(self.now + Duration::from_millis(50));
    }

    fn fail(&self, what: &str) -> ! {
        panic!(
            "{} at {:?}, {:?}: {what}\n{:?}\n{:?}",
            self.line,
            self.now,
            self.net,
            self.host.stack.holdings(),
            self.host.stack.counters()
        );
    }

    /// Time passes, and nothing comes out.
    fn wait(&mut self, due: Now) {
        loop {
            self.host.poll(self.now);
            if let Some(frame) = self.host.wire.frames.front() {
                let packet = Tcp::read(frame);
                self.fail(&format!("the stack sent {}", self.words(&packet)));
            }
            if self.now >= due {
                return;
            }
            self.now = (self.now + STEP).min(due);
        }
    }

    fn expect(&mut self, expected: &str, due: Now) {
        let slack = TOLERANCE.max(due.since(self.now) / 20);
        let latest = due + slack;
        let frame = loop {
            self.host.poll(self.now);
            if let Some(frame) = self.host.wire.frames.pop_front() {
                break frame;
            }
            if self.now >= latest {
                self.fail("the stack sent nothing");
            }
            self.now = (self.now + STEP).min(latest);
        };
        let packet = Tcp::read(&frame);
        if self.now + slack < due {
            self.fail(&format!("too early: {}", self.words(&packet)));
        }
        if (packet.src, packet.dst) != (self.local, self.peer) {
            self.fail(&format!("between other ends: {packet:?}"));
        }
        if packet.flags & SYN != 0 && self.isn.is_none() {
            self.isn = Some(packet.seq);
        }
        let found = self.words(&packet);
        let same = |expected: &str| {
            let words = found
                .split_whitespace()
                .map(Some)
                .chain(std::iter::repeat(None));
            words
                .zip(expected.split_whitespace())
                .all(|(found, word)| found == Some(word))
        };
        let (head, options) = split_options(expected);
        if !same(&head) {
            self.fail(&format!("the stack sent {found}"));
        }
        if let Some(options) = options {
            let options: Vec<String> = options
                .split(',')
                .map(|option| self.by_family(option.trim()))
                .collect();
            let found = packet.options_in_words(PEER_ISN);
            if options != found && !(options == [""] && found.is_empty()) {
                self.fail(&format!("the stack sent the options {found:?}"));
            }
        }
        let place = packet
            .seq
            .wrapping_sub(self.isn.unwrap_or(0))
            .wrapping_sub(1) as usize;
        // One byte may be a probe, in which it means nothing.
        if packet.data.len() > 1 && place < 1 << 20 {
            assert_eq!(packet.data, pattern(place + packet.data.len())[place..]);
        }
    }

    /// A packet of the stack's in the words of a script.
    fn words(&self, packet: &Tcp) -> String {
        let reset_without_ack = packet.flags & (RST | ACK) == RST;
        let isn = if self.isn.is_none() {
            packet.seq
        } else {
            self.isn.unwrap_or(0)
        };
        let seq = packet.seq.wrapping_sub(isn);
        let end = seq.wrapping_add(packet.data.len() as u32);
        let mut words = format!(
            "{} {seq}:{end}({})",
            packet.flags_in_words(),
            packet.data.len()
        );
        if packet.flags & ACK != 0 {
            words += &format!(" ack {}", packet.ack.wrapping_sub(PEER_ISN));
        }
        if !reset_without_ack {
            words += &format!(" win {}", packet.window);
        }
        words
    }

    /// Segment sizes stand for IPv4; IPv6 has 20 bytes less where they are our own.
    fn by_family(&self, option: &str) -> String {
        match (option, self.net.client.is_v4()) {
            ("mss 1460", false) => "mss 1440".into(),
            _ => option.to_owned(),
        }
    }

    fn act(&mut self, action: &str) {
        let mut words = action.split_whitespace();
        let (verb, object) = (words.next().unwrap(), words.next().unwrap_or_default());
        match (verb, object) {
            ("<", _) => self.inject(action[1..].trim()),
            ("connect", _) => {
                let net = Net {
                    client: self.local.0,
                    server: self.peer.0,
                };
                self.stream = Some(self.host.connect(&net, self.local.1, self.now));
            }
            ("accept", _) => {
                let accepted = self.host.stack.accept();
                let accepted = accepted.unwrap_or_else(|| self.fail("nothing to accept"));
                assert_eq!((accepted.service, accepted.route), (SERVICE, ROUTE));
                assert_eq!((accepted.tuple.src, accepted.tuple.sport), self.peer);
                self.stream = Some(accepted.stream);
            }
            ("write", "error") => {
                let kind = self.stream().poll_write(&mut context(), &[0]);
                assert!(
                    matches!(kind, std::task::Poll::Ready(Err(_))),
                    "{action}: {kind:?}"
                );
            }
            ("write", count) => {
                let end = self.written + count.parse::<usize>().unwrap();
                let written = write(self.stream(), &pattern(end)[self.written..]);
                self.written += written;
                if self.written != end {
                    self.fail(&format!("wrote {written}"));
                }
            }
            ("read", "eof") => {
                if read(self.stream()) != (vec![], true) {
                    self.fail("not at the end");
                }
            }
            ("read", "nothing") => {
                if read(self.stream()) != (vec![], false) {
                    self.fail("there is something to read");
                }
            }
            ("read", "error") => {
                let kind = read_error(self.stream());
                let expected = words.next().unwrap();
                if format!("{kind:?}") != format!("Some({expected})") {
                    self.fail(&format!("{kind:?}"));
                }
            }
            ("read", count) => {
                let end = self.read + count.parse::<usize>().unwrap();
                let mut data = vec![0; end - self.read];
                let mut filled = 0;
                while filled < data.len() {
                    let mut cx = context();
                    match self.stream().poll_read(&mut cx, &mut data[filled..]) {
                        std::task::Poll::Ready(Ok(count)) if count > 0 => filled += count,
                        other => self.fail(&format!("read {filled}, then {other:?}")),
                    }
                }
                assert_eq!(data, pattern(end)[self.read..], "{action}");
                self.read = end;
            }
            ("shutdown", _) => shutdown(self.stream()),
            ("close", _) => self.stream = None,
            ("abort", _) => self.stream().abort(),
            ("count", name) => self.count(name, words.next().unwrap().parse().unwrap()),
            ("hold", _) => {
                for word in action.split_whitespace().skip(1) {
                    self.hold(word);
                }
            }
            _ => self.fail("no such action"),
        }
    }

    fn stream(&self) -> &Stream {
        self.stream
            .as_ref()
            .unwrap_or_else(|| self.fail("no stream"))
    }

    fn count(&self, name: &str, expected: u64) {
        let counters = self.host.stack.counters();
        let event = Event::ALL.into_iter().find(|event| event.name() == name);
        let drop = DropReason::ALL
            .into_iter()
            .find(|reason| reason.name() == name);
        let found = match (event, drop) {
            (Some(event), _) => counters.events(event),
            (_, Some(reason)) => counters.drops(reason),
            _ => self.fail("no such counter"),
        };
        if found != expected {
            self.fail(&format!("{found} {name}"));
        }
    }

    fn hold(&self, word: &str) {
        let (name, count) = word.split_once('=').unwrap();
        let holdings = self.host.stack.holdings();
        let found = match name {
            "connections" => holdings.connections,
            "sockets" => holdings.sockets,
            "half_open" => holdings.half_open,
            "time_wait" => holdings.time_wait,
            _ => self.fail("no such holding"),
        };
        if found != count.parse::<usize>().unwrap() {
            self.fail(&format!("{found} {name}"));
        }
    }

    fn inject(&mut self, text: &str) {
        let (head, options) = split_options(text);
        let mut words = head.split_whitespace();
        let flags = words.next().unwrap().chars().fold(0, |flags, letter| {
            flags
                | match letter {
                    'S' => SYN,
                    'F' => FIN,
                    'R' => RST,
                    'P' => PSH,
                    'U' => URG,
                    '.' => ACK,
                    '-' => 0,
                    _ => panic!("{text}"),
                }
        });
        let range = words.next().unwrap();
        let (start, rest) = range.split_once(':').unwrap();
        let (end, len) = rest.trim_end_matches(')').split_once('(').unwrap();
        let (start, end): (i64, i64) = (start.parse().unwrap(), end.parse().unwrap());
        assert_eq!(end - start, len.parse::<i64>().unwrap(), "{text}");
        let mut packet = Tcp {
            src: self.peer,
            dst: self.local,
            flags,
            seq: PEER_ISN.wrapping_add(start as u32),
            ack: 0,
            window: 65_535,
            urgent: 0,
            options: options.map(option_bytes).unwrap_or_default(),
            data: Vec::new(),
        };
        if end > start {
            packet.data = pattern(end as usize - 1)[start as usize - 1..].to_vec();
        }
        while let Some(word) = words.next() {
            let value: i64 = words.next().unwrap().parse().unwrap();
            match word {
                "ack" => packet.ack = self.isn.unwrap_or(0).wrapping_add(value as u32),
                "win" => packet.window = value as u16,
                "urg" => packet.urgent = value as u16,
                "port" => packet.dst.1 = value as u16,
                _ => panic!("{word} in {text}"),
            }
        }
        if packet.dst != self.local {
            self.local = packet.dst;
        }
        self.host.receive(packet.frame(), self.now).unwrap();
    }
}

fn split_options(text: &str) -> (String, Option<String>) {
    match text.split_once('<') {
        Some((head, options)) => {
            let options = options.trim().trim_end_matches('>');
            (head.trim().to_owned(), Some(options.to_owned()))
        }
        None => (text.to_owned(), None),
    }
}

/// Options of a script as bytes, padded with zeros.
fn option_bytes(text: String) -> Vec<u8> {
    let mut bytes = Vec::new();
    for option in text.split(',') {
        let words: Vec<&str> = option.split_whitespace().collect();
        match words[..] {
            ["mss", size] => {
                bytes.extend([2, 4]);
                bytes.extend(size.parse::<u16>().unwrap().to_be_bytes());
            }
            ["wscale", shift] => bytes.extend([3, 3, shift.parse().unwrap()]),
            ["sackOK"] => bytes.extend([4, 2]),
            ["nop"] => bytes.push(1),
            ["raw", hex] => {
                let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                bytes.extend((0..hex.len()).step_by(2).map(byte));
            }
            _ => panic!("{text}"),
        }
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn set(config: &mut StackConfig, options: &mut ServiceOptions, key: &str, value: &str) {
    let number: f64 = value.parse().unwrap_or(0.0);
    let time = Duration::from_secs_f64(number);
    match key {
        "half_open" => options.half_open = number as u32,
        "connections" => options.connections = number as u32,
        "time_wait_limit" => options.time_wait = number as u32,
        "receive_buffer" => options.receive_buffer = number as usize,
        "clock_scale" => options.clock_scale = number as u32,
        "idle" => options.idle = Some(time),
        "keepalive" => {
            let mut parts = value.split(' ').map(|part| part.parse::<f64>().unwrap());
            let mut next = || parts.next().unwrap();
            options.keepalive = Some(Keepalive {
                idle: Duration::from_secs_f64(next()),
                interval: Duration::from_secs_f64(next()),
                count: next() as u8,
            });
        }
        "connect" => config.timeouts.connect = time,
        "time_wait" => config.timeouts.time_wait = time,
        "unacknowledged" => config.timeouts.unacknowledged = time,
        "closing" => config.timeouts.closing = time,
        "fin_wait_2" => config.timeouts.fin_wait_2 = time,
        "syn_ack_repeats" => config.timeouts.syn_ack_repeats = number as u8,
        "resets" => config.limits.resets = number as u32,
        "sockets" => config.limits.sockets = number as u32,
        _ => panic!("no option {key}"),
    }
}
