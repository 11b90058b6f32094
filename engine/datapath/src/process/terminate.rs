//! Flows that end here: what the TCP stack and the flow table tell each other of their connections.

use super::Part;
use crate::choice::open_service;
use crate::flow::{Direction, FlowId};
use crate::parse::TcpFlags;
use crate::tables::Stage;
use crate::wire::ethernet;
use crate::{DropReason, FlowKey, Now, PIN_OPS_PER_FRAME, Protocol, State, Tables};

/// What comes from here: it has hops, and no length yet.
const FROM_HERE: Part = Part {
    flags: TcpFlags(0),
    hops: 64,
    end: ethernet::LEN,
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
        if self.room() < PIN_OPS_PER_FRAME {
            return Err(DropReason::PinRoom);
        }
        let pod = tables
            .pod_by_ifindex(key.ifindex)
            .ok_or(DropReason::UnknownFlow)?;
        let service = tables
            .service(&key.tuple.dst, key.tuple.dport, Protocol::Tcp)
            .filter(|service| service.serves())
            .ok_or(DropReason::UnknownFlow)?;
        let stage = match service.options().stage {
            Stage::L4 => Stage::Tcp(Default::default()), // As it was when the client began.
            stage => stage,
        };
        if let Some((before, Direction::Forward)) = self.flows.find(&key) {
            self.begun_anew(before, now);
        }
        open_service((service, stage), key, pod, &FROM_HERE, now, tables, self)
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
