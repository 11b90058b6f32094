//! One bounded look at a frame, into a type that cannot be wrong.

use std::ops::Range;

use crate::extension::{self, Chain};
use crate::icmp::IcmpMessage;
use crate::wire::{be16, be32, ethernet, icmp, ipv4, ipv6, ipv6_fragment, tcp, udp};
use crate::{Address, DropReason, Protocol, Tuple};

#[cfg(test)]
mod tests;

/// The IP version of a packet.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The control bits of a TCP header.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// A SYN that opens: without ACK, and without the RST or FIN that no honest stack adds.
    #[inline]
    pub fn opens(self) -> bool {
        self.0 & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }

    /// The sender has no more data.
    #[inline]
    pub fn fin(self) -> bool {
        self.0 & tcp::FIN != 0
    }

    /// The sender aborts.
    #[inline]
    pub fn rst(self) -> bool {
        self.0 & tcp::RST != 0
    }
}

/// A TCP or UDP packet in a frame, or the first fragment of one. Only [`parse`] and [`Fragment::head`]
/// make one.
///
/// Invariant, for the frame it was parsed from: `14 <= l4 <= end <= frame length`, the IP header
/// and the whole TCP or UDP header lie within, and lengths in the headers agree. So every accessor of
/// a header field by a range of [`crate::wire`] is in bounds. A first fragment may end before the length
/// in its UDP header.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    tuple: Tuple,
    family: Family,
    flags: TcpFlags,
    hops: u8,
    l4: usize,
    end: usize,
    whole: bool,
}

impl Packet {
    /// The ends.
    #[inline]
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// The IP version.
    #[inline]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The TCP control bits; none for UDP.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        self.flags
    }

    /// TTL or hop limit.
    #[inline]
    pub fn hops(&self) -> u8 {
        self.hops
    }

    /// Where the TCP or UDP header starts in the frame.
    #[inline]
    pub fn l4(&self) -> usize {
        self.l4
    }

    /// Where the IP packet ends in the frame: Ethernet padding may follow.
    #[inline]
    pub fn end(&self) -> usize {
        self.end
    }

    /// Whether all of it is in the frame: false for a first fragment, whose checksum covers more.
    #[inline]
    pub fn whole(&self) -> bool {
        self.whole
    }

    /// Whether the packet may open a flow: any UDP datagram, or a TCP SYN without ACK.
    #[inline]
    pub fn opens(&self) -> bool {
        match self.tuple.proto {
            Protocol::Tcp => self.flags.opens(),
            Protocol::Udp => true,
        }
    }
}

/// A fragment of a TCP or UDP packet (RFC 791 section 3.2, RFC 8200 section 4.5). Only [`parse`] makes one.
///
/// Invariant, for the frame it was parsed from: `14 <= payload <= end <= frame length`, and the IP header
/// lies before `payload`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Fragment {
    ends: Ends,
    id: u32,
    offset: u16,
    more: bool,
    payload: usize,
    end: usize,
}

impl Fragment {
    /// Source address.
    pub fn src(&self) -> Address {
        self.ends.src
    }

    /// Destination address.
    pub fn dst(&self) -> Address {
        self.ends.dst
    }

    /// The protocol of the packet that it is a part of.
    pub fn proto(&self) -> Protocol {
        self.ends.proto
    }

    /// The IP version.
    pub fn family(&self) -> Family {
        self.ends.family
    }

    /// TTL or hop limit.
    pub fn hops(&self) -> u8 {
        self.ends.hops
    }

    /// What its packet's fragments have in common: 16 bits in IPv4, 32 in IPv6.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Where its payload stands in that of the packet, in bytes.
    pub fn offset(&self) -> usize {
        usize::from(self.offset)
    }

    /// Bytes of the packet's payload in it.
    pub fn len(&self) -> usize {
        self.end - self.payload
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the IP packet ends in the frame.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Whether it is not the last of its packet.
    pub fn more(&self) -> bool {
        self.more
    }

    /// Whether it is the first of its packet, which has the ports.
    pub fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// A first and last one, to be handled apart from all others (RFC 6946 section 4).
    pub fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }

    /// The packet that this first fragment begins, from the frame it was parsed from.
    ///
    /// # Errors
    /// [`DropReason::FragmentTiny`] when the transport header goes on in the next fragment, which no honest
    /// stack does (RFC 1858 section 3, RFC 7112); other reasons when that header is malformed.
    pub fn head(&self, frame: &[u8]) -> Result<Packet, DropReason> {
        let payload = &frame[self.payload..self.end];
        let header = match self.ends.proto {
            Protocol::Tcp => payload.get(tcp::DATA_OFFSET).map_or(tcp::LEN, |offset| {
                (usize::from(offset >> 4) * 4).max(tcp::LEN)
            }),
            Protocol::Udp => udp::LEN,
        };
        if payload.len() < header {
            return Err(DropReason::FragmentTiny);
        }
        parse_l4(frame, self.payload, self.end, self.ends, !self.more)
    }
}

