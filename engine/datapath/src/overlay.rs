//! The overlay of one generation: which peers there are, and whose pods are where.

use std::fmt;

use rustc_hash::FxHashMap;

use crate::tables::{Pod, PodState};
use crate::{Address, Family, Now, SlotRef, TUNNELS};

#[cfg(test)]
mod tests;

/// How packets to a peer are wrapped.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Encapsulation {
    /// GENEVE (RFC 8926).
    #[default]
    Geneve,
    /// VXLAN (RFC 7348).
    Vxlan,
}

impl Encapsulation {
    /// The destination port that IANA gave it.
    pub const fn port(self) -> u16 {
        match self {
            Self::Geneve => 6081,
            Self::Vxlan => 4789,
        }
    }

    /// Bytes around an inner IP packet, without options, where the outer header is of that family: IP, UDP, the
    /// encapsulation's own header, and an inner Ethernet header.
    pub const fn overhead(self, outer: Family) -> u16 {
        match outer {
            Family::V4 => 20 + 8 + 8 + 14,
            Family::V6 => 40 + 8 + 8 + 14,
        }
    }
}

/// Addresses with the same first bits.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    address: Address,
    bits: u8,
}

impl Prefix {
    /// The range of `address` with so many leading bits of its own family: up to 32 or 128, more are cut to that. Bits
    /// behind them do not count.
    pub fn new(address: Address, bits: u8) -> Self {
        let bits = match address.family() {
            Family::V4 => 96 + bits.min(32),
            Family::V6 => bits.min(128),
        };
        Self {
            address: masked(&address, bits),
            bits,
        }
    }

    /// Its first address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Leading bits of the 16 bytes of an [`Address`].
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the address is one of the range.
    pub fn contains(&self, address: &Address) -> bool {
        masked(address, self.bits) == self.address
    }
}

impl fmt::Display for Prefix {
    /// As it is written in a configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = match self.address.family() {
            Family::V4 => self.bits - 96,
            Family::V6 => self.bits,
        };
        write!(f, "{}/{own}", self.address)
    }
}

fn masked(address: &Address, bits: u8) -> Address {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    Address((u128::from_be_bytes(address.0) & mask).to_be_bytes())
}

/// What a peer is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerSpec {
    /// Where its packets come from and go to, as an interface of a pod's does: from [`TUNNELS`] on, stable across
    /// generations.
    pub port: u32,
    /// Its address on the underlay.
    pub remote: Address,
    /// This node's, of the same family.
    pub local: Address,
    /// The interface that leads there now; 0: there is none.
    pub uplink: u32,
    /// Bytes of the longest packet of a pod's that gets there.
    pub mtu: u16,
    /// Packets go there and come from there as they are: the underlay knows the way to its pods.
    pub native: bool,
    /// Its pods, each range with what flows to it depend on.
    pub ranges: Vec<(Prefix, SlotRef)>,
}

/// What the overlay is to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OverlaySpec {
    /// The virtual network, 24 bits.
    pub vni: u32,
    /// How packets are wrapped.
    pub encapsulation: Encapsulation,
    /// The destination port of what is wrapped.
    pub port: u16,
    /// Whether the outer checksum of IPv4 is written. Over IPv6 it always is (RFC 8200 section 8.1).
    pub checksum: bool,
    /// The other nodes.
    pub peers: Vec<PeerSpec>,
}

impl OverlaySpec {
    /// Whether the hooks may carry flows to that peer: they wrap over IPv4 alone, without a checksum.
    pub fn hooks_carry(&self, peer: &PeerSpec) -> bool {
        peer.native || peer.remote.is_v4() && !self.checksum
    }
}

/// The overlay, as compiled.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Overlay {
    pub(crate) spec: OverlaySpec,
    /// Places of `spec.peers` by their port, from [`TUNNELS`] on.
    by_port: FxHashMap<u32, u32>,
    by_remote: FxHashMap<Address, u32>,
    /// By length, the longest first.
    lengths: Vec<(u8, FxHashMap<Address, Pod>)>,
    /// What a packet of the peer itself counts as sent by, by peer.
    themselves: Vec<Pod>,
    /// What fits into every tunnel.
    pub(crate) mtu_least: u16,
}

