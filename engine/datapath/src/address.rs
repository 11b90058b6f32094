//! Addresses, protocols, tuples and the keys that flows are found by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Family;

#[cfg(test)]
mod tests;

/// The first twelve bytes of a v4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv4 or IPv6 address in 16 bytes, network order; IPv4 is v4-mapped (`::ffff:a.b.c.d`).
///
/// One form for both families, the same as in the BPF maps. A v4-mapped address inside a real IPv6
/// header would look like IPv4 here, so the parser never makes a tuple of such a packet.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// The address of these four octets.
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Whether this is an IPv4 address.
    pub fn is_v4(&self) -> bool {
        self.0[..12] == V4_MAPPED
    }

    /// The last four octets: the whole address of an IPv4 one.
    pub fn v4_octets(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0;
        [a, b, c, d]
    }

    /// The IP version whose address it is.
    pub fn family(&self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// The two halves as big-endian numbers, for hashing.
    pub(crate) fn words(&self) -> [u64; 2] {
        let bits = u128::from_be_bytes(self.0);
        [(bits >> 64) as u64, bits as u64]
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4(address.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self(address.octets())
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Ipv4Addr::from(address.v4_octets()).into()
        } else {
            Ipv6Addr::from(address.0).into()
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no IPv4 or IPv6 address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 or IPv6 address (octets without leading zeros, no prefix length)")]
pub struct ParseAddressError(String);

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>()
            .map(Self::from)
            .map_err(|_| ParseAddressError(text.to_owned()))
    }
}

/// A transport protocol that Weft balances.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp = 6,
    /// UDP, protocol number 17.
    Udp = 17,
}

impl Protocol {
    /// The number in an IPv4 protocol or IPv6 next-header field.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The protocol of that number, if Weft balances it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What a TCP or UDP packet says about its ends. Ports are in host order.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Transport protocol.
    pub proto: Protocol,
}

impl Tuple {
    /// The tuple of a packet in the opposite direction.
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |f: &mut fmt::Formatter<'_>, address: &Address, port: u16| {
            if address.is_v4() {
                write!(f, "{address}:{port}")
            } else {
                write!(f, "[{address}]:{port}")
            }
        };
        write!(f, "{} ", self.proto)?;
        end(f, &self.src, self.sport)?;
        f.write_str(" > ")?;
        end(f, &self.dst, self.dport)
    }
}

/// What a flow is found by: the tuple and the pod veth at whose hook the packet was seen.
///
/// The interface is part of the key, so that no pod can hit another's flow by claiming its address.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// The packet's tuple.
    pub tuple: Tuple,
    /// The pod veth: of the sender for what a pod sends, of the receiver for what it is delivered.
    pub ifindex: u32,
}
