//! Map operations in batches. libbpf-rs has them too, but loses how far a failed batch came, copies
//! every element into two allocations, and ends a scan silently when a bucket outgrows its batch.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Runs a `SEC("syscall")` program over `context`; what it returned.
pub(crate) fn run_syscall<C: FromBytes + IntoBytes + Immutable>(
    program: BorrowedFd<'_>,
    context: &mut C,
) -> io::Result<i32> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        ctx_in: ptr::from_mut(context).cast(),
        ctx_size_in: size_of::<C>() as u32,
        ..Default::default()
    };
    // Why: libbpf-rs allocates for each run.
    // SAFETY: the context has the size given, the kernel copies it in and, since no output is asked for, only reads it.
    let code = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) };
    result(code).map(|()| options.retval.cast_signed())
}

fn options() -> libbpf_sys::bpf_map_batch_opts {
    libbpf_sys::bpf_map_batch_opts {
        sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as _,
        ..Default::default()
    }
}

fn result(code: i32) -> io::Result<()> {
    if code < 0 {
        Err(io::Error::from_raw_os_error(-code))
    } else {
        Ok(())
    }
}

/// A map's descriptor together with the element sizes the kernel will read and write.
///
/// Only [`crate::maps::TypedMap`] makes one, after comparing both sizes with the map's own.
#[derive(Copy, Clone)]
pub(crate) struct SizedMap<'fd> {
    fd: BorrowedFd<'fd>,
    key: usize,
    value: usize,
}

impl<'fd> SizedMap<'fd> {
    pub(crate) fn new(fd: BorrowedFd<'fd>, key: usize, value: usize) -> Self {
        Self { fd, key, value }
    }

    /// Inserts or replaces `keys[i] = values[i]`. Returns how many were written before the error,
    /// if there was one.
    pub(crate) fn update<K, V>(&self, keys: &[K], values: &[V]) -> (usize, io::Result<()>)
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        if size_of::<K>() != self.key || size_of::<V>() != self.value || keys.len() != values.len()
        {
            return (0, Err(io::ErrorKind::InvalidInput.into()));
        }
        let mut count = keys.len() as u32;
        // Why: libbpf-rs drops the count of a batch that failed half way.
        // SAFETY: both arrays hold `count` elements of exactly the map's sizes (checked above), and
        // the kernel only reads them.
        let code = unsafe {
            libbpf_sys::bpf_map_update_batch(
                self.fd.as_raw_fd(),
                keys.as_ptr().cast(),
                values.as_ptr().cast(),
                &mut count,
                &options(),
            )
        };
        (done(count, keys.len(), code), result(code))
    }

    /// Deletes the keys. Returns how many were deleted before the error, if there was one: the key
    /// that failed (not there, for example) is the one behind.
    pub(crate) fn delete<K>(&self, keys: &[K]) -> (usize, io::Result<()>)
    where
        K: IntoBytes + Immutable,
    {
        if size_of::<K>() != self.key {
            return (0, Err(io::ErrorKind::InvalidInput.into()));
        }
        let mut count = keys.len() as u32;
        // Why: libbpf-rs drops the count of a batch that failed half way.
        // SAFETY: `keys` holds `count` keys of the map's size (checked above), only read.
        let code = unsafe {
            libbpf_sys::bpf_map_delete_batch(
                self.fd.as_raw_fd(),
                keys.as_ptr().cast(),
                &mut count,
                &options(),
            )
        };
        (done(count, keys.len(), code), result(code))
    }

    /// Reads one element into `value`, without the allocation of libbpf-rs.
    ///
    /// # Errors
    /// ENOENT where it is not there. `value` is as it was.
    pub(crate) fn lookup<K, V>(&self, key: &K, value: &mut V) -> io::Result<()>
    where
        K: IntoBytes + Immutable,
        V: FromBytes + IntoBytes,
    {
        if size_of::<K>() != self.key || size_of::<V>() != self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Why: libbpf-rs allocates the answer, and this is for a worker.
        // SAFETY: both are of exactly the map's sizes (checked above), and any bytes are valid for the value
        // (FromBytes).
        let code = unsafe {
            libbpf_sys::bpf_map_lookup_elem(
                self.fd.as_raw_fd(),
                ptr::from_ref(key).cast(),
                ptr::from_mut(value).cast(),
            )
        };
        result(code)
    }

    /// Calls `element` for every element of a hash map. Elements that come or go meanwhile may or
    /// may not be seen.
    pub(crate) fn scan<K, V>(&self, mut element: impl FnMut(K, V)) -> io::Result<()>
    where
        K: FromBytes + FromZeros + KnownLayout + Copy,
        V: FromBytes + FromZeros + KnownLayout + Copy,
    {
        if size_of::<K>() != self.key || size_of::<V>() != self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The kernel copies whole buckets: a batch must hold the fullest one.
        let mut room = 1024;
        let mut keys = vec![K::new_zeroed(); room];
        let mut values = vec![V::new_zeroed(); room];
        // A hash map's position is a bucket number (u32); the kernel never writes more than a key.
        let mut position = [0_u8; 64];
        if self.key > position.len() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut started = false;
        // Bounded by the map: every round but the last either moves on or doubles the room.
        loop {
            let mut count = room as u32;
            let mut next = position;
            let from = if started {
                position.as_mut_ptr().cast()
            } else {
                ptr::null_mut()
            };
            // Why: libbpf-rs takes ENOSPC for the end of the map.
            // SAFETY: `keys` and `values` have room for `count` elements of the map's sizes
            // (checked above), any bytes are valid for them (FromBytes), and both positions are at
            // least as long as a key.
            let code = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    self.fd.as_raw_fd(),
                    from,
                    next.as_mut_ptr().cast(),
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    &mut count,
                    &options(),
                )
            };
            let end = code == -libc::ENOENT;
            if code == -libc::ENOSPC {
                room *= 2;
                keys.resize(room, K::new_zeroed());
                values.resize(room, V::new_zeroed());
                continue;
            }
            if !end {
                result(code)?;
            }
            let seen = (count as usize).min(room);
            for (key, value) in keys[..seen].iter().zip(&values[..seen]) {
                element(*key, *value);
            }
            if end {
                return Ok(());
            }
            position = next;
            started = true;
        }
    }
}

/// The kernel leaves `count` alone when it refuses a batch as a whole.
fn done(count: u32, asked: usize, code: i32) -> usize {
    match code {
        0 => asked,
        _ if count as usize >= asked => 0,
        _ => count as usize,
    }
}
