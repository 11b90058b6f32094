//! Segments that belong to no connection: SYNs, the ACKs that answer ours, and what is for nobody.

use weft_datapath::wire::tcp;

use crate::config::{Listeners, Route};
use crate::connection::{Connection, Phase};
use crate::core::Core;
use crate::half_open::HalfOpen;
use crate::header::Header;
use crate::key::Key;
use crate::live::SynOptionBytes;
use crate::reason::{DropReason, Event, Fate};
use crate::segment::{Segment, SynOptions};
use crate::seq::Seq;
use crate::time_wait::Remembered;
use crate::wire::{SHIFT, Wire, own_mss};

/// How long after the last cookie an ACK of one may come: twice the period that cookies are good for.
const COOKIES_FOR: std::time::Duration = std::time::Duration::from_secs(128);

impl Core {
    /// A segment to a connection in TIME-WAIT. `None`: the tuple is free for the SYN that it is.
    pub(crate) fn waiting(
        &mut self,
        key: &Key,
        hash: u64,
        remembered: Remembered,
        segment: &Segment,
    ) -> Option<Result<Fate, DropReason>> {
        // A reset must not cut TIME-WAIT short (RFC 1337 section 3, fix F1).
        if segment.rst() {
            return Some(Err(DropReason::TimeWait));
        }
        // RFC 1122 section 4.2.2.13: a SYN beyond the old connection opens a new one.
        if segment.syn() && segment.ack.is_none() && segment.seq.after(remembered.rcv_nxt) {
            self.time_wait.forget(hash, key);
            self.counters.count(Event::TimeWaitReused);
            return None;
        }
        if !segment.fin() && !segment.syn() && segment.data() == 0 {
            // Most likely the last ACK of a simultaneous close, or a late window update.
            return Some(Err(DropReason::TimeWait));
        }
        // The peer did not get our last ACK, or it is an old duplicate: both get the ACK, and wait anew for a FIN.
        if segment.fin() {
            let again = self.time_wait.forget(hash, key).map(|service| {
                let limit = self.options(service).time_wait;
                (service, limit)
            });
            if let Some(service) = again {
                self.time_wait
                    .insert(&self.secret, key, remembered, service, self.now);
            }
        }
        let header = Header {
            seq: remembered.nxt,
            ack: Some(remembered.rcv_nxt),
            flags: 0,
            window: u16::MAX,
            options: &[],
        };
        self.reply(key.tag, &key.tuple.reversed(), &header);
        Some(Ok(Fate::Answered))
    }

    /// A segment of no connection.
    pub(crate) fn unknown(
        &mut self,
        key: &Key,
        hash: u64,
        segment: Segment,
        frame: &mut [u8],
        route: Route,
        listeners: &impl Listeners,
    ) -> Result<Fate, DropReason> {
        if segment.rst() {
            return Err(DropReason::UnknownReset);
        }
        if segment.syn() && segment.ack.is_none() {
            return self.syn(key, hash, &segment, frame, route, listeners);
        }
        let listener = listeners.lookup(key.tuple.dst, key.tuple.dport, key.tag);
        if let (Some(ack), Some((service, options)), true) = (
            segment.ack,
            listener,
            !segment.syn() && self.cookies_are_out(),
        ) {
            let (iss, peer) = (ack.minus(1), segment.seq.minus(1));
            // What overtakes the ACK of a cookie is no ACK of it: a reset would end what is about to begin.
            let said = self.secret.open_cookie(key, peer, iss, self.now);
            let said = said.ok_or(DropReason::CookieOrder)?;
            self.service(service, &options);
            self.room(service)?;
            if !self.spent.spend(hash, iss, self.now) {
                return self.reset_for(&segment, key.tag);
            }
            self.counters.count(Event::CookieAccepted);
            let agreed = HalfOpen {
                key: *key,
                service,
                mtu: route.mtu,
                peer,
                iss,
                options: said,
                sent: self.now,
                repeats: 1,
            };
            return self.accept(hash, &agreed, segment, frame);
        }
        self.reset_for(&segment, key.tag)
    }

    /// A SYN: a place among the half-open connections, or a cookie.
    fn syn(
        &mut self,
        key: &Key,
        hash: u64,
        segment: &Segment,
        frame: &[u8],
        route: Route,
        listeners: &impl Listeners,
    ) -> Result<Fate, DropReason> {
        let Some((service, options)) = listeners.lookup(key.tuple.dst, key.tuple.dport, key.tag)
        else {
            return self.reset_for(segment, key.tag);
        };
        let now = self.now;
        let known = self.service(service, &options);
        let in_line = known.half_open < known.options.half_open;
        let (receive, options) = (known.options.first_receive(), segment.syn_options(frame));
        self.room(service)?;
        if !in_line || self.half_open.is_full() {
            let iss = self.secret.cookie(key, segment.seq, &options, now);
            self.cookie_at = Some(now);
            self.counters.count(Event::CookieSent);
            self.syn_ack(key, route, (iss, segment.seq), &options, receive);
            return Ok(Fate::Answered);
        }
        let iss = self.secret.isn(key, now);
        let entry = HalfOpen {
            key: *key,
            service,
            mtu: route.mtu,
            peer: segment.seq,
            iss,
            options,
            sent: now,
            repeats: 0,
        };
        if let Some(id) = self.half_open.insert(&self.secret, hash, entry) {
            self.half_open.wheel.set(id, now + self.timeouts.syn_ack);
            self.services[usize::from(service.0)].half_open += 1;
            self.counters.count(Event::HalfOpen);
            self.syn_ack(key, route, (iss, segment.seq), &options, receive);
        }
        Ok(Fate::Answered)
    }

