//! What a connection is found by, and everything that depends on the stack's secret.

use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher13;
use weft_datapath::{Now, Tuple};

use crate::segment::SynOptions;
use crate::seq::Seq;

/// A connection's tuple as its peer sends it, and where its packets come from.
///
/// The tag is part of it, so that nobody behind another interface can hit a connection by claiming its peer's
/// address.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    pub(crate) tuple: Tuple,
    pub(crate) tag: u32,
}

/// How long a SYN cookie is good for: one to two of these.
pub(crate) const COOKIE_PERIOD: Duration = Duration::from_secs(64);
/// Segment sizes that a cookie can say. A peer's is rounded down to one: the defaults of RFC 9293 section 3.7.1, what a
/// tunnel leaves, Ethernet in IPv6 and IPv4, and jumbo frames.
const COOKIE_MSS: [u16; 8] = [536, 1220, 1360, 1390, 1410, 1440, 1460, 8940];
/// The shift in a cookie for a peer that does not scale windows.
const COOKIE_NO_SHIFT: u32 = 15;

/// The secret of a stack, and what is derived from it.
#[derive(Clone)]
pub(crate) struct Secret {
    demux: [u64; 2],
    isn: [u64; 2],
}

impl Secret {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let [a, b, c, d] = secret.as_chunks::<8>().0 else {
            unreachable!("32 bytes are four words");
        };
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        Self {
            demux: [word(a), word(b)],
            isn: [word(c), word(d)],
        }
    }

    /// A keyed hash of the key, so that nobody outside can make connections collide.
    #[inline]
    pub(crate) fn demux(&self, key: &Key) -> u64 {
        let [k0, k1] = self.demux;
        hash(SipHasher13::new_with_keys(k0, k1), key)
    }

    /// The initial sequence number of our end (RFC 6528 section 3): a clock plus a secret function of the tuple.
    ///
    /// The clock ticks every 64 ns, so a connection that moved less than 125 Mbit/s since it opened is behind its
    /// successor, and a peer in TIME-WAIT takes the new SYN. It wraps after 274 s, more than twice MSL apart.
    pub(crate) fn isn(&self, key: &Key, now: Now) -> Seq {
        let [k0, k1] = self.isn;
        let secret = hash(SipHasher13::new_with_keys(k0, k1), key) as u32;
        Seq((now.as_nanos() >> 6) as u32) + secret
    }

    /// Where the search for a free port begins (RFC 6056 section 3.3.3): a secret function of the other three ends.
    pub(crate) fn port_offset(&self, key: &Key) -> u32 {
        let [k0, k1] = self.isn;
        hash(SipHasher13::new_with_keys(!k0, k1), key) as u32
    }

    /// A seed for what needs no strength.
    pub(crate) fn seed(&self) -> u64 {
        self.demux[0] ^ self.isn[1].rotate_left(32)
    }

    /// An initial sequence number that says what the SYN said: 3 bits segment size, 4 bits shift, 1 bit selective
    /// acknowledgements, and 24 bits of proof, which are also a function of the peer's number and of the minute.
    pub(crate) fn cookie(&self, key: &Key, peer: Seq, options: &SynOptions, now: Now) -> Seq {
        let size = options.mss.unwrap_or(COOKIE_MSS[0]);
        let mss = COOKIE_MSS.iter().rposition(|mss| *mss <= size).unwrap_or(0) as u32;
        let shift = options.shift.map_or(COOKIE_NO_SHIFT, u32::from);
        let said = mss << 5 | shift << 1 | u32::from(options.sack);
        Seq(said << 24 | self.proof(key, peer, said, period(now)))
    }

    /// What the SYN said that a cookie was made for; `None` if it is none of ours, or too old.
    pub(crate) fn open_cookie(
        &self,
        key: &Key,
        peer: Seq,
        cookie: Seq,
        now: Now,
    ) -> Option<SynOptions> {
        let (said, proof) = (cookie.0 >> 24, cookie.0 & 0xff_ffff);
        let period = period(now);
        let made = [Some(period), period.checked_sub(1)];
        let ours = made
            .iter()
            .flatten()
            .any(|period| self.proof(key, peer, said, *period) == proof);
        let shift = said >> 1 & 15;
        ours.then(|| SynOptions {
            mss: Some(COOKIE_MSS[(said >> 5) as usize]),
            shift: (shift != COOKIE_NO_SHIFT).then_some(shift as u8),
            sack: said & 1 != 0,
        })
    }

    fn proof(&self, key: &Key, peer: Seq, said: u32, period: u64) -> u32 {
        let [k0, k1] = self.isn;
        let mut hasher = SipHasher13::new_with_keys(k0, !k1);
        hasher.write_u64(u64::from(peer.0) << 32 | u64::from(said));
        hasher.write_u64(period);
        (hash(hasher, key) >> 40) as u32
    }
}

