//! What becomes of a frame: the stages, in order.

use crate::cut::may_cut;
use crate::flow::{Direction, Flow, FlowId, FlowKind, FlowState};
use crate::fragment::fragment;
use crate::overlay::is_tunnel;
use crate::parse::{Packet, Parsed, TcpFlags, Unflowed, parse};
use crate::reject::reject;
use crate::rewrite::translate;
use crate::tables::Pod;
use crate::tunnel::{Front, Opening};
use crate::wire::ethernet;
use crate::{
    Address, DropReason, Egress, FlowKey, FrameBuf, Hook, Ingress, Inject, KernelReason, Now,
    PIN_OPS_PER_FRAME, State, Tables,
};

mod icmp;
mod opening;
mod overlay;
mod terminate;

use opening::from_pod;

pub use opening::older;
pub use overlay::{next_fragment, wrap_for_peer};

/// What the edge does with a frame. The frame is untouched in `Hold` and `Drop`, and in `HandOver` but for
/// the worker that its source MAC names; all three but for the outer headers of a tunnel, which are off. One drop comes
/// late: what no uplink leads to, [`DropReason::NoRoute`], is all there but for the outer headers.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// Transmit: translated where needed, MACs encoded.
    Deliver,
    /// Transmit: the frame now holds our answer to its sender, MACs encoded.
    Reply,
    /// Transmit: back to the kernel as if never touched, MACs encoded.
    Kernel(KernelReason),
    /// Give to the TCP stack, whole and untouched.
    Terminate(Claim),
    /// Give to that worker.
    HandOver(u16),
    /// Release: a copy waits for the first fragment of its packet ([`FragmentTable`]).
    ///
    /// [`FragmentTable`]: crate::FragmentTable
    Hold,
    /// Release.
    Drop(DropReason),
}

/// Why a packet is the TCP stack's.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Claim {
    /// Of a flow that ends here, or to a port whose connections do.
    Stack,
    /// To such a port, opening nothing, while the kernel may have flows older than the enrolment: the stack's if it
    /// knows the connection, else to be given to [`older`].
    PerhapsOlder,
    /// An ICMP error: what was sent in a flow that ends here was too long for its path. [`State::too_long`] has more.
    TooLong,
}

impl Claim {
    /// The claim of that name in `docs/steering.md`, where [`Stack`](Self::Stack) goes without one.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "perhaps_older" => Some(Self::PerhapsOlder),
            "too_long" => Some(Self::TooLong),
            _ => None,
        }
    }
}

/// What a router said of a packet that was sent in a flow that ends here.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct TooLong {
    /// The key of packets from the end that it was sent to.
    pub key: FlowKey,
    /// How packets to that end are injected.
    pub answer: Inject,
    /// Bytes of the longest IP packet that gets through.
    pub mtu: u16,
    /// The sequence number of what was sent.
    pub sequence: u32,
}

/// Decides about one punted frame and rewrites it accordingly.
///
/// Speeds: a packet of a known flow takes one hash, one probe, two epoch checks and an in-place patch.
/// A packet that opens a flow or belongs to none takes the slow way through the tables. Both allocate
/// nothing and loop only within written bounds. Every check comes before the first write.
pub fn process(frame: &mut FrameBuf<'_>, now: Now, tables: &Tables, state: &mut State) -> Verdict {
    if let Err(verdict) = overlay::arrive(frame, now, tables, state) {
        return verdict;
    }
    state.look_up(frame.bytes(), now, tables);
    let verdict = match decide(frame, now, tables, state) {
        Verdict::Kernel(reason) => overlay::instead_of_kernel(frame, reason, tables, state),
        verdict => verdict,
    };
    let verdict = match verdict {
        // A drop leaves the frame as it came, so it can still be answered.
        Verdict::Drop(DropReason::TtlExpired) => icmp::time_exceeded(frame, now, tables, state),
        Verdict::Drop(DropReason::PodMtu) => icmp::too_long(frame, now, tables, state),
        verdict => verdict,
    };
    overlay::depart(frame, verdict, tables, state)
}

