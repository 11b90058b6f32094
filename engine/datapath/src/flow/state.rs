//! Where a flow stands: RFC 9293's states as they show in the middle of a connection.

use std::time::Duration;

use super::table::Direction;
use crate::parse::TcpFlags;
use crate::{Protocol, timeouts};

/// Where a flow stands. For TCP, the state of the client's socket (RFC 9293 section 3.3.2) as far as packets
/// show it; LISTEN never shows. A middle that keeps no windows cannot tell which ACK acknowledges a
/// FIN, so any ACK that follows it counts: a flow may be taken for further on than it is, and packets
/// of a known flow are translated in every state.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FlowState {
    /// TCP: the client's SYN, no answer.
    SynSent,
    /// TCP: a SYN came back, with an ACK or (both ends opened at once) without; the client has not gone on.
    SynReceived,
    /// TCP: the client went on after the answer.
    Established,
    /// TCP: the client's FIN, nothing back since.
    FinWait1,
    /// TCP: the client's FIN, acknowledged. The server may still send.
    FinWait2,
    /// TCP: the server's FIN. The client may still send.
    CloseWait,
    /// TCP: the client's FIN, then the server's, not acknowledged.
    Closing,
    /// TCP: the server's FIN, then the client's, not acknowledged.
    LastAck,
    /// TCP: closed by both, and the last FIN acknowledged.
    TimeWait,
    /// TCP: reset. Both ends may not have believed it (RFC 5961 section 3): if both speak on, it is
    /// established again.
    Closed,
    /// UDP: nothing came back yet.
    OneWay,
    /// UDP: both sides heard.
    TwoWay,
}

/// What a segment does to a state.
#[derive(Copy, Clone)]
#[repr(u8)]
enum Segment {
    /// Nothing. Every segment of an open connection carries ACK (RFC 9293 section 3.10.7.4), so one without
    /// is ignored by its receiver; a SYN with FIN is nobody's.
    Void,
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

const SEGMENTS: usize = 6;
const STATES: usize = FlowState::ALL.len();

/// The segment by the control bits FIN, SYN, RST, PSH and ACK.
static SEGMENT: [Segment; 32] = {
    let mut table = [Segment::Void; 32];
    let mut bits = 0;
    while bits < table.len() {
        let [fin, syn, rst, ack] = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 16 != 0];
        table[bits] = match (rst, syn, fin, ack) {
            (true, ..) => Segment::Rst,
            (_, true, false, false) => Segment::Syn,
            (_, true, false, true) => Segment::SynAck,
            (_, false, true, true) => Segment::Fin,
            (_, false, false, true) => Segment::Ack,
            _ => Segment::Void,
        };
        bits += 1;
    }
    table
};

/// The state after a segment of that direction.
static NEXT: [[[FlowState; SEGMENTS]; 2]; STATES] = {
    let mut table = [[[FlowState::SynSent; SEGMENTS]; 2]; STATES];
    let mut state = 0;
    while state < STATES {
        let mut segment = 0;
        while segment < SEGMENTS {
            table[state][0][segment] = step(FlowState::ALL[state], Direction::Forward, segment);
            table[state][1][segment] = step(FlowState::ALL[state], Direction::Reply, segment);
            segment += 1;
        }
        state += 1;
    }
    table
};

/// The timeout of each state, in nanoseconds.
static TIMEOUT: [u64; STATES] = {
    let mut table = [0; STATES];
    let mut state = 0;
    while state < STATES {
        table[state] = FlowState::ALL[state].limit().as_nanos() as u64;
        state += 1;
    }
    table
};

