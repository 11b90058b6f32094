//! Cookies that have brought a connection, so that none brings a second one.
//!
//! A cookie is good for minutes, and the ACK that it came with may come again: delayed by the network, or from a peer
//! that has not learnt that the connection is over. Taken once more, it would open a connection that the peer takes for
//! the one it had.

use weft_datapath::Now;

use crate::key::COOKIE_PERIOD;
use crate::seq::Seq;

/// Cookies that are remembered; of two in one place, the later. 32 KiB, and enough for 32 connections by cookie a
/// second, which are those that really complete.
const PLACES: usize = 4096;

/// A table of hashes, each with the time that its cookie was good in.
#[derive(Debug)]
pub(crate) struct SpentCookies {
    places: Vec<u64>,
}

impl SpentCookies {
    pub(crate) fn new() -> Self {
        Self {
            places: vec![0; PLACES],
        }
    }

    /// Spends a cookie of the key with this hash; `false` if it has been before.
    pub(crate) fn spend(&mut self, hash: u64, cookie: Seq, now: Now) -> bool {
        let hash = hash ^ u64::from(cookie.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let period = (now.as_nanos() / COOKIE_PERIOD.as_nanos() as u64) as u16;
        let place = &mut self.places[(hash >> 16) as usize % PLACES];
        let (spent, when) = (*place & !0xffff, *place as u16);
        if spent == hash & !0xffff && period.wrapping_sub(when) <= 2 {
            return false;
        }
        *place = hash & !0xffff | u64::from(period);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cookie_is_good_once() {
        let mut spent = SpentCookies::new();
        let at = |secs| Now::default() + Duration::from_secs(secs);
        let (hash, other) = (0x1234_5678_9abc_def0, 0x4321_5678_9abc_def0);
        assert!(spent.spend(hash, Seq(7), at(1000)));
        assert!(!spent.spend(hash, Seq(7), at(1127)));
        assert!(spent.spend(hash, Seq(8), at(1000)));
        assert!(spent.spend(other, Seq(7), at(1000)));
        assert!(
            spent.spend(hash, Seq(7), at(1400)),
            "another with the same number"
        );
    }
}
