//! What becomes of a packet of no flow: it opens one, is the kernel's, or is refused. The slow way.

use super::{Claim, Part, ingress, known_flow, replied, sender, to_kernel};
use crate::choice::{add, open_service, refusal, with_other_port};
use crate::flow::{Direction, FlowEnd, FlowKind, InsertError, NewFlow};
use crate::overlay::is_tunnel;
use crate::parse::{Packet, Parsed, parse};
use crate::reject::reject;
use crate::tables::{Pod, ServicePort, Stage};
use crate::{
    DropReason, Egress, FlowKey, FrameBuf, KernelReason, Now, PIN_OPS_PER_FRAME, Protocol, SlotRef,
    State, Tables, Verdict,
};

/// A packet of no flow from a pod.
pub(super) fn from_pod(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    key: FlowKey,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let (tuple, back) = (key.tuple, Egress::reingress(key.ifindex));
    let pod = match sender(key.ifindex, &tuple.src, tables) {
        Ok(pod) => pod,
        Err(Verdict::Kernel(reason)) => {
            return to_kernel(frame, back, reason, state);
        }
        Err(verdict) => return verdict,
    };
    let service = tables.service(&tuple.dst, tuple.dport, tuple.proto);
    if service.is_some() || tables.vip(&tuple.dst) {
        to_vip(frame, packet, key, (pod, service), now, tables, state)
    } else if let Some(peer) = tables.pod_by_address(&tuple.dst) {
        to_pod(frame, packet, key, [pod, peer], now, tables, state)
    } else if state.hairpin(&tuple.src) == Some(tuple.dst) {
        Verdict::Drop(DropReason::UnknownFlow) // Nobody but Weft knows where that leads.
    } else {
        to_kernel(frame, back, KernelReason::NotOurs, state)
    }
}

/// To a service's address and perhaps one of its ports, no flow known.
fn to_vip(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    key: FlowKey,
    (pod, service): (&Pod, Option<&ServicePort>),
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let ifindex = key.ifindex;
    let back = Egress::reingress(ifindex);
    if pod.draining() {
        return to_kernel(frame, back, KernelReason::Draining, state);
    }
    let ends_here = service.is_some_and(|service| service.options().stage.terminates());
    if !packet.opens() {
        if !state.grace(pod, now) {
            return if ends_here {
                Verdict::Terminate(Claim::Stack)
            } else {
                Verdict::Drop(DropReason::UnknownFlow)
            };
        }
        if ends_here {
            return Verdict::Terminate(Claim::PerhapsOlder);
        }
        return older_than_enrolment(frame, packet, key, pod, now, tables, state);
    }
    let Some(service) = service.filter(|service| service.accepts()) else {
        let rejected = reject(frame, packet, state.icmp_errors.about(ifindex, now));
        return replied(frame, rejected, ifindex, state);
    };
    if ends_here {
        return Verdict::Terminate(Claim::Stack); // Nothing is remembered before the client has answered.
    }
    match open_service(
        (service, Stage::L4),
        key,
        pod,
        &Part::first(frame.bytes(), packet),
        now,
        tables,
        state,
    ) {
        Ok(id) => known_flow(frame, packet, (id, Direction::Forward), now, tables, state),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// A packet to a VIP that [`Claim::PerhapsOlder`] was said of, and that the TCP stack does not know: a flow that the
/// kernel translates. What is not such a packet is dropped as an unknown flow.
pub fn older(frame: &mut FrameBuf<'_>, now: Now, tables: &Tables, state: &mut State) -> Verdict {
    const UNKNOWN: Verdict = Verdict::Drop(DropReason::UnknownFlow);
    let (Ok(ingress), Ok(Parsed::Flow(packet))) = (ingress(frame.bytes()), parse(frame.bytes()))
    else {
        return UNKNOWN;
    };
    let key = FlowKey {
        tuple: *packet.tuple(),
        ifindex: ingress.ifindex,
    };
    match tables.sender(ingress.ifindex, &key.tuple.src) {
        Some(pod) if state.room() >= PIN_OPS_PER_FRAME => {
            older_than_enrolment(frame, &packet, key, pod, now, tables, state)
        }
        _ => UNKNOWN,
    }
}

/// A packet to a VIP of a flow that the kernel translates to a backend that we do not know, so that its replies are not
/// ours to find.
fn older_than_enrolment(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    key: FlowKey,
    pod: &Pod,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let end = FlowEnd {
        address: key.tuple.dst,
        port: key.tuple.dport,
        ifindex: 0,
        slot: SlotRef::FIXED,
    };
    let parts = (pod.slot, end, false);
    older_flow(frame, packet, key, parts, now, tables, state)
}

/// To another enrolled pod, no flow known.
fn to_pod(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    key: FlowKey,
    [pod, peer]: [&Pod; 2],
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let (tuple, back) = (key.tuple, Egress::reingress(key.ifindex));
    if pod.draining() || peer.draining() {
        return to_kernel(frame, back, KernelReason::Draining, state);
    }
    let end = FlowEnd {
        address: tuple.dst,
        port: tuple.dport,
        ifindex: peer.ifindex,
        slot: peer.slot,
    };
    let grace = state.grace(pod, now) || state.grace(peer, now);
    let tunnelled = is_tunnel(pod.ifindex) || is_tunnel(peer.ifindex);
    // A datagram may be the reply of a flow that the kernel translates, but not through a tunnel; a SYN never is.
    let perhaps_older = match tuple.proto {
        Protocol::Tcp => !packet.opens(),
        Protocol::Udp => !tunnelled,
    };
    match (tuple.proto, packet.opens()) {
        _ if grace && perhaps_older => older_flow(
            frame,
            packet,
            key,
            (pod.slot, end, true),
            now,
            tables,
            state,
        ),
        (Protocol::Tcp, false) => Verdict::Drop(DropReason::UnknownFlow),
        (Protocol::Tcp, true) | (Protocol::Udp, _) => {
            let part = Part::first(frame.bytes(), packet);
            let routable = part.routable(peer.ifindex, tables, &mut state.narrow);
            if let Err(reason) = routable {
                return Verdict::Drop(reason);
            }
            let flow = NewFlow {
                said: std::mem::take(&mut state.said),
                ..state.unserved(key, FlowKind::Direct, (pod.slot, end, true), now)
            };
            let added = match add(flow.clone(), now, tables, state) {
                Err(clash @ (InsertError::Clash(_) | InsertError::NoPort)) => {
                    with_other_port(flow, clash, now, tables, state)
                }
                added => added,
            };
            match added {
                Ok(id) => known_flow(frame, packet, (id, Direction::Forward), now, tables, state),
                Err(error) => Verdict::Drop(refusal(error)),
            }
        }
    }
}

/// A flow that the kernel opened: remembered, so that it stays the kernel's after the grace.
///
/// Where it cannot be remembered it is still the kernel's for as long as the grace lasts.
fn older_flow(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    key: FlowKey,
    parts: (SlotRef, FlowEnd, bool),
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let flow = state.unserved(key, FlowKind::Kernel, parts, now);
    let added = match add(flow.clone(), now, tables, state) {
        // The reply's key is another flow's: remember this direction alone.
        Err(InsertError::Clash(_)) => state.add(NewFlow {
            reply: false,
            ..flow
        }),
        added => added,
    };
    match added {
        Ok(id) => known_flow(frame, packet, (id, Direction::Forward), now, tables, state),
        Err(_) => to_kernel(
            frame,
            Egress::reingress(key.ifindex),
            KernelReason::OlderThanEnrolment,
            state,
        ),
    }
}
