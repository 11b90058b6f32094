//! Flows of the fast path, where the engine has to know of one.

use std::fmt;

use crate::flow::{Direction, FlowEnd, FlowId, FlowKind, NewFlow};
use crate::icmp::Quoted;
use crate::parse::{Parsed, parse};
use crate::process::Part;
use crate::tables::ServicePort;
use crate::wire::{ethernet, ipv6};
use crate::{FlowKey, Ingress, Now, PIN_OPS_PER_FRAME, Protocol, State, Tables, backend_print};

/// The ends of a flow on the fast path: the client's packets, and the answers to them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FastEnds {
    /// The client's packets, as it sends them.
    pub client: FlowKey,
    /// The answers, as the other pod sends them.
    pub answers: FlowKey,
}

/// The flows that the hooks have opened: the kernel's map, or a list in a test.
pub trait FastFlows: fmt::Debug + Send {
    /// The flow whose packets, one way or the other, have that key. A system call: not for packets that nothing is odd
    /// about.
    fn find(&self, key: &FlowKey) -> Option<FastEnds>;

    /// Of a client's flow that the hooks have seen one datagram of: the [`backend_print`](crate::backend_print) of the backend that
    /// it went to. Some cache misses.
    fn first(&self, _client: &FlowKey) -> Option<u16> {
        None
    }
}

impl State {
    /// Takes in the flow that a frame belongs to or speaks of, if it is one of the fast path and the frame is what that
    /// leaves to the engine: an ICMP error, a first fragment, a segment with options or at its last hop, a packet that may
    /// be too long for its pod.
    pub(crate) fn look_up(&mut self, frame: &[u8], now: Now, tables: &Tables) {
        let Some(fast) = &self.fast else { return };
        let found = self.odd(frame).and_then(|key| fast.find(&key));
        if let Some(FastEnds { client, answers }) = found {
            self.adopt(client, answers, now, tables);
        }
    }

    /// The backend, by its place, that has had the flow's first datagram from the hooks, before the service became one that they
    /// leave alone.
    pub(crate) fn first_backend(&self, service: &ServicePort, client: &FlowKey) -> Option<usize> {
        if client.tuple.proto != Protocol::Udp {
            return None;
        }
        let print = self.fast.as_ref()?.first(client)?;
        let mut backends = service.spec.backends.iter();
        backends.position(|backend| backend_print(&backend.address, backend.port) == print)
    }

    /// The key of the packets whose flow such a frame is about, if that is not known here.
    #[cold]
    fn odd(&self, frame: &[u8]) -> Option<FlowKey> {
        let ingress = Ingress::decode(frame.get(ethernet::SRC)?.first_chunk()?)?;
        let tuple = match parse(frame) {
            Ok(Parsed::Icmp(message)) => {
                let quoted = Quoted::parse(frame, &message).ok().flatten();
                quoted?.tuple.reversed()
            }
            Ok(Parsed::Fragment(part)) if part.is_first() => *part.head(frame).ok()?.tuple(),
            Ok(Parsed::Flow(packet))
                if packet.tuple().proto == Protocol::Tcp && !packet.opens()
                    || Part::of(&packet).length() > ipv6::MTU_LEAST.into() =>
            {
                *packet.tuple()
            }
            _ => return None,
        };
        let key = FlowKey {
            tuple,
            ifindex: ingress.ifindex,
        };
        self.flows.find(&key).is_none().then_some(key)
    }

    /// Whether the answers of a new flow would have the tuple of another flow, which is on the fast path.
    pub(crate) fn answers_taken(&self, id: FlowId) -> bool {
        let (Some(fast), Some(flow)) = (&self.fast, self.flows.at(id)) else {
            return false;
        };
        let answers = flow.key(Direction::Reply).and_then(|key| fast.find(&key));
        answers.is_some_and(|other| Some(other.client) != flow.key(Direction::Forward))
    }

    /// Takes a flow of the fast path in, so that what is no packet of it finds it: the client's packets, and the answers to
    /// them. Without room for it, it stays unknown.
    fn adopt(&mut self, client: FlowKey, answers: FlowKey, now: Now, tables: &Tables) {
        let (front, back) = (&client.tuple, &answers.tuple);
        let backend = (back.src, back.sport);
        let direct = backend == (front.dst, front.dport);
        let end = match direct {
            true => tables
                .sender(answers.ifindex, &backend.0)
                .map(|pod| (pod.slot, 0)),
            false => tables.depends(
                (&front.dst, front.dport, front.proto),
                backend,
                answers.ifindex,
            ),
        };
        let sender = tables.sender(client.ifindex, &front.src);
        let (Some((slot, service)), Some(pod)) = (end, sender) else {
            return;
        };
        if self.room() < PIN_OPS_PER_FRAME {
            return;
        }
        let end = FlowEnd {
            address: backend.0,
            port: backend.1,
            ifindex: answers.ifindex,
            slot,
        };
        let kind = if direct {
            FlowKind::Direct
        } else {
            FlowKind::Service
        };
        let flow = NewFlow {
            service,
            leaves: false,
            ..self.unserved(client, kind, (pod.slot, end, true), now)
        };
        _ = self.add(flow);
    }
}
