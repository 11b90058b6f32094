//! A TAP device whose packets may be as long as the kernel's own, 64 KiB, with checksums left to be completed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

/// What `TUNSETOFFLOAD` is told that we take and send: unfinished checksums, and TCP packets to be segmented.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;

/// Makes a TAP device with a `virtio_net_hdr` before each packet, which goes with the returned descriptor. `pattern`
/// may hold a `%d` for the kernel to fill in; the name is returned.
pub(crate) fn make(pattern: &str) -> io::Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: an all-zero `ifreq` is a valid one: a name, and a union of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if pattern.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(pattern.bytes()) {
        *to = from as libc::c_char;
    }
    let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    // Why: rustix has no calls for tun.
    // SAFETY: an open descriptor, and a pointer to a live `ifreq` that the kernel reads and writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, OFFLOADS) })?;
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    let name = name.map(|byte| char::from(*byte as u8)).collect();
    Ok((fd, name))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Lets blocks of memory of 128 KiB and more always be mapped by themselves: they cost what of them is touched, and
/// nothing is zeroed that is thrown away untouched. Otherwise glibc raises that bound with the first one that is freed.
pub fn map_large_blocks() {
    // SAFETY: a number that `mallopt` documents, before or after any allocation.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
}
