//! Applying a flow's compiled rewrite to a packet.

use std::ops::Range;

use crate::flow::{Direction, Flow};
use crate::parse::{Family, Packet};
use crate::wire::{ethernet, ipv4, ipv6, tcp, udp};
use crate::{Address, Delta, Protocol};

/// Translates the packet as its flow says, counts the hop if Weft is one, and patches the checksums in
/// place (RFC 1624).
///
/// `frame` is the one that `packet` was parsed from, unchanged; with `hop`, its hop count is above 1.
#[inline]
pub(crate) fn translate(
    frame: &mut [u8],
    packet: &Packet,
    flow: &Flow,
    direction: Direction,
    hop: bool,
) {
    let (far, near) = (flow.translated(direction), flow.masked(direction));
    let (l3_delta, l4_delta) = if far.is_some() || near.is_some() {
        flow.deltas(direction)
    } else {
        Default::default()
    };
    let (l3, l4) = frame[ethernet::LEN..].split_at_mut(packet.l4() - ethernet::LEN);
    let address = far.map(|(address, _)| address);
    match packet.family() {
        Family::V4 => ipv4_header(l3, address, direction, l3_delta, hop),
        Family::V6 => ipv6_header(l3, address, direction, hop),
    }
    if let Some((address, port)) = near {
        near_end(l3, l4, packet, direction, address, port);
    }
    let proto = packet.tuple().proto;
    if let Some((_, port)) = far {
        l4[port_at(proto, direction == Direction::Reply)].copy_from_slice(&port.to_be_bytes());
    }
    if far.is_some() || near.is_some() {
        match proto {
            Protocol::Tcp => l4_delta.patch(&mut l4[tcp::CHECKSUM]),
            Protocol::Udp => l4_delta.patch_udp(&mut l4[udp::CHECKSUM]),
        }
    }
}

/// Rewrites the client's end of the packet; the deltas account for it. Few flows need it.
#[cold]
fn near_end(
    l3: &mut [u8],
    l4: &mut [u8],
    packet: &Packet,
    direction: Direction,
    address: &Address,
    port: u16,
) {
    let source = direction == Direction::Forward;
    match (packet.family(), source) {
        (Family::V4, true) => l3[ipv4::SRC].copy_from_slice(&address.v4_octets()),
        (Family::V4, false) => l3[ipv4::DST].copy_from_slice(&address.v4_octets()),
        (Family::V6, true) => l3[ipv6::SRC].copy_from_slice(&address.0),
        (Family::V6, false) => l3[ipv6::DST].copy_from_slice(&address.0),
    }
    l4[port_at(packet.tuple().proto, source)].copy_from_slice(&port.to_be_bytes());
}

/// Where the source port is in a transport header, or the destination port.
#[inline]
fn port_at(proto: Protocol, source: bool) -> Range<usize> {
    match (proto, source) {
        (Protocol::Tcp, true) => tcp::SPORT,
        (Protocol::Tcp, false) => tcp::DPORT,
        (Protocol::Udp, true) => udp::SPORT,
        (Protocol::Udp, false) => udp::DPORT,
    }
}

#[inline]
fn ipv4_header(
    l3: &mut [u8],
    address: Option<&Address>,
    direction: Direction,
    delta: Delta,
    hop: bool,
) {
    let mut delta = delta;
    if let Some(address) = address {
        let at = if direction == Direction::Forward {
            ipv4::DST
        } else {
            ipv4::SRC
        };
        l3[at].copy_from_slice(&address.v4_octets());
    }
    if hop {
        l3[ipv4::TTL] -= 1;
        delta = delta.and(Delta::DECREMENT_HIGH);
    }
    delta.patch(&mut l3[ipv4::CHECKSUM]);
}

#[inline]
fn ipv6_header(l3: &mut [u8], address: Option<&Address>, direction: Direction, hop: bool) {
    if let Some(address) = address {
        let at = if direction == Direction::Forward {
            ipv6::DST
        } else {
            ipv6::SRC
        };
        l3[at].copy_from_slice(&address.0);
    }
    if hop {
        l3[ipv6::HOP_LIMIT] -= 1;
    }
}
