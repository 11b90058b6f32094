//! Locks that workers share: nobody waits for one without bound.

use std::sync::{Mutex, MutexGuard, TryLockError};

/// How often a worker tries to get at what another one is in. That one needs some tens of nanoseconds,
/// unless the kernel takes its core away: then this ends after some microseconds.
const TRIES: usize = 256;

/// `None`: another worker is in there and does not come out.
pub(crate) fn soon<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..TRIES {
        match mutex.try_lock() {
            Ok(inside) => return Some(inside),
            // A panic ends the process; entries are written whole.
            Err(TryLockError::Poisoned(inside)) => return Some(inside.into_inner()),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    None
}
