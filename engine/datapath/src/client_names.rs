//! Names of peers' pods, as the peers say them (U-15, TER-15).

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use crate::Now;
use crate::hash::{finish, mix};
use crate::lock::soon;

#[cfg(test)]
mod tests;

/// Bytes of the longest name that one node tells another: what an option of GENEVE holds (RFC 8926 section 3.5).
pub const CLIENT_NAME_MAX: usize = 31 * 4;
/// Names of peers' pods that a node remembers.
pub const CLIENT_NAMES_MAX: usize = 1 << PLACE_BITS;

/// Bits of a [`NameId`] that say where the name is; those above say which one of those that were there.
const PLACE_BITS: u32 = 12;
const GENERATIONS: u32 = 1 << (u32::BITS - PLACE_BITS);
/// Places that a name may be in.
const WAYS: usize = 8;
/// There is room for one name for so many flows that there may be.
const FLOWS_PER_NAME: usize = 4;

/// Whether the name of a node, pod or service may have that byte: what Kubernetes allows, namespace included.
pub const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/')
}

/// The number of a name in [`ClientNames`], which is forgotten or still that one.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct NameId(NonZeroU32);

impl NameId {
    fn new(place: usize, generation: u32) -> Option<Self> {
        Self::from_number(generation << PLACE_BITS | place as u32)
    }

    /// The name with that number, if it is one; 0 is none.
    pub fn from_number(number: u32) -> Option<Self> {
        let id = NonZeroU32::new(number).map(Self)?;
        (id.generation() != 0).then_some(id)
    }

    /// The number; never 0.
    pub fn number(self) -> u32 {
        self.0.get()
    }

    fn place(self) -> usize {
        (self.number() % (1 << PLACE_BITS)) as usize
    }

    fn generation(self) -> u32 {
        self.number() >> PLACE_BITS
    }
}

/// A name. 144 bytes.
#[derive(Copy, Clone, Debug)]
struct Entry {
    last_said: Now,
    /// How many names the place has had, or 0.
    generation: u32,
    peer: u32,
    length: u8,
    name: [u8; CLIENT_NAME_MAX],
}

const FREE: Entry = Entry {
    last_said: Now::from_nanos(0),
    generation: 0,
    peer: 0,
    length: 0,
    name: [0; CLIENT_NAME_MAX],
};

const _: () = assert!(CLIENT_NAME_MAX <= u8::MAX as usize);

/// Places where one name may be.
type Set = Mutex<[Entry; WAYS]>;

/// What peers call the pods of theirs that open flows to this node's. Flows have a name by its number alone.
///
/// All memory is taken at the start, and workers share it, so that who asks for a name need not know whose flow has it. A set is
/// locked for as long as it takes to read or write an entry, for packets that open a flow, and nobody waits for a lock without
/// bound. A new name takes a free place of its set, else that of the peer's own name, and only then of any, that was not said
/// for longest: so a peer that makes up names pushes out its own. The flows of a name that was pushed out go without.
#[derive(Clone, Debug)]
pub struct ClientNames {
    sets: Arc<[Set]>,
    seed: u64,
}

impl ClientNames {
    /// Room for a name for every four of so many flows, and at most for [`CLIENT_NAMES_MAX`]. `seed` keys the places, so that nobody
    /// outside can fill a set on purpose.
    pub fn for_flows(flows: usize, seed: u64) -> Self {
        let names = (flows / FLOWS_PER_NAME).min(CLIENT_NAMES_MAX);
        let sets = names.div_ceil(WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Mutex::new([FREE; WAYS])).collect(),
            seed,
        }
    }

    /// Notes that a pod of the peer with that tunnel has this name, and numbers it. `None`: it is too long, or another
    /// worker stands still where it belongs.
    pub(crate) fn note(&self, peer: u32, name: &[u8], now: Now) -> Option<NameId> {
        if name.len() > CLIENT_NAME_MAX {
            return None;
        }
        let at = self.hash(peer, name) as usize & (self.sets.len() - 1);
        let mut set = soon(&self.sets[at])?;
        let known = set.iter().position(|entry| entry.is(peer, name));
        let way = known.unwrap_or_else(|| {
            let entries = set.iter().enumerate();
            let least = entries.min_by_key(|(_, entry)| {
                (entry.generation != 0, entry.peer != peer, entry.last_said)
            });
            least.map_or(0, |(way, _)| way)
        });
        let entry = &mut set[way];
        if known.is_none() {
            *entry = Entry {
                generation: entry.generation % (GENERATIONS - 1) + 1,
                peer,
                length: name.len() as u8,
                ..FREE
            };
            entry.name[..name.len()].copy_from_slice(name);
        }
        entry.last_said = now;
        NameId::new(at * WAYS + way, entry.generation)
    }

    /// The name of that number. `None`: others have pushed it out since.
    pub fn name(&self, id: NameId) -> Option<String> {
        let set = soon(self.sets.get(id.place() / WAYS)?)?;
        let entry = &set[id.place() % WAYS];
        let name = (entry.generation == id.generation()).then(|| entry.name().to_vec());
        drop(set);
        String::from_utf8(name?).ok()
    }

    fn hash(&self, peer: u32, name: &[u8]) -> u64 {
        let start = mix(self.seed, u64::from(peer) << 32 | name.len() as u64);
        // Bound: 16 words.
        finish(name.chunks(8).fold(start, |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash, u64::from_be_bytes(word))
        }))
    }
}

impl Entry {
    fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.length)]
    }

    fn is(&self, peer: u32, name: &[u8]) -> bool {
        self.generation != 0 && self.peer == peer && self.name() == name
    }
}
