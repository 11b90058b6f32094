//! Building packets, right ones that a test then breaks where it wants to.

use super::{checksum, flag, protocol};
use std::net::IpAddr;

/// The fields of an IP header that tests vary. Source and destination are of one family.
#[derive(Debug, Clone)]
pub struct Ip {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4 identification; IPv6 flow label. Forwarding leaves both alone.
    pub id: u16,
    /// Type of service or traffic class.
    pub class: u8,
    /// IPv4 only.
    pub dont_fragment: bool,
    /// IPv4 options, in whole words. IPv6: the body of one destination options header, which with
    /// its two bytes comes to whole eights.
    pub options: Vec<u8>,
}

impl Ip {
    /// A plain header.
    pub fn new(src: IpAddr, dst: IpAddr) -> Self {
        Self {
            src,
            dst,
            hops: 64,
            id: 0,
            class: 0,
            dont_fragment: true,
            options: Vec::new(),
        }
    }

    /// The addresses swapped.
    pub fn back(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ..self.clone()
        }
    }

    /// A whole packet.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let flags = if self.dont_fragment { 0x4000 } else { 0 };
                self.packet4(protocol, flags, payload)
            }
            _ => self.packet6(protocol, payload),
        }
    }

    fn packet4(&self, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let total = (header + payload.len()) as u16;
        let mut packet = vec![0x40 | (header / 4) as u8, self.class];
        packet.extend(total.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([self.hops, protocol, 0, 0]);
        packet.extend(octets(self.src));
        packet.extend(octets(self.dst));
        packet.extend(&self.options);
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn packet6(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let extension = if self.options.is_empty() {
            Vec::new()
        } else {
            let eights = (self.options.len() + 2) / 8 - 1;
            [&[protocol, eights as u8], &self.options[..]].concat()
        };
        let next = if extension.is_empty() {
            protocol
        } else {
            protocol::DESTINATION_OPTIONS
        };
        let start = 6 << 28 | u32::from(self.class) << 20 | u32::from(self.id);
        let mut packet = start.to_be_bytes().to_vec();
        packet.extend(((extension.len() + payload.len()) as u16).to_be_bytes());
        packet.extend([next, self.hops]);
        packet.extend(octets(self.src));
        packet.extend(octets(self.dst));
        packet.extend(extension);
        packet.extend(payload);
        packet
    }

    /// The pseudo header of a TCP, UDP or ICMPv6 checksum (RFC 9293, 3.1; RFC 8200, 8.1).
    fn pseudo(&self, protocol: u8, length: usize) -> Vec<u8> {
        let mut pseudo = octets(self.src);
        pseudo.extend(octets(self.dst));
        pseudo.extend((length as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        pseudo
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The fields of a TCP header that tests vary.
#[derive(Debug, Clone, Copy)]
pub struct Tcp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Of [`flag`].
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
}

/// A TCP packet. A SYN carries a maximum segment size.
pub fn tcp(ip: &Ip, tcp: Tcp, payload: &[u8]) -> Vec<u8> {
    let options: &[u8] = if tcp.flags & flag::SYN != 0 {
        &[2, 4, 0x05, 0xb4]
    } else {
        &[]
    };
    let mut segment = tcp.sport.to_be_bytes().to_vec();
    segment.extend(tcp.dport.to_be_bytes());
    segment.extend(tcp.seq.to_be_bytes());
    segment.extend(tcp.ack.to_be_bytes());
    segment.extend([(((20 + options.len()) / 4) << 4) as u8, tcp.flags]);
    segment.extend(8192_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.extend(payload);
    let sum = checksum(&[&ip.pseudo(protocol::TCP, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip.packet(protocol::TCP, &segment)
}

/// A UDP packet.
pub fn udp(ip: &Ip, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    ip.packet(protocol::UDP, &datagram(ip, sport, dport, payload))
}

fn datagram(ip: &Ip, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = sport.to_be_bytes().to_vec();
    datagram.extend(dport.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let sum = match checksum(&[&ip.pseudo(protocol::UDP, datagram.len()), &datagram]) {
        // Zero would say that there is none.
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A UDP packet in two fragments, the first of 64 bytes behind its IP header.
pub fn fragments(ip: &Ip, sport: u16, dport: u16, payload: &[u8]) -> [Vec<u8>; 2] {
    const FIRST: usize = 64;
    let datagram = datagram(ip, sport, dport, payload);
    let (head, rest) = datagram.split_at(FIRST);
    // Offsets count eights; the lowest bit of IPv4's three flags says that more follow.
    let eights = (FIRST / 8) as u16;
    if ip.src.is_ipv4() {
        return [
            ip.packet4(protocol::UDP, 0x2000, head),
            ip.packet4(protocol::UDP, eights, rest),
        ];
    }
    [(1, head), (eights << 3, rest)].map(|(offset, part)| {
        let mut body = vec![protocol::UDP, 0];
        body.extend(u16::to_be_bytes(offset));
        body.extend(u32::from(ip.id).to_be_bytes());
        body.extend(part);
        ip.packet6(protocol::FRAGMENT, &body)
    })
}

/// An ICMP or ICMPv6 packet of any kind; `rest` is the second word of its header.
fn icmp(ip: &Ip, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(payload);
    let (protocol, pseudo) = match ip.src {
        IpAddr::V4(_) => (protocol::ICMP, Vec::new()),
        IpAddr::V6(_) => (
            protocol::ICMP6,
            ip.pseudo(protocol::ICMP6, 8 + payload.len()),
        ),
    };
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip.packet(protocol, &message)
}

/// An echo request, or its reply.
pub fn echo(ip: &Ip, reply: bool, ident: u16, payload: &[u8]) -> Vec<u8> {
    let kind = match (ip.src, reply) {
        (IpAddr::V4(_), false) => 8,
        (IpAddr::V4(_), true) => 0,
        (IpAddr::V6(_), false) => 128,
        (IpAddr::V6(_), true) => 129,
    };
    let [high, low] = ident.to_be_bytes();
    icmp(ip, kind, 0, [high, low, 0, 1], payload)
}

/// An error about `about`, a packet of the same family: port unreachable, or with `mtu` too big.
pub fn error(ip: &Ip, mtu: Option<u16>, about: &[u8]) -> Vec<u8> {
    let v4 = ip.src.is_ipv4();
    let (kind, code) = match (v4, mtu) {
        (true, None) => (3, 3),
        (true, Some(_)) => (3, 4),
        (false, None) => (1, 4),
        (false, Some(_)) => (2, 0),
    };
    let [high, low] = mtu.unwrap_or(0).to_be_bytes();
    // What a Linux host quotes at most (RFC 1812, 4.3.2.3; RFC 4443, 2.4).
    let most = if v4 { 548 } else { 1232 };
    icmp(
        ip,
        kind,
        code,
        [0, 0, high, low],
        &about[..about.len().min(most)],
    )
}

/// An Ethernet frame around an IP packet.
pub fn ethernet(from: [u8; 6], to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = match packet.first().map(|byte| byte >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    [&to[..], &from, &kind, packet].concat()
}
