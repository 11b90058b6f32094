//! Which address of the node each pod sees: asked of the kernel where it may have changed, and remembered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

/// A pod's address and the interface that it is behind.
pub type Place = (IpAddr, u32);

#[derive(Copy, Clone, Debug)]
struct Answer {
    node: Option<IpAddr>,
    /// The node's addresses or routes have changed since.
    doubtful: bool,
}

/// What the kernel said when it was asked last. A question is a route lookup, some 5 us.
#[derive(Debug, Default)]
pub struct Sources {
    answers: BTreeMap<Place, Answer>,
    /// How many of them are doubtful.
    doubtful: usize,
    /// The last one that was asked about again.
    hand: Option<Place>,
}

impl Sources {
    /// Makes the pods known exactly these: asks about those that are new, forgets those that are not among them.
    pub fn follow(
        &mut self,
        places: impl IntoIterator<Item = Place>,
        ask: impl Fn(IpAddr) -> Option<IpAddr>,
    ) {
        let before = std::mem::take(&mut self.answers);
        self.answers = places
            .into_iter()
            .map(|place| {
                let answer = before.get(&place).copied();
                let new = || Answer {
                    node: ask(place.0),
                    doubtful: false,
                };
                (place, answer.unwrap_or_else(new))
            })
            .collect();
        let doubtful = self.answers.values().filter(|answer| answer.doubtful);
        self.doubtful = doubtful.count();
    }

    /// The node's address that this pod sees.
    pub fn towards(&self, place: Place) -> Option<IpAddr> {
        self.answers.get(&place)?.node
    }

    /// Every answer may be wrong now.
    pub fn doubt(&mut self) {
        for answer in self.answers.values_mut() {
            answer.doubtful = true;
        }
        self.doubtful = self.answers.len();
    }

    /// Asks again about at most `limit` of those in doubt, and says whether an answer is another one. The pods have
    /// turns, so that none is left out however often the rest comes into doubt again.
    pub fn ask_again(&mut self, limit: usize, ask: impl Fn(IpAddr) -> Option<IpAddr>) -> bool {
        let due = self.doubtful.min(limit);
        let mut changed = false;
        for _ in 0..due {
            let behind = self.hand.map_or(Bound::Unbounded, Bound::Excluded);
            let next = (self.answers.range((behind, Bound::Unbounded)))
                .chain(&self.answers)
                .find(|(_, answer)| answer.doubtful);
            let Some(place) = next.map(|(place, _)| *place) else {
                break;
            };
            let node = ask(place.0);
            let doubtful = false;
            let before = self.answers.insert(place, Answer { node, doubtful });
            changed |= before.is_some_and(|before| before.node != node);
            self.hand = Some(place);
            self.doubtful -= 1;
        }
        changed
    }
}
