//! A hash map in parts, so that a generation shares with the one before it all that did not change.

use std::hash::{BuildHasher, Hash};
use std::hint::black_box;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use crate::hash::{finish, reduce};

/// Entries of a part, on average, when the parts are made. A change copies one part and the list of the
/// parts, so at 60,000 entries it copies some 60 entries and 1,000 pointers.
const ENTRIES_PER_PART: usize = 64;
/// How many times too full or too empty the parts may be before they are made anew.
const SLACK: usize = 4;
/// Places of the smallest part.
const LEAST_PLACES: usize = 8;

/// A map whose clones share their entries until one of them changes.
///
/// A search reads two lines of memory: where the part is, and the entry. The parts are open-addressed tables,
/// at most three quarters full.
#[derive(Clone, Debug)]
pub(super) struct Sharded<K, V> {
    parts: Vec<Part<K, V>>,
    len: usize,
}

/// Places of entries, as many as a power of two: an entry stands at its hash's, or behind it before any free one.
type Part<K, V> = Arc<[Option<(K, V)>]>;

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V> Sharded<K, V> {
    /// The entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let places = self.parts.iter().flat_map(|part| part.iter());
        places.flatten().map(|(key, value)| (key, value))
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Sharded<K, V> {
    #[inline]
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.get_hashed(key, hash(key))
    }

    #[inline]
    pub(super) fn get_hashed(&self, key: &K, hash: u64) -> Option<&V> {
        let part = self.parts.get(part_of(hash, self.parts.len()))?;
        let (_, value) = part[place(part, hash, key)].as_ref()?;
        Some(value)
    }

    /// Reads where the search for a hash starts.
    #[inline]
    pub(super) fn touch(&self, hash: u64) {
        if let Some(part) = self.parts.get(part_of(hash, self.parts.len())) {
            black_box(part[hash as usize & (part.len() - 1)].is_some());
        }
    }

    /// Puts an entry in and returns the one that it replaces.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= self.parts.len() * ENTRIES_PER_PART * SLACK {
            self.spread(self.len + 1);
        }
        let hash = hash(&key);
        let count = self.parts.len();
        let before = put(&mut self.parts[part_of(hash, count)], hash, key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let hash = hash(key);
        let index = part_of(hash, self.parts.len());
        let part = self.parts.get_mut(index)?;
        let (_, before) = part[place(part, hash, key)].clone()?;
        // Made anew, so that nothing behind it is lost to a search.
        let entries = part.iter().flatten().filter(|(other, _)| other != key);
        *part = collect(part.len(), entries.cloned());
        self.len -= 1;
        if self.parts.len() > 1 && self.len * SLACK < self.parts.len() * ENTRIES_PER_PART {
            self.spread(self.len);
        }
        Some(before)
    }

    /// Makes the parts anew, for so many entries.
    fn spread(&mut self, entries: usize) {
        let count = entries.div_ceil(ENTRIES_PER_PART).next_power_of_two();
        let mut parts = vec![collect(LEAST_PLACES, []); count];
        for (key, value) in self.iter() {
            let hash = hash(key);
            put(
                &mut parts[part_of(hash, count)],
                hash,
                key.clone(),
                value.clone(),
            );
        }
        self.parts = parts;
    }
}

#[inline]
pub(super) fn hash<K: Hash>(key: &K) -> u64 {
    finish(FxBuildHasher.hash_one(key))
}

/// The part of a hash, by its upper half; 0 while there are none.
#[inline]
fn part_of(hash: u64, parts: usize) -> usize {
    reduce(hash, parts as u32) as usize
}

/// Where the key is, or the free place where it would be, by the lower half of its hash.
///
/// Bound: at least a quarter of the places are free, so one ends the search.
#[inline]
fn place<K: Eq, V>(part: &[Option<(K, V)>], hash: u64, key: &K) -> usize {
    let mask = part.len() - 1;
    let mut at = hash as usize & mask;
    while part[at].as_ref().is_some_and(|(other, _)| other != key) {
        at = (at + 1) & mask;
    }
    at
}

/// Puts an entry into a part, which grows where it must, and returns the one that it replaces.
fn put<K: Clone + Eq + Hash, V: Clone>(
    part: &mut Part<K, V>,
    hash: u64,
    key: K,
    value: V,
) -> Option<V> {
    let mut at = place(part, hash, &key);
    let used = part.iter().flatten().count();
    if part[at].is_none() && (used + 1) * 4 > part.len() * 3 {
        *part = collect(2 * part.len(), part.iter().flatten().cloned());
        at = place(part, hash, &key);
    }
    let before = Arc::make_mut(part)[at].replace((key, value));
    before.map(|(_, value)| value)
}

