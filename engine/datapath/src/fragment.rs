//! Fragments (SVC-35): the first one of a packet has the ports and decides for the rest.

mod held;
mod share;
mod table;

use crate::hash::source_hash;
use crate::parse::{Fragment, Packet, TcpFlags};
use crate::process::{Part, known_flow, pass, sender, to_kernel, way_back, with_ports};
use crate::rewrite::translate_later_fragment;
use crate::wire::ethernet;
use crate::{
    Direction, DropReason, Flow, FlowKey, FrameBuf, Hook, Ingress, KernelReason, Now, State,
    Tables, Verdict,
};

pub use table::FragmentTable;
use table::{PacketId, PacketKey, Route};

/// Decides about one fragment. The slow way, bounded as [`FragmentTable`] says.
///
/// All fragments of a packet come to one worker, by their source alone. The first one is looked up as if it
/// were the packet, or handed to the worker that owns the flow. The others follow it; those that come before
/// it are held. Nothing is put together here: overlaps and gaps are the receiver's affair (RFC 5722), and
/// cannot change what was decided, because no other fragment reaches the ports.
#[cold]
#[inline(never)]
pub(crate) fn fragment(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    part: &Fragment,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let key = PacketKey::new(ingress, part);
    let id = state.fragments.find(&key, now);
    if let Some(id) = id
        && let Some((route, _)) = state.fragments.settled(id)
        && !part.is_first()
    {
        state.fragments.passed(id, part, now);
        return follow(frame, ingress, part, route, now, tables, state);
    }
    let to = match receiver(ingress, part, tables, state) {
        Ok(to) => to,
        Err(Verdict::Kernel(reason)) => {
            return to_kernel(frame, way_back(ingress), reason, state);
        }
        Err(verdict) => return verdict,
    };
    let decided = if part.is_first() {
        let seen = Seen { part, key, id, to };
        first(frame, ingress, seen, now, tables, state)
    } else {
        let held = state.fragments.hold(key, id, frame.bytes(), now);
        held.map(|()| Verdict::Hold)
    };
    match decided {
        Ok(verdict) => verdict,
        Err(bound) if to != Receiver::Pod => Verdict::Drop(bound),
        // Most likely no flow of ours, and then none the worse for overtaking those that wait.
        Err(_) => {
            let reason = KernelReason::FragmentOverflow;
            to_kernel(frame, way_back(ingress), reason, state)
        }
    }
}

/// To whom a fragment goes that may be ours.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Receiver {
    /// A service.
    Vip,
    /// The sender itself, by the hairpin address: a reply, or nobody's.
    Hairpin,
    /// An enrolled pod: perhaps a reply.
    Pod,
}

/// `Err`: nothing of ours, as for any packet.
fn receiver(
    ingress: Ingress,
    part: &Fragment,
    tables: &Tables,
    state: &State,
) -> Result<Receiver, Verdict> {
    if ingress.hook == Hook::ToPod {
        return Ok(Receiver::Pod);
    }
    let (src, dst) = (part.src(), part.dst());
    sender(ingress.ifindex, &src, tables)?;
    if tables.vip(&dst) {
        Ok(Receiver::Vip)
    } else if tables.pod_by_address(&dst).is_some() {
        Ok(Receiver::Pod)
    } else if state.hairpin(&src) == Some(dst) {
        Ok(Receiver::Hairpin)
    } else {
        Err(Verdict::Kernel(KernelReason::NotOurs))
    }
}

/// A first fragment and what is known of its packet.
struct Seen<'p> {
    part: &'p Fragment,
    key: PacketKey,
    id: Option<PacketId>,
    to: Receiver,
}

/// The first fragment: as its packet, and so will be the rest. `Err` names the bound that it met.
fn first(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    seen: Seen<'_>,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<Verdict, DropReason> {
    let Seen { part, key, id, to } = seen;
    let head = part.head(frame.bytes());
    if part.is_atomic() {
        return Ok(match head {
            Ok(packet) => whole(frame, ingress, &packet, to, now, tables, state),
            Err(reason) => Verdict::Drop(reason),
        });
    }
    let ports = head.map(|packet| [packet.tuple().sport, packet.tuple().dport]);
    if let Some(id) = id
        && let Some((_, settled)) = state.fragments.settled(id)
    {
        let ports = match ports {
            Ok(ports) => ports,
            Err(reason) => return Ok(Verdict::Drop(reason)),
        };
        if ports != settled && !state.fragments.reuse(id) {
            return Ok(Verdict::Drop(DropReason::FragmentConflict));
        }
    }
    let id = match id.map_or_else(|| state.fragments.open(key, now), Ok) {
        Ok(id) => id,
        Err(bound) => {
            return match head {
                Ok(packet) if to == Receiver::Pod => {
                    beyond(frame, ingress, &packet, bound, now, tables, state)
                }
                _ => Err(bound),
            };
        }
    };
    let verdict = match head {
        Ok(packet) => whole(frame, ingress, &packet, to, now, tables, state),
        Err(reason) => Verdict::Drop(reason),
    };
    let route = match (verdict, head) {
        (Verdict::HandOver(worker), _) => Route::Worker(worker),
        (Verdict::Kernel(reason), _) => Route::Kernel(reason),
        (Verdict::Deliver, Ok(packet)) => flow_of(ingress, &packet, state),
        _ => Route::Refused,
    };
    state.fragments.settle(id, route, ports.unwrap_or_default());
    state.fragments.passed(id, part, now);
    Ok(verdict)
}

