//! What the kernel's addresses and routes say of pods and peers: asked where it may have changed, and remembered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

/// A pod's address and the interface that it is behind.
pub type Place = (IpAddr, u32);

/// Which address of the node each pod sees. A question is a route lookup, some 5 us.
pub type Sources = Answers<Place, Option<IpAddr>>;

#[derive(Copy, Clone, Debug)]
struct Answer<A> {
    said: A,
    /// The node's addresses or routes have changed since.
    doubtful: bool,
}

/// What the kernel said when it was asked last, about each of `K`.
#[derive(Debug)]
pub struct Answers<K, A> {
    answers: BTreeMap<K, Answer<A>>,
    /// How many of them are doubtful.
    doubtful: usize,
    /// The last one that was asked about again.
    hand: Option<K>,
}

impl<K, A> Default for Answers<K, A> {
    fn default() -> Self {
        Self {
            answers: BTreeMap::new(),
            doubtful: 0,
            hand: None,
        }
    }
}

impl<K: Copy + Ord, A: Copy + PartialEq> Answers<K, A> {
    /// Makes what is known exactly these: asks about those that are new, forgets those that are not among them. `ask` gives
    /// an answer for each of what it is given.
    pub fn follow(&mut self, wanted: impl IntoIterator<Item = K>, ask: impl Fn(&[K]) -> Vec<A>) {
        let mut before = std::mem::take(&mut self.answers);
        let mut new = Vec::new();
        for key in wanted {
            match before.remove(&key) {
                Some(answer) => _ = self.answers.insert(key, answer),
                None if self.answers.contains_key(&key) => {}
                None => new.push(key),
            }
        }
        self.note(&new, ask);
        let doubtful = self.answers.values().filter(|answer| answer.doubtful);
        self.doubtful = doubtful.count();
    }

    /// Asks, and says whether an answer is another one than before.
    fn note(&mut self, keys: &[K], ask: impl Fn(&[K]) -> Vec<A>) -> bool {
        if keys.is_empty() {
            return false;
        }
        let mut changed = false;
        for (key, said) in keys.iter().zip(ask(keys)) {
            let doubtful = false;
            let before = self.answers.insert(*key, Answer { said, doubtful });
            changed |= before.is_some_and(|before| before.said != said);
        }
        changed
    }

    /// What was said.
    pub fn of(&self, key: K) -> Option<&A> {
        Some(&self.answers.get(&key)?.said)
    }

    /// Every answer may be wrong now.
    pub fn doubt(&mut self) {
        for answer in self.answers.values_mut() {
            answer.doubtful = true;
        }
        self.doubtful = self.answers.len();
    }

    /// Asks again about at most `limit` of those in doubt, and says whether an answer is another one. All have
    /// turns, so that none is left out however often the rest comes into doubt again.
    pub fn ask_again(&mut self, limit: usize, ask: impl Fn(&[K]) -> Vec<A>) -> bool {
        let mut due = Vec::new();
        while due.len() < self.doubtful.min(limit) {
            let behind = self.hand.map_or(Bound::Unbounded, Bound::Excluded);
            let next = (self.answers.range((behind, Bound::Unbounded)))
                .chain(&self.answers)
                .find(|(key, answer)| answer.doubtful && !due.contains(*key));
            let Some(key) = next.map(|(key, _)| *key) else {
                break;
            };
            self.hand = Some(key);
            due.push(key);
        }
        self.doubtful -= due.len();
        self.note(&due, ask)
    }
}
