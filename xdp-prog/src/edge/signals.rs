//! Signals that a process does not mind.

use std::io;

/// Ignores what asks a process to end: SIGTERM, SIGINT and SIGHUP.
pub fn ignore_ends() -> io::Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // Why: neither std nor rustix offers it.
        // SAFETY: no handler is installed, so no code of ours ever runs in a signal's context.
        let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
        if before == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
