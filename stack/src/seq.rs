//! Sequence numbers (RFC 9293 section 3.4).

use std::ops::Add;

/// A sequence number: arithmetic modulo 2^32, order by the shorter way round.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// How far this lies behind `earlier`; negative when it lies ahead of it.
    pub(crate) const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Whether this comes strictly after `other`.
    pub(crate) const fn after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    /// The later of the two.
    pub(crate) const fn max(self, other: Self) -> Self {
        if other.after(self) { other } else { self }
    }

    /// The number `count` before this one.
    pub(crate) const fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap() {
        let last = Seq(u32::MAX);
        assert_eq!(last + 1, Seq(0));
        assert!((last + 1).after(last) && !last.after(last + 1) && !last.after(last));
        assert_eq!((last + 5).since(last), 5);
        assert_eq!(last.since(last + 5), -5);
        assert_eq!(Seq(3).minus(5), Seq(u32::MAX - 1));
        assert_eq!(last.max(Seq(2)), Seq(2));
    }
}
