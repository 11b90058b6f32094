//! Peers: their packets are unwrapped before anything else is asked of them, and what goes to them is wrapped last. In
//! between a tunnel is as a pod's interface, with one difference: nothing of it is ever the kernel's.

use super::{Part, ingress, sender};
use crate::answer::packet_end;
use crate::cut::{Rest, may_cut};
use crate::icmp::{IcmpMessage, Quoted};
use crate::overlay::is_tunnel;
use crate::parse::{Family, Parsed, Unflowed, parse};
use crate::tunnel::{Front, Opening, Options, Said, clamp_segments, unwrap, without_padding, wrap};
use crate::wire::{ethernet, ipv4, ipv6};
use crate::{
    Address, Delta, DropReason, Egress, FlowKey, FrameBuf, Ingress, Inject, KernelReason, Now,
    Ports, Protocol, State, Tables, TcpFlags, Uplink, Verdict,
};

/// Unwraps what came by an uplink. Anything else stays as it is.
#[inline]
pub(super) fn arrive(
    frame: &mut FrameBuf<'_>,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<(), Verdict> {
    state.said = Said::default();
    let source: Option<&[u8; 6]> = (frame.bytes().get(ethernet::SRC)).and_then(<[u8]>::first_chunk);
    if let Some(uplink) = source.and_then(Uplink::decode) {
        state.said = unwrapped(frame, uplink, now, tables, state)?;
    } else if let Some(ingress) = source.and_then(Ingress::decode)
        && is_tunnel(ingress.ifindex)
    {
        as_it_is(frame, ingress, tables, state)?;
    }
    Ok(())
}

/// A packet of a peer's that came without being wrapped, or that another worker has unwrapped: to enrolled pods of this node
/// alone, too.
#[cold]
fn as_it_is(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    tables: &Tables,
    state: &State,
) -> Result<(), Verdict> {
    if ingress.target % state.workers != state.worker {
        return Ok(()); // It is handed over first.
    }
    let (_, dst, _) = ends(frame.bytes()).ok_or(Verdict::Drop(DropReason::TunnelPayload))?;
    let to = tables.pod_by_address(&dst);
    if to.is_none_or(|pod| is_tunnel(pod.ifindex)) {
        return Err(Verdict::Drop(DropReason::NoRoute));
    }
    if let Some(mtu) = tables.mtu(ingress.ifindex) {
        clamp_segments(&mut frame.bytes_mut()[ethernet::LEN..], mtu);
    }
    Ok(())
}

fn unwrapped(
    frame: &mut FrameBuf<'_>,
    uplink: Uplink,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<Said, Verdict> {
    let owner = uplink.target % state.workers;
    if owner != state.worker {
        return Err(Verdict::HandOver(owner)); // Still wrapped: what its peer says goes with it.
    }
    if let Ok(Parsed::Icmp(message)) = parse(frame.bytes()) {
        return Err(Verdict::Drop(note_too_long(
            frame.bytes(),
            &message,
            tables,
            state,
        )));
    }
    let said = unwrap(frame, uplink, now, tables, state).map_err(Verdict::Drop)?;
    let tunnel = ingress(frame.bytes()).map_err(Verdict::Drop)?.ifindex;
    if let Some(mtu) = tables.mtu(tunnel) {
        clamp_segments(&mut frame.bytes_mut()[ethernet::LEN..], mtu);
    }
    Ok(said)
}

/// An ICMP message of the underlay: whether it says how long a packet to a peer may be (RFC 1191, RFC 8201). It has to quote what
/// this node has sent there.
#[cold]
fn note_too_long(
    frame: &[u8],
    message: &IcmpMessage,
    tables: &Tables,
    state: &mut State,
) -> DropReason {
    let overlay = tables.tunnels();
    let quoted = Quoted::parse(frame, message).ok().flatten();
    let found = quoted
        .zip(message.longest(frame))
        .and_then(|(quoted, mtu)| {
            let tuple = &quoted.tuple;
            let peer = overlay.peer_at(&tuple.dst)?;
            let ours = tuple.proto == Protocol::Udp
                && tuple.src == peer.local
                && tuple.dport == overlay.spec.port;
            ours.then_some((peer.port, mtu))
        });
    match found {
        Some(said) => {
            state.narrowed = Some(said);
            DropReason::TunnelTooLong
        }
        None => DropReason::TunnelHeader,
    }
}

/// Wraps what goes to a peer.
#[inline]
pub(super) fn depart(
    frame: &mut FrameBuf<'_>,
    verdict: Verdict,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    match verdict {
        Verdict::Deliver | Verdict::Reply => {
            let options = options(state.opening.take(), tables);
            let rest = (verdict == Verdict::Deliver).then_some(&mut state.rest);
            match wrap_with(frame, options, rest, tables, &state.ports) {
                Ok(()) => verdict,
                Err(reason) => {
                    state.rest.forget();
                    Verdict::Drop(reason)
                }
            }
        }
        verdict => verdict,
    }
}

/// Wraps a frame of the TCP stack's if it is addressed to a tunnel; any other stays as it is.
///
/// # Errors
/// [`DropReason::NoRoute`] where nothing leads to the peer, [`DropReason::FrameRoom`] where the frame's memory ends.
#[inline]
pub fn wrap_for_peer(
    frame: &mut FrameBuf<'_>,
    tables: &Tables,
    state: &State,
) -> Result<(), DropReason> {
    let egress = egress(frame.bytes()).filter(|egress| is_tunnel(egress.ifindex));
    let Some(egress) = egress else {
        return Ok(());
    };
    let options = options(opening(frame.bytes(), egress.ifindex, state), tables);
    wrap_with(frame, options, None, tables, &state.ports)
}

/// Writes the next fragment of the packet whose first one has just been delivered ([`State::has_rest`]), wrapped.
///
/// # Errors
/// As [`wrap_for_peer`]; the rest is lost then.
#[cold]
pub fn next_fragment(
    frame: &mut FrameBuf<'_>,
    tables: &Tables,
    state: &mut State,
) -> Result<(), DropReason> {
    let written = state.rest.next(frame);
    let written =
        written.and_then(|()| wrap_with(frame, Options::default(), None, tables, &state.ports));
    if written.is_err() {
        state.rest.forget();
    }
    written
}

#[inline]
fn options(opening: Option<Opening>, tables: &Tables) -> Options<'_> {
    opening.map_or_else(Options::default, |opening| opening.options(tables))
}

