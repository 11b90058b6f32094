//! Flows of the fast path, where the engine has to know of one.

use crate::flow::{FlowEnd, FlowKind, NewFlow};
use crate::icmp::Quoted;
use crate::parse::{Parsed, parse};
use crate::wire::ethernet;
use crate::{FlowKey, Ingress, Now, PIN_OPS_PER_FRAME, SlotRef, State, Tables};

impl State {
    /// The flow that an ICMP error is about, by the key of packets that go the error's way, if it is not known here: then it
    /// may be one of the fast path.
    pub fn unknown_error(&self, frame: &[u8]) -> Option<FlowKey> {
        let source = frame.get(ethernet::SRC)?.first_chunk()?;
        let ingress = Ingress::decode(source).filter(|_| self.pins_all)?;
        let Ok(Parsed::Icmp(message)) = parse(frame) else {
            return None;
        };
        let quoted = Quoted::parse(frame, &message).ok().flatten();
        let key = FlowKey {
            tuple: quoted?.tuple.reversed(),
            ifindex: ingress.ifindex,
        };
        self.flows.find(&key).is_none().then_some(key)
    }

    /// Takes a flow of the fast path in, so that what is no packet of it finds it: the client's packets, and the answers to
    /// them. Without room for it, it stays unknown.
    pub fn adopt(&mut self, client: FlowKey, answers: FlowKey, now: Now, tables: &Tables) {
        let (front, back) = (&client.tuple, &answers.tuple);
        let backend = (back.src, back.sport);
        let direct = backend == (front.dst, front.dport);
        let end = match direct {
            true => tables
                .pod_by_ifindex(answers.ifindex)
                .map(|pod| (pod.slot, 0)),
            false => tables.depends(
                (&front.dst, front.dport, front.proto),
                backend,
                answers.ifindex,
            ),
        };
        let (Some((slot, service)), Some(pod)) = (end, tables.pod_by_ifindex(client.ifindex))
        else {
            return;
        };
        if self.room() < PIN_OPS_PER_FRAME {
            return;
        }
        let flow = NewFlow {
            key: client,
            end: FlowEnd {
                address: backend.0,
                port: backend.1,
                ifindex: answers.ifindex,
                slot,
            },
            source: None,
            kind: if direct {
                FlowKind::Direct
            } else {
                FlowKind::Service
            },
            reply: true,
            client_slot: pod.slot,
            service,
            member: SlotRef::FIXED,
            max_flows: None,
            reset: false,
            backend: None,
            owner: self.worker,
            cookie: self.cookie(),
            now,
        };
        _ = self.add(flow);
    }
}
