//! ICMP and ICMPv6 messages, built by an independent library.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use weft_datapath::{Address, Hook, Ingress};

use super::{Net, ORIGINAL_DST, Spec};

/// Type, code, and the four bytes after the checksum.
pub type Header = (u8, u8, [u8; 4]);

/// An ICMP message to be built, of the family of its addresses.
#[derive(Clone, Debug)]
pub struct Message {
    pub src: Address,
    pub dst: Address,
    pub header: Header,
    pub body: Vec<u8>,
    pub hops: u8,
}

impl Message {
    pub fn new(src: Address, dst: Address, header: Header, body: Vec<u8>) -> Self {
        Self {
            src,
            dst,
            header,
            body,
            hops: 64,
        }
    }

    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    pub fn punted(&self, ifindex: u32, hook: Hook) -> Vec<u8> {
        let target = 0;
        let ingress = Ingress {
            ifindex,
            hook,
            target,
        };
        self.frame(ingress.encode())
    }

    pub fn frame(&self, source_mac: [u8; 6]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(source_mac, ORIGINAL_DST);
        let (kind, code, rest) = self.header;
        let mut frame = Vec::new();
        match (IpAddr::from(self.src), IpAddr::from(self.dst)) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet
                .ipv4(src.octets(), dst.octets(), self.hops)
                .icmpv4_raw(kind, code, rest)
                .write(&mut frame, &self.body),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet
                .ipv6(src.octets(), dst.octets(), self.hops)
                .icmpv6_raw(kind, code, rest)
                .write(&mut frame, &self.body),
            _ => panic!("two families in {self:?}"),
        }
        .unwrap();
        frame
    }
}

/// Every kind of error that is translated: unreachable ports, too big, time exceeded, parameter problem.
pub fn errors(net: Net) -> Vec<Header> {
    match net {
        Net::V4 => vec![
            (3, 3, [0; 4]),
            (3, 4, [0, 0, 0x05, 0]),
            (11, 0, [0; 4]),
            (12, 0, [9, 0, 0, 0]),
        ],
        Net::V6 => vec![
            (1, 4, [0; 4]),
            (2, 0, [0, 0, 0x05, 0]),
            (3, 0, [0; 4]),
            (4, 1, [0, 0, 0, 6]),
        ],
    }
}

pub fn port_unreachable(net: Net) -> Header {
    errors(net)[0]
}

/// The IP packet that an error quotes.
pub fn quote(spec: &Spec) -> Vec<u8> {
    spec.frame([0; 6])[14..].to_vec()
}
