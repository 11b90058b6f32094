//! Session affinity: which backend a client was given last, per service port.

use std::time::Duration;

use crate::hash::{finish, mix};
use crate::{Address, Now};

/// Places that a client's entry may be in: two cache lines of tags' worth of looking, no more.
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

/// Clients and their backends, of one worker; all memory is taken at the start.
///
/// Steering brings all flows of a client to services with affinity to one worker, so no worker needs
/// another's table. A new client takes a free place of its set, else that of the one that was silent
/// for longest: it is never refused, and who is pushed out is chosen for anew, counted by
/// [`evicted`](Self::evicted).
#[derive(Debug)]
pub struct AffinityTable {
    entries: Box<[Entry]>,
    seed: u64,
    evicted: u64,
}

impl AffinityTable {
    /// Room for at least `clients` entries of 64 bytes. `seed` keys the places, so that nobody outside can
    /// fill a set on purpose.
    pub fn new(clients: usize, seed: u64) -> Self {
        let sets = clients.div_ceil(WAYS).next_power_of_two();
        Self {
            entries: vec![FREE; sets * WAYS].into(),
            seed,
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
        let set = &self.entries[self.set(client, service)];
        let entry = set.iter().find(|entry| entry.is(client, service))?;
        (now.since(entry.last_used) <= timeout).then_some((entry.backend, entry.port))
    }

    /// Notes that a client's new flow went to that backend.
    pub fn note(&mut self, client: &Address, service: u32, backend: (Address, u16), now: Now) {
        let range = self.set(client, service);
        let set = &mut self.entries[range];
        let own = set.iter().position(|entry| entry.is(client, service));
        let at = own.unwrap_or_else(|| {
            let oldest = set.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, entry)| (entry.used, entry.last_used));
            oldest.map_or(0, |(at, _)| at)
        });
        // An entry older than the longest timeout that can be configured is nobody's.
        let expired = now.since(set[at].last_used) > LONGEST;
        self.evicted += u64::from(own.is_none() && set[at].used && !expired);
        set[at] = Entry {
            client: *client,
            backend: backend.0,
            last_used: now,
            service,
            port: backend.1,
            used: true,
        };
    }

    /// Clients that were pushed out by others before a day was over.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn set(&self, client: &Address, service: u32) -> std::ops::Range<usize> {
        let [high, low] = client.words();
        let hash = finish(mix(mix(mix(self.seed, high), low), u64::from(service)));
        let set = (hash as usize & (self.entries.len() / WAYS - 1)) * WAYS;
        set..set + WAYS
    }
}

/// The longest `session_affinity_timeout`: a day.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Entry {
    fn is(&self, client: &Address, service: u32) -> bool {
        self.used && self.service == service && self.client == *client
    }
}
