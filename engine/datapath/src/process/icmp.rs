//! What becomes of ICMP, of other protocols to a VIP, and of packets whose hop count is used up.

use super::{Claim, TooLong, Way, ingress, replied, sender, to_kernel, way_back, way_on};
use crate::answer::{self, ErrorKind};
use crate::flow::{Direction, FlowId};
use crate::icmp::{IcmpMessage, Kind, L3, Quoted, translate_error};
use crate::parse::{Family, Parsed, Unflowed, parse};
use crate::{
    Address, DropReason, FlowKey, FrameBuf, Hook, Ingress, KernelReason, Now, State, Tables,
    Verdict,
};

/// An ICMP message. The slow way: errors are rare, and pings of a VIP are nobody's load.
#[cold]
#[inline(never)]
pub(super) fn icmp(
    frame: &mut FrameBuf<'_>,
    message: &IcmpMessage,
    ingress: Ingress,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let back = way_back(ingress);
    let pod = match ingress.hook {
        Hook::FromPod => match sender(ingress.ifindex, &message.src, tables) {
            Ok(pod) => Some(pod),
            Err(Verdict::Kernel(reason)) => return to_kernel(frame, back, reason, state),
            Err(verdict) => return verdict,
        },
        Hook::ToPod => None,
    };
    if message.kind() == Kind::Error {
        let quoted = match Quoted::parse(frame.bytes(), message) {
            Ok(quoted) => quoted,
            Err(reason) => return Verdict::Drop(reason),
        };
        let known = quoted
            .as_ref()
            .and_then(|quoted| known(quoted, ingress, now, tables, state));
        if let (Some(quoted), Some((id, direction))) = (&quoted, known) {
            return known_error(frame, message, quoted, (id, direction), tables, state);
        }
        if let (Some(quoted), Some(pod)) = (&quoted, pod)
            && forged(quoted, pod.ifindex, tables)
        {
            return Verdict::Drop(DropReason::IcmpError);
        }
    }
    let Some(pod) = pod.filter(|_| tables.vip(&message.dst)) else {
        return to_kernel(frame, back, KernelReason::NotOurs, state);
    };
    match message.kind() {
        // As for any packet that opens nothing: the kernel may know the flow.
        Kind::Error if pod.draining() => to_kernel(frame, back, KernelReason::Draining, state),
        Kind::Error if state.grace(pod, now) => {
            to_kernel(frame, back, KernelReason::OlderThanEnrolment, state)
        }
        Kind::Error => Verdict::Drop(DropReason::UnknownFlow),
        Kind::EchoRequest if tables.vip_echo() => {
            let answered = answer::echo(frame, message);
            replied(frame, answered, ingress.ifindex, state)
        }
        Kind::EchoRequest | Kind::Other => Verdict::Drop(DropReason::VipProtocol),
    }
}

/// Whether the pod speaks of a packet that it cannot have received: one to a VIP or to another enrolled pod. Left
/// alone, it could tell a pod about a flow of which it is no end (AMB-06).
fn forged(quoted: &Quoted, ifindex: u32, tables: &Tables) -> bool {
    let receiver = &quoted.tuple.dst;
    tables.sender(ifindex, receiver).is_none()
        && (tables.vip(receiver) || tables.pod_by_address(receiver).is_some())
}

/// The flow that the quoted packet belongs to, and the way that the error goes: against it.
///
/// A pod receives only packets of its own flows, so its veth is part of the key: no pod can speak of another's
/// flow (AMB-06), and none at a hook where that flow's packets are not seen.
fn known(
    quoted: &Quoted,
    ingress: Ingress,
    now: Now,
    tables: &Tables,
    state: &State,
) -> Option<(FlowId, Direction)> {
    let key = FlowKey {
        tuple: quoted.tuple.reversed(),
        ifindex: ingress.ifindex,
    };
    state.known(&key, ingress.hook, now, tables)
}

