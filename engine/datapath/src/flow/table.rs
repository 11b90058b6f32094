//! The flow table: a slab of records and an index over both directions' keys. All memory is taken at
//! the start.

use std::hint::black_box;

use super::index::{Index, KeyHash};
use super::new::NewFlow;
use super::record::Flow;
use crate::{FlowKey, SlotRef, resident};

/// Which way a packet of a flow goes.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the client.
    Forward = 0,
    /// To the client.
    Reply = 1,
}

/// A flow's place in the slab; good until the flow is removed.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FlowId(u32);

/// Why a flow could not be added. Nothing was changed.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InsertError {
    /// As many flows as there is room for.
    #[error("the flow table is full")]
    Full,
    /// The client's pod has its share of the flows.
    #[error("the pod has its share of the flows")]
    Share,
    /// The service port has its share of the flows, or as many as it may.
    #[error("the service has its share of the flows")]
    ServiceShare,
    /// Another flow has one of the keys.
    #[error("another flow has the same key")]
    Clash(FlowId),
    /// None of the source ports tried is free.
    #[error("no source port is free towards that backend")]
    NoPort,
}

/// A pod may hold as many times the room that is left. A dynamic threshold: a pod alone gets four fifths of
/// the table, *n* greedy ones together all but `1 / (4n + 1)`, so that none can shut the others out.
const SHARE: usize = 4;

/// A service may hold as many times what a pod may, or one pod that fills its share would shut the others out of
/// the service that it floods.
const SERVICE_SHARE: usize = 4;

/// Pods that are counted apart, as many as can be enrolled; slots equal modulo this share a count.
const HOLDERS: usize = 4096;

/// Service ports that are counted apart: as many as the hooks know. Numbers equal modulo this share a count.
const SERVICES: usize = 1 << 16;

/// Backends of service ports whose live flows are counted apart; places equal modulo this share a count.
const MEMBERS: usize = 1 << 17;

/// Live flows of a backend, as long as its place has that epoch.
#[derive(Copy, Clone, Debug, Default)]
struct Load {
    epoch: u32,
    flows: u32,
}

/// Flows of one worker, found by either direction's key.
#[derive(Debug)]
pub struct FlowTable {
    slots: Vec<Flow>,
    free: Vec<u32>,
    index: Index,
    hash: KeyHash,
    max: usize,
    /// Flows by the client's slot.
    held: Box<[u32]>,
    /// Flows by the service port's number.
    served: Box<[u32]>,
    loads: Box<[Load]>,
}

impl FlowTable {
    /// Room for `max_flows` flows (at least 1, at most 2^28). `seed` keys the index's hash.
    ///
    /// Memory is reserved now and touched as flows come: 192 bytes a flow and at least 32 for the index. With
    /// `take_memory` only the former are, one after the other.
    pub fn new(max_flows: usize, seed: u64) -> Self {
        let max = max_flows.clamp(1, 1 << 28);
        Self {
            slots: Vec::with_capacity(max),
            free: Vec::with_capacity(max),
            index: Index::new(2 * max),
            hash: KeyHash::new(seed),
            max,
            held: vec![0; HOLDERS].into(),
            served: vec![0; SERVICES].into(),
            loads: vec![Load::default(); MEMBERS].into(),
        }
    }

    /// Takes the memory of the index and the counts at once.
    pub(crate) fn take_memory(&mut self) {
        self.index.take_memory();
        resident::take(&mut self.held);
        resident::take(&mut self.served);
        resident::take(&mut self.loads);
    }

    /// Flows there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places of the slab that were ever used: where [`slice`](Self::slice) ends.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    /// The flow with this key, and which direction the key is.
    #[inline]
    pub fn find(&self, key: &FlowKey) -> Option<(FlowId, Direction)> {
        self.find_hashed(self.hash.hash(key), key)
    }

    #[inline]
    fn find_hashed(&self, hash: u32, key: &FlowKey) -> Option<(FlowId, Direction)> {
        let reference = self.index.find(hash, |reference| {
            let (id, direction) = unpack(reference);
            self.slots[id.0 as usize].is(direction, key)
        })?;
        Some(unpack(reference))
    }

    /// The hash that a key is found by.
    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u32 {
        self.hash.hash(key)
    }

    /// Reads where the search for a hash starts.
    #[inline]
    pub(crate) fn touch_index(&self, hash: u32) {
        self.index.touch(hash);
    }

    /// Reads what every packet of the flow with this hash needs of its record, and says whether there is one.
    #[inline]
    pub(crate) fn touch_flow(&self, hash: u32) -> bool {
        let Some(reference) = self.index.find(hash, |_| true) else {
            return false;
        };
        if let Some(flow) = self.slots.get(unpack(reference).0.0 as usize) {
            flow.touch();
        }
        true
    }

    /// Reads the count of the service port's flows.
    #[inline]
    pub(crate) fn touch_served(&self, service: u32) {
        black_box(self.served[service as usize % SERVICES]);
    }

