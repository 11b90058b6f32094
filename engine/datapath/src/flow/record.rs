//! One flow's record, laid out by how often its parts are touched.

use crate::parse::TcpFlags;
use crate::{
    Address, Delta, Direction, FlowKey, Hook, Now, Protocol, SlotRef, Tables, Tuple, timeouts,
};

/// What a flow is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FlowKind {
    /// To a service: translated.
    Service,
    /// From pod to pod: as it is.
    Direct,
    /// Older than the enrolment: the kernel's.
    Kernel,
}

/// Where a flow stands: which timeout counts, and whether a SYN may replace it.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TcpPhase {
    /// TCP: the handshake is not over. UDP: nothing came back yet.
    Opening,
    /// TCP: the client has acknowledged what came back. UDP: both sides heard; it stays here.
    Established,
    /// TCP: one side has sent its FIN.
    HalfClosed,
    /// TCP: reset, or closed by both.
    Closing,
}

/// The far end of a flow and how it replies.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct FlowEnd {
    /// Its address: the backend's, or the other pod's.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// Its veth; 0 when the kernel brings packets there.
    pub ifindex: u32,
    /// What the flow depends on.
    pub slot: SlotRef,
}

/// The client as the far end sees it, where that is not the client itself.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct FlowSource {
    /// Its address there: the client's own, or the hairpin address.
    pub address: Address,
    /// Its port there.
    pub port: u16,
}

/// Which packets are a flow's replies.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
enum Replies {
    /// Not ours to find: the kernel translates the flow to we know not where, or there is no other direction.
    Unknown,
    /// Those to the client.
    ToClient,
    /// Those to what the far end takes for the client.
    ToSource,
}

/// What a new flow is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFlow {
    /// The opening packet's tuple (client to VIP) and the client's veth.
    pub key: FlowKey,
    /// The end that serves it.
    pub end: FlowEnd,
    /// The client as that end sees it; `None`: as it is.
    pub source: Option<FlowSource>,
    /// What it is.
    pub kind: FlowKind,
    /// Whether the reply direction is ours to find: not for what the kernel translates to we know not where.
    pub reply: bool,
    /// What the flow depends on at the client's side.
    pub client_slot: SlotRef,
    /// The caller's number of the service port.
    pub service: u32,
    /// The caller's number of the backend's name.
    pub backend: Option<u32>,
    /// The worker that owns it.
    pub owner: u16,
    /// Its number, unique on the node.
    pub cookie: u64,
    /// When its first packet came.
    pub now: Now,
}

/// A flow. The first cache line holds both keys, the second what every packet reads and writes, the
/// third what only people ask for.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Flow {
    // First line, 64 bytes: compared on lookup, written once.
    client: Address,
    vip: Address,
    server: Address,
    client_port: u16,
    vip_port: u16,
    server_port: u16,
    proto: Protocol,
    kind: FlowKind,
    client_ifindex: u32,
    server_ifindex: u32,
    // Second line, 64 bytes: touched by every packet.
    last_seen: Now,
    packets: [u64; 2],
    bytes: [u64; 2],
    client_slot: SlotRef,
    server_slot: SlotRef,
    l3: Delta,
    l4: Delta,
    phase: TcpPhase,
    /// Bit per direction: a FIN was seen.
    fins: u8,
    live: bool,
    replies: Replies,
    // Third line: cold, but for the few flows with a source of their own.
    source: Address,
    source_port: u16,
    created: Now,
    cookie: u64,
    service: u32,
    backend: Option<u32>,
    owner: u16,
}

const _: () = {
    assert!(std::mem::offset_of!(Flow, last_seen) == 64);
    assert!(std::mem::offset_of!(Flow, source) == 128);
    assert!(size_of::<Flow>() == 192);
};