    /// Answers a SYN whose number is `peer` with ours.
    fn syn_ack(
        &mut self,
        key: &Key,
        route: Route,
        (iss, peer): (Seq, Seq),
        options: &SynOptions,
        receive: usize,
    ) {
        let tuple = key.tuple.reversed();
        let mss = own_mss(&tuple, route.mtu);
        let shift = options.shift.map(|_| SHIFT);
        let bytes = SynOptionBytes::new(mss, shift, options.sack);
        let header = Header {
            seq: iss,
            ack: Some(peer + 1),
            flags: tcp::SYN,
            window: receive.min(u16::MAX.into()) as u16,
            options: bytes.bytes(),
        };
        self.reply(key.tag, &tuple, &header);
    }

    /// The SYN-ACK of a half-open connection, again.
    pub(crate) fn repeat_syn_ack(&mut self, id: u32) {
        let Some(entry) = self.half_open.get(id) else {
            return;
        };
        let (key, route, options) = (entry.key, entry.route(), entry.options);
        let (numbers, service) = ((entry.iss, entry.peer), entry.service);
        let receive = self.options(service).first_receive();
        self.counters.count(Event::SynAckRepeated);
        self.syn_ack(&key, route, numbers, &options, receive);
    }

    /// A segment of a half-open connection (SYN-RECEIVED of RFC 9293 section 3.10.7.4).
    pub(crate) fn half_known(
        &mut self,
        id: u32,
        hash: u64,
        segment: Segment,
        frame: &mut [u8],
    ) -> Result<Fate, DropReason> {
        let Some(entry) = self.half_open.get_mut(id) else {
            return Err(DropReason::Handshake);
        };
        if segment.rst() {
            if segment.seq != entry.peer + 1 {
                return Err(DropReason::ResetSequence);
            }
            self.counters.count(Event::HalfOpenReset);
            self.forget_half_open(id);
            return Ok(Fate::Answered);
        }
        if segment.syn() {
            // The SYN again, or another: if the peer has begun anew, it resets what it does not know.
            entry.repeats = entry.repeats.max(1);
            self.repeat_syn_ack(id);
            return Ok(Fate::Answered);
        }
        if segment.ack != Some(entry.iss + 1) {
            let tag = entry.key.tag;
            if self.cookies_are_out() {
                return Err(DropReason::CookieOrder);
            }
            return self.reset_for(&segment, tag);
        }
        let ahead = segment.seq.since(entry.peer + 1);
        if !(0..i32::from(u16::MAX)).contains(&ahead) {
            return Err(DropReason::Handshake);
        }
        let agreed = entry.clone();
        self.room(agreed.service)?;
        self.forget_half_open(id);
        self.accept(hash, &agreed, segment, frame)
    }

    /// Whether a segment to a half-open connection is the ACK of a cookie.
    pub(crate) fn answers_cookie_instead(&self, id: u32, segment: &Segment) -> bool {
        let (Some(entry), Some(ack)) = (self.half_open.get(id), segment.ack) else {
            return false;
        };
        let (iss, peer) = (ack.minus(1), segment.seq.minus(1));
        !segment.syn()
            && iss != entry.iss
            && self.cookies_are_out()
            && self
                .secret
                .open_cookie(&entry.key, peer, iss, self.now)
                .is_some()
    }

    pub(crate) fn forget_half_open(&mut self, id: u32) {
        if let Some(entry) = self.half_open.remove(&self.secret, id) {
            self.services[usize::from(entry.service.0)].half_open -= 1;
        }
    }

    /// Whether an ACK of a cookie may come.
    fn cookies_are_out(&self) -> bool {
        self.cookie_at
            .is_some_and(|at| self.now.since(at) <= COOKIES_FOR)
    }

    /// The handshake is complete: a connection, and what its last segment brings.
    fn accept(
        &mut self,
        hash: u64,
        agreed: &HalfOpen,
        segment: Segment,
        frame: &mut [u8],
    ) -> Result<Fate, DropReason> {
        let (now, service) = (self.now, agreed.service);
        let capacity = self.options(service).first_receive();
        let (key, mtu) = (agreed.key, agreed.mtu);
        let mut wire = Wire::new(&key.tuple, agreed.iss, mtu, capacity);
        wire.synchronise(&key.tuple, agreed.peer, &agreed.options);
        wire.opened(&segment);
        // Only an answer that was sent once says how long it took (RFC 6298 section 3).
        if agreed.repeats == 0 {
            wire.sample(now.since(agreed.sent).as_nanos() as u64);
        }
        let mut connection = Connection::new(key, mtu, service, wire, now);
        connection.phase = Phase::Open;
        let id = self.add(hash, connection);
        let id = id.ok_or(DropReason::ConnectionLimit)?;
        self.counters.count(Event::Accepted);
        self.accepted.push_back(id);
        self.adapt_clock(id);
        self.arm(id);
        self.known(id, segment, frame)
    }

    /// The reset that answers a segment (RFC 9293 section 3.10.7.1), within the limit on them.
    pub(crate) fn reset_for(&mut self, segment: &Segment, tag: u32) -> Result<Fate, DropReason> {
        if !self.resets.take(self.now) {
            return Err(DropReason::ResetRate);
        }
        self.counters.count(Event::ResetSent);
        let (seq, ack) = match segment.ack {
            Some(ack) => (ack, None),
            None => (Seq(0), Some(segment.seq + segment.len())),
        };
        let header = Header {
            seq,
            ack,
            flags: tcp::RST,
            window: 0,
            options: &[],
        };
        self.reply(tag, &segment.tuple.reversed(), &header);
        Ok(Fate::Answered)
    }
}
