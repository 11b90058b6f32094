//! A hash map in parts, so that a generation shares with the one before it all that did not change.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::hash::{finish, reduce};

/// Entries of a part, on average, when the parts are made. A change copies one part and the list of the
/// parts, so at 60,000 entries it copies some 60 entries and 1,000 pointers.
const ENTRIES_PER_PART: usize = 64;
/// How many times too full or too empty the parts may be before they are made anew.
const SLACK: usize = 4;

/// A map whose clones share their entries until one of them changes.
#[derive(Clone, Debug)]
pub(super) struct Sharded<K, V> {
    parts: Vec<Arc<FxHashMap<K, V>>>,
    len: usize,
}

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
        self.parts.iter().flat_map(|part| part.iter())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Sharded<K, V> {
    #[inline]
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.parts.get(self.part_of(key))?.get(key)
    }

    /// Puts an entry in and returns the one that it replaces.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= self.parts.len() * ENTRIES_PER_PART * SLACK {
            self.spread(self.len + 1);
        }
        let part = self.part_of(&key);
        let before = Arc::make_mut(&mut self.parts[part]).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let part = self.part_of(key);
        self.parts.get(part)?.get(key)?; // Nothing is copied for what is not there.
        let before = Arc::make_mut(&mut self.parts[part]).remove(key);
        self.len -= usize::from(before.is_some());
        if self.parts.len() > 1 && self.len * SLACK < self.parts.len() * ENTRIES_PER_PART {
            self.spread(self.len);
        }
        before
    }

    /// Makes the parts anew, for so many entries.
    fn spread(&mut self, entries: usize) {
        let parts = entries.div_ceil(ENTRIES_PER_PART).next_power_of_two();
        let before = std::mem::replace(&mut self.parts, vec![Arc::default(); parts]);
        for part in before {
            for (key, value) in Arc::unwrap_or_clone(part) {
                let part = self.part_of(&key);
                Arc::make_mut(&mut self.parts[part]).insert(key, value);
            }
        }
    }

    /// The part of a key; 0 while there are none. The maps inside use the other bits of the hash.
    #[inline]
    fn part_of(&self, key: &K) -> usize {
        reduce(finish(FxBuildHasher.hash_one(key)), self.parts.len() as u32) as usize
    }
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
        let shared = |(a, b): &(&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b);
        let parts = map.parts.iter().zip(&before.parts);
        assert_eq!(parts.filter(shared).count(), map.parts.len() - 1);
        let largest = map.parts.iter().map(|part| part.len()).max();
        assert!(largest < Some(8 * ENTRIES_PER_PART), "{largest:?}");
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