    /// Adds a flow under its forward key and, where it has one, its reply key.
    pub fn insert(&mut self, new: NewFlow) -> Result<FlowId, InsertError> {
        if self.len() == self.max {
            return Err(InsertError::Full);
        }
        let holder = holder(new.client_slot);
        let share = SHARE * (self.max - self.len());
        if new.client_slot.slot != 0 && self.held[holder] as usize >= share {
            return Err(InsertError::Share);
        }
        let served = new.kind.serves().then_some(new.service as usize % SERVICES);
        if let Some(served) = served {
            let limit = new.max_flows.map_or(SERVICE_SHARE * share, |limit| {
                (SERVICE_SHARE * share).min(limit as usize)
            });
            if self.served[served] as usize >= limit {
                return Err(InsertError::ServiceShare);
            }
        }
        let flow = Flow::new(new);
        let keys = [Direction::Forward, Direction::Reply]
            .map(|direction| flow.key(direction).map(|key| (self.hash.hash(&key), key)));
        for (hash, key) in keys.iter().flatten() {
            if let Some((holder, _)) = self.find_hashed(*hash, key) {
                return Err(InsertError::Clash(holder));
            }
        }
        self.load_mut(flow.member(), 1);
        self.held[holder] += 1;
        if let Some(served) = served {
            self.served[served] += 1;
        }
        // Neither branch allocates: a place is free, or the slab is below the capacity it was made with.
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = flow;
                place
            }
            None => {
                self.slots.push(flow);
                (self.slots.len() - 1) as u32
            }
        };
        let id = FlowId(place);
        let [forward, reply] = keys;
        for (direction, hash) in [(Direction::Forward, forward), (Direction::Reply, reply)] {
            if let Some((hash, _)) = hash {
                self.index.insert(hash, pack(id, direction));
            }
        }
        Ok(id)
    }

    /// Removes a flow and its keys. Nothing happens if it is gone already.
    pub fn remove(&mut self, id: FlowId) {
        let Some(flow) = self.slots.get_mut(id.0 as usize).filter(|flow| flow.live()) else {
            return;
        };
        flow.kill();
        let (member, counted) = (flow.member(), flow.counted());
        self.held[holder(flow.client_slot())] -= 1;
        if flow.kind().serves() {
            self.served[flow.service() as usize % SERVICES] -= 1;
        }
        let keys = [Direction::Forward, Direction::Reply]
            .map(|direction| (direction, flow.key(direction)));
        for (direction, key) in keys {
            if let Some(key) = key {
                self.index.remove(self.hash.hash(&key), pack(id, direction));
            }
        }
        self.free.push(id.0);
        if counted {
            self.load_mut(member, -1);
        }
    }

    /// Takes the forward key from a flow that goes on with the other alone.
    pub(crate) fn supersede(&mut self, id: FlowId) {
        let Some(flow) = self.slots.get_mut(id.0 as usize).filter(|flow| flow.live()) else {
            return;
        };
        if let Some(key) = flow.key(Direction::Forward) {
            flow.supersede();
            let reference = pack(id, Direction::Forward);
            self.index.remove(self.hash.hash(&key), reference);
        }
    }

    /// Flows to a backend that are not over.
    pub fn load(&self, member: SlotRef) -> u32 {
        let Some(place) = member.as_member() else {
            return 0;
        };
        let load = self.loads[place as usize % MEMBERS];
        if load.epoch == member.epoch {
            load.flows
        } else {
            0
        }
    }

    /// Counts a flow that has ended, or has proved alive after a reset. Called when its state says so.
    #[cold]
    pub(crate) fn settle(&mut self, id: FlowId) {
        let Some(flow) = self.slots.get_mut(id.0 as usize).filter(|flow| flow.live()) else {
            return;
        };
        let (member, live) = (flow.member(), !flow.state().over());
        if flow.count(live) {
            self.load_mut(member, if live { 1 } else { -1 });
        }
    }

    /// A backend that took over a place starts at none, whatever flows the one before still has.
    fn load_mut(&mut self, member: SlotRef, change: i32) {
        let Some(place) = member.as_member() else {
            return;
        };
        let load = &mut self.loads[place as usize % MEMBERS];
        if load.epoch == member.epoch {
            load.flows = load.flows.saturating_add_signed(change);
        } else if change > 0 {
            *load = Load {
                epoch: member.epoch,
                flows: 1,
            };
        }
    }

    /// A flow by its place.
    #[inline]
    pub fn at(&self, id: FlowId) -> Option<&Flow> {
        self.slots.get(id.0 as usize).filter(|flow| flow.live())
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.slots.get_mut(id.0 as usize).filter(|flow| flow.live())
    }

    /// The flows in `n` places of the slab from `start`: a listing asks for one slice after another
    /// until `start` reaches [`places`](Self::places), so that no walk holds the worker up.
    pub fn slice(&self, start: usize, n: usize) -> impl Iterator<Item = (FlowId, &Flow)> {
        let end = start.saturating_add(n).min(self.slots.len());
        let flows = self.slots.get(start..end).unwrap_or_default();
        flows
            .iter()
            .enumerate()
            .filter(|(_, flow)| flow.live())
            .map(move |(at, flow)| (FlowId((start + at) as u32), flow))
    }

    #[cfg(test)]
    pub(super) fn index_used(&self) -> usize {
        self.index.used()
    }
}

#[inline]
fn holder(client: SlotRef) -> usize {
    client.slot as usize % HOLDERS
}

/// A reference in the index: place and direction, never 0.
#[inline]
fn pack(id: FlowId, direction: Direction) -> u32 {
    (id.0 << 1 | direction as u32) + 1
}

#[inline]
fn unpack(reference: u32) -> (FlowId, Direction) {
    let packed = reference - 1;
    (
        FlowId(packed >> 1),
        if packed & 1 == 0 {
            Direction::Forward
        } else {
            Direction::Reply
        },
    )
}