#[inline]
fn decide(frame: &mut FrameBuf<'_>, now: Now, tables: &Tables, state: &mut State) -> Verdict {
    let ingress = match ingress(frame.bytes()) {
        Ok(ingress) => ingress,
        Err(reason) => return Verdict::Drop(reason),
    };
    let owner = ingress.target % state.workers;
    if owner != state.worker {
        return Verdict::HandOver(owner);
    }
    let packet = match parse(frame.bytes()) {
        Ok(Parsed::Flow(packet)) => packet,
        Ok(Parsed::Fragment(part)) => {
            return match fragment(frame, ingress, &part, now, tables, state) {
                // The TCP stack takes whole packets.
                Verdict::Terminate(_) => Verdict::Drop(DropReason::FragmentTerminated),
                verdict => verdict,
            };
        }
        Ok(Parsed::Icmp(message)) => {
            return icmp::icmp(frame, &message, ingress, now, tables, state);
        }
        Ok(Parsed::Other { src, dst, why }) => {
            return without_ports(frame, ingress, (src, dst, why), now, tables, state);
        }
        Err(reason) => return Verdict::Drop(reason),
    };
    with_ports(frame, &packet, ingress, now, tables, state)
}

/// A packet with ports, or the first fragment of one.
#[inline]
pub(crate) fn with_ports(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    ingress: Ingress,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let key = FlowKey {
        tuple: *packet.tuple(),
        ifindex: ingress.ifindex,
    };
    let known = state.flows.find(&key);
    if let Some((id, direction)) = known
        && let Some(flow) = state.flows.at(id)
        && flow.hook(direction) == ingress.hook
        && flow.valid(now, tables)
        && !(packet.flags().opens() && gives_way(flow, direction, state))
    {
        if flow.pauses(now) && state.leaves(flow) && state.room() > 0 {
            state.leave(id); // Or once more: the hooks had no room, or their entry has run out.
        }
        return known_flow(frame, packet, (id, direction), now, tables, state);
    }
    if state.room() < PIN_OPS_PER_FRAME {
        return Verdict::Drop(DropReason::PinRoom);
    }
    if let Some((id, direction)) = known
        && state
            .flows
            .at(id)
            .is_some_and(|flow| flow.hook(direction) == ingress.hook)
    {
        if let Some(verdict) = removed(frame, packet, &key, (id, direction), now, tables, state) {
            return verdict;
        }
        state.remove(id); // Timed out, no longer supported, or replaced by this SYN.
    }
    match ingress.hook {
        Hook::ToPod => to_kernel(frame, way_back(ingress), KernelReason::NotOurs, state),
        Hook::FromPod => from_pod(frame, packet, key, now, tables, state),
    }
}

/// Whether a SYN opens another connection: the old one is over, or was left to the hooks, who do not know it.
fn gives_way(flow: &Flow, direction: Direction, state: &State) -> bool {
    flow.gives_way_to_syn(direction) || state.leaves(flow)
}

#[inline]
fn ingress(frame: &[u8]) -> Result<Ingress, DropReason> {
    let header: &[u8; ethernet::LEN] = frame.first_chunk().ok_or(DropReason::EthernetHeader)?;
    let mut source = [0; 6];
    source.copy_from_slice(&header[ethernet::SRC]);
    Ingress::decode(&source).ok_or(DropReason::ForeignFrame)
}

/// A packet of a flow that we know: the fast way.
#[inline]
pub(crate) fn known_flow(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    (id, direction): (FlowId, Direction),
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    pass(
        frame,
        Part::of(packet),
        (id, direction),
        now,
        tables,
        state,
        |bytes, flow, hop| {
            translate(bytes, packet, flow, direction, hop);
        },
    )
}

/// What a router and a flow's bookkeeping want to know of a packet or fragment.
pub(crate) struct Part {
    pub(crate) flags: TcpFlags,
    pub(crate) hops: u8,
    pub(crate) end: usize,
    /// What is too long for a tunnel is sent in fragments.
    pub(crate) cut: bool,
}

impl Part {
    #[inline]
    pub(crate) fn of(packet: &Packet) -> Self {
        Self {
            flags: packet.flags(),
            hops: packet.hops(),
            end: packet.end(),
            cut: false,
        }
    }

