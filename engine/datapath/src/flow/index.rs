//! The index of the flow table: open addressing, linear probing, backward-shift deletion.

use std::hint::black_box;

use crate::{FlowKey, resident};

/// An entry: the upper half holds 32 bits of the key's hash, the lower a reference; 0 is free.
///
/// Home position: the hash bits under the mask. The load stays at or below one half, so a probe
/// ends after a few entries, which lie in one or two cache lines.
#[derive(Debug)]
pub(crate) struct Index {
    entries: Box<[u64]>,
    mask: u32,
}

impl Index {
    /// Room for `keys` keys at a load of at most one half.
    pub(crate) fn new(keys: usize) -> Self {
        let size = (keys * 2).next_power_of_two().max(8);
        // Zeroed memory is committed by the kernel page by page as it is used, or when it is taken.
        Self {
            entries: vec![0; size].into(),
            mask: (size - 1) as u32,
        }
    }

    /// Takes all of the memory at once.
    pub(crate) fn take_memory(&mut self) {
        resident::take(&mut self.entries);
    }

    /// Reads the home of a hash.
    #[inline]
    pub(crate) fn touch(&self, hash: u32) {
        black_box(self.entries[(hash & self.mask) as usize]);
    }

    /// The first reference with this hash for which `matches` holds.
    ///
    /// Bound: at most half of the entries are taken, so a free one ends the probe.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = hash & self.mask;
        loop {
            let entry = self.entries[at as usize];
            if entry == 0 {
                return None;
            }
            let reference = entry as u32;
            if (entry >> 32) as u32 == hash && matches(reference) {
                return Some(reference);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds a reference, not 0. The caller keeps the number of keys within what `new` was told.
    pub(crate) fn insert(&mut self, hash: u32, reference: u32) {
        let mut at = hash & self.mask;
        // Bound as in `find`.
        while self.entries[at as usize] != 0 {
            at = (at + 1) & self.mask;
        }
        self.entries[at as usize] = u64::from(hash) << 32 | u64::from(reference);
    }

    /// Removes a reference and moves what follows back towards its home, so that no probe ends early.
    pub(crate) fn remove(&mut self, hash: u32, reference: u32) {
        let target = u64::from(hash) << 32 | u64::from(reference);
        let mut hole = hash & self.mask;
        // Bound as in `find`.
        while self.entries[hole as usize] != target {
            if self.entries[hole as usize] == 0 {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        // Bound: ends at the first free entry.
        loop {
            at = (at + 1) & self.mask;
            let entry = self.entries[at as usize];
            if entry == 0 {
                break;
            }
            let home = (entry >> 32) as u32 & self.mask;
            // It may move back to the hole unless its home lies cyclically behind the hole.
            if at.wrapping_sub(home) & self.mask >= at.wrapping_sub(hole) & self.mask {
                self.entries[hole as usize] = entry;
                hole = at;
            }
        }
        self.entries[hole as usize] = 0;
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.entries.iter().filter(|entry| **entry != 0).count()
    }
}

/// A keyed hash of flow keys, so that nobody outside can make keys collide. 128-bit products folded.
#[derive(Copy, Clone, Debug)]
pub(crate) struct KeyHash([u64; 4]);

impl KeyHash {
    pub(crate) fn new(seed: u64) -> Self {
        // SplitMix64 spreads the seed over four independent words.
        Self([1u64, 2, 3, 4].map(|i| {
            let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }))
    }

    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u32 {
        let [k0, k1, k2, k3] = self.0;
        let [s0, s1] = key.tuple.src.words();
        let [d0, d1] = key.tuple.dst.words();
        let ports = u64::from(key.tuple.sport) << 48
            | u64::from(key.tuple.dport) << 32
            | u64::from(key.ifindex);
        let src = multiply_fold(s0 ^ k0, s1 ^ k1);
        let dst = multiply_fold(d0 ^ k2, d1 ^ k3);
        let h = multiply_fold(
            src ^ dst.rotate_left(32) ^ ports,
            k1 ^ u64::from(key.tuple.proto.number()) | 1,
        );
        (h ^ h >> 32) as u32
    }
}

#[inline]
fn multiply_fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
