//! Heartbeats: how the programs know that somebody is there to decide.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::edge::memory::MappedArray;

use super::{Error, Steering};

/// A worker's sign of life in memory shared with the BPF programs.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    array: Arc<MappedArray>,
    worker: usize,
}

impl Heartbeat {
    /// Says that the worker stepped at `now_ns` (`CLOCK_MONOTONIC`, not zero). A plain store.
    #[inline]
    pub fn beat(&self, now_ns: u64) {
        if let Some(word) = self.array.word(self.worker, 0) {
            word.store(now_ns, Ordering::Relaxed);
        }
    }

    /// When the worker last stepped; 0 if it never did, or said that it stopped.
    pub fn last(&self) -> u64 {
        self.array
            .word(self.worker, 0)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Says that the worker has stopped: its packets are the kernel's from now on.
    pub fn stop(&self) {
        self.beat(0);
    }
}

impl Steering {
    /// The heartbeat of a worker, to be taken to its thread.
    pub fn heartbeat(&self, worker: u16) -> Result<Heartbeat, Error> {
        if worker >= crate::MAX_WORKERS {
            let max = u64::from(crate::MAX_WORKERS) - 1;
            return Err(Error::Range {
                what: "worker",
                value: worker.into(),
                max,
            });
        }
        Ok(Heartbeat {
            array: Arc::clone(&self.heartbeats),
            worker: worker.into(),
        })
    }
}
