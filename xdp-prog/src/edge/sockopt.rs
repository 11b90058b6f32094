//! Socket options of AF_XDP that xsk-rs and rustix do not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `XDP_MAX_TX_SKB_BUDGET` of `linux/if_xdp.h` (Linux 6.17): frames that one doorbell may send.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Raises how many frames one doorbell sends in copy mode (32 by default).
pub(crate) fn set_max_tx_budget(socket: BorrowedFd<'_>, frames: u32) -> io::Result<()> {
    // Why: no crate knows this option yet.
    // SAFETY: the pointer is to a live u32 and the length is its size.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const frames).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
