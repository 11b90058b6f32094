//! A connection's deadlines. It has one timer, set for the first of them; when that fires, all are looked at.

use std::time::Duration;

use smoltcp::socket::tcp::State;
use weft_datapath::Now;

use crate::config::Timeouts;
use crate::connection::{Connection, End, Phase};
use crate::core::{Core, Service};
use crate::device::Scratch;
use crate::header::Header;
use crate::reason::Event;
use crate::seq::Seq;

/// What a deadline is for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Deadline {
    Connect,
    Unacknowledged,
    Closing,
    FinWait2,
    Idle,
    Kick,
    Keepalive,
    Hibernate,
}

/// A socket without a timer while something is in flight has lost it, and gets help after so long: the least
/// timeout of RFC 6298.
const KICK_AFTER: Duration = Duration::from_secs(1);

impl Core {
    /// Sets the connection's timer for its first deadline. A timer that is early already is left: it will look again.
    pub(crate) fn arm(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        // What is in the queue is looked at anyway.
        let own = match &connection.live {
            Some(live) if !connection.queued => {
                let at = connection.clock.at(self.now);
                let own = live.due(&mut self.interfaces, at);
                connection.kick_at = match own {
                    None if connection.wire.outstanding() => {
                        connection.kick_at.or(Some(self.now + KICK_AFTER))
                    }
                    _ => None,
                };
                own.map(|due| connection.clock.when(due))
            }
            _ => None,
        };
        let service = &self.services[usize::from(connection.service.0)];
        let first = deadlines(connection, service, &self.timeouts)
            .into_iter()
            .flatten()
            .map(|(at, _)| at)
            .min();
        let Some(at) = first.into_iter().chain(own).min() else {
            return;
        };
        if self.wheel.due(id).is_none_or(|due| due > at) {
            self.wheel.set(id, at);
        }
    }

    /// The connection's timer has fired.
    pub(crate) fn timer(&mut self, id: u32) {
        let now = self.now;
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        if connection.reset_due || matches!(connection.phase, Phase::Over(_)) {
            return;
        }
        let service = &self.services[usize::from(connection.service.0)];
        let all = deadlines(connection, service, &self.timeouts);
        // What ends the connection comes first.
        for (at, what) in all.into_iter().flatten() {
            if at <= now && !self.came_due(id, what) {
                return;
            }
        }
        self.enqueue(id);
        self.settle(id);
    }

    /// Acts on a deadline; whether the connection goes on.
    fn came_due(&mut self, id: u32, what: Deadline) -> bool {
        let event = match what {
            Deadline::Connect => Event::ConnectTimeout,
            Deadline::Unacknowledged | Deadline::Closing => Event::UnacknowledgedTimeout,
            Deadline::FinWait2 => Event::FinWaitTimeout,
            Deadline::Idle => Event::IdleTimeout,
            Deadline::Kick => {
                self.kick(id);
                return true;
            }
            Deadline::Keepalive => return self.keepalive(id),
            Deadline::Hibernate => {
                self.hibernate(id);
                return true;
            }
        };
        self.give_up(id, event);
        false
    }

    /// Resets a connection that took too long. Its user learns of the time, not of the reset.
    fn give_up(&mut self, id: u32, event: Event) {
        self.counters.count(event);
        if event != Event::ConnectTimeout && self.replies.len() < self.limits.replies as usize {
            self.reset_now(id);
        }
        self.end(id, End::TimedOut);
    }

    fn reset_now(&mut self, id: u32) {
        if let Some(connection) = self.connections.get(id) {
            let header = connection.wire.reset(connection.next());
            let (tag, tuple) = (connection.key.tag, connection.key.tuple.reversed());
            self.reply(tag, &tuple, &header);
        }
    }

    fn keepalive(&mut self, id: u32) -> bool {
        let Some(connection) = self.connections.get_mut(id) else {
            return false;
        };
        let service = &self.services[usize::from(connection.service.0)];
        let Some(keepalive) = service.options.keepalive else {
            return true;
        };
        if connection.keepalives >= keepalive.count {
            self.give_up(id, Event::KeepaliveTimeout);
            return false;
        }
        connection.keepalives += 1;
        self.counters.count(Event::Keepalive);
        self.bare_ack(id, true);
        true
    }