/// What keeps a well-formed packet from having a flow.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Unflowed {
    /// A fragment of neither TCP nor UDP.
    Fragment,
    /// Neither TCP, UDP nor ICMP of the packet's family: the protocol's number.
    Protocol(u8),
    /// IPv6 extension headers that are not followed: too many, too long, or a routing header with
    /// segments left.
    Extension,
    /// A v4-mapped address in an IPv6 header: it would be taken for IPv4, so nothing is looked up by it.
    Mapped,
}

/// What a well-formed frame holds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A packet with ports.
    Flow(Packet),
    /// A part of one.
    Fragment(Fragment),
    /// A message of ICMP in IPv4, or of ICMPv6 in IPv6.
    Icmp(IcmpMessage),
    /// A packet without ports, from `src` to `dst`.
    Other {
        /// Source address.
        src: Address,
        /// Destination address.
        dst: Address,
        /// Why it has no ports.
        why: Unflowed,
    },
}

/// Looks at a frame from its Ethernet header on. Errors name what is malformed.
///
/// All of it goes into the caller, and what is rare stays out, so that a packet's fields are registers there: handed
/// over in memory they cost a packet of a known flow a third more time.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    if frame.len() < ethernet::LEN {
        return Err(DropReason::EthernetHeader);
    }
    match be16(frame, ethernet::TYPE) {
        ethernet::IPV4 => parse_ipv4(frame),
        ethernet::IPV6 => parse_ipv6(frame),
        _ => Err(DropReason::EtherType),
    }
}

#[inline(always)]
fn parse_ipv4(frame: &[u8]) -> Result<Parsed, DropReason> {
    let l3 = &frame[ethernet::LEN..];
    let header: &[u8; ipv4::LEN] = l3.first_chunk().ok_or(DropReason::Ipv4Header)?;
    let header_len = usize::from(header[ipv4::VERSION_IHL] & 0x0f) * 4;
    if header[ipv4::VERSION_IHL] >> 4 != 4 || header_len < ipv4::LEN || header_len > l3.len() {
        return Err(DropReason::Ipv4Header);
    }
    let total = usize::from(be16(header, ipv4::TOTAL_LENGTH));
    if total < header_len || total > l3.len() {
        return Err(DropReason::Ipv4Length);
    }
    let address = |at: Range<usize>| {
        let octets = &header[at];
        Address::from_v4([octets[0], octets[1], octets[2], octets[3]])
    };
    let (src, dst) = (address(ipv4::SRC), address(ipv4::DST));
    let (payload, end) = (ethernet::LEN + header_len, ethernet::LEN + total);
    let (number, hops) = (header[ipv4::PROTOCOL], header[ipv4::TTL]);
    let fragment = be16(header, ipv4::FRAGMENT);
    let part = fragment & ipv4::FRAGMENT_MASK != 0;
    let Some(proto) = Protocol::from_number(number) else {
        if part {
            let why = Unflowed::Fragment;
            return Ok(Parsed::Other { src, dst, why });
        }
        return parse_other(frame, payload..end, number, (src, dst, Family::V4, hops));
    };
    let ends = Ends {
        src,
        dst,
        proto,
        family: Family::V4,
        hops,
    };
    if part {
        return Ok(Parsed::Fragment(Fragment {
            ends,
            id: be16(header, ipv4::ID).into(),
            offset: (fragment & ipv4::OFFSET_MASK) << 3,
            more: fragment & ipv4::MORE_FRAGMENTS != 0,
            payload,
            end,
        }));
    }
    parse_l4(frame, payload, end, ends, true).map(Parsed::Flow)
}

#[inline(always)]
fn parse_ipv6(frame: &[u8]) -> Result<Parsed, DropReason> {
    let l3 = &frame[ethernet::LEN..];
    let header: &[u8; ipv6::LEN] = l3.first_chunk().ok_or(DropReason::Ipv6Header)?;
    if header[ipv6::VERSION_CLASS_FLOW.start] >> 4 != 6 {
        return Err(DropReason::Ipv6Header);
    }
    let total = ipv6::LEN + usize::from(be16(header, ipv6::PAYLOAD_LENGTH));
    if total > l3.len() {
        return Err(DropReason::Ipv6Length);
    }
    let address = |at: Range<usize>| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at]);
        Address(octets)
    };
    let (src, dst) = (address(ipv6::SRC), address(ipv6::DST));
    if src.is_v4() || dst.is_v4() {
        return Ok(Parsed::Other {
            src,
            dst,
            why: Unflowed::Mapped,
        });
    }
    let Chain { next, at, .. } = extension::walk(&l3[..total])?;
    let (hops, end) = (header[ipv6::HOP_LIMIT], ethernet::LEN + total);
    let payload = ethernet::LEN + at;
    let proto = match (Protocol::from_number(next), next) {
        (Some(proto), _) => proto,
        (None, ipv6::FRAGMENT) => {
            return parse_ipv6_fragment(frame, payload, end, (src, dst, hops));
        }
        (None, next) if ipv6::FOLLOWED.contains(&next) => {
            let why = Unflowed::Extension;
            return Ok(Parsed::Other { src, dst, why });
        }
        (None, number) => {
            return parse_other(frame, payload..end, number, (src, dst, Family::V6, hops));
        }
    };
    let ends = Ends {
        src,
        dst,
        proto,
        family: Family::V6,
        hops,
    };
    parse_l4(frame, payload, end, ends, true).map(Parsed::Flow)
}

