//! A peer of another make: go-back-N, no options but a segment size, ACKs delayed by 40 ms as Linux does.

use std::task::Poll;
use std::time::Duration;

use weft_datapath::{Address, Now};
use weft_stack::*;

use crate::support::network::*;
use crate::support::packet::*;
use crate::support::*;

/// Linux's TCP_DELACK_MIN.
const DELAYED_ACK: Duration = Duration::from_millis(40);
const FIRST_TIMEOUT: Duration = Duration::from_millis(300);
const MSS: usize = 1_000;
const WINDOW: u16 = 20_000;

/// The model: a client that sends `says`, closes, and hears all there is.
struct Model {
    local: (Address, u16),
    remote: (Address, u16),
    says: Vec<u8>,
    /// First number, and relative to it the first one not acknowledged, the next, and the end with the FIN.
    isn: u32,
    una: usize,
    nxt: usize,
    window: usize,
    peer_isn: Option<u32>,
    heard: Vec<u8>,
    ended: bool,
    ack_at: Option<Now>,
    unacked: usize,
    resend_at: Option<Now>,
    timeout: Duration,
    out: Vec<Vec<u8>>,
}

impl Model {
    fn new(net: &Net, says: Vec<u8>, now: Now) -> Self {
        let mut model = Self {
            local: (net.client, 33_333),
            remote: (net.server, 80),
            says,
            isn: 0xffff_f000,
            una: 0,
            nxt: 1,
            window: 0,
            peer_isn: None,
            heard: Vec::new(),
            ended: false,
            ack_at: None,
            unacked: 0,
            resend_at: Some(now + FIRST_TIMEOUT),
            timeout: FIRST_TIMEOUT,
            out: Vec::new(),
        };
        model.emit(0, SYN, &[]);
        model
    }

    /// The last number: SYN, data, FIN.
    fn end(&self) -> usize {
        self.says.len() + 2
    }

    fn done(&self) -> bool {
        self.ended && self.una == self.end()
    }

    fn rcv_nxt(&self) -> u32 {
        let isn = self.peer_isn.unwrap_or(0);
        isn.wrapping_add(1 + self.heard.len() as u32 + u32::from(self.ended))
    }

    fn emit(&mut self, at: usize, flags: u8, data: &[u8]) {
        let known = self.peer_isn.is_some();
        let packet = Tcp {
            src: self.local,
            dst: self.remote,
            flags: flags | if known { ACK } else { 0 },
            seq: self.isn.wrapping_add(at as u32),
            ack: if known { self.rcv_nxt() } else { 0 },
            window: WINDOW,
            urgent: 0,
            options: if flags & SYN != 0 {
                vec![2, 4, 3, 0xe8]
            } else {
                vec![]
            },
            data: data.to_vec(),
        };
        self.out.push(packet.frame());
        self.ack_at = None;
        self.unacked = 0;
    }

    /// Sends from `at` on as much as the window takes; where it is shut, one byte to probe it.
    fn push(&mut self, mut at: usize, now: Now) {
        if self.peer_isn.is_none() {
            return self.emit(0, SYN, &[]);
        }
        let edge = self.una + self.window.max(1);
        while at < self.end() && at < edge {
            let text = self.says.clone();
            let data = &text[at - 1..(at - 1 + MSS).min(edge - 1).min(text.len())];
            let last = at - 1 + data.len() == text.len();
            self.emit(at, if last { FIN | PSH } else { PSH }, data);
            at += data.len() + usize::from(last);
        }
        self.nxt = self.nxt.max(at);
        if self.una < self.nxt && self.resend_at.is_none() {
            self.resend_at = Some(now + self.timeout);
        }
    }

    fn receive(&mut self, frame: &[u8], now: Now) {
        let packet = Tcp::read(frame);
        assert_eq!(packet.flags & RST, 0, "the stack gave up: {packet:?}");
        if packet.flags & SYN != 0 && self.peer_isn.is_none() {
            assert_eq!(packet.ack, self.isn.wrapping_add(1));
            self.peer_isn = Some(packet.seq);
            self.window = packet.window.into();
            (self.una, self.resend_at) = (1, None);
            self.emit(1, 0, &[]);
            return self.push(1, now);
        }
        let acked = packet.ack.wrapping_sub(self.isn) as usize;
        if acked > self.una && acked <= self.end() {
            self.una = acked;
            (self.resend_at, self.timeout) = (None, FIRST_TIMEOUT);
            self.nxt = self.nxt.max(acked);
        }
        if acked == self.una {
            self.window = packet.window.into();
        }
        let fin = packet.flags & FIN != 0;
        if !packet.data.is_empty() || fin || packet.flags & SYN != 0 {
            let expected = packet.seq == self.rcv_nxt() && !self.ended;
            if expected {
                self.heard.extend(&packet.data);
                self.ended |= fin;
                self.unacked += 1;
            }
            // A second segment, a hole, or the end: at once. A first one: later.
            if !expected || fin || self.unacked >= 2 {
                self.emit(self.nxt, 0, &[]);
            } else {
                self.ack_at = self.ack_at.or(Some(now + DELAYED_ACK));
            }
        }
        let from = self.nxt;
        self.push(from, now);
    }

