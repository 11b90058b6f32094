//! Segments that come in: to whom, whether they may be true, and into the socket.

use std::time::Duration;

use smoltcp::socket::tcp::State;
use weft_datapath::Packet;

use crate::config::{Listeners, Route};
use crate::connection::{Connection, End, Phase};
use crate::core::{Core, Reply};
use crate::device::Scratch;
use crate::header;
use crate::key::Key;
use crate::reason::{DropReason, Event, Fate};
use crate::segment::Segment;
use crate::seq::Seq;
use crate::wire::Wire;

/// Time between two challenges of one connection (RFC 5961 section 7). There is no limit over all of them, which
/// strangers could measure (CVE-2016-5696).
const CHALLENGE_EVERY: Duration = Duration::from_millis(500);

/// Pieces of one acknowledgement at most: what one burst of a peer's can be.
const PIECES: u32 = 16;

/// How a frame came.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// From where, and how long packets may be that go back there.
    pub route: Route,
    /// Whether its checksums have been verified, or were never needed: the stack does it otherwise.
    pub verified: bool,
}

impl Core {
    /// Takes one frame. The stages of a segment, in order.
    pub(crate) fn ingest(
        &mut self,
        frame: &mut [u8],
        packet: &Packet,
        arrival: Arrival,
        listeners: &impl Listeners,
    ) -> Fate {
        self.counters.received += 1;
        let fate = self
            .take(frame, packet, arrival, listeners)
            .unwrap_or_else(Fate::Dropped);
        match fate {
            Fate::Delivered => self.counters.delivered += 1,
            Fate::Answered => self.counters.answered += 1,
            Fate::Dropped(reason) => self.counters.dropped[reason as usize] += 1,
        }
        fate
    }

    fn take(
        &mut self,
        frame: &mut [u8],
        packet: &Packet,
        arrival: Arrival,
        listeners: &impl Listeners,
    ) -> Result<Fate, DropReason> {
        // A segment causes at most one answer, so that what is taken can always be answered.
        if self.replies.len() >= self.limits.replies as usize {
            return Err(DropReason::ReplyRoom);
        }
        let segment = Segment::read(frame, packet, !arrival.verified)?;
        let key = Key {
            tuple: segment.tuple,
            tag: arrival.route.tag,
        };
        let hash = self.secret.demux(&key);
        if let Some(id) = self.find(hash, &key) {
            return self.known(id, segment, frame);
        }
        if let Some(id) = self.half_open.find(hash, &key) {
            if !self.answers_cookie_instead(id, &segment) {
                return self.half_known(id, hash, segment, frame);
            }
            // A SYN of this peer got a cookie, and its repetition a place here: the first counts.
            self.forget_half_open(id);
        }
        if let Some(remembered) = self.time_wait.find(hash, &key)
            && let Some(fate) = self.waiting(&key, hash, remembered, &segment)
        {
            return fate;
        }
        self.unknown(&key, hash, segment, frame, arrival.route, listeners)
    }

    /// A segment of a connection.
    pub(crate) fn known(
        &mut self,
        id: u32,
        segment: Segment,
        frame: &mut [u8],
    ) -> Result<Fate, DropReason> {
        let Some(connection) = self.connections.get_mut(id) else {
            return Err(DropReason::Aborted);
        };
        if connection.reset_due {
            return Err(DropReason::Aborted);
        }
        match connection.phase {
            Phase::Opening => self.opening(id, segment, frame),
            Phase::Open => self.open(id, segment, frame),
            Phase::Over(_) => Err(DropReason::Aborted),
        }
    }

