//! Who has how many of the sockets that there may be.

use std::collections::HashMap;

/// Once fewer than one in so many is free, nobody gets another who has his share.
const RESERVE: u32 = 4;
/// One's share of all of them: one in so many.
const SHARE: u32 = 8;

/// The sockets of a stack, counted by whom their connections are for: one that holds on to thousands leaves others some.
pub(crate) struct Sockets {
    limit: u32,
    used: u32,
    by_payer: HashMap<u32, u32>,
}

impl Sockets {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            used: 0,
            by_payer: HashMap::new(),
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Whether there is one for `payer`.
    pub(crate) fn room(&self, payer: u32) -> bool {
        let free = self.limit.saturating_sub(self.used);
        let has = || self.by_payer.get(&payer).copied().unwrap_or(0);
        free > self.limit / RESERVE || free > 0 && has() < (self.limit / SHARE).max(1)
    }

    pub(crate) fn take(&mut self, payer: u32) {
        self.used += 1;
        *self.by_payer.entry(payer).or_default() += 1;
    }

    pub(crate) fn give_back(&mut self, payer: u32) {
        self.used -= 1;
        if let Some(has) = self.by_payer.get_mut(&payer) {
            *has -= 1;
            if *has == 0 {
                self.by_payer.remove(&payer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_takes_all_leaves_others_their_share() {
        let mut sockets = Sockets::new(64);
        while sockets.room(1) {
            sockets.take(1);
        }
        assert_eq!(sockets.used(), 48);
        for payer in [2, 3] {
            for _ in 0..8 {
                assert!(sockets.room(payer));
                sockets.take(payer);
            }
        }
        assert!((1..5).all(|payer| !sockets.room(payer)), "that was all");
        sockets.give_back(2);
        assert!(sockets.room(2) && sockets.room(4) && !sockets.room(1));
    }
}