/// The fragment header at `at` of an IPv6 packet that ends at `end`, and what it is a fragment of.
#[cold]
#[inline(never)]
fn parse_ipv6_fragment(
    frame: &[u8],
    at: usize,
    end: usize,
    (src, dst, hops): (Address, Address, u8),
) -> Result<Parsed, DropReason> {
    let header: &[u8; ipv6_fragment::LEN] = frame[at..end]
        .first_chunk()
        .ok_or(DropReason::FragmentHeader)?;
    let next = header[ipv6_fragment::NEXT_HEADER];
    let Some(proto) = Protocol::from_number(next) else {
        let why = if ipv6::FOLLOWED.contains(&next) {
            Unflowed::Extension
        } else {
            Unflowed::Fragment
        };
        return Ok(Parsed::Other { src, dst, why });
    };
    let offset = be16(header, ipv6_fragment::OFFSET);
    Ok(Parsed::Fragment(Fragment {
        ends: Ends {
            src,
            dst,
            proto,
            family: Family::V6,
            hops,
        },
        id: be32(header, ipv6_fragment::ID),
        offset: offset & ipv6_fragment::OFFSET_MASK,
        more: offset & ipv6_fragment::MORE_FRAGMENTS != 0,
        payload: at + ipv6_fragment::LEN,
        end,
    }))
}

/// What the IP header said.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Ends {
    src: Address,
    dst: Address,
    proto: Protocol,
    family: Family,
    hops: u8,
}

/// ICMP, or a protocol that Weft knows nothing about, in `at`.
#[cold]
#[inline(never)]
fn parse_other(
    frame: &[u8],
    at: Range<usize>,
    number: u8,
    (src, dst, family, hops): (Address, Address, Family, u8),
) -> Result<Parsed, DropReason> {
    let icmp = match family {
        Family::V4 => icmp::V4,
        Family::V6 => icmp::V6,
    };
    if number != icmp {
        let why = Unflowed::Protocol(number);
        return Ok(Parsed::Other { src, dst, why });
    }
    let (l4, end) = (at.start, at.end);
    let header: &[u8; icmp::LEN] = frame[at].first_chunk().ok_or(DropReason::IcmpHeader)?;
    Ok(Parsed::Icmp(IcmpMessage {
        src,
        dst,
        family,
        hops,
        number: header[icmp::TYPE],
        l4,
        end,
    }))
}

/// The transport header at `l4`. Unless the packet is `whole`, its UDP length may lie beyond `end`.
#[inline(always)]
fn parse_l4(
    frame: &[u8],
    l4: usize,
    end: usize,
    ends: Ends,
    whole: bool,
) -> Result<Packet, DropReason> {
    let payload = &frame[l4..end];
    let (sport, dport, flags) = match ends.proto {
        Protocol::Tcp => {
            let header: &[u8; tcp::LEN] = payload.first_chunk().ok_or(DropReason::TcpHeader)?;
            let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
            if header_len < tcp::LEN || header_len > payload.len() {
                return Err(DropReason::TcpHeader);
            }
            (
                be16(header, tcp::SPORT),
                be16(header, tcp::DPORT),
                TcpFlags(header[tcp::FLAGS]),
            )
        }
        Protocol::Udp => {
            let header: &[u8; udp::LEN] = payload.first_chunk().ok_or(DropReason::UdpHeader)?;
            let length = usize::from(be16(header, udp::LENGTH));
            // Less than the IP payload is legal: receivers ignore what is behind.
            if length < udp::LEN || (whole && length > payload.len()) {
                return Err(DropReason::UdpHeader);
            }
            (
                be16(header, udp::SPORT),
                be16(header, udp::DPORT),
                TcpFlags::default(),
            )
        }
    };
    let Ends {
        src,
        dst,
        proto,
        family,
        hops,
    } = ends;
    Ok(Packet {
        tuple: Tuple {
            src,
            dst,
            sport,
            dport,
            proto,
        },
        family,
        flags,
        hops,
        l4,
        end,
        whole,
    })
}
