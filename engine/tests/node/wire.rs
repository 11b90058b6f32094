//! What lies between the node and its pods: it loses, doubles and delays, and so frames overtake each other.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_datapath::{Hook, Now};

use crate::plan::Random;

/// One frame in so many is lost, one comes twice, one is late.
const LOST: u64 = 100;
const DOUBLED: u64 = 100;
const LATE: u64 = 20;
/// Microseconds that a frame takes, and that a late one takes, at most.
const QUICK: u64 = 50;
const SLOW: u64 = 5_000;

/// Where a frame is going.
#[derive(Copy, Clone, Debug)]
pub enum To {
    /// To the node, from an interface by a hook.
    Node(u32, Hook),
    /// To a pod, by its place.
    Pod(usize),
}

/// Frames on their way, by when they arrive.
pub struct Wire {
    random: Random,
    frames: BTreeMap<(Now, u64), (To, Vec<u8>)>,
    carried: u64,
}

impl Wire {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            frames: BTreeMap::new(),
            carried: 0,
        }
    }

    /// Sends a frame on its way.
    pub fn carry(&mut self, to: To, frame: Vec<u8>, now: Now) {
        if self.random.below(LOST) == 0 {
            return;
        }
        if self.random.below(DOUBLED) == 0 {
            self.arrive(to, frame.clone(), now);
        }
        self.arrive(to, frame, now);
    }

    fn arrive(&mut self, to: To, frame: Vec<u8>, now: Now) {
        let most = match self.random.below(LATE) {
            0 => SLOW,
            _ => QUICK,
        };
        let takes = Duration::from_micros(1 + self.random.below(most));
        self.carried += 1;
        self.frames.insert((now + takes, self.carried), (to, frame));
    }

    /// The next one that has arrived.
    pub fn next(&mut self, now: Now) -> Option<(To, Vec<u8>)> {
        let first = self.frames.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the next one arrives.
    pub fn due(&self) -> Option<Now> {
        self.frames.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}
