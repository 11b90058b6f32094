//! A frame's memory while the data core works on it.

use crate::DropReason;

/// A frame: bytes in use and the room behind them.
///
/// `len() <= capacity()` always; growing exposes whatever the memory held before.
#[derive(Debug)]
pub struct FrameBuf<'a> {
    memory: &'a mut [u8],
    len: usize,
}

impl<'a> FrameBuf<'a> {
    /// The frame in the first `len` bytes of `memory`. A `len` beyond the memory is cut to it.
    pub fn new(memory: &'a mut [u8], len: usize) -> Self {
        let len = len.min(memory.len());
        Self { memory, len }
    }

    /// The bytes in use, from the Ethernet header on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// The bytes in use, to be written.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// Bytes in use.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the frame's memory holds.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Sets the bytes in use; [`DropReason::FrameRoom`], and nothing changed, when the memory is smaller.
    pub fn resize(&mut self, len: usize) -> Result<(), DropReason> {
        if len > self.memory.len() {
            return Err(DropReason::FrameRoom);
        }
        self.len = len;
        Ok(())
    }
}
