//! Maglev consistent hashing ("Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4), with weights.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use crate::Address;
use crate::hash::{finish, mix, reduce};

#[cfg(test)]
mod tests;

/// The sizes a table may have: primes just below powers of two, so that every skip visits every entry.
pub const MAGLEV_SIZES: [u32; 11] = [
    1021, 4093, 16_381, 65_521, 131_071, 262_139, 524_287, 1_048_573, 2_097_143, 4_194_301,
    8_388_593,
];

/// Entries per backend of a default table. With 100, shares differ by 1 %, but the removal of a backend was seen
/// to move up to 6 % of the others' flows; with 400 it stays below 2 % (`svc_43` in the tests).
const ENTRIES_PER_BACKEND: usize = 400;

/// A table that gives each backend a share of the hash space in proportion to its weight.
///
/// It depends on the backends' addresses, their weights and the size alone, so every node builds the
/// same one, and the removal of one backend moves little more than its own share. A clone shares its entries.
#[derive(Clone, PartialEq, Eq)]
pub struct MaglevTable {
    entries: Entries,
}

/// The index of the backend in each entry. Nearly every service has few backends, and tables are the most
/// of what 10,000 services hold: a byte an entry, where that names them all.
#[derive(Clone, PartialEq, Eq)]
enum Entries {
    Narrow(Arc<[u8]>),
    Wide(Arc<[u16]>),
}

impl Entries {
    /// As narrow as can be.
    fn new(wide: &[u16]) -> Self {
        match wide.iter().map(|index| u8::try_from(*index)).collect() {
            Ok(narrow) => Self::Narrow(narrow),
            Err(_) => Self::Wide(wide.into()),
        }
    }

    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Narrow(entries) => entries.len(),
            Self::Wide(entries) => entries.len(),
        }
    }

    #[inline]
    fn at(&self, entry: usize) -> Option<usize> {
        match self {
            Self::Narrow(entries) => entries.get(entry).map(|index| usize::from(*index)),
            Self::Wide(entries) => entries.get(entry).map(|index| usize::from(*index)),
        }
    }
}

impl fmt::Debug for MaglevTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MaglevTable({} entries)", self.entries.len())
    }
}

impl MaglevTable {
    /// The default size for so many backends: the smallest with 400 entries for each, or the largest there is.
    pub fn default_size(backends: usize) -> u32 {
        let least = backends.saturating_mul(ENTRIES_PER_BACKEND);
        MAGLEV_SIZES
            .into_iter()
            .find(|size| *size as usize >= least)
            .unwrap_or(MAGLEV_SIZES[MAGLEV_SIZES.len() - 1])
    }

    /// Builds the table of these backends (identity and weight). `size` must be a prime.
    ///
    /// A backend of weight 0 gets no entry, and a table without backends is empty. Backends beyond
    /// the 65,535th get no entry either (`TablesBuilder` refuses so many). The same address several
    /// times counts as several backends. Costs time in proportion to `size`, so it is done off the data core.
    pub fn build(backends: &[(Address, u16)], size: u32) -> Self {
        let backends = &backends[..backends.len().min(usize::from(u16::MAX))];
        let heaviest = backends
            .iter()
            .map(|(_, weight)| *weight)
            .max()
            .unwrap_or(0);
        if heaviest == 0 || size < 2 {
            return Self {
                entries: Entries::Narrow(Arc::default()),
            };
        }
        let mut walks: Vec<Walk> = Vec::with_capacity(backends.len());
        let mut seen = rustc_hash::FxHashMap::default();
        for (index, (address, weight)) in backends.iter().enumerate() {
            let ordinal: &mut u64 = seen.entry(*address).or_default();
            walks.push(Walk::new(index as u16, address, *ordinal, *weight, size));
            *ordinal += 1;
        }
        walks.retain(|walk| walk.weight > 0);
        // Turns are taken in an order that does not depend on how the backends are listed.
        walks.sort_by_key(|walk| (walk.offset, walk.skip, walk.index));
        Self {
            entries: Entries::new(&fill(&mut walks, heaviest, size)),
        }
    }

    /// The index of the backend for `hash`; `None` in an empty table. Entry: upper half of the hash
    /// times the size, shifted right by 32.
    #[inline]
    pub fn lookup(&self, hash: u64) -> Option<usize> {
        self.at(self.entry(hash))
    }

    /// The entry of a hash.
    #[inline]
    pub(crate) fn entry(&self, hash: u64) -> usize {
        reduce(hash, self.entries.len() as u32) as usize
    }

    /// The index of the backend in an entry.
    #[inline]
    pub(crate) fn at(&self, entry: usize) -> Option<usize> {
        self.entries.at(entry)
    }

    /// Reads an entry.
    #[inline]
    pub(crate) fn touch(&self, entry: usize) {
        match &self.entries {
            Entries::Narrow(entries) => _ = black_box(entries.get(entry).copied()),
            Entries::Wide(entries) => _ = black_box(entries.get(entry).copied()),
        }
    }

    /// The index of the backend in each entry.
    pub fn entries(&self) -> Vec<u16> {
        let entries = (0..self.size()).filter_map(|entry| self.entries.at(entry));
        entries.map(|index| index as u16).collect()
    }

    /// Whether both are one table in memory.
    pub fn shares(&self, other: &Self) -> bool {
        match (&self.entries, &other.entries) {
            (Entries::Narrow(a), Entries::Narrow(b)) => Arc::ptr_eq(a, b),
            (Entries::Wide(a), Entries::Wide(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Entries in the table.
    pub fn size(&self) -> usize {
        self.entries.len()
    }
}

/// One backend's permutation of the entries: `offset`, `offset + skip`, ... modulo the size.
struct Walk {
    index: u16,
    weight: u16,
    /// Weight saved up towards the next turn.
    credit: u32,
    offset: u32,
    next: u32,
    skip: u32,
}

impl Walk {
    fn new(index: u16, address: &Address, ordinal: u64, weight: u16, size: u32) -> Self {
        let [high, low] = address.words();
        let start = mix(mix(mix(0x6d61_676c_6576, high), low), ordinal);
        let offset = reduce(finish(mix(start, 1)), size);
        let skip = 1 + reduce(finish(mix(start, 2)), size - 1);
        Self {
            index,
            weight,
            credit: 0,
            offset,
            next: offset,
            skip,
        }
    }
}

/// Lets the backends take turns, each its next free entry. A backend of the largest weight has a turn in every
/// round, the others in proportion.
fn fill(walks: &mut [Walk], heaviest: u16, size: u32) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    let mut entries = vec![FREE; size as usize].into_boxed_slice();
    let mut filled = 0;
    // Bounds: each round fills at least one entry (the heaviest's), and a walk visits every entry
    // once before it comes round, as the size is prime, so it finds a free one while there is one.
    loop {
        for walk in walks.iter_mut() {
            walk.credit += u32::from(walk.weight);
            if walk.credit < u32::from(heaviest) {
                continue;
            }
            walk.credit -= u32::from(heaviest);
            while entries[walk.next as usize] != FREE {
                walk.next = step(walk.next, walk.skip, size);
            }
            entries[walk.next as usize] = walk.index;
            walk.next = step(walk.next, walk.skip, size);
            filled += 1;
            if filled == size {
                return entries;
            }
        }
    }
}

fn step(at: u32, skip: u32, size: u32) -> u32 {
    // Both are below the size, and sizes are far below half of u32.
    let next = at + skip;
    if next >= size { next - size } else { next }
}
