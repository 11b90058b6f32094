//! Headers that the stack writes itself: whole packets without data, and the plain header in front of a segment's
//! data that a socket gets to see.

use weft_datapath::wire::{ipv4, ipv6, tcp};
use weft_datapath::{Checksum, Protocol, Tuple, l4_checksum};

use crate::seq::Seq;

/// Window field of a TCP header, which [`weft_datapath::wire`] has no use for.
pub(crate) const WINDOW: std::ops::Range<usize> = 14..16;
/// Urgent pointer of a TCP header.
pub(crate) const URGENT: std::ops::Range<usize> = 18..20;
/// Control bit: push.
pub(crate) const PSH: u8 = 0x08;
/// Hop count of what the stack sends (RFC 1700's default).
const HOPS: u8 = 64;
/// Longest header the stack or a socket sends: IPv6, TCP, and 40 bytes of options.
pub(crate) const HEADER_MAX: usize = ipv6::LEN + tcp::LEN + 40;

/// What a TCP header says beyond its ports.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) seq: Seq,
    /// Absent: no ACK bit.
    pub(crate) ack: Option<Seq>,
    /// Control bits without ACK.
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// A multiple of 4 bytes.
    pub(crate) options: &'a [u8],
}

/// Bytes of the IP header of this tuple's family, without options.
pub(crate) fn ip_len(tuple: &Tuple) -> usize {
    if tuple.src.is_v4() {
        ipv4::LEN
    } else {
        ipv6::LEN
    }
}

/// Bytes of an IP and a TCP header with so many bytes of options.
pub(crate) fn header_len(tuple: &Tuple, options: usize) -> usize {
    ip_len(tuple) + tcp::LEN + options
}

/// Writes both headers into `packet`, which has exactly their length and that of the data behind. Checksums
/// stay zero; see [`seal`].
pub(crate) fn write(packet: &mut [u8], tuple: &Tuple, header: &Header<'_>) {
    let total = packet.len();
    let ip = ip_len(tuple);
    let (l3, l4) = packet.split_at_mut(ip);
    l3.fill(0);
    if tuple.src.is_v4() {
        l3[ipv4::VERSION_IHL] = 0x45;
        l3[ipv4::TOTAL_LENGTH].copy_from_slice(&(total as u16).to_be_bytes());
        l3[ipv4::FRAGMENT].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
        l3[ipv4::TTL] = HOPS;
        l3[ipv4::PROTOCOL] = Protocol::Tcp.number();
        l3[ipv4::SRC].copy_from_slice(&tuple.src.v4_octets());
        l3[ipv4::DST].copy_from_slice(&tuple.dst.v4_octets());
    } else {
        l3[ipv6::VERSION_CLASS_FLOW.start] = 0x60;
        l3[ipv6::PAYLOAD_LENGTH].copy_from_slice(&((total - ip) as u16).to_be_bytes());
        l3[ipv6::NEXT_HEADER] = Protocol::Tcp.number();
        l3[ipv6::HOP_LIMIT] = HOPS;
        l3[ipv6::SRC].copy_from_slice(&tuple.src.0);
        l3[ipv6::DST].copy_from_slice(&tuple.dst.0);
    }
    let (fixed, rest) = l4.split_at_mut(tcp::LEN);
    let ack = if header.ack.is_some() { tcp::ACK } else { 0 };
    fixed[tcp::SPORT].copy_from_slice(&tuple.sport.to_be_bytes());
    fixed[tcp::DPORT].copy_from_slice(&tuple.dport.to_be_bytes());
    fixed[tcp::SEQUENCE].copy_from_slice(&header.seq.0.to_be_bytes());
    let acknowledged = header.ack.unwrap_or_default().0;
    fixed[tcp::ACKNOWLEDGEMENT].copy_from_slice(&acknowledged.to_be_bytes());
    fixed[tcp::DATA_OFFSET] = (((tcp::LEN + header.options.len()) / 4) as u8) << 4;
    fixed[tcp::FLAGS] = header.flags | ack;
    fixed[WINDOW].copy_from_slice(&header.window.to_be_bytes());
    fixed[tcp::CHECKSUM].fill(0);
    fixed[URGENT].fill(0);
    rest[..header.options.len()].copy_from_slice(header.options);
}

/// Fills in the checksums of a packet without IP options: of the IP header, and of the TCP packet in full, or, where
/// the device does `segmentation`, of the pseudo-header alone, as virtio-net asks for (VIRTIO_NET_HDR_F_NEEDS_CSUM).
pub(crate) fn seal(packet: &mut [u8], tuple: &Tuple, segmentation: bool) {
    let ip = ip_len(tuple);
    let (l3, l4) = packet.split_at_mut(ip);
    if tuple.src.is_v4() {
        l3[ipv4::CHECKSUM].fill(0);
        let sum = Checksum::default().with(l3).finish();
        l3[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
    l4[tcp::CHECKSUM].fill(0);
    let sum = if segmentation {
        let proto = Protocol::Tcp.number();
        let pseudo = Checksum::default().pseudo_header(&tuple.src, &tuple.dst, proto, l4.len());
        !pseudo.finish()
    } else {
        l4_checksum(&tuple.src, &tuple.dst, Protocol::Tcp, l4)
    };
    l4[tcp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
}