    /// As [`of`](Self::of), for a packet that opens a flow.
    pub(crate) fn first(frame: &[u8], packet: &Packet) -> Self {
        Self {
            cut: may_cut(frame),
            ..Self::of(packet)
        }
    }

    /// Bytes of the IP packet.
    #[inline]
    pub(crate) fn length(&self) -> usize {
        self.end - ethernet::LEN
    }

    /// What a router checks before it passes something on, into the pod behind that veth: that a hop is left, and that
    /// the packet is not too long (RFC 1812 section 5.2.1.2). What it is too long for is left in `narrow`.
    #[inline]
    pub(crate) fn routable(
        &self,
        ifindex: u32,
        tables: &Tables,
        narrow: &mut u16,
    ) -> Result<(), DropReason> {
        if self.hops <= 1 {
            return Err(DropReason::TtlExpired);
        }
        match tables.narrower(ifindex, self.length()) {
            Some(_) if self.cut && is_tunnel(ifindex) => Ok(()),
            Some(mtu) => {
                *narrow = mtu;
                Err(DropReason::PodMtu)
            }
            None => Ok(()),
        }
    }
}

/// Passes on a packet or fragment of a flow as `translate` leaves it; its last argument says whether Weft
/// counts the hop.
#[inline(always)]
pub(crate) fn pass(
    frame: &mut FrameBuf<'_>,
    part: Part,
    (id, direction): (FlowId, Direction),
    now: Now,
    tables: &Tables,
    state: &mut State,
    translate: impl FnOnce(&mut [u8], &Flow, bool),
) -> Verdict {
    let ports = state.ports;
    let Some(flow) = state.flows.at_mut(id) else {
        return Verdict::Drop(DropReason::UnknownFlow);
    };
    let bytes = part.length();
    let (egress, hop) = match way_on(flow, direction) {
        Way::Ours { egress, hop } => (egress, hop),
        Way::Here => {
            flow.counted_in(direction, bytes, now);
            return Verdict::Terminate(Claim::Stack);
        }
        Way::Kernel(egress) => {
            let _ = flow.seen(direction, part.flags, bytes, now); // No backend of ours counts it.
            egress.write(frame.bytes_mut(), &ports);
            return Verdict::Kernel(KernelReason::OlderThanEnrolment);
        }
    };
    if hop && let Err(reason) = part.routable(egress.ifindex, tables, &mut state.narrow) {
        let cut = reason == DropReason::PodMtu && is_tunnel(egress.ifindex);
        if !cut || !may_cut(frame.bytes()) {
            return Verdict::Drop(reason);
        }
    }
    if is_tunnel(egress.ifindex) {
        state.opening = opening(flow, direction);
    }
    let ended = flow.seen(direction, part.flags, bytes, now);
    translate(frame.bytes_mut(), flow, hop);
    egress.write(frame.bytes_mut(), &ports);
    if ended {
        state.flows.settle(id);
    }
    Verdict::Deliver
}

/// What a peer is to know of a flow that it has not answered yet: its client, and the service that this has asked.
fn opening(flow: &Flow, direction: Direction) -> Option<Opening> {
    let opens = matches!(flow.state(), FlowState::OneWay | FlowState::SynSent);
    (opens && direction == Direction::Forward).then(|| Opening {
        front: (flow.kind() == FlowKind::Service).then(|| Front::of(flow)),
        client: flow.client_ifindex(),
    })
}

/// Where what travels with a flow goes on.
enum Way {
    /// Translated, to there. `hop`: who forwards counts the hop, Weft between two pods, else the kernel, after
    /// or before us.
    Ours { egress: Egress, hop: bool },
    /// Back to where it came from, untouched: the flow is the kernel's.
    Kernel(Egress),
    /// Into the TCP stack.
    Here,
}

#[inline]
fn way_on(flow: &Flow, direction: Direction) -> Way {
    if flow.kind().ends_here() {
        return Way::Here;
    }
    let (client, server) = (flow.client_ifindex(), flow.server_ifindex());
    if flow.kind() == FlowKind::Kernel {
        return Way::Kernel(Egress::reingress(match direction {
            Direction::Forward => client,
            Direction::Reply => server.unwrap_or(client),
        }));
    }
    let egress = match direction {
        Direction::Forward => server.map_or(Egress::reingress(client), Egress::peer),
        Direction::Reply => Egress::peer(client),
    };
    let hop = flow.hook(direction) == Hook::FromPod && egress.inject == Inject::Peer;
    Way::Ours { egress, hop }
}

