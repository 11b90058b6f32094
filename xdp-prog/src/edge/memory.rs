//! A BPF array mapped into this process: the heartbeats.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

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

    /// The first eight bytes of a value.
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.count {
            return None;
        }
        // SAFETY: `index * stride + 8 <= length` (checked here and in `new`), the mapping is page
        // aligned and the stride a multiple of 8, and it lives as long as `self`.
        Some(unsafe {
            &*self
                .start
                .as_ptr()
                .add(index * self.stride)
                .cast::<AtomicU64>()
        })
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length, and no reference outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}
