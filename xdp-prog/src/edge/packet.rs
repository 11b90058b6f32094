//! Packet sockets (packet(7)), whose addresses rustix does not know.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A socket that sends whole Ethernet frames out of that interface, and receives nothing.
pub(crate) fn frame_socket(ifindex: u32) -> io::Result<OwnedFd> {
    let (family, flags) = (AddressFamily::PACKET, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, SocketType::RAW, flags, None)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0, // Of nothing that comes in.
        sll_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // Why: rustix has no such address.
    // SAFETY: the pointer is to a live address of this family, and the length is its size.
    let code = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(socket)
    }
}