impl Flow {
    pub(super) fn new(new: NewFlow) -> Self {
        let NewFlow {
            key: FlowKey { tuple, ifindex },
            end,
            source,
            ..
        } = new;
        let replies = match source {
            _ if !new.reply => Replies::Unknown,
            None => Replies::ToClient,
            Some(_) => Replies::ToSource,
        };
        let source = source.unwrap_or(FlowSource {
            address: tuple.src,
            port: tuple.sport,
        });
        let l3 = Delta::default()
            .replace(&tuple.dst.0, &end.address.0)
            .replace(&tuple.src.0, &source.address.0);
        let l4 = l3
            .replace(&tuple.dport.to_be_bytes(), &end.port.to_be_bytes())
            .replace(&tuple.sport.to_be_bytes(), &source.port.to_be_bytes());
        let mut flow = Self {
            client: tuple.src,
            vip: tuple.dst,
            server: end.address,
            client_port: tuple.sport,
            vip_port: tuple.dport,
            server_port: end.port,
            proto: tuple.proto,
            kind: new.kind,
            client_ifindex: ifindex,
            server_ifindex: end.ifindex,
            last_seen: new.now,
            packets: [0; 2],
            bytes: [0; 2],
            client_slot: new.client_slot,
            server_slot: end.slot,
            l3,
            l4,
            phase: TcpPhase::Opening,
            fins: 0,
            live: true,
            replies,
            source: source.address,
            source_port: source.port,
            created: new.now,
            cookie: new.cookie,
            service: new.service,
            backend: new.backend,
            owner: new.owner,
        };
        // A pod that sends to the port it sends from: both directions are one, and so is its key.
        if flow.key(Direction::Reply) == flow.key(Direction::Forward) {
            flow.replies = Replies::Unknown;
        }
        flow
    }

    /// The tuple as the client sends it: to the VIP.
    pub fn tuple(&self) -> Tuple {
        Tuple {
            src: self.client,
            dst: self.vip,
            sport: self.client_port,
            dport: self.vip_port,
            proto: self.proto,
        }
    }

    /// The tuple as the backend receives it.
    pub fn backend_tuple(&self) -> Tuple {
        Tuple {
            src: self.source,
            dst: self.server,
            sport: self.source_port,
            dport: self.server_port,
            proto: self.proto,
        }
    }

    /// What the flow is.
    #[inline]
    pub fn kind(&self) -> FlowKind {
        self.kind
    }

    /// The client's veth.
    #[inline]
    pub fn client_ifindex(&self) -> u32 {
        self.client_ifindex
    }

    /// The backend's veth; `None` when the kernel brings packets there.
    #[inline]
    pub fn server_ifindex(&self) -> Option<u32> {
        (self.server_ifindex != 0).then_some(self.server_ifindex)
    }

    /// What the flow depends on at the client's side.
    pub(super) fn client_slot(&self) -> SlotRef {
        self.client_slot
    }

    /// Where the flow stands.
    pub fn phase(&self) -> TcpPhase {
        self.phase
    }

    /// Packets from the client and back.
    pub fn packets(&self) -> [u64; 2] {
        self.packets
    }

    /// Bytes of IP packets from the client and back.
    pub fn bytes(&self) -> [u64; 2] {
        self.bytes
    }

    /// When its first packet came.
    pub fn created(&self) -> Now {
        self.created
    }

    /// When its last packet came.
    pub fn last_seen(&self) -> Now {
        self.last_seen
    }

    /// Its number, unique on the node.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The caller's number of the service port; 0 for other kinds.
    pub fn service(&self) -> u32 {
        self.service
    }

    /// The caller's number of the backend's name.
    pub fn backend(&self) -> Option<u32> {
        self.backend
    }

    /// The worker that owns it.
    pub fn owner(&self) -> u16 {
        self.owner
    }

    /// The key of that direction's packets; `None` for a reply that is not ours to find.
    ///
    /// A reply comes from the backend's veth, or, by the kernel, to the client's.
    pub fn key(&self, direction: Direction) -> Option<FlowKey> {
        match direction {
            Direction::Forward => Some(FlowKey {
                tuple: self.tuple(),
                ifindex: self.client_ifindex,
            }),
            Direction::Reply => (self.replies != Replies::Unknown).then(|| FlowKey {
                tuple: self.backend_tuple().reversed(),
                ifindex: self.server_ifindex().unwrap_or(self.client_ifindex),
            }),
        }
    }

    /// The hook where that direction's packets are seen.
    #[inline]
    pub fn hook(&self, direction: Direction) -> Hook {
        match direction {
            Direction::Reply if self.server_ifindex == 0 => Hook::ToPod,
            Direction::Forward | Direction::Reply => Hook::FromPod,
        }
    }

    /// Whether `key` is that direction's.
    #[inline]
    pub(super) fn is(&self, direction: Direction, key: &FlowKey) -> bool {
        let FlowKey { tuple, ifindex } = key;
        if tuple.proto != self.proto {
            return false;
        }
        match direction {
            Direction::Forward => {
                tuple.src == self.client
                    && tuple.dst == self.vip
                    && (tuple.sport, tuple.dport) == (self.client_port, self.vip_port)
                    && *ifindex == self.client_ifindex
            }
            Direction::Reply => {
                let expected = if self.server_ifindex == 0 {
                    self.client_ifindex
                } else {
                    self.server_ifindex
                };
                let (address, port) = match self.replies {
                    Replies::ToSource => (&self.source, self.source_port),
                    Replies::ToClient | Replies::Unknown => (&self.client, self.client_port),
                };
                tuple.src == self.server
                    && tuple.dst == *address
                    && (tuple.sport, tuple.dport) == (self.server_port, port)
                    && *ifindex == expected
            }
        }
    }

