//! Flows that end here: what the TCP stack and the flow table tell each other of their connections.

use super::Part;
use crate::choice::{UpstreamSpec, add, open_service, open_upstream, refusal};
use crate::flow::{Direction, FlowEnd, FlowId, FlowKind, NewFlow};
use crate::parse::TcpFlags;
use crate::tables::{Pod, ServicePort, Stage};
use crate::wire::ethernet;
use crate::{DropReason, FlowKey, Now, PIN_OPS_PER_FRAME, Protocol, SlotRef, State, Tables};

/// What comes from here: it has hops, and no length yet.
const FROM_HERE: Part = Part {
    flags: TcpFlags(0),
    hops: 64,
    end: ethernet::LEN,
    cut: false,
};

impl State {
    /// A client's connection has been accepted: chooses a backend and adds the flow, which says between which ends
    /// the connection to the backend is to be opened ([`Flow::backend_tuple`](crate::Flow::backend_tuple)).
    ///
    /// # Errors
    /// The bound, or what has changed since the client's SYN: then the client is to be reset.
    pub fn terminate(
        &mut self,
        key: FlowKey,
        now: Now,
        tables: &Tables,
    ) -> Result<FlowId, DropReason> {
        let (pod, service) = self.begin(&key, now, tables)?;
        if !service.serves() {
            return Err(DropReason::UnknownFlow);
        }
        let stage = match service.options().stage {
            Stage::L4 | Stage::Http(_) => Stage::Tcp(Default::default()), // As it was when the client began.
            stage => stage,
        };
        open_service((service, stage), key, pod, &FROM_HERE, now, tables, self)
    }

    /// A client's connection to the HTTP stage has been accepted: adds its flow.
    ///
    /// # Errors
    /// The bound, or what has changed since the client's SYN: then the client is to be reset.
    pub fn admit(&mut self, key: FlowKey, now: Now, tables: &Tables) -> Result<FlowId, DropReason> {
        let (pod, service) = self.begin(&key, now, tables)?;
        let vip = FlowEnd {
            address: key.tuple.dst,
            port: key.tuple.dport,
            ifindex: 0,
            slot: SlotRef::FIXED,
        };
        let flow = NewFlow {
            service: service.id(),
            max_flows: service.options().max_flows,
            ..self.unserved(key, FlowKind::Client, (pod.slot, vip, false), now)
        };
        add(flow, now, tables, self).map_err(refusal)
    }

    /// The HTTP stage wants a connection to a backend: adds the flow, which says between which ends it is to be opened
    /// ([`Flow::backend_tuple`](crate::Flow::backend_tuple)).
    ///
    /// # Errors
    /// The bound, or that the backend has left meanwhile.
    pub fn connect(
        &mut self,
        wanted: &UpstreamSpec<'_>,
        now: Now,
        tables: &Tables,
    ) -> Result<FlowId, DropReason> {
        if self.room() < PIN_OPS_PER_FRAME {
            return Err(DropReason::PinRoom);
        }
        let client = &wanted.client;
        let pod = tables.sender(client.ifindex, &client.tuple.src);
        let pod = pod.ok_or(DropReason::UnknownFlow)?;
        open_upstream(wanted, pod, now, tables, self)
    }

    /// Who the client of a new connection is and what it asks; an old one from the same port is over.
    fn begin<'t>(
        &mut self,
        key: &FlowKey,
        now: Now,
        tables: &'t Tables,
    ) -> Result<(&'t Pod, &'t ServicePort), DropReason> {
        if self.room() < PIN_OPS_PER_FRAME {
            return Err(DropReason::PinRoom);
        }
        let pod = tables
            .sender(key.ifindex, &key.tuple.src)
            .ok_or(DropReason::UnknownFlow)?;
        let service = tables
            .service(&key.tuple.dst, key.tuple.dport, Protocol::Tcp)
            .filter(|service| service.accepts())
            .ok_or(DropReason::UnknownFlow)?;
        if let Some((before, Direction::Forward)) = self.flows.find(key) {
            self.begun_anew(before, now);
        }
        Ok((pod, service))
    }

    /// The client has begun another connection from the same port, so its old one is over. That to the backend may still
    /// have something to send: until it is over, too, the flow keeps its ends, and they are no other's.
    fn begun_anew(&mut self, id: FlowId, now: Now) {
        let Some(flow) = self.flows.at_mut(id).filter(|flow| flow.terminated()) else {
            return;
        };
        if flow.half_over(Direction::Forward, now) {
            self.flows.settle(id);
        } else {
            self.supersede(id);
        }
    }

    /// The connection whose peer's packets have this key is over. With both, the flow is.
    pub fn connection_over(&mut self, key: &FlowKey, now: Now) {
        let Some((id, direction)) = self.flows.find(key) else {
            return;
        };
        if let Some(flow) = self.flows.at_mut(id)
            && flow.terminated()
            && flow.half_over(direction, now)
        {
            self.flows.settle(id);
        }
    }

    /// The flow's connection to the backend could not be made.
    pub fn not_connected(&mut self, id: FlowId, now: Now) {
        if let Some(flow) = self.flows.at_mut(id) {
            flow.close(now);
            self.flows.settle(id);
        }
    }
}
