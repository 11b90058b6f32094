//! Signals that a process does not mind, or not yet.

use std::io;
use std::mem::MaybeUninit;

/// What asks a process to end, or to read its files again.
const ENDS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Ignores what asks a process to end: SIGTERM, SIGINT and SIGHUP.
pub fn ignore_ends() -> io::Result<()> {
    for signal in ENDS {
        // Why: neither std nor rustix offers it.
        // SAFETY: no handler is installed, so no code of ours ever runs in a signal's context.
        let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
        if before == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Lets the same signals wait, as far as this thread is concerned, until [`release_ends`]. They wait beyond
/// [`execute`](crate::execute), too.
pub fn hold_ends() -> io::Result<()> {
    mask(libc::SIG_BLOCK)
}

/// Takes them again, and those that have waited. A thread that was started under [`hold_ends`] is another matter.
pub fn release_ends() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK)
}

fn mask(how: libc::c_int) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // Why: neither std nor rustix changes a thread's mask.
    // SAFETY: `sigemptyset` makes a whole set of the memory that it is given; the others read and write that set only,
    // and the signals are some that exist.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
