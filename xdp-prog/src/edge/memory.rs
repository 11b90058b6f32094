//! A BPF array mapped into this process: the heartbeats, the flows on the fast path.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The values of a `BPF_F_MMAPABLE` array, shared with the programs.
#[derive(Debug)]
pub(crate) struct MappedArray {
    start: NonNull<u8>,
    length: usize,
    stride: usize,
    count: usize,
}

// SAFETY: the mapping belongs to this value, lives as long as it, and is only reached as atomics.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps `count` values of `stride` bytes each. The array behind `fd` must have as many; the
    /// kernel refuses a mapping beyond its end.
    pub(crate) fn new(fd: impl AsFd, stride: usize, count: usize) -> io::Result<Self> {
        if stride < size_of::<u64>() || !stride.is_multiple_of(align_of::<AtomicU64>()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = stride * count;
        // Why: there is no safe way to map memory that somebody else writes.
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours; it
        // is only ever accessed through atomics.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            start,
            length,
            stride,
            count,
        })
    }

    /// Its values.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The eight bytes of a value that begin `offset` bytes into it.
    pub(crate) fn word(&self, index: usize, offset: usize) -> Option<&AtomicU64> {
        self.part(index, offset)
    }

    /// The same, four bytes.
    pub(crate) fn half(&self, index: usize, offset: usize) -> Option<&AtomicU32> {
        self.part(index, offset)
    }

    /// The same, two bytes.
    pub(crate) fn quarter(&self, index: usize, offset: usize) -> Option<&AtomicU16> {
        self.part(index, offset)
    }

    /// `T` is an atomic integer.
    fn part<T>(&self, index: usize, offset: usize) -> Option<&T> {
        let fits = offset.is_multiple_of(size_of::<T>()) && offset + size_of::<T>() <= self.stride;
        if index >= self.count || !fits {
            return None;
        }
        // SAFETY: the bytes are within the mapping (checked here; `new` has made it `count` strides long) and
        // aligned, as it is page aligned and the stride a multiple of 8. They are only ever reached as atomics, and live
        // as long as `self`.
        Some(unsafe {
            &*self
                .start
                .as_ptr()
                .add(index * self.stride + offset)
                .cast::<T>()
        })
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length, and no reference outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}
