//! One connection: what stays when it is idle, and its socket while it is not.

use std::task::Waker;

use smoltcp::socket::tcp::State;
use weft_datapath::Now;

use crate::clock::Clock;
use crate::config::{Route, ServiceId};
use crate::grow::Growth;
use crate::key::Key;
use crate::live::{Buffers, Live};
use crate::recovery::Recovery;
use crate::seq::Seq;
use crate::wire::Wire;

/// Where a connection stands. Finer states are those of its socket.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// SYN-SENT, or SYN-RECEIVED after both ends have opened.
    Opening,
    /// Synchronised. Without a socket: ESTABLISHED, with nothing in flight or in a buffer.
    Open,
    /// Over. The peer's data may still be in the socket.
    Over(End),
}

/// How a connection ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Both ends closed.
    Closed,
    /// The peer reset it.
    Reset,
    /// The peer refused to open it.
    Refused,
    /// The peer was silent for too long, or nothing moved for as long as is allowed.
    TimedOut,
    /// This end reset it.
    Aborted,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) key: Key,
    pub(crate) mtu: u16,
    /// What the path was found to carry, if less.
    pub(crate) path: Option<u16>,
    pub(crate) service: ServiceId,
    /// Whose share of the sockets it takes from.
    pub(crate) payer: u32,
    pub(crate) phase: Phase,
    pub(crate) wire: Wire,
    pub(crate) live: Option<Live>,
    pub(crate) clock: Clock,
    pub(crate) recovery: Recovery,
    /// Whether the peer's FIN has been taken.
    pub(crate) fin: bool,
    /// In the queue of connections with something to send.
    pub(crate) queued: bool,
    /// A reset is to be sent, and then it is over.
    pub(crate) reset_due: bool,
    /// A stream refers to it, or will.
    pub(crate) held: bool,
    /// The device segments what it sends.
    pub(crate) segmentation: bool,
    /// It waits for a socket to become free.
    pub(crate) starving: bool,
    /// Its SYN was sent again because the peer was in TIME-WAIT.
    pub(crate) knocked: bool,
    /// Keep-alives sent since the peer was last heard.
    pub(crate) keepalives: u8,
    /// When the peer was last heard, and when it began to owe an answer.
    pub(crate) heard_at: Now,
    pub(crate) owed_since: Option<Now>,
    /// When to do what the socket has forgotten: see [`Core::kick`](crate::core::Core::kick).
    pub(crate) kick_at: Option<Now>,
    /// When data last moved.
    pub(crate) moved_at: Now,
    /// When nobody held it any more.
    pub(crate) orphaned_at: Now,
    /// No challenge before this (RFC 5961 section 7).
    pub(crate) challenge_at: Now,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) growth: Growth,
    /// The other end of a splice.
    pub(crate) spliced: Option<u32>,
    /// It was spliced, or is looked after by a task of the worker's: its end is asked for, and its buffers grow.
    pub(crate) joined: bool,
}

impl Connection {
    pub(crate) fn new(key: Key, mtu: u16, service: ServiceId, wire: Wire, now: Now) -> Self {
        Self {
            key,
            mtu,
            path: None,
            service,
            payer: key.tag,
            phase: Phase::Opening,
            wire,
            live: None,
            clock: Clock::new(now),
            recovery: Recovery::default(),
            fin: false,
            queued: false,
            reset_due: false,
            held: true,
            segmentation: false,
            starving: false,
            knocked: false,
            keepalives: 0,
            heard_at: now,
            owed_since: None,
            kick_at: None,
            moved_at: now,
            orphaned_at: now,
            challenge_at: Now::default(),
            reader: None,
            writer: None,
            growth: Growth::default(),
            spliced: None,
            joined: false,
        }
    }

    pub(crate) fn route(&self) -> Route {
        Route {
            tag: self.key.tag,
            mtu: self.mtu,
        }
    }

