//! TIME-WAIT (RFC 9293 section 3.3.2): what is left of a connection that we closed first, in 52 bytes and an index of
//! at most ten more.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;
use weft_datapath::{Address, Now, Protocol, Tuple};

use crate::config::ServiceId;
use crate::key::{Key, Secret};
use crate::seq::Seq;

/// Deadlines are kept in tenths of a second, modulo 2^16 of them (109 minutes).
const UNIT: Duration = Duration::from_millis(100);
/// The longest TIME-WAIT that such deadlines can express with room to spare.
const LONGEST: Duration = Duration::from_secs(1_800);

/// One connection. The tuple is as the peer sends it.
#[derive(Copy, Clone, Debug)]
struct Entry {
    src: Address,
    dst: Address,
    sport: u16,
    /// 0 for an entry that is gone: no connection has that port.
    dport: u16,
    tag: u32,
    /// Our next number, and the peer's.
    nxt: Seq,
    rcv_nxt: Seq,
    due: u16,
    service: ServiceId,
}

impl Entry {
    fn key(&self) -> Key {
        let tuple = Tuple {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            proto: Protocol::Tcp,
        };
        Key {
            tuple,
            tag: self.tag,
        }
    }
}

/// The numbers that a connection in TIME-WAIT answers with.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Remembered {
    pub(crate) nxt: Seq,
    pub(crate) rcv_nxt: Seq,
}

/// Connections in TIME-WAIT, the oldest first.
pub(crate) struct TimeWaitTable {
    /// A ring: all wait equally long, so the first to come is the first to go.
    entries: VecDeque<Entry>,
    /// Place in the ring, counted from the first entry there ever was.
    index: HashTable<u32>,
    /// Entries that have left the ring at its front.
    gone: u32,
    live: usize,
    limit: usize,
    wait: Duration,
    /// When the deadlines were last looked at: hours later, they would count as being ahead again.
    seen: Now,
    per_service: Vec<u32>,
}

/// Why a connection did not stay as it was in the table.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entered {
    /// There was room.
    Room,
    /// The oldest made room.
    Evicted,
    /// Its service has as many as it may.
    Skipped,
}

impl TimeWaitTable {
    pub(crate) fn new(limit: usize, wait: Duration) -> Self {
        Self {
            entries: VecDeque::with_capacity(limit),
            index: HashTable::with_capacity(limit),
            gone: 0,
            live: 0,
            limit,
            wait: wait.min(LONGEST),
            seen: Now::default(),
            per_service: Vec::new(),
        }
    }

    /// Connections in TIME-WAIT.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Bytes of memory that the table uses, those of entries that have gone since included.
    pub(crate) fn memory(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.index.allocation_size()
    }

    fn place(&self, hash: u64, key: &Key) -> Option<u32> {
        let same = |place: &u32| {
            let entry = self.entries.get(place.wrapping_sub(self.gone) as usize);
            entry.is_some_and(|entry| entry.key() == *key)
        };
        self.index.find(hash, same).copied()
    }

    /// What is remembered of this connection.
    pub(crate) fn find(&self, hash: u64, key: &Key) -> Option<Remembered> {
        if self.live == 0 {
            return None;
        }
        let place = self.place(hash, key)?;
        let entry = self.entries.get(place.wrapping_sub(self.gone) as usize)?;
        Some(Remembered {
            nxt: entry.nxt,
            rcv_nxt: entry.rcv_nxt,
        })
    }

    /// Remembers a connection, for the whole time from now on.
    pub(crate) fn insert(
        &mut self,
        secret: &Secret,
        key: &Key,
        numbers: Remembered,
        (service, service_limit): (ServiceId, u32),
        now: Now,
    ) -> Entered {
        self.expire(secret, now, 1);
        let hash = secret.demux(key);
        self.forget(hash, key);
        let at = usize::from(service.0);
        if at >= self.per_service.len() {
            self.per_service.resize(at + 1, 0);
        }
        if self.per_service[at] >= service_limit || self.limit == 0 {
            return Entered::Skipped;
        }
        let mut entered = Entered::Room;
        // Bound: entries that are gone leave with the first that is not.
        while self.entries.len() >= self.limit {
            if self.pop(secret) {
                entered = Entered::Evicted;
            }
        }
        let place = self.gone.wrapping_add(self.entries.len() as u32);
        self.entries.push_back(Entry {
            src: key.tuple.src,
            dst: key.tuple.dst,
            sport: key.tuple.sport,
            dport: key.tuple.dport,
            tag: key.tag,
            nxt: numbers.nxt,
            rcv_nxt: numbers.rcv_nxt,
            due: units(now + self.wait).wrapping_add(1),
            service,
        });
        let (entries, gone) = (&self.entries, self.gone);
        let rehash = |place: &u32| {
            let entry = entries.get(place.wrapping_sub(gone) as usize);
            entry.map_or(0, |entry| secret.demux(&entry.key()))
        };
        self.index.insert_unique(hash, place, rehash);
        self.per_service[at] += 1;
        self.live += 1;
        entered
    }

    /// Forgets a connection before its time; whether it was known. Its place is free when it comes to the front.
    pub(crate) fn forget(&mut self, hash: u64, key: &Key) -> Option<ServiceId> {
        let place = self.place(hash, key)?;
        if let Ok(found) = self.index.find_entry(hash, |other| *other == place) {
            found.remove();
        }
        let entry = self
            .entries
            .get_mut(place.wrapping_sub(self.gone) as usize)?;
        entry.dport = 0;
        self.live -= 1;
        self.per_service[usize::from(entry.service.0)] -= 1;
        Some(entry.service)
    }

    /// Takes the first entry out; whether it was still a connection.
    fn pop(&mut self, secret: &Secret) -> bool {
        let Some(entry) = self.entries.pop_front() else {
            return false;
        };
        let place = self.gone;
        self.gone = self.gone.wrapping_add(1);
        if entry.dport == 0 {
            return false;
        }
        let hash = secret.demux(&entry.key());
        if let Ok(found) = self.index.find_entry(hash, |other| *other == place) {
            found.remove();
        }
        self.live -= 1;
        self.per_service[usize::from(entry.service.0)] -= 1;
        true
    }

    /// Forgets those whose time has come, at most `budget` of them; or all, when time has leapt.
    pub(crate) fn expire(&mut self, secret: &Secret, now: Now, budget: usize) {
        if now.since(self.seen) > LONGEST + UNIT {
            self.gone = self.gone.wrapping_add(self.entries.len() as u32);
            self.entries.clear();
            self.index.clear();
            self.per_service.fill(0);
            self.live = 0;
        }
        self.seen = now;
        for _ in 0..budget {
            match self.entries.front() {
                Some(entry) if entry.dport == 0 || passed(entry.due, now) => self.pop(secret),
                _ => break,
            };
        }
    }

    /// When the first one goes, to a tenth of a second.
    pub(crate) fn next(&self, now: Now) -> Option<Now> {
        let entry = self.entries.front()?;
        let ahead = entry.due.wrapping_sub(units(now)) as i16;
        Some(now + UNIT * u32::from(ahead.max(0) as u16))
    }
}

fn units(now: Now) -> u16 {
    (now.as_nanos() / UNIT.as_nanos() as u64) as u16
}

fn passed(due: u16, now: Now) -> bool {
    units(now).wrapping_sub(due) as i16 >= 0
}

const _: () = assert!(size_of::<Entry>() == 52);

#[cfg(test)]
mod tests;
