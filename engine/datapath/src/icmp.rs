//! ICMP and ICMPv6: what a message is, and which flow an error speaks of.

use crate::extension;
use crate::parse::Family;
use crate::wire::{be16, ethernet, icmp, ipv4, ipv6, ipv6_fragment, tcp, udp};
use crate::{Address, DropReason, Protocol, Tuple};

#[cfg(test)]
mod tests;
mod translate;

pub(crate) use translate::translate_error;

/// What Weft does with messages of a type.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An error that quotes the packet it is about: it goes where that packet's flow goes.
    Error,
    /// An echo request.
    EchoRequest,
    /// Anything else: other queries, and what must not reach through a VIP, such as redirects (RFC 1812
    /// section 5.2.7.2) and source quench (RFC 6633 section 3).
    Other,
}

/// An unfragmented ICMP message over IPv4, or ICMPv6 message over IPv6. Only [`parse`](crate::parse()) makes one.
///
/// Invariant, for the frame it was parsed from: `14 <= l4`, `l4 + 8 <= end <= frame length`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct IcmpMessage {
    pub(crate) src: Address,
    pub(crate) dst: Address,
    pub(crate) family: Family,
    pub(crate) hops: u8,
    pub(crate) number: u8,
    pub(crate) l4: usize,
    pub(crate) end: usize,
}

impl IcmpMessage {
    /// The address that it comes from.
    pub fn src(&self) -> Address {
        self.src
    }

    /// The address that it goes to.
    pub fn dst(&self) -> Address {
        self.dst
    }

    /// Where the message starts in the frame.
    pub fn l4(&self) -> usize {
        self.l4
    }

    /// Where the IP packet ends in the frame.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Bytes of the longest IP packet that gets through, if the message says that one was too long for its path.
    /// Old routers say 0 (RFC 1191 section 5): the least that every IPv4 host takes stands for that.
    pub(crate) fn longest(&self, frame: &[u8]) -> Option<u16> {
        let header = &frame[self.l4..self.l4 + icmp::LEN];
        let (v4, v6) = (icmp::V4_FRAGMENTATION_NEEDED, icmp::V6_TOO_BIG);
        match self.family {
            Family::V4 if (self.number, header[icmp::CODE]) == v4 => {
                Some(be16(header, icmp::V4_MTU).max(ipv4::MTU_LEAST))
            }
            Family::V6 if self.number == v6.0 => {
                let high = be16(header, icmp::V6_MTU_HIGH);
                let low = be16(header, icmp::V6_MTU_LOW);
                Some(if high == 0 { low } else { u16::MAX }.max(ipv6::MTU_LEAST))
            }
            Family::V4 | Family::V6 => None,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        let (errors, echo): (&[u8], u8) = match self.family {
            Family::V4 => (&icmp::V4_ERRORS, icmp::V4_ECHO_REQUEST),
            Family::V6 => (&icmp::V6_ERRORS, icmp::V6_ECHO_REQUEST),
        };
        match self.number {
            number if errors.contains(&number) => Kind::Error,
            number if number == echo => Kind::EchoRequest,
            _ => Kind::Other,
        }
    }
}

/// The packet that an error quotes, as far as its ports.
///
/// Invariant, for the frame it was parsed from: `l3` is an IP header, and `l4 + 8 <= end <= frame length`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Quoted {
    /// As quoted: the sender of the error received or forwarded this packet.
    pub(crate) tuple: Tuple,
    /// Where its IP header starts in the frame.
    pub(crate) l3: usize,
    /// Where its TCP or UDP header starts.
    pub(crate) l4: usize,
    /// Where the quotation ends; extensions of the error (RFC 4884) may follow.
    pub(crate) end: usize,
}

impl Quoted {
    /// Reads the packet quoted in an error. `None`: one without ports, which no flow of ours can have sent.
    ///
    /// Eight bytes of its TCP or UDP header are there (RFC 792), or the quotation is
    /// [`DropReason::IcmpError`], as is one whose headers contradict each other or the packet around.
    pub(crate) fn parse(frame: &[u8], message: &IcmpMessage) -> Result<Option<Self>, DropReason> {
        let start = message.l4 + icmp::LEN;
        let end = quotation_end(frame, message, start);
        let l3 = &frame[start..end];
        let found = match message.family {
            Family::V4 => quoted_ipv4(l3)?,
            Family::V6 => quoted_ipv6(l3)?,
        };
        let Some((src, dst, proto, l4, length)) = found else {
            return Ok(None);
        };
        let ports: &[u8; icmp::QUOTED_MIN] = l3[..length]
            .get(l4..)
            .and_then(|l4| l4.first_chunk())
            .ok_or(DropReason::IcmpError)?;
        let tuple = Tuple {
            src,
            dst,
            sport: be16(ports, tcp::SPORT),
            dport: be16(ports, tcp::DPORT),
            proto,
        };
        Ok(Some(Self {
            tuple,
            l3: start,
            l4: start + l4,
            end: start + length,
        }))
    }