impl Default for Overlay {
    fn default() -> Self {
        Self::new(OverlaySpec::default())
    }
}

impl Overlay {
    /// Makes everything findable. Of two peers with one port or address, or two ranges that are the same, the last one
    /// counts: the configuration is checked before.
    pub(crate) fn new(spec: OverlaySpec) -> Self {
        let mtus = spec.peers.iter().map(|peer| peer.mtu);
        let mut overlay = Self {
            mtu_least: mtus.min().unwrap_or(u16::MAX),
            spec: OverlaySpec::default(),
            by_port: FxHashMap::default(),
            by_remote: FxHashMap::default(),
            lengths: Vec::new(),
            themselves: Vec::new(),
        };
        for (index, peer) in (0u32..).zip(&spec.peers) {
            overlay.by_port.insert(peer.port, index);
            overlay.by_remote.insert(peer.remote, index);
            overlay.themselves.push(remote_pod(peer, SlotRef::FIXED));
            for (prefix, slot) in &peer.ranges {
                let known = (overlay.lengths.iter()).position(|(bits, _)| *bits == prefix.bits);
                let at = known.unwrap_or_else(|| {
                    overlay.lengths.push((prefix.bits, FxHashMap::default()));
                    overlay.lengths.len() - 1
                });
                let pod = remote_pod(peer, *slot);
                overlay.lengths[at].1.insert(prefix.address, pod);
            }
        }
        overlay
            .lengths
            .sort_by_key(|(bits, _)| std::cmp::Reverse(*bits));
        overlay.spec = spec;
        overlay
    }

    /// Whether there is no peer.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.spec.peers.is_empty()
    }

    /// The pods of the longest range that has the address.
    pub(crate) fn pods_at(&self, address: &Address) -> Option<&Pod> {
        // Bound: as many lengths as 16 bytes have bits; one or two in any real network.
        self.lengths
            .iter()
            .find_map(|(bits, ranges)| ranges.get(&masked(address, *bits)))
    }

    /// Who may have sent a packet from that address by the tunnel of that port: one of the peer's pods, or the peer.
    pub(crate) fn sender(&self, port: u32, address: &Address) -> Option<&Pod> {
        if let Some(pod) = self.pods_at(address).filter(|pod| pod.ifindex == port) {
            return Some(pod);
        }
        let index = *self.by_port.get(&port)? as usize;
        let peer = self.spec.peers.get(index)?;
        self.themselves
            .get(index)
            .filter(|_| peer.remote == *address)
    }

    /// The peer of a port.
    #[inline]
    pub(crate) fn peer(&self, port: u32) -> Option<&PeerSpec> {
        self.spec.peers.get(*self.by_port.get(&port)? as usize)
    }

    /// Whether the hooks may carry flows that come or go by that interface or tunnel.
    pub(crate) fn carries(&self, port: u32) -> bool {
        !is_tunnel(port) || (self.peer(port)).is_some_and(|peer| self.spec.hooks_carry(peer))
    }

    /// The peer with that address on the underlay.
    #[inline]
    pub(crate) fn peer_at(&self, remote: &Address) -> Option<&PeerSpec> {
        self.spec.peers.get(*self.by_remote.get(remote)? as usize)
    }
}

/// Whether packets of that interface come and go by a tunnel.
#[inline]
pub(crate) const fn is_tunnel(port: u32) -> bool {
    port >= TUNNELS
}

fn remote_pod(peer: &PeerSpec, slot: SlotRef) -> Pod {
    Pod {
        ifindex: peer.port,
        name: Box::default(),
        addresses: arrayvec::ArrayVec::new(),
        slot,
        state: PodState::Enrolled {
            grace_until: Now::default(),
        },
        mtu: peer.mtu,
    }
}
