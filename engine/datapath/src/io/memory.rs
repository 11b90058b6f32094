//! A [`PacketIo`] in memory, for tests and simulations.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use super::{FrameLedger, PacketIo};
use crate::{BURST_MAX, FrameBuf};

#[cfg(test)]
mod tests;

/// A frame of [`MemoryIo`] in the worker's hands.
#[derive(Debug)]
pub struct MemoryFrame {
    memory: Box<[u8]>,
    len: usize,
}

/// Bounded rings and a pool of frames in memory, with the ledger of a real one.
#[derive(Debug)]
pub struct MemoryIo {
    total: usize,
    ring: usize,
    app: usize,
    free: Vec<MemoryFrame>,
    rx: VecDeque<MemoryFrame>,
    /// Queued by `send`, on their way once `flush` has rung.
    tx: VecDeque<MemoryFrame>,
    rung: usize,
}

impl MemoryIo {
    /// `frames` frames of `size` bytes; each ring holds at most `ring` of them.
    pub fn new(frames: usize, size: usize, ring: usize) -> Self {
        let free = (0..frames)
            .map(|_| MemoryFrame {
                memory: vec![0; size].into(),
                len: 0,
            })
            .collect();
        Self {
            total: frames,
            ring,
            app: 0,
            free,
            rx: VecDeque::with_capacity(ring),
            tx: VecDeque::with_capacity(ring),
            rung: 0,
        }
    }

    /// A frame arrives. False, and nothing done, when there is no frame or no room for it.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.rx.len() == self.ring {
            return false;
        }
        let Some(mut frame) = self.free.pop() else {
            return false;
        };
        let Some(room) = frame.memory.get_mut(..bytes.len()) else {
            self.free.push(frame);
            return false;
        };
        room.copy_from_slice(bytes);
        frame.len = bytes.len();
        self.rx.push_back(frame);
        true
    }

    /// What was sent and flushed since the last call, in order.
    pub fn take_sent(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::with_capacity(self.rung);
        self.drain_sent(|bytes| sent.push(bytes.to_vec()));
        sent
    }

    /// As [`take_sent`](Self::take_sent), without a copy.
    pub fn drain_sent(&mut self, mut each: impl FnMut(&[u8])) {
        for frame in self.tx.drain(..self.rung) {
            each(&frame.memory[..frame.len]);
            self.free.push(frame);
        }
        self.rung = 0;
    }
}

impl PacketIo for MemoryIo {
    type Frame = MemoryFrame;

    fn receive(&mut self, burst: &mut ArrayVec<MemoryFrame, BURST_MAX>) {
        let take = burst.remaining_capacity().min(self.rx.len());
        burst.extend(self.rx.drain(..take));
        self.app += take;
    }

    fn with_frame<R>(
        &mut self,
        frame: &mut MemoryFrame,
        f: impl FnOnce(&mut FrameBuf<'_>) -> R,
    ) -> R {
        let mut buf = FrameBuf::new(&mut frame.memory, frame.len);
        let result = f(&mut buf);
        frame.len = buf.len();
        result
    }

    fn room(&self) -> usize {
        self.ring - self.tx.len()
    }

    fn send(&mut self, frame: MemoryFrame) -> Result<(), MemoryFrame> {
        if self.tx.len() == self.ring {
            return Err(frame);
        }
        self.app -= 1;
        self.tx.push_back(frame);
        Ok(())
    }

    fn release(&mut self, frame: MemoryFrame) {
        self.app -= 1;
        self.free.push(frame);
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        let mut frame = self.free.pop()?;
        frame.len = 0;
        self.app += 1;
        Some(frame)
    }

    fn flush(&mut self) {
        self.rung = self.tx.len();
    }

    fn frames(&self) -> FrameLedger {
        FrameLedger {
            total: self.total,
            free: self.free.len(),
            fill: 0,
            rx: self.rx.len(),
            app: self.app,
            tx: self.tx.len(),
        }
    }
}
