//! Bytes that can be checked at any position for next to nothing: what a transfer is made of.

/// Bytes of a word.
const WORD: usize = 8;
/// Between neighbouring words: odd, so that no two words of a stream are alike, and with bits in every byte.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The stream of a seed: word *n* is `seed + n * STRIDE`, in little endian.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    seed: u64,
    /// The position of the next byte.
    at: u64,
}

/// Where a stream is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Position of the first wrong byte.
    pub at: u64,
    /// What stands there.
    pub found: u8,
    /// What belongs there.
    pub expected: u8,
}

impl Pattern {
    /// The stream of `seed`, at its beginning. Streams of other seeds differ in every few bytes.
    pub fn new(seed: u64) -> Self {
        let seed = seed.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (seed >> 31);
        Self { seed, at: 0 }
    }

    /// How many bytes it has written or checked.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Writes the next bytes of the stream over all of `into`.
    pub fn fill(&mut self, into: &mut [u8]) {
        let (head, rest) = into.split_at_mut(self.head(into.len()));
        for byte in head {
            *byte = self.byte();
        }
        let (words, tail) = rest.as_chunks_mut::<WORD>();
        let mut word = self.word();
        for chunk in &mut *words {
            *chunk = word.to_le_bytes();
            word = word.wrapping_add(STRIDE);
        }
        self.at += (words.len() * WORD) as u64;
        for byte in tail {
            *byte = self.byte();
        }
    }

    /// Compares `found` with the next bytes of the stream.
    pub fn check(&mut self, found: &[u8]) -> Result<(), Mismatch> {
        let start = *self;
        let (head, rest) = found.split_at(self.head(found.len()));
        let mut wrong = 0;
        for byte in head {
            wrong |= u64::from(byte ^ self.byte());
        }
        let (words, tail) = rest.as_chunks::<WORD>();
        let mut word = self.word();
        for chunk in words {
            wrong |= u64::from_le_bytes(*chunk) ^ word;
            word = word.wrapping_add(STRIDE);
        }
        self.at += (words.len() * WORD) as u64;
        for byte in tail {
            wrong |= u64::from(byte ^ self.byte());
        }
        if wrong == 0 {
            return Ok(());
        }
        start.first_mismatch(found)
    }

    fn first_mismatch(mut self, found: &[u8]) -> Result<(), Mismatch> {
        for byte in found {
            let (at, expected) = (self.at, self.byte());
            if *byte != expected {
                return Err(Mismatch {
                    at,
                    found: *byte,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Bytes to the next whole word, at most `length`.
    fn head(&self, length: usize) -> usize {
        let into_word = (self.at % WORD as u64) as usize;
        ((WORD - into_word) % WORD).min(length)
    }

    /// The word at the position.
    fn word(&self) -> u64 {
        let number = self.at / WORD as u64;
        self.seed.wrapping_add(number.wrapping_mul(STRIDE))
    }

    fn byte(&mut self) -> u8 {
        let byte = self.word().to_le_bytes()[(self.at % WORD as u64) as usize];
        self.at += 1;
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn however_a_stream_is_cut_it_is_the_same() {
        let mut whole = vec![0; 10_000];
        Pattern::new(5).fill(&mut whole);
        let mut random = Random::new(1);
        let (mut writer, mut reader) = (Pattern::new(5), Pattern::new(5));
        let mut at = 0;
        while at < whole.len() {
            let end = (at + random.below(40)).min(whole.len());
            let mut piece = vec![0; end - at];
            writer.fill(&mut piece);
            assert_eq!(piece, whole[at..end]);
            assert_eq!(reader.check(&piece), Ok(()));
            at = end;
            assert_eq!(
                (writer.position(), reader.position()),
                (at as u64, at as u64)
            );
        }
    }

    #[test]
    fn one_wrong_bit_anywhere_is_found_where_it_is() {
        let mut bytes = [0; 83];
        Pattern::new(9).fill(&mut bytes);
        for at in 0..bytes.len() {
            let expected = bytes[at];
            bytes[at] ^= 0x10;
            for cut in [0, 3, 8] {
                let mut pattern = Pattern::new(9);
                let (head, tail) = bytes.split_at(cut);
                let found = pattern.check(head).and_then(|()| pattern.check(tail));
                let mismatch = Mismatch {
                    at: at as u64,
                    found: bytes[at],
                    expected,
                };
                assert_eq!(found, Err(mismatch));
            }
            bytes[at] = expected;
        }
    }

    #[test]
    fn bytes_that_are_missing_or_doubled_are_found() {
        let mut bytes = [0; 4096];
        Pattern::new(1).fill(&mut bytes);
        for gap in [1, 8, 1448] {
            let mut pattern = Pattern::new(1);
            let (head, tail) = (&bytes[..800], &bytes[800 + gap..]);
            assert!(
                pattern
                    .check(head)
                    .and_then(|()| pattern.check(tail))
                    .is_err()
            );
            assert!(Pattern::new(1).check(&bytes[gap..]).is_err());
        }
    }
}
