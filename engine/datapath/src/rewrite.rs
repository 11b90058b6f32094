//! Applying a flow's compiled rewrite to a packet.

use std::ops::Range;

use crate::flow::{Direction, Flow};
use crate::icmp::{address_fields, octets};
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
    let (l3, l4) = frame[ethernet::LEN..].split_at_mut(packet.l4() - ethernet::LEN);
    let l4_delta = ip_header(l3, packet.family(), flow, direction, hop);
    let (far, near) = (flow.translated(direction), flow.masked(direction));
    let proto = packet.tuple().proto;
    if let Some((_, port)) = near {
        l4[port_at(proto, direction == Direction::Forward)].copy_from_slice(&port.to_be_bytes());
    }
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

/// The same for a fragment without a transport header, which has the rest of the packet's checksum
/// nowhere in it.
pub(crate) fn translate_later_fragment(
    frame: &mut [u8],
    family: Family,
    flow: &Flow,
    direction: Direction,
    hop: bool,
) {
    let _ = ip_header(&mut frame[ethernet::LEN..], family, flow, direction, hop);
}

/// Translates the IP header at the start of `l3`, and returns what is to be added to the transport checksum.
#[inline]
fn ip_header(l3: &mut [u8], family: Family, flow: &Flow, direction: Direction, hop: bool) -> Delta {
    let (far, near) = (flow.translated(direction), flow.masked(direction));
    let (l3_delta, l4_delta) = if far.is_some() || near.is_some() {
        flow.deltas(direction)
    } else {
        Default::default()
    };
    let address = far.map(|(address, _)| address);
    match family {
        Family::V4 => ipv4_header(l3, address, direction, l3_delta, hop),
        Family::V6 => ipv6_header(l3, address, direction, hop),
    }
    if let Some((address, _)) = near {
        near_address(l3, family, direction, address);
    }
    l4_delta
}

/// Rewrites the client's address; the deltas account for it. Few flows need it.
#[cold]
fn near_address(l3: &mut [u8], family: Family, direction: Direction, address: &Address) {
    let [src, dst] = address_fields(family);
    let at = match direction {
        Direction::Forward => src,
        Direction::Reply => dst,
    };
    l3[at].copy_from_slice(octets(address, family));
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