/// A packet of a flow whose backend has left the service. UDP and every SYN get a new backend: `None`. Other
/// segments are told that the connection is over, if the service says so. What the backend
/// still sends would reach the client from an address that it never spoke to; but what was under way from one that only
/// is reached in another way now, since its pod was enrolled, is a reply still.
fn removed(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    key: &FlowKey,
    (id, direction): (FlowId, Direction),
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Option<Verdict> {
    let flow = state.flows.at_mut(id)?;
    if !flow.removed(now, tables) {
        return None;
    }
    match direction {
        Direction::Reply if flow.serves_still(tables) => Some(known_flow(
            frame,
            packet,
            (id, direction),
            now,
            tables,
            state,
        )),
        Direction::Reply if !packet.flags().opens() => Some(Verdict::Drop(DropReason::UnknownFlow)),
        Direction::Forward if flow.resets() && !packet.opens() => {
            let rejected = reject(frame, packet, state.icmp_errors.about(key.ifindex, now));
            if rejected.is_ok() {
                flow.close(now);
                state.flows.settle(id);
            }
            Some(replied(frame, rejected, key.ifindex, state))
        }
        Direction::Forward | Direction::Reply => None,
    }
}

/// The pod behind the interface or tunnel, if the packet's source is its own (AMB-06). The BPF programs check the
/// same before any lookup; here it holds between a change of the tables and that of the maps.
pub(crate) fn sender<'t>(
    ifindex: u32,
    src: &Address,
    tables: &'t Tables,
) -> Result<&'t Pod, Verdict> {
    if let Some(pod) = tables.sender(ifindex, src) {
        return Ok(pod);
    }
    Err(match tables.mtu(ifindex) {
        Some(_) => Verdict::Drop(DropReason::SrcSpoof),
        None => Verdict::Kernel(KernelReason::UnknownPod),
    })
}

/// A well-formed packet that has no ports to find a flow by.
#[cold]
#[inline(never)]
fn without_ports(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    (src, dst, why): (Address, Address, Unflowed),
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    if ingress.hook == Hook::FromPod && why != Unflowed::Mapped {
        match sender(ingress.ifindex, &src, tables) {
            Ok(_) if tables.vip(&dst) => {
                return match why {
                    Unflowed::Extension => Verdict::Drop(DropReason::Ipv6Extension),
                    Unflowed::Fragment | Unflowed::Mapped => Verdict::Drop(DropReason::VipProtocol),
                    Unflowed::Protocol(number) => {
                        icmp::other_protocol(frame, ingress, (src, dst), number, now, state)
                    }
                };
            }
            Ok(_) => {}
            Err(Verdict::Kernel(reason)) => {
                return to_kernel(frame, way_back(ingress), reason, state);
            }
            Err(verdict) => return verdict,
        }
    }
    to_kernel(frame, way_back(ingress), KernelReason::NotOurs, state)
}

/// Where a frame was taken: what a pod sent goes on as if just sent, what the kernel was about to deliver is
/// delivered.
pub(crate) fn way_back(ingress: Ingress) -> Egress {
    match ingress.hook {
        Hook::FromPod => Egress::reingress(ingress.ifindex),
        Hook::ToPod => Egress::peer(ingress.ifindex),
    }
}

/// Sends an answer back into the pod at `ifindex`.
fn replied(
    frame: &mut FrameBuf<'_>,
    answered: Result<(), DropReason>,
    ifindex: u32,
    state: &State,
) -> Verdict {
    match answered {
        Ok(()) => {
            Egress::peer(ifindex).write(frame.bytes_mut(), &state.ports);
            Verdict::Reply
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

pub(crate) fn to_kernel(
    frame: &mut FrameBuf<'_>,
    egress: Egress,
    reason: KernelReason,
    state: &State,
) -> Verdict {
    egress.write(frame.bytes_mut(), &state.ports);
    Verdict::Kernel(reason)
}

const _: () = assert!(size_of::<Verdict>() <= 4, "returned for every packet");