    /// RFC 9293 section 3.10.7.4, with what RFC 5961 makes stricter, up to where the socket goes on.
    fn open(
        &mut self,
        id: u32,
        mut segment: Segment,
        frame: &mut [u8],
    ) -> Result<Fate, DropReason> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else {
            return Err(DropReason::Aborted);
        };
        let next = connection.next();
        let edge = connection.wire.edge.max(next);
        let within = |seq: Seq| seq == next || seq.after(next) && edge.after(seq);
        if segment.rst() {
            if segment.seq == next {
                self.counters.count(Event::ResetByPeer);
                self.end(id, End::Reset);
                return Ok(Fate::Delivered);
            }
            if within(segment.seq) {
                return self.challenge(id, DropReason::ResetSequence);
            }
            return Err(DropReason::ResetSequence);
        }
        // A restarted peer answers the challenge with a reset.
        if segment.syn() {
            return self.challenge(id, DropReason::Handshake);
        }
        let ack = segment.ack.unwrap_or_default();
        if !connection.wire.plausible(ack) {
            return self.challenge(id, DropReason::AckRange);
        }
        connection.heard_at = now;
        connection.keepalives = 0;
        // Section 3.10.7.4, table 6. What meets a closed window may still acknowledge something.
        let end = segment.seq + segment.len();
        let probe = segment.seq == next && edge == next;
        let acceptable = match segment.len() {
            0 => within(segment.seq),
            _ => end.after(next) && edge.after(segment.seq) || probe,
        };
        if !acceptable {
            // A keep-alive, a probe, or data whose ACK was lost: say where we are.
            if segment.len() == 0 && segment.seq != next.minus(1) {
                return self.challenge(id, DropReason::Window);
            }
            self.bare_ack(id, false);
            return Ok(Fate::Answered);
        }
        let duplicate = connection.wire.repeats(&segment);
        let (before, congested) = (connection.wire.una, connection.congested());
        let advanced = connection.wire.acknowledge(ack, now);
        if advanced {
            connection.moved_at = now;
        }
        if duplicate && connection.recovery.deaf() {
            self.arm(id);
            return Ok(Fate::Delivered);
        }
        if connection.live.is_none() {
            if segment.len() == 0 {
                connection.wire.update_window(&segment);
                self.arm(id);
                return Ok(Fate::Delivered);
            }
            self.wake(id)?;
        }
        if let Some(connection) = self.connections.get(id) {
            segment.cut(connection.wire.limit());
        }
        let beyond = end != segment.seq + segment.len() && segment.len() == 0;
        if advanced && congested {
            self.acknowledge_in_pieces(id, before);
        }
        self.feed(id, &segment, frame);
        if advanced || duplicate {
            self.recover(id, advanced);
        }
        let open = |found: &Connection| found.phase == Phase::Open;
        if beyond && self.connections.get(id).is_some_and(open) {
            self.bare_ack(id, false);
        }
        Ok(Fate::Delivered)
    }

    /// Shows a socket that its congestion window holds back what was acknowledged since `before` segment by segment: it
    /// counts ACKs, of which few come where segments arrive in bursts, and not bytes (RFC 3465 section 2.1).
    fn acknowledge_in_pieces(&mut self, id: u32, before: Seq) {
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        let wire = &connection.wire;
        let (mss, upto, next) = (u32::from(wire.mss), wire.una, connection.next());
        let (tuple, (_, window)) = (connection.key.tuple, wire.as_seen());
        let bytes = upto.since(before).max(0) as u32;
        // The last one comes with the segment itself.
        for piece in 1..bytes.div_ceil(mss.max(1)).min(PIECES) {
            let Some(connection) = self.connections.get(id) else {
                return;
            };
            let header = header::Header {
                seq: next,
                ack: Some(connection.wire.to_socket(before + piece * mss)),
                flags: 0,
                window,
                options: &[],
            };
            let packet = Scratch::of(&tuple, &header);
            self.give(id, packet.bytes());
        }
    }

    /// After an acknowledgement of something new, or a duplicate of the last one: lets the socket send again what they
    /// say is lost.
    fn recover(&mut self, id: u32, advanced: bool) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let (recovery, wire) = (&mut connection.recovery, &connection.wire);
        let lost = if advanced {
            recovery.acknowledged(wire.una)
        } else {
            recovery.duplicate(wire.flight(), wire.nxt)
        };
        if lost && connection.phase == Phase::Open {
            self.repeat(id);
        }
    }

    /// SYN-SENT, or SYN-RECEIVED after both ends have opened: the socket decides (RFC 9293 section 3.10.7.3), and
    /// answers what is wrong with a reset.
    fn opening(&mut self, id: u32, segment: Segment, frame: &mut [u8]) -> Result<Fate, DropReason> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else {
            return Err(DropReason::Aborted);
        };
        let (iss, tuple) = (connection.wire.una, connection.key.tuple);
        let answers = segment.ack == Some(iss + 1);
        let simultaneous = connection.state() == State::SynReceived;
        if segment.rst() {
            let exact = if simultaneous {
                segment.seq == connection.wire.base
            } else {
                answers
            };
            if !exact {
                return Err(DropReason::Handshake);
            }
            self.counters.count(Event::Refused);
            self.end(id, End::Refused);
            return Ok(Fate::Delivered);
        }
        if segment.ack.is_some() && !answers {
            let tag = connection.key.tag;
            let fate = self.reset_for(&segment, tag)?;
            if !simultaneous && !segment.syn() {
                self.knock_again(id);
            }
            return Ok(fate);
        }
        if simultaneous {
            if !segment.syn() && segment.seq != connection.wire.base {
                return Err(DropReason::Handshake);
            }
            if segment.syn() {
                // The peer's SYN again, or its SYN-ACK: to both, our ACK is the answer.
                if segment.seq + 1 != connection.wire.base {
                    return Err(DropReason::Handshake);
                }
                if !answers {
                    self.enqueue(id);
                    return Ok(Fate::Delivered);
                }
            }
        } else if !segment.syn() {
            return Err(DropReason::Handshake);
        }
        connection.heard_at = now;
        if segment.syn() && !simultaneous {
            let options = segment.syn_options(frame);
            connection.wire.synchronise(&tuple, segment.seq, &options);
        }
        if answers {
            connection.wire.acknowledge(iss + 1, now);
        }
        self.feed_opening(id, &segment, frame);
        Ok(Fate::Delivered)
    }

    /// The peer answered our SYN with the ACK of an old connection in TIME-WAIT, which the reset has just ended: so the
    /// SYN goes out again at once, rather than after a second. Once, so that two that disagree do not go on for ever.
    fn knock_again(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut connection.knocked, true) {
            return;
        }
        let (wire, tuple) = (&connection.wire, connection.key.tuple);
        let capacity = wire.capacity as usize;
        connection.wire = Wire::new(&tuple, wire.una, connection.mtu, capacity);
        self.drop_socket(id);
        if self.wake(id).is_ok() {
            self.enqueue(id);
            self.arm(id);
        }
    }

    /// Gives the socket a SYN, or the ACK that ends a handshake. Data with a SYN is not taken: its sender repeats it.
    fn feed_opening(&mut self, id: u32, segment: &Segment, frame: &mut [u8]) {
        if !segment.syn() {
            return self.feed(id, segment, frame);
        }
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let simultaneous = connection.state() == State::SynReceived;
        connection.wire.update_window(segment);
        let peer = connection.wire.peer();
        let options = crate::live::SynOptionBytes::of(&peer);
        let flags = if simultaneous {
            0
        } else {
            weft_datapath::wire::tcp::SYN
        };
        let header = header::Header {
            // A SYN-ACK after a SYN is no more than the ACK of ours.
            seq: segment.seq + u32::from(simultaneous),
            ack: segment.ack.map(|ack| connection.wire.to_socket(ack)),
            flags,
            window: segment.window,
            options: if simultaneous { &[] } else { options.bytes() },
        };
        let tuple = connection.key.tuple;
        let packet = Scratch::of(&tuple, &header);
        self.process(id, packet.bytes());
    }

    /// Gives the socket a segment as it knows it.
    fn feed(&mut self, id: u32, segment: &Segment, frame: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let wire = &mut connection.wire;
        let window = wire.update_window(segment);
        let mut ack = segment.ack.unwrap_or_default();
        // A socket forgets the data of a segment whose acknowledgement is old; the data is as good as any.
        if segment.len() > 0 {
            ack = ack.max(wire.una);
        }
        let ack = wire.to_socket(ack);
        let packet = segment.plain(frame, segment.seq, Some(ack), window);
        self.process(id, packet);
    }

    /// One packet into the socket, and what follows from it.
    pub(crate) fn process(&mut self, id: u32, packet: &[u8]) {
        let now = self.now;
        let next = |core: &Self| core.connections.get(id).map(Connection::next);
        let before = next(self);
        self.give(id, packet);
        if self
            .connections
            .get(id)
            .is_none_or(|found| found.live.is_none())
        {
            return;
        }
        self.enqueue(id);
        self.settle(id);
        if next(self) != before
            && let Some(connection) = self.connections.get_mut(id)
        {
            connection.moved_at = now;
        }
    }

    /// One packet into the socket, its immediate answer into the queue. What the socket knows may then be behind what the
    /// wire does, so that nothing else may look at it.
    fn give(&mut self, id: u32, packet: &[u8]) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let at = connection.clock.at(now);
        let Some(live) = &mut connection.live else {
            return;
        };
        let mut answer = Scratch::EMPTY;
        live.process(&mut self.interfaces, packet, &mut answer, at);
        if !answer.is_empty() {
            let tuple = connection.key.tuple.reversed();
            connection
                .wire
                .stamp(answer.bytes_mut(), &tuple, false, now);
            self.replies.push_back(Reply {
                tag: connection.key.tag,
                packet: answer,
            });
        }
        if connection.wire.least_round_trip().is_some() {
            self.adapt_clock(id);
        }
    }

    /// Asks the peer to prove that it is one, or drops the segment if it was asked a moment ago.
    fn challenge(&mut self, id: u32, reason: DropReason) -> Result<Fate, DropReason> {
        let now = self.now;
        match self.connections.get_mut(id) {
            Some(connection) if connection.challenge_at <= now => {
                connection.challenge_at = now + CHALLENGE_EVERY;
            }
            _ => return Err(reason),
        }
        self.counters.count(Event::ChallengeAck);
        self.bare_ack(id, false);
        Ok(Fate::Answered)
    }

    /// An acknowledgement without data; `probe` is a keep-alive.
    pub(crate) fn bare_ack(&mut self, id: u32, probe: bool) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let (next, queued) = (connection.next(), connection.readable() as u32);
        let header = connection.wire.bare_ack(next, queued, probe);
        let (tag, tuple) = (connection.key.tag, connection.key.tuple.reversed());
        self.reply(tag, &tuple, &header);
    }
}
