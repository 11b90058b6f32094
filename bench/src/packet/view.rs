//! Taking apart what arrived, whatever it is.

use super::{checksum, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a checksum verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// It does.
    Good,
    /// It does not.
    Bad,
    /// There is none, or not all of what it covers.
    None,
}

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Offset in bytes.
    pub offset: u16,
    /// More follow.
    pub more: bool,
}

/// What follows the IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum L4 {
    /// A TCP header, whole.
    Tcp {
        /// Source and destination port.
        ports: (u16, u16),
        /// Control bits.
        flags: u8,
        /// Sequence and acknowledgement number.
        numbers: (u32, u32),
    },
    /// A UDP header, whole.
    Udp {
        /// Source and destination port.
        ports: (u16, u16),
    },
    /// An ICMP or ICMPv6 message.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// Identifier of an echo; of an error, nothing of meaning.
        ident: u16,
        /// The packet that an error is about.
        about: Option<Box<Seen>>,
    },
    /// Anything else, a later fragment, or a header that is cut off.
    Other,
}

/// An IP packet that was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4 identification, the low half of the IPv6 flow label.
    pub id: u16,
    /// Type of service or traffic class.
    pub class: u8,
    /// IPv4 don't fragment.
    pub dont_fragment: bool,
    /// IPv4 options, or IPv6 extension headers but for the fragment's.
    pub options: Vec<u8>,
    /// Protocol of what follows.
    pub protocol: u8,
    /// If it is a fragment.
    pub fragment: Option<Fragment>,
    /// The header's own checksum (IPv4).
    pub header_sum: Sum,
    /// The checksum of what follows.
    pub sum: Sum,
    /// What follows.
    pub l4: L4,
    /// Everything behind the layer 4 header.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Ports of TCP and UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.l4 {
            L4::Tcp { ports, .. } | L4::Udp { ports } => Some(ports),
            _ => None,
        }
    }
}

/// Takes an IP packet apart; `None` when there is not even a whole IP header.
///
/// Lengths are taken as the header says, and cut to what is there: a quote is allowed to be short.
pub fn see(packet: &[u8]) -> Option<Seen> {
    match packet.first()? >> 4 {
        4 => see4(packet),
        6 => see6(packet),
        _ => None,
    }
}

fn see4(packet: &[u8]) -> Option<Seen> {
    let header = usize::from(packet[0] & 0x0f) * 4;
    if header < 20 || packet.len() < header {
        return None;
    }
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let address = |at: usize| -> IpAddr {
        Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]).into()
    };
    let total = usize::from(word(2));
    let end = total.clamp(header, packet.len());
    let (offset, more) = ((word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0);
    let mut seen = Seen {
        src: address(12),
        dst: address(16),
        hops: packet[8],
        id: word(4),
        class: packet[1],
        dont_fragment: word(6) & 0x4000 != 0,
        options: packet[20..header].to_vec(),
        protocol: packet[9],
        fragment: (offset > 0 || more).then_some(Fragment { offset, more }),
        header_sum: verdict(checksum(&[&packet[..header]])),
        sum: Sum::None,
        l4: L4::Other,
        payload: Vec::new(),
    };
    let whole = total <= packet.len();
    let addresses = packet[12..20].to_vec();
    seen.take(&packet[header..end], &addresses, whole);
    Some(seen)
}

fn see6(packet: &[u8]) -> Option<Seen> {
    let fixed: &[u8; 40] = packet.first_chunk()?;
    let address = |at: usize| -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[at..at + 16]);
        Ipv6Addr::from(octets).into()
    };
    let total = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let mut seen = Seen {
        src: address(8),
        dst: address(24),
        hops: fixed[7],
        id: u16::from_be_bytes([fixed[2], fixed[3]]),
        class: fixed[0] << 4 | fixed[1] >> 4,
        dont_fragment: false,
        options: Vec::new(),
        protocol: fixed[6],
        fragment: None,
        header_sum: Sum::None,
        sum: Sum::None,
        l4: L4::Other,
        payload: Vec::new(),
    };
    let mut rest = &packet[40..total.min(packet.len())];
    // Bound: tests send at most a handful of extension headers.
    for _ in 0..8 {
        let length = match (seen.protocol, rest.get(1)) {
            (protocol::FRAGMENT, Some(_)) if rest.len() >= 8 => {
                let word = u16::from_be_bytes([rest[2], rest[3]]);
                seen.fragment = Some(Fragment {
                    offset: word & 0xfff8,
                    more: word & 1 != 0,
                });
                8
            }
            (0 | 43 | protocol::DESTINATION_OPTIONS, Some(eights)) => {
                let length = 8 + usize::from(*eights) * 8;
                seen.options.extend(&rest[..length.min(rest.len())]);
                length
            }
            _ => break,
        };
        seen.protocol = rest[0];
        rest = rest.get(length..).unwrap_or_default();
    }
    let whole = total <= packet.len();
    let addresses = fixed[8..40].to_vec();
    seen.take(rest, &addresses, whole);
    Some(seen)
}

impl Seen {
    /// Reads the layer 4 header out of `rest`, everything behind the IP headers.
    fn take(&mut self, rest: &[u8], addresses: &[u8], whole: bool) {
        self.payload = rest.to_vec();
        if self.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return;
        }
        let whole = whole && self.fragment.is_none();
        let length = (rest.len() as u32).to_be_bytes();
        let pseudo = [addresses, &length, &[0, 0, 0, self.protocol]].concat();
        let word = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        let summed = |parts: &[&[u8]]| {
            if whole {
                verdict(checksum(parts))
            } else {
                Sum::None
            }
        };
        match self.protocol {
            protocol::TCP if rest.len() >= 20 => {
                let header = usize::from(rest[12] >> 4) * 4;
                self.sum = summed(&[&pseudo, rest]);
                self.payload = rest.get(header..).unwrap_or_default().to_vec();
                self.l4 = L4::Tcp {
                    ports: (word(0), word(2)),
                    flags: rest[13],
                    numbers: (long(4), long(8)),
                };
            }
            protocol::UDP if rest.len() >= 8 => {
                let covered = &rest[..usize::from(word(4)).clamp(8, rest.len())];
                let length = u32::from(word(4)).to_be_bytes();
                let pseudo = [addresses, &length, &[0, 0, 0, self.protocol]].concat();
                if word(6) != 0 {
                    self.sum = summed(&[&pseudo, covered]);
                }
                self.payload = rest[8..].to_vec();
                self.l4 = L4::Udp {
                    ports: (word(0), word(2)),
                };
            }
            protocol::ICMP | protocol::ICMP6 if rest.len() >= 8 => {
                let v4 = self.protocol == protocol::ICMP;
                self.sum = if v4 {
                    summed(&[rest])
                } else {
                    summed(&[&pseudo, rest])
                };
                // Errors: unreachable, time exceeded and parameter problem; below 128 for ICMPv6.
                let error = if v4 {
                    matches!(rest[0], 3 | 11 | 12)
                } else {
                    rest[0] < 128
                };
                self.payload = rest[8..].to_vec();
                self.l4 = L4::Icmp {
                    kind: rest[0],
                    code: rest[1],
                    ident: word(4),
                    about: error.then(|| see(&rest[8..])).flatten().map(Box::new),
                };
            }
            _ => {}
        }
    }
}

fn verdict(sum: u16) -> Sum {
    if sum == 0 { Sum::Good } else { Sum::Bad }
}
