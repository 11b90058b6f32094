//! What became of the frames of a worker: the packet ledger.

use crate::{DropReason, KernelReason, Verdict};

/// One count per fate. Every frame received is in exactly one of them, so
/// `received() = forwarded + replied + terminated + to_kernel + handed_over + held + dropped`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Translated where needed and put into a pod, or back to the kernel with a backend's address.
    pub forwarded: u64,
    /// Answered with a reset or an ICMP error.
    pub replied: u64,
    /// Taken by the TCP stack.
    pub terminated: u64,
    /// Handed to the worker that owns the flow.
    pub handed_over: u64,
    /// Fragments copied, to be decided about when their first one comes. They come in again then, or are
    /// dropped in the end.
    pub held: u64,
    /// Given back to the kernel, by [`KernelReason`].
    pub kernel: [u64; KernelReason::ALL.len()],
    /// Dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::ALL.len()],
}

// By hand: the standard library has it for arrays of up to 32.
impl Default for Counters {
    fn default() -> Self {
        Self {
            forwarded: 0,
            replied: 0,
            terminated: 0,
            handed_over: 0,
            held: 0,
            kernel: [0; KernelReason::ALL.len()],
            dropped: [0; DropReason::ALL.len()],
        }
    }
}

impl Counters {
    /// Counts one frame.
    #[inline]
    pub fn record(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Deliver => self.forwarded += 1,
            Verdict::Reply => self.replied += 1,
            Verdict::Terminate(_) => self.terminated += 1,
            Verdict::HandOver(_) => self.handed_over += 1,
            Verdict::Hold => self.held += 1,
            Verdict::Kernel(reason) => self.kernel[reason as usize] += 1,
            Verdict::Drop(reason) => self.dropped[reason as usize] += 1,
        }
    }

    /// Frames dropped, for whatever reason.
    pub fn total_dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Frames given back to the kernel, for whatever reason.
    pub fn total_kernel(&self) -> u64 {
        self.kernel.iter().sum()
    }

    /// All frames counted.
    pub fn received(&self) -> u64 {
        self.forwarded
            + self.replied
            + self.terminated
            + self.handed_over
            + self.held
            + self.total_kernel()
            + self.total_dropped()
    }
}