fn period(now: Now) -> u64 {
    now.as_nanos() / COOKIE_PERIOD.as_nanos() as u64
}

#[inline]
fn hash(mut hasher: SipHasher13, key: &Key) -> u64 {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&key.tuple.src.0);
    bytes[16..32].copy_from_slice(&key.tuple.dst.0);
    bytes[32..34].copy_from_slice(&key.tuple.sport.to_le_bytes());
    bytes[34..36].copy_from_slice(&key.tuple.dport.to_le_bytes());
    bytes[36..].copy_from_slice(&key.tag.to_le_bytes());
    hasher.write(&bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use weft_datapath::{Address, Protocol};

    use super::*;

    fn key(sport: u16) -> Key {
        let tuple = Tuple {
            src: Address::from_v4([10, 0, 0, 1]),
            dst: Address::from_v4([10, 96, 0, 1]),
            sport,
            dport: 80,
            proto: Protocol::Tcp,
        };
        Key { tuple, tag: 7 }
    }

    fn at(secs: u64) -> Now {
        Now::default() + Duration::from_secs(secs)
    }

    #[test]
    fn a_cookie_says_what_the_syn_said() {
        let secret = Secret::new(&[7; 32]);
        for (mss, read) in [
            (None, 536),
            (Some(100), 536),
            (Some(1460), 1460),
            (Some(1459), 1440),
        ] {
            for shift in [None, Some(0), Some(7), Some(14)] {
                for sack in [false, true] {
                    let options = SynOptions { mss, shift, sack };
                    let cookie = secret.cookie(&key(1), Seq(5), &options, at(1000));
                    let opened = secret
                        .open_cookie(&key(1), Seq(5), cookie, at(1060))
                        .unwrap();
                    assert_eq!(
                        opened,
                        SynOptions {
                            mss: Some(read),
                            shift,
                            sack
                        }
                    );
                }
            }
        }
    }

    #[test]
    fn a_cookie_is_for_one_tuple_one_number_and_two_minutes() {
        let secret = Secret::new(&[7; 32]);
        let options = SynOptions::default();
        let cookie = secret.cookie(&key(1), Seq(5), &options, at(1000));
        let opens = |key, peer, cookie, now| secret.open_cookie(&key, peer, cookie, now).is_some();
        assert!(opens(key(1), Seq(5), cookie, at(1000)));
        assert!(!opens(key(2), Seq(5), cookie, at(1000)));
        assert!(!opens(key(1), Seq(6), cookie, at(1000)));
        assert!(!opens(key(1), Seq(5), cookie + 1, at(1000)));
        assert!(
            !opens(key(1), Seq(5), Seq(cookie.0 ^ 1 << 25), at(1000)),
            "said otherwise"
        );
        assert!(!opens(key(1), Seq(5), cookie, at(1129)));
        let other = Secret::new(&[8; 32]);
        assert!(
            other
                .open_cookie(&key(1), Seq(5), cookie, at(1000))
                .is_none()
        );
    }

    #[test]
    fn initial_numbers_grow_with_time_and_differ_by_tuple() {
        let secret = Secret::new(&[7; 32]);
        let first = secret.isn(&key(1), at(10));
        let second = secret.isn(&key(1), at(11));
        assert_eq!(second.since(first), 15_625_000);
        assert_ne!(secret.isn(&key(2), at(10)), first);
    }
}
