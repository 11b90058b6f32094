use proptest::prelude::*;

use super::*;

/// RFC 1071 section 2, word by word, as slow and plain as can be.
fn plain(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn the_example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Checksum::default().with(&bytes).finish(), !0xddf2);
}

#[test]
fn the_example_of_rfc_1624() {
    // Section 4: a field goes from 0x5555 to 0x3285 and the checksum from 0xdd2f to 0x0000.
    let mut field = 0xdd2fu16.to_be_bytes();
    Delta::default()
        .replace(&[0x55, 0x55], &[0x32, 0x85])
        .patch(&mut field);
    assert_eq!(field, [0, 0]);
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut field = [0, 0];
    Delta::default()
        .replace(&[1, 2], &[3, 4])
        .patch_udp(&mut field);
    assert_eq!(field, [0, 0]);
}

#[test]
fn udp_never_gets_a_zero_by_computing() {
    let mut field = 0xdd2fu16.to_be_bytes();
    Delta::default()
        .replace(&[0x55, 0x55], &[0x32, 0x85])
        .patch_udp(&mut field);
    assert_eq!(field, [0xff, 0xff]);
}

proptest! {
    #[test]
    fn full_equals_plain(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Checksum::default().with(&bytes).finish(), plain(&bytes));
    }

    #[test]
    fn pieces_equal_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..50) {
        let cut = (cut * 2).min(bytes.len());
        let (a, b) = bytes.split_at(if cut % 2 == 0 { cut } else { cut - 1 });
        prop_assert_eq!(Checksum::default().with(a).with(b).finish(), plain(&bytes));
    }

    /// Incremental checksum = full checksum, for any words at any place.
    #[test]
    fn incremental_equals_full(
        mut bytes in prop::collection::vec(any::<u8>(), 40),
        new in prop::collection::vec(any::<u8>(), 16),
        at in 1usize..12,
    ) {
        // A header always holds a word that is not zero (its version), as here.
        bytes[38] = 0x45;
        bytes[0..2].fill(0);
        let sum = plain(&bytes);
        bytes[0..2].copy_from_slice(&sum.to_be_bytes());
        let old = bytes[at * 2..at * 2 + 16].to_vec();
        bytes[at * 2..at * 2 + 16].copy_from_slice(&new);
        let delta = Delta::default().replace(&old, &new);
        let original = sum.to_be_bytes();
        delta.patch(&mut bytes[0..2]);
        let patched = [bytes[0], bytes[1]];
        bytes[0..2].fill(0);
        prop_assert_eq!(u16::from_be_bytes(patched), plain(&bytes));
        // And back again.
        let mut field = patched;
        delta.inverse().patch(&mut field);
        prop_assert_eq!(field, original);
    }

    #[test]
    fn changes_add_up(a in any::<[u8; 4]>(), b in any::<[u8; 4]>(), c in any::<[u8; 4]>(), d in any::<[u8; 4]>(), sum in 0u16..0xffff) {
        let (mut one, mut two) = (sum.to_be_bytes(), sum.to_be_bytes());
        Delta::default().replace(&a, &b).replace(&c, &d).patch(&mut one);
        Delta::default().replace(&a, &b).and(Delta::default().replace(&c, &d)).patch(&mut two);
        prop_assert_eq!(one, two);
    }
}
