//! Which backends each service has had, from configuration to configuration.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

/// Backends of one service, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set {
    /// Those that new flows may go to.
    pub ready: u128,
    /// Those that flows may stay with: ready or not.
    pub present: u128,
}

/// Every configuration so far, each the sets of all services.
///
/// One is begun before the node process is told of it, and done once that has said that it is in force. In between, the one
/// before and itself are both right.
#[derive(Debug)]
pub struct History {
    sets: RwLock<Vec<Vec<Set>>>,
    begun: AtomicUsize,
    done: AtomicUsize,
}

impl History {
    /// With the configuration in force.
    pub fn new(sets: Vec<Set>) -> Self {
        Self {
            sets: RwLock::new(vec![sets]),
            begun: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
        }
    }

    /// Begins another configuration.
    pub fn begin(&self, sets: Vec<Set>) {
        let mut all = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        all.push(sets);
        self.begun.store(all.len() - 1, Ordering::SeqCst);
    }

    /// The one that was begun last is in force, and no other is.
    pub fn finish(&self) {
        self.done
            .store(self.begun.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The last configuration that is in force.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    /// Backends of `service` in any configuration since `since`, each kind together.
    pub fn any(&self, service: usize, since: usize) -> Set {
        self.fold(service, since, Set::default(), |all, set| Set {
            ready: all.ready | set.ready,
            present: all.present | set.present,
        })
    }

    /// Backends of `service` in every configuration since `since`, each kind by itself.
    pub fn all(&self, service: usize, since: usize) -> Set {
        let every = Set {
            ready: !0,
            present: !0,
        };
        self.fold(service, since, every, |all, set| Set {
            ready: all.ready & set.ready,
            present: all.present & set.present,
        })
    }

    /// What became of a backend, for people: from which configuration on it was what.
    pub fn life(&self, service: usize, backend: u32) -> String {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        let mut life = format!("{backend}:");
        let mut last = "";
        for (number, sets) in sets.iter().enumerate() {
            let has = |set: u128| set >> backend & 1 == 1;
            let now = match (has(sets[service].ready), has(sets[service].present)) {
                (true, _) => "ready",
                (false, true) => "there",
                (false, false) => "gone",
            };
            if now != last {
                life += &format!(" {now} from {number}");
            }
            last = now;
        }
        life
    }

    fn fold(
        &self,
        service: usize,
        since: usize,
        start: Set,
        with: impl Fn(Set, Set) -> Set,
    ) -> Set {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        let since = sets.iter().skip(since);
        since.fold(start, |all, sets| with(all, sets[service]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_one_is_begun_and_not_done_both_are_right() {
        let set = |ready| Set {
            ready,
            present: ready | 8,
        };
        let history = History::new(vec![set(1)]);
        history.begin(vec![set(2)]);
        assert_eq!(history.done(), 0);
        assert_eq!(history.any(0, history.done()), set(3));
        assert_eq!(
            history.all(0, 0),
            Set {
                ready: 0,
                present: 8
            }
        );
        assert_eq!(history.life(0, 1), "1: gone from 0 ready from 1");
        history.finish();
        assert_eq!(history.any(0, history.done()), set(2));
        assert_eq!(history.all(0, history.done()), set(2));
    }
}
