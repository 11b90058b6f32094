//! The TCP stack as the flow table knows it: which connections there are, and which are joined.

use std::collections::{HashMap, HashSet};

use weft_datapath::*;

use crate::support::{ACK, FIN, RST, SYN, Spec};

/// Half-open connections that it remembers.
const HALF_OPEN_MAX: usize = 64;

/// Connections by the key of packets from their peer, each with the one that it is joined to, until either is over.
#[derive(Default)]
pub struct Stack {
    connections: HashMap<FlowKey, Option<FlowKey>>,
    half_open: HashSet<FlowKey>,
}

impl Stack {
    pub fn knows(&self, key: &FlowKey) -> bool {
        self.connections.contains_key(key) || self.half_open.contains(key)
    }

    /// Takes a segment; says whether it was the end of a handshake, so that the connection is to be joined.
    pub fn ingest(
        &mut self,
        key: FlowKey,
        flags: TcpFlags,
        now: Now,
        tables: &Tables,
        state: &mut State,
    ) -> bool {
        if self.connections.contains_key(&key) {
            if flags.rst() {
                self.reset(&key, now, state);
            } else if flags.fin() {
                // The end takes more than a burst, between which the stack is told what is no more.
                self.sever(now, state);
                if self.connections.contains_key(&key) {
                    self.over(&key, now, state);
                }
            }
            return false;
        }
        let tuple = &key.tuple;
        let listens = tables
            .service(&tuple.dst, tuple.dport, tuple.proto)
            .is_some_and(|service| service.options().stage != Stage::L4 && service.serves());
        if flags.rst() {
            self.half_open.remove(&key);
        } else if flags.opens() {
            if listens && self.half_open.len() < HALF_OPEN_MAX {
                self.half_open.insert(key);
            }
        } else {
            return self.half_open.remove(&key);
        }
        false
    }

    /// Joins a connection that was just accepted to another one to a backend, as the worker does it. Says between which
    /// ends that is, and where its peer is seen.
    pub fn join(
        &mut self,
        key: FlowKey,
        now: Now,
        tables: &Tables,
        state: &mut State,
    ) -> Option<(Tuple, u32, Hook)> {
        self.sever(now, state);
        let ops = state.pin_ops.as_slice().len();
        let opened = state.terminate(key, now, tables);
        let caused = state.pin_ops.as_slice().len() - ops;
        assert!(caused <= PIN_OPS_PER_FRAME, "{caused} owner entries");
        let id = opened.ok()?;
        let flow = state.flows.at(id).expect("just opened");
        assert_eq!(flow.kind(), FlowKind::Terminated);
        assert_eq!(flow.key(Direction::Forward), Some(key));
        let backend = flow.key(Direction::Reply).expect("its replies are ours");
        let ends = flow.backend_tuple();
        assert_eq!(ends, backend.tuple.reversed());
        if self.connections.contains_key(&backend) {
            // Of a flow that has just made way: it is to be reset first.
            let told = |key: &FlowKey| state.severed.iter().any(|severed| severed.key == *key);
            let joined = self.connections[&backend];
            assert!(told(&backend) || joined.as_ref().is_some_and(told));
            state.not_connected(id, now);
            return None;
        }
        let hook = flow.hook(Direction::Reply);
        self.connections.insert(key, Some(backend));
        self.connections.insert(backend, Some(key));
        Some((ends, backend.ifindex, hook))
    }

    /// Resets what the flow table has given up.
    pub fn sever(&mut self, now: Now, state: &mut State) {
        let severed: Vec<Severed> = state.severed.drain(..).collect();
        for Severed { key, .. } in severed {
            if self.connections.contains_key(&key) {
                self.reset(&key, now, state);
            }
        }
    }

    /// Resets everything.
    pub fn reset_all(&mut self, now: Now, state: &mut State) {
        self.sever(now, state);
        let keys: Vec<FlowKey> = self.connections.keys().copied().collect();
        for key in keys {
            self.over(&key, now, state);
        }
    }

    fn reset(&mut self, key: &FlowKey, now: Now, state: &mut State) {
        let joined = self.connections.get(key).copied().flatten();
        self.over(key, now, state);
        if let Some(joined) = joined {
            self.over(&joined, now, state);
        }
    }

    fn over(&mut self, key: &FlowKey, now: Now, state: &mut State) {
        if let Some(Some(joined)) = self.connections.remove(key) {
            self.connections.insert(joined, None);
        }
        state.connection_over(key, now);
    }

    /// A connection has a flow, or the stack is to be told; a flow that is not over has a connection.
    pub fn check(&self, state: &State) {
        assert!(state.severed.len() <= PIN_OPS_MAX && state.severed.capacity() <= PIN_OPS_MAX);
        let told = |key: &FlowKey| state.severed.iter().any(|severed| severed.key == *key);
        for (key, joined) in &self.connections {
            let flow = state.flows.find(key).and_then(|(id, _)| state.flows.at(id));
            let known = flow.is_some_and(|flow| {
                flow.kind() == FlowKind::Terminated && flow.state() != FlowState::Closed
            });
            let told = told(key) || joined.as_ref().is_some_and(told);
            assert!(known != told, "{key:?}: known {known}, told {told}");
        }
        for (_, flow) in state.flows.slice(0, state.flows.places()) {
            let mut keys = [Direction::Forward, Direction::Reply]
                .into_iter()
                .filter_map(|way| flow.key(way));
            if flow.kind() == FlowKind::Terminated && flow.state() != FlowState::Closed {
                assert!(keys.any(|key| self.connections.contains_key(&key)));
            }
        }
    }
}

/// What the stack sends to the peer of a connection.
pub fn sent(tuple: Tuple, flags: u8) -> Vec<u8> {
    Spec::of(tuple, flags & (SYN | ACK | FIN | RST)).frame([0; 6])
}
