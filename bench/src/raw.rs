//! Frames straight onto a pod's wire and straight off it (packet(7)).

use crate::namespace::Namespace;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

/// Room for what arrives between two looks.
const BUFFER: usize = 8 << 20;
/// Longest frame: veths of a lab have an MTU of 1500, and nothing is merged on the way.
const FRAME: usize = 4096;
/// `sll_pkttype` of what this interface itself sends.
const OUTGOING: u8 = 4;

/// A socket for whole frames on `interface` of this thread's namespace, with room for `buffer` bytes of them, and
/// the interface's address.
pub fn packet_socket(
    interface: &str,
    flags: SockFlag,
    buffer: usize,
) -> Result<(OwnedFd, LinkAddr)> {
    let link = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {interface} here"))?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | flags,
        SockProtocol::EthAll,
    )?;
    bind(socket.as_raw_fd(), &link)?;
    setsockopt(&socket, sockopt::RcvBufForce, &buffer)?;
    Ok((socket, link))
}

/// A socket on one interface that sends and receives whole Ethernet frames.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    link: LinkAddr,
    /// The interface's address.
    pub mac: [u8; 6],
    /// The address of its IPv4 neighbour, which in a pod is its gateway; zero where there is none.
    pub gateway: [u8; 6],
}

impl Wire {
    /// Opens it on `interface` inside `namespace`.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.enter(|| Self::open_here(interface))?
    }

    fn open_here(interface: &str) -> Result<Self> {
        let table = fs::read_to_string("/proc/thread-self/net/arp")?;
        let (socket, link) = packet_socket(interface, SockFlag::SOCK_NONBLOCK, BUFFER)?;
        Ok(Self {
            socket,
            mac: link.addr().context("the interface has no link address")?,
            gateway: gateway(&table, interface).unwrap_or_default(),
            link,
        })
    }

    /// Sends one frame; `false` when the interface had no room.
    pub fn send(&self, frame: &[u8]) -> Result<bool> {
        match sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.link,
            MsgFlags::empty(),
        ) {
            Ok(sent) => {
                ensure!(sent == frame.len(), "half a frame was sent");
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(false),
            Err(error) => Err(error).context("the interface takes no frames"),
        }
    }

    /// The next frame that came in, if there is one.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut frame = [0; FRAME];
        // Ends: each turn takes one frame out of the socket.
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) {
                Ok((_, Some(from))) if from.pkttype() == OUTGOING => {}
                Ok((length, _)) => return Ok(Some(frame[..length].to_vec())),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("the capture failed"),
            }
        }
    }
}

/// The link address of the gateway on `interface`, out of /proc/net/arp.
fn gateway(table: &str, interface: &str) -> Result<[u8; 6]> {
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.last() == Some(&interface))
        .and_then(|words| mac(words.get(3)?))
        .with_context(|| format!("no neighbour on {interface}"))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut words = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(words.next()?, 16).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_the_neighbour_on_the_interface() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     169.254.1.1      0x1         0x6         02:00:00:00:ee:01     *        eth0\n";
        assert_eq!(gateway(table, "eth0").unwrap(), [2, 0, 0, 0, 0xee, 1]);
        assert!(gateway(table, "eth1").is_err());
    }
}
