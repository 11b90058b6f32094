//! Which place each backend of each service port has among the epochs that flows depend on.

use rustc_hash::FxHashMap;
use weft_datapath::{Address, SlotRef};

/// A backend of a service port: its address, its port, and the slot of the pod that it is reached
/// through. The same address behind another pod, or behind none, is another backend.
pub type Member = (Address, u16, SlotRef);

/// Places of backends. A place belongs to one backend of one service port for as long as the port has that
/// backend; then its epoch moves, so that nothing made for it is valid for the next one.
///
/// There are never more places than backends were wanted at once, those of one change counted together.
/// A change costs time in proportion to the services that it names, not to those there are.
#[derive(Debug, Default)]
pub struct Slots {
    /// By the service port's number.
    places: FxHashMap<u32, FxHashMap<Member, u32>>,
    epochs: Vec<u32>,
    free: Vec<u32>,
    /// What the change in progress has done, in order.
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Added(u32, Member),
    Ended(u32, Member, u32),
}

impl Slots {
    /// Makes the members of a service port exactly `wanted`. Who stays keeps its place.
    pub fn assign(&mut self, service: u32, wanted: impl IntoIterator<Item = Member>) {
        let mut before = self.places.remove(&service).unwrap_or_default();
        let mut after = FxHashMap::default();
        for member in wanted {
            if after.contains_key(&member) {
                continue;
            }
            let place = before.remove(&member).unwrap_or_else(|| {
                self.undo.push(Undo::Added(service, member));
                self.free.pop().unwrap_or_else(|| {
                    self.epochs.push(0);
                    (self.epochs.len() - 1) as u32
                })
            });
            after.insert(member, place);
        }
        for (member, place) in before {
            self.end(place);
            // Free only once the change is kept: until then the place may be asked back.
            self.undo.push(Undo::Ended(service, member, place));
        }
        if !after.is_empty() {
            self.places.insert(service, after);
        }
    }

    /// What flows to a member depend on.
    pub fn of(&self, service: u32, member: &Member) -> SlotRef {
        let place = self.places.get(&service).and_then(|of| of.get(member));
        place.map_or(SlotRef::FIXED, |&place| {
            SlotRef::member(place, self.epochs[place as usize])
        })
    }

    /// Who has a place, and which.
    #[cfg(test)]
    pub(super) fn places(&self) -> FxHashMap<(u32, Member), u32> {
        let services = self.places.iter();
        services
            .flat_map(|(id, of)| of.iter().map(|(member, place)| ((*id, *member), *place)))
            .collect()
    }

    /// The epoch of every place.
    pub fn epochs(&self) -> Vec<u32> {
        self.epochs.clone()
    }

    /// Keeps what was changed since the last call.
    pub fn keep(&mut self) {
        for undo in self.undo.drain(..) {
            if let Undo::Ended(_, _, place) = undo {
                self.free.push(place);
            }
        }
    }

    /// Undoes what was changed since the last [`keep`](Self::keep): who was there is valid again, and who
    /// was added meanwhile never will be.
    pub fn put_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Added(service, member) => {
                    let of = self.places.get_mut(&service);
                    if let Some(place) = of.and_then(|of| of.remove(&member)) {
                        self.end(place);
                        self.free.push(place);
                    }
                }
                Undo::Ended(service, member, place) => {
                    // Nothing was made under the epoch that goes: the place was nobody's.
                    let epoch = &mut self.epochs[place as usize];
                    *epoch = epoch.wrapping_sub(1);
                    self.places
                        .entry(service)
                        .or_default()
                        .insert(member, place);
                }
            }
        }
        self.places.retain(|_, of| !of.is_empty());
    }

    fn end(&mut self, place: u32) {
        let epoch = &mut self.epochs[place as usize];
        *epoch = epoch.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn member(host: u8) -> Member {
        (Address::from_v4([10, 0, 0, host]), 80, SlotRef::FIXED)
    }

    #[test]
    fn who_stays_keeps_its_place_and_who_leaves_never_gets_it_back() {
        let mut slots = Slots::default();
        slots.assign(1, [member(1), member(2)]);
        slots.keep();
        let [one, two] = [1, 2].map(|host| slots.of(1, &member(host)));
        assert!(one != two && one.as_member().is_some());
        slots.assign(1, [member(2), member(3)]);
        assert_eq!(slots.of(1, &member(2)), two);
        slots.assign(1, [member(1), member(2)]);
        slots.keep();
        assert_ne!(slots.of(1, &member(1)), one, "it was away");
        assert_eq!(slots.of(2, &member(1)), SlotRef::FIXED, "another service");
        slots.assign(1, []);
        slots.keep();
        slots.assign(7, [member(9)]);
        assert!(slots.epochs().len() <= 4, "places are used again");
    }

    #[test]
    fn a_backend_behind_another_pod_is_another_backend() {
        let mut slots = Slots::default();
        let (address, port, _) = member(1);
        let behind = |slot| (address, port, SlotRef { slot, epoch: 1 });
        slots.assign(1, [behind(5)]);
        slots.keep();
        let before = slots.of(1, &behind(5));
        slots.assign(1, [behind(6)]);
        assert_ne!(
            slots.epochs()[before.as_member().unwrap() as usize],
            before.epoch
        );
    }

    proptest! {
        /// Through changes that are kept and put back: a reference is valid from when it was given until its
        /// member leaves, and never after.
        #[test]
        fn a_reference_is_valid_exactly_while_its_member_is_there(
            changes in prop::collection::vec(
                (prop::collection::vec((0u32..3, prop::collection::btree_set(0u8..6, 0..5)), 1..4), any::<bool>()),
                1..30,
            ),
        ) {
            let mut slots = Slots::default();
            let mut model: BTreeMap<u32, BTreeSet<u8>> = BTreeMap::new();
            let mut live: BTreeMap<(u32, u8), SlotRef> = BTreeMap::new();
            let mut dead: Vec<SlotRef> = Vec::new();
            for (change, kept) in changes {
                let before = model.clone();
                let mut given = live.clone();
                for (service, hosts) in change {
                    slots.assign(service, hosts.iter().map(|host| member(*host)));
                    // What a worker could take from the tables of a change that may be put back.
                    for host in &hosts {
                        let reference = slots.of(service, &member(*host));
                        if let Some(old) = given.insert((service, *host), reference) {
                            if old != reference && !kept { dead.push(reference); }
                        } else if !kept {
                            dead.push(reference);
                        }
                    }
                    model.insert(service, hosts);
                }
                if kept {
                    slots.keep();
                } else {
                    slots.put_back();
                    model = before;
                }
                live.retain(|(service, host), reference| {
                    let stays = model.get(service).is_some_and(|hosts| hosts.contains(host))
                        && slots.of(*service, &member(*host)) == *reference;
                    if !stays { dead.push(*reference); }
                    stays
                });
                for (service, hosts) in &model {
                    for host in hosts {
                        let reference = slots.of(*service, &member(*host));
                        prop_assert!(reference != SlotRef::FIXED);
                        live.insert((*service, *host), reference);
                    }
                }
                let epochs = slots.epochs();
                let valid = |r: &SlotRef| epochs[r.as_member().unwrap() as usize] == r.epoch;
                prop_assert!(live.values().all(valid));
                let places: BTreeSet<u32> = live.values().map(|r| r.slot).collect();
                prop_assert_eq!(places.len(), live.len(), "one place each");
                prop_assert!(!dead.iter().any(|r| valid(r) && !live.values().any(|l| l == r)));
                prop_assert!(!dead.iter().any(|r| live.values().any(|l| l == r)), "given twice");
            }
        }
    }
}