    /// Bytes that wait to be read.
    pub(crate) fn readable(&self) -> usize {
        self.live
            .as_ref()
            .map_or(0, |live| live.socket().recv_queue())
    }

    /// The next number expected from the peer.
    pub(crate) fn next(&self) -> Seq {
        self.wire.base + self.readable() as u32 + u32::from(self.fin)
    }

    /// The socket's state; ESTABLISHED without one.
    pub(crate) fn state(&self) -> State {
        match (&self.live, self.phase) {
            (_, Phase::Over(_)) => State::Closed,
            (Some(live), _) => live.state(),
            (None, Phase::Opening) => State::SynSent,
            (None, Phase::Open) => State::Established,
        }
    }

    /// The state's name in RFC 9293 section 3.3.2. A FIN that the socket does not know of yet makes CLOSE-WAIT LAST-ACK.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state() {
            State::Closed | State::Listen => "CLOSED",
            State::SynSent => "SYN-SENT",
            State::SynReceived => "SYN-RECEIVED",
            State::Established => "ESTABLISHED",
            State::FinWait1 => "FIN-WAIT-1",
            State::FinWait2 => "FIN-WAIT-2",
            State::CloseWait if self.wire.ending() => "LAST-ACK",
            State::CloseWait => "CLOSE-WAIT",
            State::Closing => "CLOSING",
            State::LastAck => "LAST-ACK",
            State::TimeWait => "TIME-WAIT",
        }
    }

    /// Whether our half is open, so that it may be written to.
    pub(crate) fn sending(&self) -> bool {
        let open = self
            .live
            .as_ref()
            .is_none_or(|live| live.socket().may_send());
        self.phase == Phase::Open && open && !self.wire.ending()
    }

    /// Closes our half, of a connection that has a socket.
    pub(crate) fn close(&mut self) {
        let Some(live) = &mut self.live else {
            return;
        };
        let queued = live.socket().send_queue() as u32;
        if live.state() == State::CloseWait && queued > 0 {
            self.wire.end_at(queued);
        } else {
            live.socket_mut().close();
        }
    }

    /// Whether the reader has something to learn: data, the end, or an error.
    pub(crate) fn read_ready(&self) -> bool {
        self.readable() > 0 || self.fin || matches!(self.phase, Phase::Over(_))
    }

    /// Whether the writer has something to learn: room, or that there will be none.
    pub(crate) fn write_ready(&self) -> bool {
        match (self.phase, &self.live) {
            (Phase::Opening, _) => false,
            (Phase::Open, None) | (Phase::Over(_), _) => true,
            (Phase::Open, Some(live)) => !self.sending() || live.socket().can_send(),
        }
    }

    /// Whether the peer owes an answer: an acknowledgement, or a window for what is still to be sent.
    pub(crate) fn owed(&self) -> bool {
        let queued = self
            .live
            .as_ref()
            .map_or(0, |live| live.socket().send_queue());
        queued > 0 || self.wire.outstanding()
    }

    /// Whether it is the congestion window that holds back what there is to send, and not the peer's.
    pub(crate) fn congested(&self) -> bool {
        let Some(live) = &self.live else {
            return false;
        };
        let one_more = self.wire.in_flight() + u32::from(self.wire.mss);
        live.socket().send_queue() as u32 >= one_more && self.wire.window_bytes() >= one_more
    }

    /// Whether all that is known of it are its numbers, so that it can go on without a socket.
    pub(crate) fn idle(&self) -> bool {
        let Some(live) = &self.live else {
            return false;
        };
        self.phase == Phase::Open
            && live.state() == State::Established
            && live.socket().send_queue() == 0
            && live.socket().recv_queue() == 0
            && !self.wire.outstanding()
            && self.wire.acked == self.next()
            && !self.reset_due
    }

    /// Buffers of its sockets.
    pub(crate) fn buffers(&self, send: usize) -> Buffers {
        let own = self.growth.send;
        Buffers {
            receive: self.wire.capacity as usize,
            send: if own == 0 { send } else { own.min(send) },
        }
    }
}
