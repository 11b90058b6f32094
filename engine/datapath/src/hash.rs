//! The hash that chooses a backend, and later steers in BPF.

use crate::{Address, Protocol, Tuple};

#[cfg(test)]
mod tests;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLY: u64 = 0xff51_afd7_ed55_8ccd;
const FINISH: u64 = 0xc4ce_b9fe_1a85_ec53;

/// A hash of a packet's tuple: the one hash for choosing a backend and, later, for the compiled choice.
///
/// Five 64-bit words are mixed in order: the two halves of the source, the two halves of the
/// destination (big endian, IPv4 as v4-mapped), and `sport << 32 | dport << 16 | protocol`. Per word:
/// `h = (h ^ word) * 0xff51afd7ed558ccd; h ^= h >> 32`. Start: `0x9e3779b97f4a7c15`. At the end:
/// `h *= 0xc4ceb9fe1a85ec53; h ^= h >> 33`. All modulo 2^64, so BPF and every node compute the same;
/// `src/hash/tests.rs` holds vectors. Not keyed: choosing a backend is no secret, and the flow index
/// has a keyed hash of its own.
#[inline]
pub fn flow_hash(tuple: &Tuple) -> u64 {
    let [s0, s1] = tuple.src.words();
    let [d0, d1] = tuple.dst.words();
    let rest = u64::from(tuple.sport) << 32
        | u64::from(tuple.dport) << 16
        | u64::from(tuple.proto.number());
    finish([s0, s1, d0, d1, rest].into_iter().fold(SEED, mix))
}

/// As [`flow_hash`], of the client and the VIP alone: the ports and the protocol count as 0.
pub fn client_hash(tuple: &Tuple) -> u64 {
    let [s0, s1] = tuple.src.words();
    let [d0, d1] = tuple.dst.words();
    finish([s0, s1, d0, d1, 0].into_iter().fold(SEED, mix))
}

/// Which worker a packet of no known flow goes to, modulo their number: `source_hash` of `bpf/steer.h`, over
/// the source's address, port and protocol; port 0 for a fragment, first or later. The tests of `weft-xdp` compare the two.
pub fn source_hash(src: &Address, sport: u16, proto: Protocol) -> u16 {
    let start = u32::from(sport.to_be()) << 8 | u32::from(proto.number());
    // Words as they lie in memory, as BPF reads them.
    let words = src.0.as_chunks::<4>().0;
    let hash = words.iter().fold(start, |hash, word| {
        let hash = (hash ^ u32::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b1);
        hash ^ hash >> 15
    });
    (hash.wrapping_mul(0x85eb_ca6b) >> 16) as u16
}

/// 15 bits that tell a backend from most others: `print_of` of `bpf/choice.h`.
pub fn backend_print(address: &Address, port: u16) -> u16 {
    let words = address.0.as_chunks::<4>().0;
    let start = u32::from(port.to_be());
    let mixed = words
        .iter()
        .fold(start, |mixed, word| mixed ^ u32::from_ne_bytes(*word));
    (mixed.wrapping_mul(0x9e37_79b1) >> 17) as u16
}

/// One more word into a hash.
#[inline]
pub(crate) fn mix(h: u64, word: u64) -> u64 {
    let h = (h ^ word).wrapping_mul(MULTIPLY);
    h ^ h >> 32
}

/// Spreads the last word over all bits.
#[inline]
pub(crate) fn finish(h: u64) -> u64 {
    let h = h.wrapping_mul(FINISH);
    h ^ h >> 33
}

/// The place of `hash` among `size` by its upper half: multiply and shift, no division.
#[inline]
pub(crate) fn reduce(hash: u64, size: u32) -> u32 {
    (((hash >> 32) * u64::from(size)) >> 32) as u32
}
