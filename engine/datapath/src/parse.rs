//! One bounded look at a frame, into a type that cannot be wrong.

use crate::extension::{self, Chain};
use crate::icmp::IcmpMessage;
use crate::wire::{be16, ethernet, icmp, ipv4, ipv6, tcp, udp};
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

/// An unfragmented TCP or UDP packet in a frame. Only [`parse`] makes one.
///
/// Invariant, for the frame it was parsed from: `14 <= l4 <= end <= frame length`, the IP header
/// and the whole TCP or UDP header lie within, and lengths in the headers agree. So every accessor of
/// a header field by a range of [`crate::wire`] is in bounds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    tuple: Tuple,
    family: Family,
    flags: TcpFlags,
    hops: u8,
    l4: usize,
    end: usize,
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

    /// Whether the packet may open a flow: any UDP datagram, or a TCP SYN without ACK.
    #[inline]
    pub fn opens(&self) -> bool {
        match self.tuple.proto {
            Protocol::Tcp => self.flags.opens(),
            Protocol::Udp => true,
        }
    }
}

/// What keeps a well-formed packet from having a flow.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Unflowed {
    /// A fragment, first or later.
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
#[inline]
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

#[inline]
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
    let address = |at: std::ops::Range<usize>| {
        let octets = &header[at];
        Address::from_v4([octets[0], octets[1], octets[2], octets[3]])
    };
    let (src, dst) = (address(ipv4::SRC), address(ipv4::DST));
    // A first fragment has ports, but must go the way of the rest, which have none.
    if be16(header, ipv4::FRAGMENT) & ipv4::FRAGMENT_MASK != 0 {
        return Ok(Parsed::Other {
            src,
            dst,
            why: Unflowed::Fragment,
        });
    }
    let ends = Ends {
        src,
        dst,
        family: Family::V4,
        hops: header[ipv4::TTL],
    };
    let (l4, end) = (ethernet::LEN + header_len, ethernet::LEN + total);
    let number = header[ipv4::PROTOCOL];
    match Protocol::from_number(number) {
        Some(proto) => parse_l4(frame, l4, end, proto, ends),
        None => parse_other(frame, l4, end, number, ends),
    }
}

#[inline]
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
    let address = |at: std::ops::Range<usize>| {
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
    let ends = Ends {
        src,
        dst,
        family: Family::V6,
        hops: header[ipv6::HOP_LIMIT],
    };
    let (l4, end) = (ethernet::LEN + at, ethernet::LEN + total);
    let other = |why| Ok(Parsed::Other { src, dst, why });
    match (Protocol::from_number(next), next) {
        (Some(proto), _) => parse_l4(frame, l4, end, proto, ends),
        (None, ipv6::FRAGMENT) => other(Unflowed::Fragment),
        (None, next) if ipv6::FOLLOWED.contains(&next) => other(Unflowed::Extension),
        (None, number) => parse_other(frame, l4, end, number, ends),
    }
}

/// What the IP header said.
struct Ends {
    src: Address,
    dst: Address,
    family: Family,
    hops: u8,
}

/// ICMP, or a protocol that Weft knows nothing about.
fn parse_other(
    frame: &[u8],
    l4: usize,
    end: usize,
    number: u8,
    ends: Ends,
) -> Result<Parsed, DropReason> {
    let Ends {
        src,
        dst,
        family,
        hops,
    } = ends;
    let icmp = match family {
        Family::V4 => icmp::V4,
        Family::V6 => icmp::V6,
    };
    if number != icmp {
        let why = Unflowed::Protocol(number);
        return Ok(Parsed::Other { src, dst, why });
    }
    let header: &[u8; icmp::LEN] = frame[l4..end].first_chunk().ok_or(DropReason::IcmpHeader)?;
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

#[inline]
fn parse_l4(
    frame: &[u8],
    l4: usize,
    end: usize,
    proto: Protocol,
    ends: Ends,
) -> Result<Parsed, DropReason> {
    let payload = &frame[l4..end];
    let (sport, dport, flags) = match proto {
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
            if length < udp::LEN || length > payload.len() {
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
        family,
        hops,
    } = ends;
    Ok(Parsed::Flow(Packet {
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
    }))
}
