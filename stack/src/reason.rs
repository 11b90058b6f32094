//! What became of segments, and what happened to connections: closed lists that index the counters.

use std::fmt;

/// Defines a closed list: the enum, all of its values in order, and their names.
macro_rules! list {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every value; `ALL[value as usize] == value`.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The name in counters and in `docs/tcp.md`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

list! {
    /// Why a segment was dropped. `reason as usize` indexes the counters.
    DropReason {
        /// Not a whole TCP packet: the engine gave the stack what is not its.
        NotTcp = "not_tcp",
        /// A wrong checksum, of IPv4 or of TCP.
        Checksum = "checksum",
        /// An end of it is no unicast address, or has port 0.
        Address = "address",
        /// Control bits that contradict each other, or neither SYN, RST nor ACK.
        Flags = "flags",
        /// As many answers wait for free frames as may.
        ReplyRoom = "reply_room",
        /// A reset for nobody.
        UnknownReset = "unknown_reset",
        /// To be answered with a reset, and as many have been sent as may be in a second.
        ResetRate = "reset_rate",
        /// A SYN, or the ACK of one, beyond the limit on connections.
        ConnectionLimit = "connection_limit",
        /// The same, beyond the service's limit.
        ServiceConnectionLimit = "service_connection_limit",
        /// To a service that has lately sent cookies, and not the ACK of one, which it may have overtaken.
        CookieOrder = "cookie_order",
        /// Needs a socket, and as many are in use as may be.
        SocketLimit = "socket_limit",
        /// To an opening connection, and not what answers its SYN or SYN-ACK.
        Handshake = "handshake",
        /// A reset that is not exactly the next thing expected (RFC 5961 section 3).
        ResetSequence = "reset_sequence",
        /// Acknowledges what was never sent, or what is too old to be true (RFC 5961 section 5).
        AckRange = "ack_range",
        /// Outside the receive window.
        Window = "window",
        /// To a connection in TIME-WAIT, and neither a new SYN nor a repeated FIN.
        TimeWait = "time_wait",
        /// To a connection that is being reset.
        Aborted = "aborted",
    }
}

list! {
    /// What happened, other than the fate of a segment.
    Event {
        /// A SYN got a place among half-open connections.
        HalfOpen = "half_open",
        /// A SYN was answered with a cookie, the half-open connections being as many as may be.
        CookieSent = "cookie_sent",
        /// A connection came of a cookie.
        CookieAccepted = "cookie_accepted",
        /// A SYN-ACK was sent again.
        SynAckRepeated = "syn_ack_repeated",
        /// A half-open connection got no ACK in time.
        HalfOpenTimeout = "half_open_timeout",
        /// A half-open connection was reset by its peer.
        HalfOpenReset = "half_open_reset",
        /// A connection was opened by a peer.
        Accepted = "accepted",
        /// A connection was opened to a peer.
        Connected = "connected",
        /// A peer refused a connection.
        Refused = "refused",
        /// A peer did not answer a SYN in time.
        ConnectTimeout = "connect_timeout",
        /// Both ends closed.
        Closed = "closed",
        /// The peer reset a connection.
        ResetByPeer = "reset_by_peer",
        /// A connection was reset by its user, or left with unread data.
        Aborted = "aborted_by_user",
        /// The peer was silent for too long while it owed an acknowledgement.
        UnacknowledgedTimeout = "unacknowledged_timeout",
        /// Nothing moved for as long as the service allows.
        IdleTimeout = "idle_timeout",
        /// As many keep-alives as configured were not answered.
        KeepaliveTimeout = "keepalive_timeout",
        /// The peer did not close its half in time, and nobody waits for it.
        FinWaitTimeout = "fin_wait_timeout",
        /// A keep-alive was sent.
        Keepalive = "keepalive",
        /// An ACK was sent to make the peer prove itself (RFC 5961).
        ChallengeAck = "challenge_ack",
        /// A reset was sent for a segment to nobody, or for the ACK of a SYN that was not sent.
        ResetSent = "reset_sent",
        /// A router said that a packet was too long for its path.
        PathShortened = "path_shortened",
        /// Data was sent again.
        Retransmission = "retransmission",
        /// A connection went into TIME-WAIT.
        TimeWaitEntered = "time_wait_entered",
        /// The oldest in TIME-WAIT made room for another.
        TimeWaitEvicted = "time_wait_evicted",
        /// A connection was closed without TIME-WAIT, at its service's limit.
        TimeWaitSkipped = "time_wait_skipped",
        /// A SYN, the peer's or ours, took over a tuple in TIME-WAIT.
        TimeWaitReused = "time_wait_reused",
        /// An idle connection gave its socket and buffers back.
        Hibernated = "hibernated",
        /// An idle connection got a socket again.
        Woken = "woken",
    }
}

/// What became of the segments given to a stack: every one has exactly one fate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Given to the stack.
    pub received: u64,
    /// Taken by a connection.
    pub delivered: u64,
    /// Answered without being taken: SYNs, segments for nobody, challenges.
    pub answered: u64,
    /// Dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// Things that happened, by [`Event`].
    pub events: [u64; Event::ALL.len()],
    /// Packets sent.
    pub sent: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: 0,
            delivered: 0,
            answered: 0,
            dropped: [0; DropReason::ALL.len()],
            events: [0; Event::ALL.len()],
            sent: 0,
        }
    }
}

impl Counters {
    /// How often a segment was dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// How often this happened.
    pub fn events(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// Whether every segment received has exactly one fate.
    pub fn balances(&self) -> bool {
        self.received == self.delivered + self.answered + self.dropped.iter().sum::<u64>()
    }

    pub(crate) fn count(&mut self, event: Event) {
        self.events[event as usize] += 1;
    }
}

/// What became of one segment.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// A connection took it.
    Delivered,
    /// It was answered, and changed no connection's data.
    Answered,
    /// It was dropped.
    Dropped(DropReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_documented() {
        let text = include_str!("../../docs/tcp.md");
        let drops = DropReason::ALL.map(DropReason::name);
        let events = Event::ALL.map(Event::name);
        for name in drops.iter().chain(&events) {
            assert!(
                text.contains(&format!("`{name}`")),
                "docs/tcp.md lacks {name}"
            );
        }
    }
}
