//! Numbers that look random and are the same for the same seed.

/// SplitMix64 (Steele, Lea and Flood, 2014): good enough to choose test packets, in three lines.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero. The bias towards small ones is below 2^-32.
    pub fn below(&mut self, end: usize) -> usize {
        (self.word() % end as u64) as usize
    }

    /// A number in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `choices`, of which there is at least one.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.word() as u8).collect()
    }

    /// Flips, cuts or overwrites something in `frame`, up to four times.
    pub fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if frame.is_empty() {
                return;
            }
            // Headers are where it hurts: three of four changes are among the first 80 bytes.
            let end = if self.below(4) == 0 {
                frame.len()
            } else {
                frame.len().min(80)
            };
            let at = self.below(end);
            match self.below(5) {
                0 => frame[at] ^= 1 << self.below(8),
                1 => frame[at] = *self.pick(&[0x00, 0xff, 0x7f, 0x80]),
                2 => frame[at] = self.word() as u8,
                3 => frame.truncate(at),
                _ => {
                    let extra = self.below(64);
                    let extra = self.bytes(extra);
                    frame.extend(extra);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_sequence_and_another_seed_another() {
        let take = |seed| {
            let mut random = Random::new(seed);
            [random.word(), random.word(), random.word()]
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn mutations_change_most_frames() {
        let mut random = Random::new(7);
        let changed = (0..1000)
            .filter(|_| {
                let mut frame = vec![0x5a; 100];
                random.mutate(&mut frame);
                frame != [0x5a; 100]
            })
            .count();
        assert!(changed > 900, "{changed}");
    }
}
