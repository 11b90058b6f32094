//! Recovery from losses where a socket would wait for its timer: what NewReno adds to Reno (RFC 6582), and early
//! retransmit (RFC 5827). It decides; the socket sends again when it is shown duplicate ACKs.

use crate::seq::Seq;

/// Duplicate ACKs that mean a loss (RFC 5681 section 3.2). At the third, a socket sends again by itself.
const THRESHOLD: u32 = 3;

/// What is known of the losses of one connection.
#[derive(Copy, Clone, Default, Debug)]
pub(crate) struct Recovery {
    duplicates: u32,
    /// All that had been sent when a loss was noticed. Until that is acknowledged, it is the same episode.
    point: Option<Seq>,
    /// The socket's timer noticed it: it sends all of it again by itself.
    timeout: bool,
    /// Segments that the socket sends again because it was shown a loss.
    expected: u32,
}

impl Recovery {
    /// Something new was acknowledged, up to `una`; whether the segment there has to be sent again. What is acknowledged in
    /// part was lost in two places (RFC 6582 section 3.2, step 3).
    pub(crate) fn acknowledged(&mut self, una: Seq) -> bool {
        self.duplicates = 0;
        if self.point.is_some_and(|point| point.after(una)) {
            return !self.timeout && self.repeat();
        }
        *self = Self::default();
        false
    }

    /// A duplicate ACK, with so many segments in flight before `nxt`; whether the first has to be sent again.
    pub(crate) fn duplicate(&mut self, flight: u32, nxt: Seq) -> bool {
        if self.point.is_some() {
            return false;
        }
        self.duplicates += 1;
        // Fewer than four segments in flight cause fewer than three duplicates (RFC 5827 section 3.1).
        let enough = match flight {
            2..=3 => flight - 1,
            _ => THRESHOLD,
        };
        if self.duplicates < enough {
            return false;
        }
        self.point = Some(nxt);
        self.repeat() && self.duplicates < THRESHOLD
    }

    /// The first segment in flight will be sent again, because it is known to be lost.
    pub(crate) fn lost(&mut self, nxt: Seq) {
        self.timeout = false;
        self.point = Some(nxt);
        self.repeat();
    }

    /// Whether duplicate ACKs say nothing: after a timeout they are of what is sent twice (RFC 6582 section 4).
    pub(crate) fn deaf(&self) -> bool {
        self.timeout
    }

    /// The socket sent something again; all that was ever sent ends at `nxt`.
    pub(crate) fn sent_again(&mut self, nxt: Seq) {
        if self.expected > 0 {
            self.expected -= 1;
        } else if !self.timeout {
            self.timeout = true;
            self.point = Some(nxt);
        }
    }

    fn repeat(&mut self) -> bool {
        self.expected += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6582_a_partial_acknowledgement_asks_for_the_next_hole() {
        let mut recovery = Recovery::default();
        let nxt = Seq(10_000);
        assert!(!recovery.duplicate(7, nxt) && !recovery.duplicate(7, nxt));
        assert!(!recovery.duplicate(7, nxt), "the socket does that itself");
        recovery.sent_again(nxt);
        assert!(!recovery.duplicate(7, Seq(11_000)), "one episode");
        assert!(recovery.acknowledged(Seq(5_000)));
        recovery.sent_again(Seq(11_000));
        assert!(!recovery.acknowledged(nxt), "all of it");
        assert!(!recovery.deaf());
    }

    #[test]
    fn rfc_5827_a_short_flight_needs_fewer_duplicates() {
        for (flight, enough) in [(1, 3), (2, 1), (3, 2), (4, 3)] {
            let mut recovery = Recovery::default();
            let asked: Vec<bool> = (0..3).map(|_| recovery.duplicate(flight, Seq(9))).collect();
            let first = asked.iter().position(|asked| *asked).map_or(3, |at| at + 1);
            assert_eq!(first, enough, "{flight}");
        }
    }

    #[test]
    fn rfc_6582_after_a_timeout_duplicates_say_nothing() {
        let mut recovery = Recovery::default();
        recovery.sent_again(Seq(5_000));
        assert!(recovery.deaf() && !recovery.acknowledged(Seq(4_000)));
        assert!(recovery.deaf() && !recovery.acknowledged(Seq(5_000)));
        assert!(!recovery.deaf());
    }
}