/// The client on whose behalf a connection to a backend is opened, and what it has asked.
fn opening(frame: &[u8], tunnel: u32, state: &State) -> Option<Opening> {
    let packet = match parse(frame) {
        Ok(Parsed::Flow(packet)) if packet.flags().opens() => packet,
        _ => return None,
    };
    let answers = FlowKey {
        tuple: packet.tuple().reversed(),
        ifindex: tunnel,
    };
    let (id, _) = state.flows.find(&answers)?;
    let flow = state.flows.at(id)?;
    Some(Opening {
        front: Some(Front::of(flow)),
        client: flow.client_ifindex(),
    })
}

#[inline]
fn egress(frame: &[u8]) -> Option<Egress> {
    let source = frame.get(ethernet::SRC).and_then(<[u8]>::first_chunk);
    source.and_then(Egress::decode)
}

#[inline]
fn wrap_with(
    frame: &mut FrameBuf<'_>,
    options: Options<'_>,
    rest: Option<&mut Rest>,
    tables: &Tables,
    ports: &Ports,
) -> Result<(), DropReason> {
    let Some(egress) = egress(frame.bytes()).filter(|egress| is_tunnel(egress.ifindex)) else {
        return Ok(());
    };
    let peer = tables.peer(egress.ifindex).ok_or(DropReason::NoRoute)?;
    frame.resize(ethernet::LEN + without_padding(&frame.bytes()[ethernet::LEN..]))?;
    if let Some(rest) = rest
        && frame.len() - ethernet::LEN > usize::from(peer.mtu)
    {
        rest.cut(frame, peer.mtu); // Else it would not have come as far as this.
    }
    clamp_segments(&mut frame.bytes_mut()[ethernet::LEN..], peer.mtu);
    wrap(frame, tables.tunnels(), peer, options, ports)
}

/// A packet that would be the kernel's, which knows nothing of peers and their pods: from a peer to a pod of this node, or
/// from a pod to a peer's, it is passed on as it is, without a flow. Others from a peer are to nobody.
///
/// `frame` is untouched but for its MACs.
#[cold]
pub(super) fn instead_of_kernel(
    frame: &mut FrameBuf<'_>,
    reason: KernelReason,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let kernel = Verdict::Kernel(reason);
    if tables.tunnels().is_empty() {
        return kernel;
    }
    // What goes back to where a pod or a tunnel sent it from, and not what the kernel was about to deliver.
    let back = egress(frame.bytes());
    let Some(back) = back.filter(|back| back.inject == Inject::Reingress) else {
        return kernel;
    };
    let from_peer = is_tunnel(back.ifindex);
    let nobody = if from_peer {
        Verdict::Drop(DropReason::NoRoute)
    } else {
        kernel
    };
    let Some((src, dst, hops)) = ends(frame.bytes()) else {
        return nobody;
    };
    let Some(pod) = tables.pod_by_address(&dst) else {
        return nobody;
    };
    if is_tunnel(pod.ifindex) == from_peer {
        return nobody;
    }
    if let Err(verdict) = sender(back.ifindex, &src, tables) {
        return match verdict {
            Verdict::Kernel(_) => nobody,
            verdict => verdict,
        };
    }
    let family = dst.family();
    let part = Part {
        flags: TcpFlags(0),
        hops,
        end: packet_end(frame.bytes(), family),
        cut: may_cut(frame.bytes()),
    };
    if let Err(reason) = part.routable(pod.ifindex, tables, &mut state.narrow) {
        return Verdict::Drop(reason);
    }
    count_hop(&mut frame.bytes_mut()[ethernet::LEN..], family);
    Egress::peer(pod.ifindex).write(frame.bytes_mut(), &state.ports);
    Verdict::Deliver
}

/// Source, destination and hops left of any packet that is well formed.
fn ends(frame: &[u8]) -> Option<(Address, Address, u8)> {
    let (src, dst) = match parse(frame).ok()? {
        Parsed::Flow(packet) => (packet.tuple().src, packet.tuple().dst),
        Parsed::Fragment(part) => (part.src(), part.dst()),
        Parsed::Icmp(message) => (message.src(), message.dst()),
        Parsed::Other {
            why: Unflowed::Mapped,
            ..
        } => return None,
        Parsed::Other { src, dst, .. } => (src, dst),
    };
    let l3 = frame.get(ethernet::LEN..)?;
    let hops = match dst.family() {
        Family::V4 => l3[ipv4::TTL],
        Family::V6 => l3[ipv6::HOP_LIMIT],
    };
    Some((src, dst, hops))
}

fn count_hop(packet: &mut [u8], family: Family) {
    match family {
        Family::V4 => {
            packet[ipv4::TTL] -= 1;
            Delta::DECREMENT_HIGH.patch(&mut packet[ipv4::CHECKSUM]);
        }
        Family::V6 => packet[ipv6::HOP_LIMIT] -= 1,
    }
}
