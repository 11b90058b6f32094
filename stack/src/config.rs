//! What a stack is told: limits, timeouts, and what services ask for.

use std::time::Duration;

/// A service with a TCP stage, by the number that the engine gives it. Small numbers: they index an array.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ServiceId(pub u16);

/// Where a connection's packets come from and go to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The engine's own number for it, such as an interface index. Packets with another tag are another connection's.
    pub tag: u32,
    /// Bytes of the longest IP packet on that way. Bounds the segment sizes of both directions.
    pub mtu: u16,
}

/// Keep-alives of idle connections (RFC 9293 section 3.8.4).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// Silence before the first one.
    pub idle: Duration,
    /// Time from one to the next.
    pub interval: Duration,
    /// How many go unanswered before the connection is given up.
    pub count: u8,
}

/// What a service asks of its connections. The latest that a stack was told counts, for connections there are, too.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ServiceOptions {
    /// Connections that are open or closing.
    pub connections: u32,
    /// Half-open connections that are remembered. SYNs beyond get cookies.
    pub half_open: u32,
    /// Connections in TIME-WAIT. Beyond, a connection is closed without it.
    pub time_wait: u32,
    /// Bytes of a socket's receive buffer, the largest window; cut to 4 KiB..=4 MiB.
    pub receive_buffer: usize,
    /// Bytes of a socket's send buffer; cut to 4 KiB..=4 MiB.
    pub send_buffer: usize,
    /// Bytes of each of the buffers that a connection begins with, if those above are larger: a splice makes them
    /// grow once it has moved four times as much. Cut to 4 KiB at least.
    pub first_buffer: usize,
    /// A connection that moved no data for so long is reset.
    pub idle: Option<Duration>,
    /// Keep-alives, if wanted.
    pub keepalive: Option<Keepalive>,
    /// The fastest that a connection's clock may run, 1 for as time does. At most 20 is safe with Linux peers.
    pub clock_scale: u32,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            connections: u32::MAX,
            half_open: 1024,
            time_wait: u32::MAX,
            receive_buffer: 64 << 10,
            send_buffer: 64 << 10,
            first_buffer: usize::MAX,
            idle: None,
            keepalive: None,
            clock_scale: 20,
        }
    }
}

impl ServiceOptions {
    /// Bytes of a connection's first receive buffer.
    pub(crate) fn first_receive(&self) -> usize {
        self.receive_buffer.min(self.first_buffer)
    }
}

/// Bounds of everything a stack remembers.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections of all services, each 300 bytes or so while idle.
    pub connections: u32,
    /// Sockets: connections that are not idle, each with both of its buffers. This bounds the memory of a stack: 1 GiB
    /// with the buffers that services have by default.
    pub sockets: u32,
    /// Half-open connections that are remembered. SYNs beyond get cookies.
    pub half_open: u32,
    /// Connections in TIME-WAIT. Beyond, the oldest goes.
    pub time_wait: u32,
    /// Answers without data that wait for frames.
    pub replies: u32,
    /// Resets a second for segments to nobody.
    pub resets: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 131_072,
            sockets: 8_192,
            half_open: 4_096,
            time_wait: 16_384,
            replies: 1_024,
            resets: 1_000,
        }
    }
}

/// How long things may take.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// SYN-SENT: until the peer has answered.
    pub connect: Duration,
    /// SYN-RECEIVED: the first SYN-ACK is repeated after this, then after twice as long, and so on.
    pub syn_ack: Duration,
    /// How often a SYN-ACK is repeated before the half-open connection is forgotten.
    pub syn_ack_repeats: u8,
    /// Until the peer is given up that is silent while it owes an acknowledgement (R2 of RFC 9293 section 3.8.3, at
    /// least 100 s), in ESTABLISHED, CLOSE-WAIT, FIN-WAIT-1, CLOSING and LAST-ACK.
    pub unacknowledged: Duration,
    /// FIN-WAIT-1, CLOSING, LAST-ACK of a connection that nobody holds any more: the whole of it.
    pub closing: Duration,
    /// FIN-WAIT-2 of a connection that nobody holds any more.
    pub fin_wait_2: Duration,
    /// TIME-WAIT: twice the life of a segment in the network.
    pub time_wait: Duration,
    /// An idle connection gives its socket back after so long.
    pub hibernate: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            syn_ack: Duration::from_secs(1),
            syn_ack_repeats: 4,
            unacknowledged: Duration::from_secs(120),
            closing: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(60),
            time_wait: Duration::from_secs(60),
            hibernate: Duration::from_millis(250),
        }
    }
}

/// What a stack is made of.
#[derive(Clone)]
pub struct StackConfig {
    /// Random, and no other stack's: sequence numbers, cookies and the demultiplexer rest on it.
    pub secret: [u8; 32],
    /// Bounds.
    pub limits: Limits,
    /// Timeouts.
    pub timeouts: Timeouts,
}

/// Who listens: the engine's tables, asked at every SYN.
pub trait Listeners {
    /// The service that takes connections to this address and port from this tag; `None` if none does.
    fn lookup(
        &self,
        local: weft_datapath::Address,
        port: u16,
        tag: u32,
    ) -> Option<(ServiceId, ServiceOptions)>;
}
