//! Half-open connections (SYN-RECEIVED): remembered while there is room, so that a SYN-ACK can be repeated. Beyond,
//! SYNs get cookies and leave nothing behind.

use hashbrown::HashTable;
use weft_datapath::Now;

use crate::config::{Route, ServiceId};
use crate::key::{Key, Secret};
use crate::segment::SynOptions;
use crate::seq::Seq;
use crate::slab::Slab;
use crate::wheel::Wheel;

/// A SYN that was answered.
#[derive(Clone, Debug)]
pub(crate) struct HalfOpen {
    pub(crate) key: Key,
    pub(crate) service: ServiceId,
    pub(crate) mtu: u16,
    /// The peer's first number.
    pub(crate) peer: Seq,
    /// Ours.
    pub(crate) iss: Seq,
    pub(crate) options: SynOptions,
    /// When the SYN-ACK was first sent, and how often it was repeated.
    pub(crate) sent: Now,
    pub(crate) repeats: u8,
}

impl HalfOpen {
    pub(crate) fn route(&self) -> Route {
        Route {
            tag: self.key.tag,
            mtu: self.mtu,
        }
    }
}

/// Those that are remembered, by key and by time.
pub(crate) struct HalfOpenTable {
    entries: Slab<HalfOpen>,
    index: HashTable<u32>,
    pub(crate) wheel: Wheel,
}

impl HalfOpenTable {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: Slab::new(limit),
            index: HashTable::with_capacity(limit),
            wheel: Wheel::new(limit),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.is_full()
    }

    pub(crate) fn find(&self, hash: u64, key: &Key) -> Option<u32> {
        let same = |id: &u32| self.entries.get(*id).is_some_and(|entry| entry.key == *key);
        self.index.find(hash, same).copied()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&HalfOpen> {
        self.entries.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut HalfOpen> {
        self.entries.get_mut(id)
    }

    /// Remembers one; `None` when there is no room.
    pub(crate) fn insert(&mut self, secret: &Secret, hash: u64, entry: HalfOpen) -> Option<u32> {
        let id = self.entries.insert(entry)?;
        let entries = &self.entries;
        let rehash = |id: &u32| entries.get(*id).map_or(0, |entry| secret.demux(&entry.key));
        self.index.insert_unique(hash, id, rehash);
        Some(id)
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, secret: &Secret, id: u32) -> Option<HalfOpen> {
        let entry = self.entries.remove(id)?;
        self.wheel.clear(id);
        if let Ok(found) = self
            .index
            .find_entry(secret.demux(&entry.key), |other| *other == id)
        {
            found.remove();
        }
        Some(entry)
    }
}
