//! What goes out: answers, what sockets have to send, and what timers ask for.

use std::num::NonZeroU16;

use smoltcp::socket::tcp::State;
use weft_datapath::{Now, Tuple};

use crate::connection::{End, Phase};
use crate::core::Core;
use crate::device::{Drain, Outgoing, Transmit};
use crate::header::{self, Header};
use crate::reason::Event;
use crate::wire::Sent;

/// Packets that a connection sends before the next one has its turn: enough to fill a frame burst, few enough that
/// nobody waits long.
const PACKETS_A_TURN: usize = 16;
/// Timers that one poll looks at. What is left is looked at by the next, which is then due at once.
const TIMERS_A_POLL: usize = 1_024;

/// How a connection's turn ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Turn {
    /// It has nothing more to send now.
    Done,
    /// It has, and had its share.
    More,
    /// There was no frame.
    NoRoom,
}

impl Core {
    /// Fires timers, then sends as long as there are frames: answers first, then each connection its share in turn.
    pub(crate) fn poll(&mut self, out: &mut impl Transmit) {
        self.fire();
        self.send(out);
    }

    /// When the next poll has something to do, if no frame comes before.
    pub(crate) fn next(&self) -> Option<Now> {
        if !self.queue.is_empty() || !self.replies.is_empty() {
            return Some(self.now);
        }
        let timers = [
            self.wheel.next(),
            self.half_open.wheel.next(),
            self.time_wait.next(self.now),
        ];
        timers.into_iter().flatten().min()
    }

    fn fire(&mut self) {
        let now = self.now;
        for _ in 0..TIMERS_A_POLL {
            let Some(id) = self.wheel.expire(now) else {
                break;
            };
            self.timer(id);
        }
        for _ in 0..TIMERS_A_POLL {
            // A repeated SYN-ACK needs room for itself.
            if self.replies.len() >= self.limits.replies as usize {
                break;
            }
            let Some(id) = self.half_open.wheel.expire(now) else {
                break;
            };
            self.half_open_timer(id);
        }
        self.time_wait.expire(&self.secret, now, TIMERS_A_POLL);
    }

    fn half_open_timer(&mut self, id: u32) {
        let Some(entry) = self.half_open.get_mut(id) else {
            return;
        };
        if entry.repeats >= self.timeouts.syn_ack_repeats {
            self.counters.count(Event::HalfOpenTimeout);
            return self.forget_half_open(id);
        }
        entry.repeats += 1;
        let wait = self.timeouts.syn_ack * (1 << u32::from(entry.repeats).min(16));
        self.half_open.wheel.set(id, self.now + wait);
        self.repeat_syn_ack(id);
    }

    fn send(&mut self, out: &mut impl Transmit) {
        while let Some(reply) = self.replies.front() {
            if !out.ready() {
                return;
            }
            let bytes = reply.packet.bytes();
            let packet = Outgoing {
                tag: reply.tag,
                len: bytes.len(),
                segment: None,
            };
            out.send(packet, |frame| frame.copy_from_slice(bytes));
            self.counters.sent += 1;
            self.replies.pop_front();
        }
        // Bound: each turn sends or empties a place, and a connection comes back only with more to send, of which
        // its window has an end.
        while let Some(id) = self.queue.pop_front() {
            match self.turn(id, out) {
                Turn::Done => {
                    if let Some(connection) = self.connections.get_mut(id) {
                        connection.queued = false;
                    }
                    self.settle(id);
                    self.forget(id);
                }
                Turn::More => self.queue.push_back(id),
                Turn::NoRoom => {
                    self.queue.push_front(id);
                    return;
                }
            }
        }
    }

    fn turn(&mut self, id: u32, out: &mut impl Transmit) -> Turn {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else {
            return Turn::Done;
        };
        if matches!(connection.phase, Phase::Over(_)) {
            return Turn::Done;
        }
        if connection.reset_due {
            return self.send_reset(id, out);
        }
        let Some(live) = &mut connection.live else {
            return Turn::Done;
        };
        let (tuple, wire) = (connection.key.tuple.reversed(), &mut connection.wire);
        let mss = wire.mss;
        let longest = header::header_len(&tuple, 0) + usize::from(mss);
        let mut again = 0;
        let segment = NonZeroU16::new(mss).filter(|_| connection.segmentation);
        let at = connection.clock.at(now);
        let (mut sent, mut exhausted) = (0, false);
        while sent < PACKETS_A_TURN {
            // Where there is data to fill a segment, none goes out that the congestion window cuts short (RFC 9293
            // section 3.8.6.2.1); but one does while a single one is in flight, whose ACK the peer may delay.
            let (mss, flight) = (u32::from(mss), wire.in_flight());
            let unsent = (live.socket().send_queue() as u32).saturating_sub(flight);
            live.socket_mut()
                .set_nagle_enabled(unsent >= mss && flight >= 2 * mss);
            let mut device = Drain {
                out: &mut *out,
                tag: connection.key.tag,
                segment: segment.map(|mss| (longest, mss)),
                path: connection.path,
                patch: |packet: &mut [u8], segmentation| {
                    let sent = wire.stamp(packet, &tuple, segmentation, now);
                    again += u64::from(sent == Sent::Again);
                },
                exhausted: false,
            };
            let more = live.send(&mut self.interfaces, &mut device, at);
            exhausted = device.exhausted;
            if !more {
                break;
            }
            sent += 1;
        }
        if !exhausted && connection.wire.ending() {
            let (next, queued) = (connection.next(), connection.readable() as u32);
            exhausted = !out.ready();
            if !exhausted && let Some(fin) = connection.wire.bare_fin(next, queued) {
                send_headers(out, connection.key.tag, &tuple, &fin);
                sent += 1;
            }
        }
        for _ in 0..again {
            connection.recovery.sent_again(connection.wire.nxt);
        }
        self.counters.events[Event::Retransmission as usize] += again;
        self.counters.sent += sent as u64;
        match (exhausted, sent) {
            (true, _) => Turn::NoRoom,
            (false, PACKETS_A_TURN) => Turn::More,
            _ => Turn::Done,
        }
    }

    fn send_reset(&mut self, id: u32, out: &mut impl Transmit) -> Turn {
        if !out.ready() {
            return Turn::NoRoom;
        }
        if let Some(connection) = self.connections.get(id) {
            let tuple = connection.key.tuple.reversed();
            let header = connection.wire.reset(connection.next());
            send_headers(out, connection.key.tag, &tuple, &header);
            self.counters.sent += 1;
        }
        self.end(id, End::Aborted);
        Turn::Done
    }

    /// Resets a connection at its next turn; whether it was still to be ended. One that never had an answer has nobody to
    /// tell.
    pub(crate) fn abort(&mut self, id: u32) -> bool {
        let Some(connection) = self.connections.get_mut(id) else {
            return false;
        };
        match connection.phase {
            Phase::Over(_) => return false,
            Phase::Opening if connection.state() == State::SynSent => self.end(id, End::Aborted),
            Phase::Opening | Phase::Open => {
                let before = std::mem::replace(&mut connection.reset_due, true);
                self.enqueue(id);
                return !before;
            }
        }
        true
    }
}

/// Sends a packet without data or options; there must be room for it.
fn send_headers(out: &mut impl Transmit, tag: u32, tuple: &Tuple, header: &Header<'_>) {
    let packet = Outgoing {
        tag,
        len: header::header_len(tuple, 0),
        segment: None,
    };
    out.send(packet, |frame| {
        header::write(frame, tuple, header);
        header::seal(frame, tuple, false);
    });
}