/// The first fragment of what may be a reply, where the bound says that no other can follow it. It is not forwarded
/// untranslated if it is one: who it is for would put it together with the others.
fn beyond(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    packet: &Packet,
    bound: DropReason,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<Verdict, DropReason> {
    let owner = owner(packet, Receiver::Pod, state);
    if owner != state.worker {
        return Ok(hand_over(frame, ingress, owner));
    }
    let key = key(packet, ingress);
    if state.known(&key, ingress.hook, now, tables).is_some()
        || left_behind(&key, ingress, now, tables, state)
    {
        return Ok(Verdict::Drop(bound));
    }
    Err(bound)
}

/// What would become of the packet that the first fragment begins. A direct packet in fragments needs no translation,
/// opens nothing and stays the kernel's.
fn whole(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    packet: &Packet,
    to: Receiver,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let owner = owner(packet, to, state);
    if owner != state.worker {
        return hand_over(frame, ingress, owner);
    }
    if to == Receiver::Vip {
        return with_ports(frame, packet, ingress, now, tables, state);
    }
    let key = key(packet, ingress);
    match state.known(&key, ingress.hook, now, tables) {
        Some((id, direction)) => known_flow(frame, packet, (id, direction), now, tables, state),
        // Nobody but Weft knows where that leads.
        None if to == Receiver::Hairpin => Verdict::Drop(DropReason::UnknownFlow),
        None if left_behind(&key, ingress, now, tables, state) => {
            Verdict::Drop(DropReason::UnknownFlow)
        }
        None => to_kernel(frame, way_back(ingress), KernelReason::NotOurs, state),
    }
}

fn key(packet: &Packet, ingress: Ingress) -> FlowKey {
    FlowKey {
        tuple: *packet.tuple(),
        ifindex: ingress.ifindex,
    }
}

/// Whether it is what a backend that has left its service still sends to a client, who never spoke to that
/// address.
fn left_behind(key: &FlowKey, ingress: Ingress, now: Now, tables: &Tables, state: &State) -> bool {
    let Some((id, Direction::Reply)) = state.flows.find(key) else {
        return false;
    };
    let left =
        |flow: &Flow| flow.hook(Direction::Reply) == ingress.hook && flow.removed(now, tables);
    state.flows.at(id).is_some_and(left)
}

/// The worker that owns the flow.
///
/// A flow belongs to the worker that its opener's source says, as the BPF programs have it where nobody owns
/// the flow yet. To a VIP that is the sender; else only a reply is of interest, and the opener its receiver,
/// who by the hairpin address is the sender too. Where a flow has another source port, that one hashes to
/// the same worker.
fn owner(packet: &Packet, to: Receiver, state: &State) -> u16 {
    let tuple = packet.tuple();
    let (client, port) = match to {
        Receiver::Vip => (&tuple.src, tuple.sport),
        Receiver::Hairpin => (&tuple.src, tuple.dport),
        Receiver::Pod => (&tuple.dst, tuple.dport),
    };
    source_hash(client, port, tuple.proto) % state.workers
}

/// The flow that a packet was just delivered by.
fn flow_of(ingress: Ingress, packet: &Packet, state: &State) -> Route {
    let found = state.flows.find(&key(packet, ingress));
    let flow = found.and_then(|(id, direction)| {
        let cookie = state.flows.at(id)?.cookie();
        Some(Route::Flow {
            id,
            direction,
            cookie,
        })
    });
    flow.unwrap_or(Route::Refused)
}

/// Any other fragment goes where the first one went.
fn follow(
    frame: &mut FrameBuf<'_>,
    ingress: Ingress,
    part: &Fragment,
    route: Route,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let (id, direction, cookie) = match route {
        Route::Flow {
            id,
            direction,
            cookie,
        } => (id, direction, cookie),
        Route::Worker(worker) => return hand_over(frame, ingress, worker),
        Route::Kernel(reason) => return to_kernel(frame, way_back(ingress), reason, state),
        Route::Refused => return Verdict::Drop(DropReason::FragmentRefused),
    };
    let still = |flow: &Flow| flow.cookie() == cookie && flow.valid(now, tables);
    if !state.flows.at(id).is_some_and(still) {
        return Verdict::Drop(DropReason::UnknownFlow);
    }
    let seen = Part {
        flags: TcpFlags::default(),
        hops: part.hops(),
        end: part.end(),
        cut: false,
    };
    let family = part.family();
    pass(
        frame,
        seen,
        (id, direction),
        now,
        tables,
        state,
        |bytes, flow, hop| {
            translate_later_fragment(bytes, family, flow, direction, hop);
        },
    )
}

/// To the worker that owns the flow: its number is the target now.
fn hand_over(frame: &mut FrameBuf<'_>, ingress: Ingress, owner: u16) -> Verdict {
    let source = Ingress {
        target: owner,
        ..ingress
    };
    frame.bytes_mut()[ethernet::SRC].copy_from_slice(&source.encode());
    Verdict::HandOver(owner)
}