    pub(super) fn live(&self) -> bool {
        self.live
    }

    pub(super) fn kill(&mut self) {
        self.live = false;
    }

    /// The address and port that a packet of that direction gets: its destination, or its source.
    /// `None` when it goes on as it is.
    #[inline]
    pub(crate) fn translated(&self, direction: Direction) -> Option<(&Address, u16)> {
        (self.kind == FlowKind::Service).then_some(match direction {
            Direction::Forward => (&self.server, self.server_port),
            Direction::Reply => (&self.vip, self.vip_port),
        })
    }

    /// The address and port that the client's own end gets in a packet of that direction: the source,
    /// or the destination. `None`, as nearly always, when it keeps what it has.
    #[inline]
    pub(crate) fn masked(&self, direction: Direction) -> Option<(&Address, u16)> {
        (self.replies == Replies::ToSource).then_some(match direction {
            Direction::Forward => (&self.source, self.source_port),
            Direction::Reply => (&self.client, self.client_port),
        })
    }

    /// What that translation adds to the IP header checksum and to the transport checksum.
    #[inline]
    pub(crate) fn deltas(&self, direction: Direction) -> (Delta, Delta) {
        match direction {
            Direction::Forward => (self.l3, self.l4),
            Direction::Reply => (self.l3.inverse(), self.l4.inverse()),
        }
    }

    /// Whether the flow still counts: not timed out, and nothing that it depends on has changed.
    #[inline]
    pub fn valid(&self, now: Now, tables: &Tables) -> bool {
        now.since(self.last_seen) <= self.timeout()
            && tables.holds(self.client_slot)
            && tables.holds(self.server_slot)
    }

    /// How long it may be silent.
    #[inline]
    fn timeout(&self) -> std::time::Duration {
        match (self.proto, self.phase) {
            // Seen from one side only, or older than we know: never cut short by what we did not see.
            (Protocol::Tcp, TcpPhase::Opening) if self.kind == FlowKind::Kernel => {
                timeouts::TCP_ESTABLISHED
            }
            (Protocol::Tcp, TcpPhase::Opening) => timeouts::TCP_OPENING,
            (Protocol::Tcp, TcpPhase::Established) => timeouts::TCP_ESTABLISHED,
            (Protocol::Tcp, TcpPhase::HalfClosed) => timeouts::TCP_HALF_CLOSED,
            (Protocol::Tcp, TcpPhase::Closing) => timeouts::TCP_CLOSING,
            (Protocol::Udp, TcpPhase::Opening) => timeouts::UDP_ONE_WAY,
            (Protocol::Udp, _) => timeouts::UDP_TWO_WAY,
        }
    }

    /// Whether a SYN on this tuple is a new connection: the old one is over, or was never ours.
    #[inline]
    pub(crate) fn gives_way_to_syn(&self) -> bool {
        self.phase == TcpPhase::Closing || self.kind == FlowKind::Kernel
    }

    /// Counts a packet of `bytes` IP bytes and follows the connection's phase.
    #[inline]
    pub(crate) fn seen(&mut self, direction: Direction, flags: TcpFlags, bytes: usize, now: Now) {
        self.last_seen = now;
        self.packets[direction as usize] += 1;
        self.bytes[direction as usize] += bytes as u64;
        if self.phase == TcpPhase::Opening {
            // A SYN's answer alone does not make a connection (RFC 9293 section 3.5): a client that floods
            // SYNs and never goes on must not hold flows for a day.
            let answered = self.packets[Direction::Reply as usize] > 0;
            self.phase = match (direction, self.proto, self.kind) {
                (Direction::Forward, Protocol::Tcp, _) if answered && !flags.opens() => {
                    TcpPhase::Established
                }
                (Direction::Reply, Protocol::Udp, _) | (Direction::Reply, _, FlowKind::Kernel) => {
                    TcpPhase::Established
                }
                _ => TcpPhase::Opening,
            };
        }
        if flags.fin() {
            self.fins |= 1 << direction as u8;
            if self.phase != TcpPhase::Closing {
                self.phase = if self.fins == 0b11 {
                    TcpPhase::Closing
                } else {
                    TcpPhase::HalfClosed
                };
            }
        }
        if flags.rst() {
            self.phase = TcpPhase::Closing;
        }
    }
}
