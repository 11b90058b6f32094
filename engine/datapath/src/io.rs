//! The bottom: bursts of frames in and out.

use std::num::NonZeroU16;

use arrayvec::ArrayVec;

use crate::{BURST_MAX, FrameBuf};

mod memory;

pub use memory::{MemoryFrame, MemoryIo};

/// Where the frames of an I/O are. Every frame is in exactly one place.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct FrameLedger {
    /// Frames there are.
    pub total: usize,
    /// In nobody's hands.
    pub free: usize,
    /// Given to the kernel to receive into.
    pub fill: usize,
    /// Received, not taken yet.
    pub rx: usize,
    /// In the hands of the worker.
    pub app: usize,
    /// Queued for transmission or not reaped yet.
    pub tx: usize,
}

impl FrameLedger {
    /// Whether every frame is in exactly one place.
    pub fn balances(&self) -> bool {
        self.free + self.fill + self.rx + self.app + self.tx == self.total
    }
}

/// Bursts of frames in and out of one queue. A frame handle is affine: `send` and `release` consume it.
pub trait PacketIo {
    /// One frame in the worker's hands.
    type Frame;

    /// Takes received frames, at most the free room of `burst`.
    fn receive(&mut self, burst: &mut ArrayVec<Self::Frame, BURST_MAX>);

    /// Works on a frame's memory; what `f` leaves as the frame's length is kept.
    fn with_frame<R>(
        &mut self,
        frame: &mut Self::Frame,
        f: impl FnOnce(&mut FrameBuf<'_>) -> R,
    ) -> R;

    /// Frames that [`send`](Self::send) takes before the next [`flush`](Self::flush).
    fn room(&self) -> usize;

    /// Queues a frame for transmission, or gives it back when the ring is full.
    fn send(&mut self, frame: Self::Frame) -> Result<(), Self::Frame>;

    /// Whether there is a bulk lane: a second way, for TCP packets of up to 64 KiB that somebody else cuts into
    /// segments.
    fn has_bulk(&self) -> bool {
        false
    }

    /// Takes one packet from the bulk lane, if one waits: the frame, and whether its checksums need no verifying.
    fn receive_bulk<R>(&mut self, _take: impl FnOnce(&mut [u8], bool) -> R) -> Option<R> {
        None
    }

    /// Sends a packet of `len` bytes by the bulk lane, to be cut into segments with `segment` bytes of data. `write`
    /// fills it, with the pseudo-header's sum for a TCP checksum. It goes at once, after what was queued before. False
    /// if it is lost.
    fn send_bulk(
        &mut self,
        _len: usize,
        _segment: NonZeroU16,
        _write: impl FnOnce(&mut [u8]),
    ) -> bool {
        false
    }

    /// Gives a frame back to the pool.
    fn release(&mut self, frame: Self::Frame);

    /// Takes an empty frame from the pool, for hand-over and for packets of our own.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// One doorbell for what was queued; reaps completions and refills.
    fn flush(&mut self);

    /// Where the frames are now.
    fn frames(&self) -> FrameLedger;
}