    /// The sequence number of a TCP segment.
    pub(crate) fn sequence(&self, frame: &[u8]) -> u32 {
        let at = self.l4 + tcp::SEQUENCE.start;
        frame[at..]
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    /// Where the checksum of its TCP or UDP header stands, if the quotation reaches that far.
    pub(crate) fn checksum(&self) -> Option<std::ops::Range<usize>> {
        let at = match self.tuple.proto {
            Protocol::Tcp => tcp::CHECKSUM,
            Protocol::Udp => udp::CHECKSUM,
        };
        (self.l4 + at.end <= self.end).then(|| self.l4 + at.start..self.l4 + at.end)
    }
}

/// Where the quotation ends: with the packet, or where the error says that its extensions begin (RFC 4884
/// sections 4 and 5). Zero and more than there is say nothing.
fn quotation_end(frame: &[u8], message: &IcmpMessage, start: usize) -> usize {
    let header = &frame[message.l4..start];
    let length = match message.family {
        Family::V4 => usize::from(header[icmp::V4_QUOTED_LENGTH]) * 4,
        // Packet too big has an MTU there, parameter problem a pointer.
        Family::V6 if icmp::V6_EXTENSIBLE.contains(&message.number) => {
            usize::from(header[icmp::V6_QUOTED_LENGTH]) * 8
        }
        Family::V6 => 0,
    };
    if length == 0 {
        message.end
    } else {
        message.end.min(start + length)
    }
}

/// Ends, protocol, where the ports are, and where the packet or its quotation ends.
type Found = (Address, Address, Protocol, usize, usize);

fn quoted_ipv4(l3: &[u8]) -> Result<Option<Found>, DropReason> {
    let header: &[u8; ipv4::LEN] = l3.first_chunk().ok_or(DropReason::IcmpError)?;
    let header_len = usize::from(header[ipv4::VERSION_IHL] & 0x0f) * 4;
    let total = usize::from(be16(header, ipv4::TOTAL_LENGTH));
    let right = header[ipv4::VERSION_IHL] >> 4 == 4 && header_len >= ipv4::LEN;
    if !right || total < header_len || l3.len() < header_len {
        return Err(DropReason::IcmpError);
    }
    let later = be16(header, ipv4::FRAGMENT) & ipv4::OFFSET_MASK != 0;
    let proto = Protocol::from_number(header[ipv4::PROTOCOL]).filter(|_| !later);
    let address = |at: std::ops::Range<usize>| {
        let octets = &header[at];
        Address::from_v4([octets[0], octets[1], octets[2], octets[3]])
    };
    let (src, dst) = (address(ipv4::SRC), address(ipv4::DST));
    Ok(proto.map(|proto| (src, dst, proto, header_len, l3.len().min(total))))
}

fn quoted_ipv6(l3: &[u8]) -> Result<Option<Found>, DropReason> {
    let header: &[u8; ipv6::LEN] = l3.first_chunk().ok_or(DropReason::IcmpError)?;
    let address = |at: std::ops::Range<usize>| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at]);
        Address(octets)
    };
    let (src, dst) = (address(ipv6::SRC), address(ipv6::DST));
    let right = header[ipv6::VERSION_CLASS_FLOW.start] >> 4 == 6;
    if !right || src.is_v4() || dst.is_v4() {
        return Err(DropReason::IcmpError);
    }
    let total = ipv6::LEN + usize::from(be16(header, ipv6::PAYLOAD_LENGTH));
    let length = l3.len().min(total);
    let chain = extension::walk(&l3[..length]).map_err(|_| DropReason::IcmpError)?;
    let (next, at) = match chain.next {
        // A first fragment has its ports behind the fragment header.
        ipv6::FRAGMENT => {
            let header: &[u8; ipv6_fragment::LEN] = l3[chain.at..length]
                .first_chunk()
                .ok_or(DropReason::IcmpError)?;
            if be16(header, ipv6_fragment::OFFSET) & ipv6_fragment::OFFSET_MASK != 0 {
                return Ok(None);
            }
            let next = header[ipv6_fragment::NEXT_HEADER];
            (next, chain.at + ipv6_fragment::LEN)
        }
        next => (next, chain.at),
    };
    Ok(Protocol::from_number(next).map(|proto| (src, dst, proto, at, length)))
}

/// Where an address stands in an IP header of that family: source, then destination.
pub(crate) fn address_fields(family: Family) -> [std::ops::Range<usize>; 2] {
    match family {
        Family::V4 => [ipv4::SRC, ipv4::DST],
        Family::V6 => [ipv6::SRC, ipv6::DST],
    }
}

/// The address as its header holds it: 4 or 16 bytes.
pub(crate) fn octets(address: &Address, family: Family) -> &[u8] {
    match family {
        Family::V4 => &address.0[12..],
        Family::V6 => &address.0,
    }
}

/// Where the IP header of every frame starts.
pub(crate) const L3: usize = ethernet::LEN;
