//! What was answered, how fast, and what was not.

use std::time::Duration;

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Answers on UDP flows that go on.
    pub datagrams: usize,
    /// Answers on connections that go on.
    pub streams: usize,
    /// Connections and UDP flows that were new.
    pub new: usize,
    /// What was lost while that was allowed.
    pub lost: usize,
    /// How long answers on flows that go on took.
    pub times: Vec<Duration>,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.streams += other.streams;
        self.new += other.new;
        self.lost += other.lost;
        self.times.extend(other.times);
    }

    /// Half of the answers took less.
    pub fn median(&mut self) -> Duration {
        self.times.sort_unstable();
        self.times
            .get(self.times.len() / 2)
            .copied()
            .unwrap_or_default()
    }
}
