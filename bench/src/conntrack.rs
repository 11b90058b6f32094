//! Emptying a namespace's connection-tracking table.

use crate::namespace::Namespace;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::fs;
use std::os::fd::AsRawFd;

/// The number of entries of the reader's namespace.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// `nlmsghdr` and `nfgenmsg`: delete (IPCTNL_MSG_CT_DELETE = 2) of ctnetlink (1), any family,
/// NLM_F_REQUEST | NLM_F_ACK. Without attributes it means every entry.
fn flush_request() -> [u8; 20] {
    let mut message = [0; 20];
    message[0..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&((1_u16 << 8) | 2).to_ne_bytes());
    message[6..8].copy_from_slice(&5_u16.to_ne_bytes());
    message[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    message
}

/// Forgets every connection that `namespace` tracks; of other namespaces none.
pub fn flush(namespace: &Namespace) -> Result<()> {
    namespace
        .enter(request)?
        .with_context(|| format!("cannot empty the connection table of {}", namespace.name()))
}

/// How many connections `namespace` tracks.
pub fn count(namespace: &Namespace) -> Result<u64> {
    let text = namespace.enter(|| fs::read_to_string(COUNT))?;
    Ok(text.context(COUNT)?.trim().parse()?)
}

fn request() -> Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(
        netlink.as_raw_fd(),
        &flush_request(),
        &kernel,
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 256];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    ensure!(length >= 20, "a short answer");
    // nlmsgerr follows the header: a negative error number, or zero.
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(error == 0, "{}", Errno::from_raw(-error).desc());
    Ok(())
}
