//! Applying a flow's compiled rewrite to a packet.

use crate::flow::{Direction, Flow, FlowKind};
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
    let translated = (flow.kind() == FlowKind::Service).then(|| flow.translated(direction));
    let (l3_delta, l4_delta) = if translated.is_some() {
        flow.deltas(direction)
    } else {
        Default::default()
    };
    let (l3, l4) = frame[ethernet::LEN..].split_at_mut(packet.l4() - ethernet::LEN);
    let address = translated.as_ref().map(|(address, _)| address);
    match packet.family() {
        Family::V4 => ipv4_header(l3, address, direction, l3_delta, hop),
        Family::V6 => ipv6_header(l3, address, direction, hop),
    }
    let Some((_, port)) = translated else { return };
    let (source, destination) = match packet.tuple().proto {
        Protocol::Tcp => (tcp::SPORT, tcp::DPORT),
        Protocol::Udp => (udp::SPORT, udp::DPORT),
    };
    let at = if direction == Direction::Forward {
        destination
    } else {
        source
    };
    l4[at].copy_from_slice(&port.to_be_bytes());
    match packet.tuple().proto {
        Protocol::Tcp => l4_delta.patch(&mut l4[tcp::CHECKSUM]),
        Protocol::Udp => l4_delta.patch_udp(&mut l4[udp::CHECKSUM]),
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