    /// Repeats what the socket should have: smoltcp 0.14 stops its timer when duplicate ACKs come while only a FIN is in
    /// flight. Data is repeated by the socket, which takes three more of them for a loss (RFC 5681 section 3.2).
    pub(crate) fn kick(&mut self, id: u32) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        connection.kick_at = Some(now + KICK_AFTER);
        let next = connection.next();
        let queued = connection
            .live
            .as_ref()
            .map_or(0, |live| live.socket().send_queue());
        self.counters.count(Event::Retransmission);
        if queued == 0 {
            let header = connection
                .wire
                .fin_again(next, connection.readable() as u32);
            let (tag, tuple) = (connection.key.tag, connection.key.tuple.reversed());
            return self.reply(tag, &tuple, &header);
        }
        connection.recovery.lost(connection.wire.nxt);
        self.repeat(id);
    }

    /// Lets the socket send its first segment in flight again, by the duplicate ACKs that it takes for a loss.
    pub(crate) fn repeat(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if connection
            .live
            .as_ref()
            .is_none_or(|live| live.socket().send_queue() == 0)
        {
            return;
        }
        let next = connection.next();
        let (ack, window) = connection.wire.as_seen();
        let tuple = connection.key.tuple;
        // Another window first, so that the socket begins to count anew.
        for window in [window ^ 1, window, window, window, window] {
            let header = Header {
                seq: next,
                ack: Some(ack),
                flags: 0,
                window,
                options: &[],
            };
            let packet = Scratch::of(&tuple, &header);
            self.process(id, packet.bytes());
        }
    }

    /// What the connection sent was too long for its path: from now on it sends less at a time, and again what is lost.
    pub(crate) fn too_long(&mut self, id: u32, mtu: u16, sequence: Seq) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let tuple = connection.key.tuple;
        if connection.phase != Phase::Open || !connection.wire.shorten(&tuple, mtu, sequence) {
            return;
        }
        connection.path = Some(mtu);
        self.counters.count(Event::PathShortened);
        if connection.live.is_some() {
            self.kick(id);
            self.enqueue(id);
        }
    }

    /// Takes the socket of an idle connection away.
    fn hibernate(&mut self, id: u32) {
        if self.connections.get(id).is_some_and(Connection::idle) {
            self.counters.count(Event::Hibernated);
            self.drop_socket(id);
        }
    }
}

/// All deadlines that the connection has now, those that end it first.
fn deadlines(
    connection: &Connection,
    service: &Service,
    timeouts: &Timeouts,
) -> [Option<(Now, Deadline)>; 6] {
    let options = &service.options;
    let open = connection.phase == Phase::Open;
    let connect = (!open).then(|| (connection.moved_at + timeouts.connect, Deadline::Connect));
    let owed = connection.owed_since.filter(|_| open).map(|since| {
        let at = since.max(connection.heard_at) + timeouts.unacknowledged;
        (at, Deadline::Unacknowledged)
    });
    let orphan = (open && !connection.held).then(|| match connection.state() {
        State::FinWait2 => {
            let since = connection.orphaned_at.max(connection.heard_at);
            (since + timeouts.fin_wait_2, Deadline::FinWait2)
        }
        _ => (connection.orphaned_at + timeouts.closing, Deadline::Closing),
    });
    let idle = options
        .idle
        .filter(|_| open)
        .map(|idle| (connection.moved_at + idle, Deadline::Idle));
    let kick = connection.kick_at.map(|at| (at, Deadline::Kick));
    let keepalive = options
        .keepalive
        .filter(|_| open && !connection.wire.outstanding())
        .map(|keepalive| {
            let sent = keepalive.interval * u32::from(connection.keepalives);
            let at = connection.heard_at + keepalive.idle + sent;
            (at, Deadline::Keepalive)
        });
    let hibernate = connection.idle().then(|| {
        let at = connection.heard_at.max(connection.moved_at) + timeouts.hibernate;
        (at, Deadline::Hibernate)
    });
    // Only an opening connection has the first, and only an open one the second.
    [connect.or(owed), orphan, idle, kick, keepalive, hibernate]
}
