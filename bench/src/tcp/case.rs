//! The links that the TCP stack is measured and tested over.

use crate::impairment::Impairment;
use anyhow::{Context, Result};

/// A kind of bad link. It does the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub id: &'static str,
    /// What it does, as [`Impairment`] reads it.
    pub words: &'static str,
    /// What part of the bytes is enough: a far end needs longer for each.
    pub part: u64,
}

impl Case {
    /// Every case.
    pub const ALL: [Self; 12] = [
        Self::new("none", "", 1),
        Self::new("loss-0.1", "loss=0.1%", 1),
        Self::new("loss-1", "loss=1%", 1),
        Self::new("reorder-1", "reorder=1%", 1),
        Self::new("duplicate-1", "duplicate=1%", 1),
        Self::new("corrupt-0.1", "corrupt=0.1%", 1),
        Self::new("delay-1", "delay=1ms", 1),
        Self::new("delay-10", "delay=10ms", 2),
        Self::new("delay-50", "delay=50ms", 4),
        // Twelve milliseconds of queue.
        Self::new("rate-100", "rate=100mbit queue=150000", 2),
        Self::new("loss-0.1-1ms", "loss=0.1% delay=1ms", 1),
        Self::new("loss-1-1ms", "loss=1% delay=1ms", 2),
    ];

    const fn new(id: &'static str, words: &'static str, part: u64) -> Self {
        Self { id, words, part }
    }

    /// The case called `id`.
    pub fn find(id: &str) -> Result<Self> {
        let known = Self::ALL.map(|case| case.id).join(", ");
        Self::ALL
            .into_iter()
            .find(|case| case.id == id)
            .with_context(|| format!("no case {id}; there are {known}"))
    }

    /// What its link does.
    pub fn impairment(self) -> Result<Impairment> {
        self.words.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_reads_and_is_found_by_its_name() {
        for case in Case::ALL {
            case.impairment().unwrap();
            assert_eq!(Case::find(case.id).unwrap(), case);
        }
        assert!(Case::find("loss").is_err());
    }
}