/// An error of a flow that we know. It is no packet of that flow: neither its timeout nor its phase moves.
fn known_error(
    frame: &mut FrameBuf<'_>,
    message: &IcmpMessage,
    quoted: &Quoted,
    (id, direction): (FlowId, Direction),
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let Some(flow) = state.flows.at(id) else {
        return Verdict::Drop(DropReason::UnknownFlow);
    };
    // An error goes to the source of the packet that it quotes (RFC 1122 section 3.2.2, RFC 4443 section 2.2).
    if message.dst != quoted.tuple.src {
        return Verdict::Drop(DropReason::IcmpError);
    }
    let (egress, hop) = match way_on(flow, direction) {
        Way::Ours { egress, hop } => (egress, hop),
        Way::Kernel(back) => {
            return to_kernel(frame, back, KernelReason::OlderThanEnrolment, state);
        }
        Way::Here => {
            let ends = flow.key(direction).zip(flow.answer(direction));
            let (Some(mtu), Some((key, answer))) = (message.longest(frame.bytes()), ends) else {
                return Verdict::Drop(DropReason::IcmpTerminated);
            };
            state.too_long = Some(TooLong {
                key,
                answer,
                mtu,
                sequence: quoted.sequence(frame.bytes()),
            });
            return Verdict::Terminate(Claim::TooLong);
        }
    };
    let (seen, other) = match direction {
        Direction::Forward => (flow.tuple(), flow.backend_tuple()),
        Direction::Reply => (flow.backend_tuple().reversed(), flow.tuple().reversed()),
    };
    if hop && message.hops <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    // Of IPv6 it may be as long as the least MTU, which is more than a tunnel over a narrow underlay holds.
    if hop && tables.narrower(egress.ifindex, message.end - L3).is_some() {
        return Verdict::Drop(DropReason::PodMtu);
    }
    translate_error(frame.bytes_mut(), message, quoted, (&seen, &other), hop);
    egress.write(frame.bytes_mut(), &state.ports);
    Verdict::Deliver
}

/// Neither TCP, UDP nor ICMP to a VIP: its sender is told, as at an unused port. Nothing follows "no next header",
/// so nothing is refused there (RFC 8200 section 4.7).
pub(super) fn other_protocol(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    ends: (Address, Address),
    number: u8,
    now: Now,
    state: &mut State,
) -> Verdict {
    let (src, dst) = ends;
    let family = dst.family();
    if family == Family::V6 && number == crate::wire::ipv6::NONE {
        return Verdict::Drop(DropReason::VipProtocol);
    }
    let end = answer::packet_end(frame.bytes(), family);
    let kind = ErrorKind::ProtocolUnreachable;
    told(
        frame,
        (kind, end),
        (&dst, &src),
        ingress.ifindex,
        now,
        state,
    )
}

/// A packet whose hop count Weft would use up: its sender hears of it from the node (CSM-07).
///
/// `frame` is untouched since it came, but for its MACs.
#[cold]
pub(super) fn time_exceeded(
    frame: &mut FrameBuf<'_>,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    const UNANSWERED: Verdict = Verdict::Drop(DropReason::TtlExpired);
    let (Ok(ingress), Some((src, _, end))) = (ingress(frame.bytes()), spoken_of(frame.bytes()))
    else {
        return UNANSWERED;
    };
    let Some(node) = tables.node_address(ingress.ifindex, src.family()) else {
        return UNANSWERED;
    };
    let about = (ErrorKind::TimeExceeded, end);
    told(frame, about, (&node, &src), ingress.ifindex, now, state)
}

/// A packet or fragment that is longer than the pod or tunnel that it goes to takes ([`State::narrow`]): its sender hears
/// of it (RFC 1191 section 3, RFC 8201 section 3), also where it may be fragmented, which Weft does not do. It hears from
/// the node, or, since nothing gets through before it has heard, from where it sent to.
///
/// `frame` is untouched since it came, but for its MACs.
#[cold]
pub(super) fn too_long(
    frame: &mut FrameBuf<'_>,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let (Ok(ingress), Some((src, dst, end))) = (ingress(frame.bytes()), spoken_of(frame.bytes()))
    else {
        return Verdict::Drop(DropReason::PodMtu);
    };
    let node = tables.node_address(ingress.ifindex, src.family());
    let ends = (&node.unwrap_or(dst), &src);
    let about = (ErrorKind::TooLong(state.narrow), end);
    told(frame, about, ends, ingress.ifindex, now, state)
}

/// Source, destination and end of a packet that an error may be sent about: not an error itself (RFC 1122 section 3.2.2, RFC
/// 4443 section 2.4 e), and of the fragments of an IPv4 packet the first one.
fn spoken_of(frame: &[u8]) -> Option<(Address, Address, usize)> {
    match parse(frame).ok()? {
        Parsed::Flow(packet) => Some((packet.tuple().src, packet.tuple().dst, packet.end())),
        Parsed::Fragment(part) if part.is_first() || part.family() == Family::V6 => {
            Some((part.src(), part.dst(), part.end()))
        }
        Parsed::Icmp(message) if message.kind() != Kind::Error => {
            Some((message.src, message.dst, message.end))
        }
        Parsed::Other {
            src,
            dst,
            why: Unflowed::Protocol(_),
        } => Some((src, dst, answer::packet_end(frame, dst.family()))),
        _ => None,
    }
}

/// Answers a packet that ends at `end` with an error, from and to those, if its pod is not to hear of fewer.
fn told(
    frame: &mut FrameBuf<'_>,
    (kind, end): (ErrorKind, usize),
    ends: (&Address, &Address),
    ifindex: u32,
    now: Now,
    state: &mut State,
) -> Verdict {
    let limit = state.icmp_errors.about(ifindex, now);
    let answered = answer::error(frame, kind, ends, end, limit);
    replied(frame, answered, ifindex, state)
}
