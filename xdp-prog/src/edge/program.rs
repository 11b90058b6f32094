//! Another program in this process's place, or beside it.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Puts `program` in this process's place, with `arguments` (its own name first) and `environment` (`name=value`). What
/// is not close-on-exec stays open, and signals that are [held](super::signals::hold_ends) stay held; `std` would let go of them.
///
/// Returns only when the kernel refuses, and why.
pub fn execute(program: &Path, arguments: &[OsString], environment: &[OsString]) -> io::Error {
    let words = |words: &[OsString]| -> io::Result<Vec<CString>> {
        words.iter().map(|word| text(word)).collect()
    };
    let made = || {
        Ok((
            text(program.as_os_str())?,
            words(arguments)?,
            words(environment)?,
        ))
    };
    let (program, arguments, environment) = match made() {
        Ok(made) => made,
        Err(error) => return error,
    };
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        let words = words.iter().map(|word| word.as_ptr());
        words.chain([std::ptr::null()]).collect()
    };
    let (arguments_at, environment_at) = (pointers(&arguments), pointers(&environment));
    // Why: `std` empties the signal mask first, and what then comes before the next handler ends the process.
    // SAFETY: the path and every word end in a zero, both lists in a null pointer, and all live until the call has
    // failed, if it does.
    unsafe {
        libc::execve(
            program.as_ptr(),
            arguments_at.as_ptr(),
            environment_at.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

fn text(word: &OsStr) -> io::Result<CString> {
    CString::new(word.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Takes over a descriptor that the program before this one in the same process has left open, once.
///
/// # Errors
/// When there is none by that number, or it is this program's own.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: of a number that is not open the kernel says so, and nothing is closed.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(there)?.contains(FdFlags::CLOEXEC) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fcntl_setfd(there, FdFlags::CLOEXEC)?;
    // Why: only a number can be handed on.
    // SAFETY: the descriptor is open. Nobody in this program owns it: all that it opens is close-on-exec, and so is from
    // now on what was taken over before.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets this process wait where a worker wants the core, whatever priority it was started with by one that has workers.
pub fn give_way() -> io::Result<()> {
    let plain = libc::sched_param { sched_priority: 0 };
    // Why: rustix has no call for it.
    // SAFETY: a pointer to a whole `sched_param` that the kernel only reads.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const plain) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
