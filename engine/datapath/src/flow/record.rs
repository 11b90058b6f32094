//! One flow's record, laid out by how often its parts are touched.

use std::hint::black_box;

use super::new::{FlowKind, FlowSource, NewFlow};
use super::state::FlowState;
use crate::overlay::is_tunnel;
use crate::parse::TcpFlags;
use crate::tunnel::{Front, Said};
use crate::{
    Address, Delta, Direction, FlowKey, Hook, NameId, Now, Protocol, SlotRef, Tables, Tuple,
    timeouts,
};

mod terminated;

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
    state: FlowState,
    /// Bit per direction: it has spoken since the last reset.
    heard: u8,
    live: bool,
    replies: Replies,
    // Third line: cold, but for the few flows with a source of their own.
    source: Address,
    source_port: u16,
    /// Its client has begun anew from the same port, or it never had the client's direction: the forward key is another
    /// flow's.
    superseded: bool,
    client_name: Option<NameId>,
    created: Now,
    cookie: u64,
    service: u32,
    backend: Option<u32>,
    owner: u16,
    /// `RESETS`, `LEAVES`, `FRONTED`.
    manners: u8,
    /// It is one of its backend's live flows.
    counted: bool,
    member: SlotRef,
}

/// Its client is told by a reset when its backend is gone.
const RESETS: u8 = 1;
/// The hooks may carry it on.
const LEAVES: u8 = 2;
/// `source` is what its client has asked, which a peer has translated.
const FRONTED: u8 = 4;

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
        // Where nobody takes the client for another, the place of that one is for what a peer has said.
        let front = new.said.front.filter(|_| source.is_none());
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
            state: match new.kind {
                kind if kind.ends_here() => FlowState::Established, // The client has opened it already.
                kind => FlowState::first(tuple.proto, kind == FlowKind::Kernel),
            },
            // The half that it does not have is over from the start on.
            heard: match new.kind {
                FlowKind::Client => 1 << Direction::Reply as u8,
                FlowKind::Upstream => 1 << Direction::Forward as u8,
                _ => 0,
            },
            live: true,
            replies,
            source: front.map_or(source.address, |front| front.address),
            source_port: front.map_or(source.port, |front| front.port),
            created: new.now,
            cookie: new.cookie,
            service: new.service,
            backend: new.backend,
            owner: new.owner,
            manners: u8::from(new.reset) * RESETS
                + u8::from(new.leaves) * LEAVES
                + u8::from(front.is_some()) * FRONTED,
            superseded: new.kind == FlowKind::Upstream,
            client_name: new.said.client,
            counted: true,
            member: new.member,
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
        let (src, sport) = match self.manners & FRONTED {
            0 => (self.source, self.source_port),
            _ => (self.client, self.client_port),
        };
        Tuple {
            src,
            dst: self.server,
            sport,
            dport: self.server_port,
            proto: self.proto,
        }
    }

    /// What the client's node has said, if that is a peer (U-15).
    pub fn said(&self) -> Said {
        Said {
            front: (self.manners & FRONTED != 0).then_some(Front {
                address: self.source,
                port: self.source_port,
            }),
            client: self.client_name,
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

    /// Datagrams between pods that nobody has answered, such as late replies of a backend that has left its
    /// service: nothing that must keep a client from that backend.
    pub(crate) fn unanswered_datagrams(&self) -> bool {
        self.kind == FlowKind::Direct && self.state == FlowState::OneWay
    }

    /// Whether the hooks may carry it on: both ends are pods of ours or of peers, and see each other by the VIP alone.
    pub fn leaves(&self) -> bool {
        self.manners & LEAVES != 0 && self.server_ifindex != 0 && self.replies == Replies::ToClient
    }

    /// Whether one of its ends is a peer's pod.
    pub(crate) fn is_tunnelled(&self) -> bool {
        is_tunnel(self.client_ifindex) || is_tunnel(self.server_ifindex)
    }

    /// Whether datagrams for the hooks have paused for so long that none can be under way.
    pub(crate) fn pauses(&self, now: Now) -> bool {
        self.proto == Protocol::Udp
            && self.leaves()
            && now.since(self.last_seen) >= timeouts::LEAVING
    }

    /// What the flow depends on at the far end.
    pub(crate) fn server_slot(&self) -> SlotRef {
        self.server_slot
    }

    /// What the flow depends on at the client's side.
    pub(crate) fn client_slot(&self) -> SlotRef {
        self.client_slot
    }

    /// Where the flow stands.
    #[inline]
    pub fn state(&self) -> FlowState {
        self.state
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

    /// The key of that direction's packets; `None` for a reply that is not ours to find, and where the client has
    /// begun anew while the connection to the backend still had something to send.
    ///
    /// A reply comes from the backend's veth, or, by the kernel, to the client's.
    pub fn key(&self, direction: Direction) -> Option<FlowKey> {
        match direction {
            Direction::Forward => (!self.superseded).then(|| FlowKey {
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

    /// Reads the two lines that every packet needs.
    #[inline]
    pub(super) fn touch(&self) {
        black_box((self.client_port, self.live));
    }

    /// The backend's place in the service port.
    pub(super) fn member(&self) -> SlotRef {
        self.member
    }

    pub(super) fn counted(&self) -> bool {
        self.counted
    }

    /// Notes whether the flow counts, and says whether that is news.
    pub(super) fn count(&mut self, counted: bool) -> bool {
        std::mem::replace(&mut self.counted, counted) != counted
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
        !self.timed_out(now) && tables.holds(self.client_slot) && tables.holds(self.server_slot)
    }

    /// Whether the flow ended because its backend left the service port. It stays known for as long as it
    /// could have been silent, so that its client can be told and its backend's late replies are
    /// not taken for anything else.
    #[cold]
    pub(crate) fn removed(&self, now: Now, tables: &Tables) -> bool {
        !self.kind.ends_here()
            && self.server_slot.as_member().is_some()
            && !tables.holds(self.server_slot)
            && !self.timed_out(now)
            && tables.holds(self.client_slot)
    }

    /// Whether the backend of a UDP flow that was [`removed`](Self::removed) is one of the service port still: there is
    /// another way to it, and so another place.
    pub(crate) fn serves_still(&self, tables: &Tables) -> bool {
        let service = tables.service(&self.vip, self.vip_port, self.proto);
        self.proto == Protocol::Udp
            && service
                .is_some_and(|service| service.position((self.server, self.server_port)).is_some())
    }

    /// Whether the client of a flow that was [`removed`](Self::removed) is told by a reset.
    pub(crate) fn resets(&self) -> bool {
        self.manners & RESETS != 0 && self.proto == Protocol::Tcp
    }

    /// Closes the flow: its client has been told.
    pub(crate) fn close(&mut self, now: Now) {
        self.state = FlowState::Closed;
        self.heard = 0;
        self.last_seen = now;
    }

    /// Whether it has been silent, or unanswered, for longer than its state allows.
    #[inline]
    fn timed_out(&self, now: Now) -> bool {
        let since = match self.state {
            FlowState::OneWay => self.created,
            _ => self.last_seen,
        };
        now.as_nanos().saturating_sub(since.as_nanos()) > self.state.limit_nanos()
            && !self.terminated()
    }

    /// Whether a SYN of that direction is a new connection: an end has closed the old one, or it was
    /// never ours. A SYN from the server's side would be one to the client's port: only once all is over.
    #[inline]
    pub(crate) fn gives_way_to_syn(&self, direction: Direction) -> bool {
        let ended = match direction {
            Direction::Forward => self.state.gives_way_to_syn(),
            Direction::Reply => self.state.over(),
        };
        ended || self.kind == FlowKind::Kernel
    }

    /// Counts a packet of `bytes` IP bytes, follows the connection's state, and says whether that ended the
    /// flow or revived it.
    #[inline]
    #[must_use]
    pub(crate) fn seen(
        &mut self,
        direction: Direction,
        flags: TcpFlags,
        bytes: usize,
        now: Now,
    ) -> bool {
        self.counted_in(direction, bytes, now);
        let before = self.state;
        self.state = before.next(direction, flags);
        if self.state == FlowState::Closed {
            self.after_reset(direction, flags);
        }
        before.over() != self.state.over()
    }

    /// Counts a packet of `bytes` IP bytes. All there is to a packet of a terminated flow, whose state is that of its
    /// connections.
    #[inline]
    pub(crate) fn counted_in(&mut self, direction: Direction, bytes: usize, now: Now) {
        self.last_seen = now;
        self.packets[direction as usize] += 1;
        self.bytes[direction as usize] += bytes as u64;
    }

    /// A receiver ignores a reset outside its window (RFC 9293 section 3.10.7.4, RFC 5961), and this
    /// middle has no windows. But who has been reset falls silent, and who resets sends nothing but resets:
    /// so a flow on which both ends speak on is a connection still.
    #[cold]
    fn after_reset(&mut self, direction: Direction, flags: TcpFlags) {
        if flags.rst() {
            self.heard = 0;
            return;
        }
        self.heard |= 1 << direction as u8;
        if self.heard == 0b11 {
            self.heard = 0;
            self.state = FlowState::Established;
        }
    }
}