/// A part of so many places, more than there are entries.
fn collect<K: Clone + Eq + Hash, V: Clone>(
    places: usize,
    entries: impl IntoIterator<Item = (K, V)>,
) -> Part<K, V> {
    let mut part = vec![None; places];
    for (key, value) in entries {
        let at = place(&part, hash(&key), &key);
        part[at] = Some((key, value));
    }
    part.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every clone stays what it was, whatever happens to the others.
        #[test]
        fn it_is_a_map_and_its_clones_are_independent(
            edits in prop::collection::vec((0u16..2000, prop::option::of(any::<u8>())), 0..1500),
            bulk in 0u16..3000,
        ) {
            let mut map = Sharded::default();
            let mut model = BTreeMap::new();
            for key in 0..bulk {
                map.insert(key, 0);
                model.insert(key, 0);
            }
            let (before, model_before) = (map.clone(), model.clone());
            for (key, value) in edits {
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                }
            }
            for (map, model) in [(map, model), (before, model_before)] {
                prop_assert_eq!(map.len, model.len());
                prop_assert!((0..3000).all(|key| map.get(&key) == model.get(&key)));
                let entries: BTreeMap<u16, u8> = map.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(entries, model);
            }
        }
    }

    /// SVC-45: the cost of a change does not grow with the map but for the list of its parts.
    #[test]
    fn svc_45_a_change_copies_one_part() {
        let mut map: Sharded<u32, u32> = (0..60_000).fold(Sharded::default(), |mut map, key| {
            map.insert(key, key);
            map
        });
        let before = map.clone();
        map.insert(17, 0);
        let shared = |(a, b): &(&Part<_, _>, &Part<_, _>)| Arc::ptr_eq(a, b);
        let parts = map.parts.iter().zip(&before.parts);
        assert_eq!(parts.filter(shared).count(), map.parts.len() - 1);
        let entries = |part: &Part<_, _>| part.iter().flatten().count();
        let largest = map.parts.iter().map(entries).max();
        assert!(largest < Some(8 * ENTRIES_PER_PART), "{largest:?}");
    }

    /// A pod may ask for any address and port, so it can choose the search that reads most.
    #[test]
    fn the_longest_search_is_short_however_services_are_numbered() {
        use crate::{Address, Protocol};
        let v4 = |number: u32| Address::from_v4((0x0a60_0000 + number).to_be_bytes());
        let v6 = |number: u32| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&[0xfd, 0, 0, 0x96]);
            address[12..].copy_from_slice(&number.to_be_bytes());
            Address(address)
        };
        let numberings: [fn(u32) -> (u32, u16); 3] = [
            |number| (number, 80),
            |number| (number / 400, 30_000 + (number % 400) as u16),
            |number| (number << 8, 443),
        ];
        for entries in [1_000, 5_000, 17_000, 60_000] {
            for numbering in numberings {
                let map = (0..entries).fold(Sharded::default(), |mut map, number| {
                    let (vip, port) = numbering(number);
                    let vip = if number.is_multiple_of(2) {
                        v4(vip)
                    } else {
                        v6(vip)
                    };
                    map.insert((vip, port, Protocol::Tcp), ());
                    map
                });
                let longest = map.parts.iter().map(longest_run).max().unwrap_or(0);
                assert!(longest <= 96, "{entries}: {longest}");
            }
        }
    }

    /// Places in a row that are taken, the last place's next one being the first.
    fn longest_run<K, V>(part: &Part<K, V>) -> usize {
        let free = |place: &Option<_>| place.is_none();
        let start = part.iter().position(free).unwrap_or(0);
        let (end, begin) = part.split_at(start);
        let places: Vec<_> = begin.iter().chain(end).collect();
        let runs = places.split(|place| place.is_none());
        runs.map(<[_]>::len).max().unwrap_or(0)
    }

    #[test]
    fn it_shrinks_with_its_entries() {
        let mut map = Sharded::default();
        for key in 0..10_000 {
            map.insert(key, ());
        }
        let most = map.parts.len();
        for key in 10..10_000 {
            map.remove(&key);
        }
        assert!(
            most > 32 && map.parts.len() == 1,
            "{most} {}",
            map.parts.len()
        );
        assert!((0..10).all(|key| map.get(&key).is_some()));
    }
}
