//! A network between two ends that loses, doubles, delays and corrupts what it carries, all from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_datapath::Now;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True so many times in a thousand.
    pub fn per_mille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }
}

/// Faults in a thousand packets, and the time that a packet takes.
#[derive(Copy, Clone, Debug, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplication: u64,
    pub corruption: u64,
    pub reordering: u64,
    pub delay: Duration,
}

/// Frames under way, by the time at which they arrive.
pub struct Network {
    pub faults: Faults,
    random: Random,
    under_way: BTreeMap<(Now, u64), (usize, Vec<u8>)>,
    count: u64,
    pub corrupted: u64,
}

impl Network {
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self {
            faults,
            random: Random(seed),
            under_way: BTreeMap::new(),
            count: 0,
            corrupted: 0,
        }
    }

    /// A frame to end 0 or 1.
    pub fn send(&mut self, to: usize, mut frame: Vec<u8>, now: Now) {
        let Faults {
            loss,
            duplication,
            corruption,
            reordering,
            delay,
        } = self.faults;
        if self.random.per_mille(loss) {
            return;
        }
        if self.random.per_mille(corruption) {
            // Behind the fields that say where it goes, so that it goes there.
            let from = if frame[14] >> 4 == 4 { 38 } else { 58 };
            let at = from + self.random.below((frame.len() - from) as u64) as usize;
            frame[at] ^= 1 << self.random.below(8);
            self.corrupted += 1;
        }
        if self.random.per_mille(duplication) {
            self.put(to, frame.clone(), now + delay);
        }
        let late = if self.random.per_mille(reordering) {
            delay + Duration::from_micros(self.random.below(5_000))
        } else {
            delay
        };
        self.put(to, frame, now + late);
    }

    fn put(&mut self, to: usize, frame: Vec<u8>, at: Now) {
        self.count += 1;
        self.under_way.insert((at, self.count), (to, frame));
    }

    /// The next frame that has arrived.
    pub fn arrived(&mut self, now: Now) -> Option<(usize, Vec<u8>)> {
        let (key, _) = self.under_way.first_key_value()?;
        let key = *key;
        if key.0 > now {
            return None;
        }
        self.under_way.remove(&key)
    }

    pub fn next(&self) -> Option<Now> {
        self.under_way.first_key_value().map(|(key, _)| key.0)
    }
}
