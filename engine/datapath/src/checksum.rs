//! The Internet checksum: in full (RFC 1071) and by difference (RFC 1624).

use crate::wire::be16;
use crate::{Address, Protocol};

#[cfg(test)]
mod tests;

/// A checksum being computed over several pieces.
///
/// Every piece but the last has an even length, so that words line up.
#[derive(Copy, Clone, Debug, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds a piece; an odd last byte counts as if a zero followed.
    pub fn with(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        // Sums of 32-bit words fold to the same as those of 16-bit words, and 2^32 of them fit.
        self.0 += words
            .iter()
            .map(|word| u64::from(u32::from_be_bytes(*word)))
            .sum::<u64>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.0 += u64::from(u32::from_be_bytes(last));
        self
    }

    /// Adds the pseudo-header of an upper-layer packet of `length` bytes (RFC 9293 section 3.1, RFC 8200
    /// section 8.1).
    pub fn pseudo_header(self, src: &Address, dst: &Address, protocol: u8, length: usize) -> Self {
        // The upper 12 bytes of two v4-mapped addresses would add 2 x 0xffff, which is zero in one's
        // complement: both families sum the same way.
        let mut sum = self.with(&src.0).with(&dst.0);
        sum.0 += u64::from(protocol) + length as u64;
        sum
    }

    /// The checksum to write. Zero over data that already holds its right checksum.
    pub fn finish(self) -> u16 {
        !fold(self.0)
    }
}

/// The sum in 16 bits, carries added back in; zero only for a sum of zero.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum of a TCP or UDP packet with the pseudo-header, as it would be sent: UDP writes 0xffff for zero.
///
/// The checksum field in `l4` counts: clear it to compute, leave it to verify (a right one gives 0,
/// which is 0xffff for UDP).
pub fn l4_checksum(src: &Address, dst: &Address, proto: Protocol, l4: &[u8]) -> u16 {
    let sum = Checksum::default()
        .pseudo_header(src, dst, proto.number(), l4.len())
        .with(l4)
        .finish();
    if proto == Protocol::Udp && sum == 0 {
        0xffff
    } else {
        sum
    }
}

/// What a rewrite adds to a one's complement sum: `~m + m'` over the words replaced (RFC 1624 section 3).
///
/// A flow's rewrite is the same for all of its packets, so its difference is computed once.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta(u16);

impl Delta {
    /// One less in the upper byte of a word: TTL in IPv4.
    pub const DECREMENT_HIGH: Self = Self(0xfeff);

    /// Replacing `old` by `new`, both in whole 16-bit words.
    pub fn replace(self, old: &[u8], new: &[u8]) -> Self {
        debug_assert_eq!((old.len() % 2, old.len()), (0, new.len()));
        let words = |bytes: &[u8]| {
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|w| u64::from(u16::from_be_bytes(*w)))
                .sum::<u64>()
        };
        let removed = fold(words(old));
        Self(fold(u64::from(self.0) + u64::from(!removed) + words(new)))
    }

    /// Both changes.
    #[inline]
    pub fn and(self, other: Self) -> Self {
        Self(fold(u64::from(self.0) + u64::from(other.0)))
    }

    /// The change back.
    #[inline]
    pub fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// Patches the two-byte checksum `field` of an IPv4 or TCP header.
    #[inline]
    pub fn patch(self, field: &mut [u8]) {
        let sum = self.applied(be16(field, 0..2));
        field[..2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Patches the two-byte checksum `field` of a UDP header: zero means none and stays zero, and a
    /// computed zero is written as 0xffff (RFC 768).
    #[inline]
    pub fn patch_udp(self, field: &mut [u8]) {
        let old = be16(field, 0..2);
        if old == 0 {
            return;
        }
        let sum = self.applied(old);
        let sum = if sum == 0 { 0xffff } else { sum };
        field[..2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Equation 3 of RFC 1624: HC' = ~(~HC + ~m + m').
    #[inline]
    fn applied(self, checksum: u16) -> u16 {
        let sum = u32::from(!checksum) + u32::from(self.0);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }
}