/// One row of the diagram: RFC 9293 section 3.3.2, figure 5, seen from between the two ends.
const fn step(from: FlowState, direction: Direction, segment: usize) -> FlowState {
    use FlowState::{
        CloseWait, Closed, Closing, Established, FinWait1, FinWait2, LastAck, OneWay, SynReceived,
        SynSent, TimeWait, TwoWay,
    };
    const SYN: usize = Segment::Syn as usize;
    const SYN_ACK: usize = Segment::SynAck as usize;
    const ACK: usize = Segment::Ack as usize;
    const FIN: usize = Segment::Fin as usize;
    const RST: usize = Segment::Rst as usize;
    let client = matches!(direction, Direction::Forward);
    match (from, segment, client) {
        (OneWay | TwoWay, _, false) => TwoWay,
        (OneWay | TwoWay, _, true) => from,
        (_, RST, _) => Closed,
        (SynSent, SYN | SYN_ACK, false) => SynReceived,
        // An answer alone makes no connection (section 3.5): a client that floods SYNs and never goes on
        // must not hold flows for a day. In a simultaneous open it goes on with a SYN-ACK.
        (SynReceived, ACK | SYN_ACK, true) => Established,
        (SynReceived | Established, FIN, true) => FinWait1,
        (SynReceived | Established, FIN, false) => CloseWait,
        (FinWait1, ACK, false) => FinWait2,
        (FinWait1 | FinWait2, FIN, false) => Closing,
        (CloseWait, FIN, true) => LastAck,
        (Closing, ACK, true) | (LastAck, ACK, false) => TimeWait,
        // Retransmissions, data, and what a receiver answers with a challenge ACK (section 3.10.7.4).
        _ => from,
    }
}

impl FlowState {
    /// Every state; `ALL[state as usize] == state`.
    pub const ALL: [Self; 12] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
        Self::TimeWait,
        Self::Closed,
        Self::OneWay,
        Self::TwoWay,
    ];

    /// The state of a flow before its first packet. `older`: it was open before anybody looked, so no
    /// timeout may cut it short for what was not seen.
    pub(super) const fn first(proto: Protocol, older: bool) -> Self {
        match (proto, older) {
            (Protocol::Tcp, false) => Self::SynSent,
            (Protocol::Tcp, true) => Self::Established,
            (Protocol::Udp, false) => Self::OneWay,
            (Protocol::Udp, true) => Self::TwoWay,
        }
    }

    /// The state after a packet. UDP has no control bits.
    #[inline]
    pub(super) fn next(self, direction: Direction, flags: TcpFlags) -> Self {
        NEXT[self as usize][direction as usize][SEGMENT[usize::from(flags.0 & 0x1f)] as usize]
    }

    /// Its name, as `weft flows` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait1 => "fin_wait_1",
            Self::FinWait2 => "fin_wait_2",
            Self::CloseWait => "close_wait",
            Self::Closing => "closing",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
            Self::OneWay => "one_way",
            Self::TwoWay => "two_way",
        }
    }

    /// How long a flow may be silent in it.
    pub const fn limit(self) -> Duration {
        match self {
            Self::SynSent | Self::SynReceived => timeouts::TCP_OPENING,
            Self::Established => timeouts::TCP_ESTABLISHED,
            Self::FinWait1 => timeouts::TCP_FIN_WAIT_1,
            Self::FinWait2 | Self::CloseWait => timeouts::TCP_HALF_CLOSED,
            Self::Closing | Self::LastAck | Self::TimeWait => timeouts::TCP_TIME_WAIT,
            Self::Closed => timeouts::TCP_CLOSED,
            Self::OneWay => timeouts::UDP_ONE_WAY,
            Self::TwoWay => timeouts::UDP_TWO_WAY,
        }
    }

    /// [`limit`](Self::limit) in nanoseconds, by one load.
    #[inline]
    pub(super) fn limit_nanos(self) -> u64 {
        TIMEOUT[self as usize]
    }

    /// Nobody has shown yet that both ends want it.
    pub const fn opening(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived | Self::OneWay)
    }

    /// Closed by both ends, or reset.
    #[inline]
    pub const fn over(self) -> bool {
        matches!(
            self,
            Self::Closing | Self::LastAck | Self::TimeWait | Self::Closed
        )
    }

    /// Whether a SYN from the client is a new connection (SVC-26): an end has closed, so the client's
    /// old socket is gone. Before that it is a retransmission, or a client that lost its memory,
    /// which the server answers with a challenge ACK (RFC 9293 section 3.10.7.4).
    #[inline]
    pub(super) const fn gives_way_to_syn(self) -> bool {
        self.over() || matches!(self, Self::FinWait1 | Self::FinWait2 | Self::CloseWait)
    }
}
