//! The device that a socket sees: one packet in, headers out into a scratch, or packets out into frames.

use std::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use weft_datapath::Tuple;

use crate::header::{self, HEADER_MAX, Header};

/// What a socket may at most send in one packet. Segment sizes are governed per connection, through what the
/// socket is told that its peer takes; this is the most that an IPv4 packet can be.
pub(crate) const MTU: usize = 65_535;

/// One packet to be sent.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Where to: the tag of the connection's [`crate::Route`].
    pub tag: u32,
    /// Bytes of the IP packet.
    pub len: usize,
    /// Where the device has to segment it: bytes of data in each segment. Its TCP checksum is that of the
    /// pseudo-header then. Only connections told so with [`crate::Stream::set_segmentation`] send such packets.
    pub segment: Option<NonZeroU16>,
}

/// Where a stack's packets go. Nothing is sent without room, and the stack drops nothing for the lack of it: what
/// waits is asked for again at the next poll.
pub trait Transmit {
    /// Whether there is a free frame, and room for it on the way out.
    fn ready(&mut self) -> bool;

    /// Sends one IP packet. `write` gets exactly `packet.len` bytes and fills all of them. Called only after
    /// [`Self::ready`] said so.
    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8]));
}

pub(crate) fn capabilities(segmentation: bool, mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    // The stack verifies before and fills in after it has moved the sequence numbers.
    capabilities.checksum = ChecksumCapabilities::ignored();
    if segmentation {
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(MTU);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(MTU);
    }
    capabilities
}

/// A packet of headers alone.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    len: usize,
    bytes: [u8; HEADER_MAX],
}

impl Scratch {
    pub(crate) const EMPTY: Self = Self {
        len: 0,
        bytes: [0; HEADER_MAX],
    };

    /// An empty packet of `len` bytes, at most [`HEADER_MAX`].
    pub(crate) fn sized(len: usize) -> Self {
        Self { len, ..Self::EMPTY }
    }

    /// A packet of `header` alone from and to the ends of `tuple`, without checksums.
    pub(crate) fn of(tuple: &Tuple, header: &Header<'_>) -> Self {
        let mut packet = Self::sized(header::header_len(tuple, header.options.len()));
        header::write(packet.bytes_mut(), tuple, header);
        packet
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Hands one packet to a socket, or takes one packet without data from it.
pub(crate) struct Exchange<'a> {
    pub(crate) packet: Option<&'a [u8]>,
    pub(crate) reply: &'a mut Scratch,
}

impl Device for Exchange<'_> {
    type RxToken<'a>
        = Packet<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Reply<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Packet<'_>, Reply<'_>)> {
        let packet = self.packet.take()?;
        Some((Packet(packet), Reply(self.reply)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Reply<'_>> {
        self.reply.is_empty().then_some(Reply(self.reply))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(false, MTU)
    }
}

pub(crate) struct Packet<'a>(&'a [u8]);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(crate) struct Reply<'a>(&'a mut Scratch);

impl TxToken for Reply<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        // A reply has no data, and a packet with data is never asked for here.
        assert!(len <= HEADER_MAX, "{len} bytes are not headers alone");
        *self.0 = Scratch::sized(len);
        f(self.0.bytes_mut())
    }
}

/// What a socket sends goes out through here, after `patch` has had it.
pub(crate) struct Drain<'a, T, P> {
    pub(crate) out: &'a mut T,
    pub(crate) tag: u32,
    /// Bytes of the longest packet that is one segment, and of the data in it, for a connection whose device
    /// segments.
    pub(crate) segment: Option<(usize, NonZeroU16)>,
    /// Bytes of the longest packet, where the path carries less than the peer takes.
    pub(crate) path: Option<u16>,
    pub(crate) patch: P,
    /// Set when there was no room.
    pub(crate) exhausted: bool,
}

impl<T: Transmit, P: FnMut(&mut [u8], bool)> Device for Drain<'_, T, P> {
    type RxToken<'a>
        = Packet<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Frame<'a, T, P>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Packet<'_>, Frame<'_, T, P>)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Frame<'_, T, P>> {
        if !self.out.ready() {
            self.exhausted = true;
            return None;
        }
        Some(Frame {
            out: self.out,
            tag: self.tag,
            segment: self.segment,
            patch: &mut self.patch,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.segment.is_some(), MTU)
    }
}

pub(crate) struct Frame<'a, T, P> {
    out: &'a mut T,
    tag: u32,
    segment: Option<(usize, NonZeroU16)>,
    patch: &'a mut P,
}

impl<T: Transmit, P: FnMut(&mut [u8], bool)> TxToken for Frame<'_, T, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let segment = self.segment.filter(|(longest, _)| len > *longest);
        let packet = Outgoing {
            tag: self.tag,
            len,
            segment: segment.map(|(_, size)| size),
        };
        let mut result = None;
        self.out.send(packet, |bytes| {
            result = Some(f(bytes));
            (self.patch)(bytes, segment.is_some());
        });
        result.expect("`send` calls `write`")
    }
}
