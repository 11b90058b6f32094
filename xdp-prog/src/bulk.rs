//! The bulk lane: a TAP device for the large packets of flows that end in user space.
//!
//! The punt pair has segmentation off, so that each frame fits the packet memory. What a pod sends in large packets is
//! cut up for it, which costs more than all that follows. A connection that ends here needs no frames: its packets can
//! be as large as those of the kernel. The hook at the pod's veth sends them here by the flow's owner entry, and
//! those of ours leave here as if injected at `weft0`. The device and the program at it go with the process.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_rs::Link;
use rustix::io::Errno;
use weft_datapath::wire::{ethernet, ipv4, ipv6, tcp};

use crate::edge::tap;
use crate::netlink::{self, NetlinkError};
use crate::steering::{Error, Steering};

/// Name of the devices.
const NAME: &str = "weft-bulk%d";
/// Longest packet: what an IPv4 header can say, and the Ethernet header.
const PACKET: usize = ethernet::LEN + 65_535;

/// `struct virtio_net_hdr` of `linux/virtio_net.h`, in the machine's byte order (virtio 1.2 section 5.1.6).
mod header {
    use std::ops::Range;

    pub(super) const FLAGS: usize = 0;
    pub(super) const GSO_TYPE: usize = 1;
    pub(super) const HEADERS: Range<usize> = 2..4;
    pub(super) const GSO_SIZE: Range<usize> = 4..6;
    pub(super) const CHECKSUM_START: Range<usize> = 6..8;
    pub(super) const CHECKSUM_OFFSET: Range<usize> = 8..10;
    pub(super) const LEN: usize = 10;

    /// The checksum is that of the pseudo-header, and the rest is to be added.
    pub(super) const NEEDS_CHECKSUM: u8 = 1;
    /// The checksum has been verified.
    pub(super) const DATA_VALID: u8 = 2;
    /// To be segmented into TCP over IPv4.
    pub(super) const TCP4: u8 = 1;
    /// The same over IPv6.
    pub(super) const TCP6: u8 = 4;
}

/// Why there is no lane. Flows go by the punt pair then.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The device.
    #[error("cannot make a TAP device (is /dev/net/tun there?)")]
    Device(#[source] io::Error),
    /// The device cannot be brought up.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The program cannot be attached.
    #[error(transparent)]
    Steering(#[from] Error),
}

/// One worker's lane.
pub struct BulkLane {
    fd: OwnedFd,
    ifindex: u32,
    buffer: Box<[u8]>,
    /// Packets that the kernel did not take.
    lost: u64,
    _injected: Link,
}

impl BulkLane {
    /// Makes the device and attaches the program of `weft0` to it.
    ///
    /// # Errors
    /// When the machine has no TAP devices, or refuses this one.
    pub async fn open(steering: &Steering) -> Result<Self, BulkError> {
        let (fd, name) = tap::make(NAME).map_err(BulkError::Device)?;
        let ifindex = netlink::set_up_bulk(&name).await?;
        let injected = steering.attach_bulk(ifindex)?;
        Ok(Self {
            fd,
            ifindex,
            buffer: vec![0; header::LEN + PACKET].into(),
            lost: 0,
            _injected: injected,
        })
    }

    /// The device, to stand in owner entries.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Readable when a packet waits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes one packet, if one waits: the frame, and whether its checksums are known to be right or never were on a
    /// wire. A system call and a copy.
    pub(crate) fn receive(&mut self) -> Option<(&mut [u8], bool)> {
        let length = rustix::io::read(&self.fd, &mut self.buffer[..]).ok()?;
        let (head, frame) = self
            .buffer
            .get_mut(..length)?
            .split_at_mut_checked(header::LEN)?;
        let verified = head[header::FLAGS] & (header::NEEDS_CHECKSUM | header::DATA_VALID) != 0;
        Some((frame, verified))
    }

    /// Sends one packet of `len` bytes that `write` fills, to be cut into segments of `segment` bytes. The TCP checksum
    /// is that of the pseudo-header. Whether the kernel took it.
    pub(crate) fn send(
        &mut self,
        len: usize,
        segment: NonZeroU16,
        write: impl FnOnce(&mut [u8]),
    ) -> bool {
        let Some(room) = self.buffer.get_mut(..header::LEN + len) else {
            return false;
        };
        let (head, frame) = room.split_at_mut(header::LEN);
        write(frame);
        let (kind, l4) = match frame.get(ethernet::LEN).map_or(0, |byte| byte >> 4) {
            4 => (header::TCP4, ethernet::LEN + ipv4::LEN),
            _ => (header::TCP6, ethernet::LEN + ipv6::LEN),
        };
        let words = frame.get(l4 + tcp::DATA_OFFSET).map_or(5, |byte| byte >> 4);
        let headers = l4 + usize::from(words) * 4;
        let put = |head: &mut [u8], at: std::ops::Range<usize>, value: usize| {
            head[at].copy_from_slice(&(value as u16).to_ne_bytes());
        };
        head[header::FLAGS] = header::NEEDS_CHECKSUM;
        head[header::GSO_TYPE] = kind;
        put(head, header::HEADERS, headers);
        put(head, header::GSO_SIZE, segment.get().into());
        put(head, header::CHECKSUM_START, l4);
        put(head, header::CHECKSUM_OFFSET, tcp::CHECKSUM.start);
        let sent = match rustix::io::write(&self.fd, room) {
            Err(Errno::INTR) => rustix::io::write(&self.fd, room),
            result => result,
        };
        self.lost += u64::from(sent.is_err());
        sent.is_ok()
    }
}
