//! Session affinity: which backend a client was given last, per service port.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::hash::{finish, mix};
use crate::lock::soon;
use crate::{Address, Now};

/// Places that a client's entry may be in: eight cache lines to look at, no more.
const WAYS: usize = 8;

/// One client of one service port and its backend. 64 bytes.
#[derive(Copy, Clone, Debug)]
#[repr(C, align(64))]
struct Entry {
    client: Address,
    backend: Address,
    last_used: Now,
    service: u32,
    port: u16,
    used: bool,
}

const FREE: Entry = Entry {
    client: Address([0; 16]),
    backend: Address([0; 16]),
    last_used: Now::from_nanos(0),
    service: 0,
    port: 0,
    used: false,
};

/// Places where one client's entry may be.
#[derive(Debug)]
#[repr(align(64))]
struct Set(Mutex<[Entry; WAYS]>);

/// There is room for one client of a service with affinity for so many flows that there may be.
const FLOWS_PER_CLIENT: usize = 4;

/// Clients and their backends, of all workers; all memory is taken at the start.
///
/// Workers share it: a client's flows are spread over all of them, and have to
/// agree. A set is locked for as long as it takes to read or write an entry, once or twice for a flow
/// that is new, never for a packet of one that is known, and nobody waits for a lock without bound. A new client
/// takes a free place of its set, else that of the one that was silent for longest: it is never
/// refused, and who is pushed out is chosen for anew, counted by [`evicted`](Self::evicted).
#[derive(Debug)]
pub struct AffinityTable {
    sets: Arc<[Set]>,
    seed: u64,
    evicted: u64,
}

impl AffinityTable {
    /// Room for at least `clients` entries of 72 bytes. `seed` keys the places, so that nobody outside can
    /// fill a set on purpose.
    pub fn new(clients: usize, seed: u64) -> Self {
        let sets = clients.div_ceil(WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Set(Mutex::new([FREE; WAYS]))).collect(),
            seed,
            evicted: 0,
        }
    }

    /// Room for the clients of so many flows: one for every four.
    pub fn for_flows(flows: usize, seed: u64) -> Self {
        Self::new(flows / FLOWS_PER_CLIENT, seed)
    }

    /// The same table, for another worker.
    #[must_use]
    pub fn shared(&self) -> Self {
        Self {
            sets: Arc::clone(&self.sets),
            seed: self.seed,
            evicted: 0,
        }
    }

    /// The backend of a client that used it within `timeout`.
    pub fn find(
        &self,
        client: &Address,
        service: u32,
        timeout: Duration,
        now: Now,
    ) -> Option<(Address, u16)> {
        let set = self.set(client, service)?;
        let entry = set.iter().find(|entry| entry.is(client, service))?;
        entry.within(timeout, now)
    }

    /// Notes that a client's new flow goes to `backend`, unless another flow of the client's was given one since
    /// [`find`](Self::find) answered `found`: then that one, which is to be taken instead.
    pub fn settle(
        &mut self,
        (client, service): (&Address, u32),
        found: Option<(Address, u16)>,
        backend: (Address, u16),
        timeout: Duration,
        now: Now,
    ) -> Result<(), (Address, u16)> {
        let Some(mut set) = self.set(client, service) else {
            self.evicted += 1;
            return Ok(());
        };
        let own = set.iter().position(|entry| entry.is(client, service));
        let meanwhile = own.and_then(|at| set[at].within(timeout, now));
        match meanwhile {
            Some(other) if other != backend && meanwhile != found => return Err(other),
            _ => {}
        }
        let at = own.unwrap_or_else(|| {
            let oldest = set.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, entry)| (entry.used, entry.last_used));
            oldest.map_or(0, |(at, _)| at)
        });
        // An entry older than the longest timeout that can be configured is nobody's.
        let expired = now.since(set[at].last_used) > LONGEST;
        let evicts = own.is_none() && set[at].used && !expired;
        set[at] = Entry {
            client: *client,
            backend: backend.0,
            last_used: now,
            service,
            port: backend.1,
            used: true,
        };
        drop(set);
        self.evicted += u64::from(evicts);
        Ok(())
    }

    /// Clients that this worker pushed out for others before a day was over, or could not note because another
    /// worker stood still in their set.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// `None`: another worker is in there and does not come out.
    fn set(&self, client: &Address, service: u32) -> Option<MutexGuard<'_, [Entry; WAYS]>> {
        let [high, low] = client.words();
        let hash = finish(mix(mix(mix(self.seed, high), low), u64::from(service)));
        let Set(set) = &self.sets[hash as usize & (self.sets.len() - 1)];
        soon(set)
    }
}

/// The longest `session_affinity_timeout`: a day.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Entry {
    fn is(&self, client: &Address, service: u32) -> bool {
        self.used && self.service == service && self.client == *client
    }

    fn within(&self, timeout: Duration, now: Now) -> Option<(Address, u16)> {
        (now.since(self.last_used) <= timeout).then_some((self.backend, self.port))
    }
}