    fn poll(&mut self, now: Now) {
        if self.ack_at.is_some_and(|at| at <= now) {
            self.emit(self.nxt, 0, &[]);
        }
        if self.resend_at.is_some_and(|at| at <= now) {
            self.timeout = (self.timeout * 2).min(Duration::from_secs(5));
            self.resend_at = Some(now + self.timeout);
            let from = self.una;
            self.push(from, now);
        }
    }

    fn next(&self) -> Option<Now> {
        self.ack_at.into_iter().chain(self.resend_at).min()
    }
}

/// A model says so much to a stack, which says so much back, a piece of `piece` bytes at a time.
fn run(net: &Net, faults: Faults, seed: u64, (up, down): (usize, usize), piece: usize) -> Counters {
    let mut now = Now::from_nanos(1_000_000_000);
    let mut model = Model::new(net, pattern(up), now);
    let mut host = Host::new(&config(seed as u8), small());
    let mut network = Network::new(faults, seed);
    let answer = pattern(down);
    let (mut stream, mut heard, mut said) = (None::<Stream>, Vec::new(), 0);
    let mut pause_until = now;
    let end = now + Duration::from_secs(600);
    while now < end && !(model.done() && heard.len() == up) {
        while let Some((to, frame)) = network.arrived(now) {
            if to == 0 {
                model.receive(&frame, now);
            } else {
                host.receive(frame, now);
            }
        }
        model.poll(now);
        if let Some(accepted) = host.stack.accept() {
            stream = Some(accepted.stream);
        }
        if let Some(stream) = &stream {
            heard.extend(read(stream).0);
            // One piece at a time, each after the one before has been acknowledged.
            if now >= pause_until && stream.is_flushed() && said < down {
                let upto = (said + piece).min(down);
                said += write(stream, &answer[said..upto]);
                pause_until = now + Duration::from_millis(3);
            }
            if said == down && stream.is_flushed() {
                assert!(matches!(
                    stream.poll_shutdown(&mut context()),
                    Poll::Ready(Ok(()))
                ));
            }
        }
        host.poll(now);
        for frame in std::mem::take(&mut host.wire.frames) {
            network.send(0, frame, now);
        }
        for frame in std::mem::take(&mut model.out) {
            network.send(1, frame, now);
        }
        let timers = [
            network.next(),
            host.stack.next(),
            model.next(),
            Some(pause_until),
        ];
        let next = timers.into_iter().flatten().filter(|at| *at > now).min();
        now = next.unwrap_or(end).min(now + Duration::from_millis(10));
    }
    assert!(
        heard == pattern(up),
        "seed {seed}: {} of {up} heard",
        heard.len()
    );
    assert!(
        model.heard == answer,
        "seed {seed}: {} of {down} answered",
        model.heard.len()
    );
    assert!(model.done(), "seed {seed}");
    host.stack.counters()
}

const NEAR: Faults = Faults {
    loss: 0,
    duplication: 0,
    corruption: 0,
    reordering: 0,
    delay: Duration::from_micros(50),
};

#[test]
fn a_peer_that_delays_its_acks_by_40_ms_sees_nothing_twice() {
    for net in Net::both() {
        // Each piece is one segment, whose ACK comes 40 ms later; the clock runs 19 times as fast by then.
        let counters = run(&net, NEAR, 1, (20_000, 20_000), 500);
        assert_eq!(counters.events(Event::Retransmission), 0, "{counters:?}");
        assert_eq!(counters.dropped.iter().sum::<u64>(), 0);
    }
}

#[test]
fn t_03_a_peer_of_another_make_gets_every_byte_on_a_bad_network() {
    for seed in 0..20 {
        let faults = Faults {
            loss: 40,
            duplication: 30,
            corruption: 0,
            reordering: 60,
            ..NEAR
        };
        let net = Net::both()[seed as usize % 2];
        let counters = run(&net, faults, seed, (60_000, 80_000), 9_000);
        assert!(counters.events(Event::Retransmission) > 0);
    }
}
