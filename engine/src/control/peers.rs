//! The other nodes: which way leads there, and which numbers their tunnels have.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_datapath::{Address, OverlaySpec, PeerSpec, Prefix, SlotRef, TUNNELS};
use weft_xdp::OverlayEntries;
use weft_xdp::netlink::Way;

use super::compile::Names;
use super::slots::{Member, Slots};
use super::sources::Answers;
use crate::config::{Config, Overlay};

/// Two ends on the underlay: this node's address, and the peer's.
pub type Ends = (IpAddr, IpAddr);

/// The ways to peers, as the kernel said when it was asked last.
pub type Ways = Answers<Ends, Option<Way>>;

/// What is assumed of a peer that no route leads to, until one does.
const MTU_UNKNOWN: u16 = 1_500;

/// Where the numbers of peers' ranges are kept among those of service ports: no service has an empty name.
const NO_SERVICE: &str = "";

/// Numbers of tunnels, by the peers' names. One is never another peer's, so that no flow is taken for another's; there are
/// 65,536.
#[derive(Clone, Debug, Default)]
pub struct TunnelNumbers(HashMap<String, u32>);

impl TunnelNumbers {
    fn of(&mut self, peer: &str) -> Option<u32> {
        let next = TUNNELS + u32::try_from(self.0.len()).ok()?;
        let room = next < 1 << weft_datapath::PORT_BITS;
        match self.0.get(peer) {
            Some(number) => Some(*number),
            None if room => Some(*self.0.entry(peer.to_owned()).or_insert(next)),
            None => None,
        }
    }
}

/// The overlay of one generation.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// For the workers.
    pub spec: OverlaySpec,
    /// This node's own addresses on the underlay.
    pub nodes: Vec<Address>,
    /// The peers' names, in the order of `spec.peers`.
    pub names: Vec<String>,
}

impl Peers {
    /// Who is to be asked about: a pair for each peer.
    pub fn ends(config: &Config) -> impl Iterator<Item = Ends> {
        let peers = config.overlay.iter().flat_map(|overlay| &overlay.peers);
        peers.filter_map(|peer| Some((config.node.address_towards(peer.address)?, peer.address)))
    }

    /// The overlay as configured, over `uplinks` (interfaces) and the ways there are. What flows depend on is a place for each
    /// range of a peer's.
    pub fn new(
        config: &Config,
        uplinks: &[u32],
        ways: &Ways,
        numbers: &mut TunnelNumbers,
        (names, places): (&mut Names, &mut Slots),
        before: &Self,
    ) -> Self {
        let Some(overlay) = config.overlay.as_deref() else {
            before.forget(&[], (names, places));
            return Self::default();
        };
        let mut peers = Self::default();
        for (peer, (local, remote)) in overlay.peers.iter().zip(Self::ends(config)) {
            let Some(port) = numbers.of(&peer.name) else {
                tracing::error!(
                    peer = peer.name,
                    "no number is left for its tunnel: restart weft"
                );
                continue;
            };
            let way = ways.of((local, remote)).copied().flatten();
            let way = way.filter(|way| uplinks.contains(&way.ifindex));
            let id = names.number(NO_SERVICE, &peer.name);
            let member = |range: &IpNet| -> Member {
                (
                    range.addr().into(),
                    range.prefix_len().into(),
                    SlotRef::FIXED,
                )
            };
            places.assign(id, peer.pods.iter().map(member));
            let ranges = peer.pods.iter().map(|range| {
                let prefix = Prefix::new(range.addr().into(), range.prefix_len());
                (prefix, places.of(id, &member(range)))
            });
            let ranges: Vec<_> = ranges.collect();
            let carried = way.map_or(MTU_UNKNOWN, |way| {
                u16::try_from(way.mtu).unwrap_or(u16::MAX).min(MTU_MOST)
            });
            let remote: Address = remote.into();
            let overhead = match peer.native {
                true => 0,
                false => overlay.encapsulation.overhead(remote.family()),
            };
            peers.names.push(peer.name.clone());
            peers.spec.peers.push(PeerSpec {
                port,
                remote,
                local: local.into(),
                uplink: way.map_or(0, |way| way.ifindex),
                mtu: carried.saturating_sub(overhead),
                native: peer.native,
                ranges,
            });
        }
        before.forget(&peers.names, (names, places));
        peers.described(config, overlay)
    }

    fn described(mut self, config: &Config, overlay: &Overlay) -> Self {
        self.spec.vni = overlay.vni;
        self.spec.encapsulation = overlay.encapsulation;
        self.spec.port = overlay.port;
        self.spec.checksum = overlay.checksum;
        let own = config.node.addresses.iter();
        self.nodes = own.map(|&address| address.into()).collect();
        self
    }

    /// Ends the flows to peers that are not among `still`.
    fn forget(&self, still: &[String], (names, places): (&mut Names, &mut Slots)) {
        for gone in self.names.iter().filter(|name| !still.contains(name)) {
            let id = names.number(NO_SERVICE, gone);
            places.assign(id, []);
        }
    }

    /// For the hooks.
    pub fn entries(&self) -> OverlayEntries {
        OverlayEntries {
            nodes: self.nodes.clone(),
            spec: self.spec.clone(),
        }
    }

    /// The tunnel to the peer that has the pod with this address, and what flows to it depend on.
    pub fn reachable(&self, address: IpAddr) -> Option<(u32, SlotRef)> {
        let address = address.into();
        let peers = self.spec.peers.iter();
        let ranges = peers.flat_map(|peer| {
            let ranges = peer.ranges.iter();
            ranges.map(|(prefix, slot)| (prefix, (peer.port, *slot)))
        });
        let longest = ranges
            .filter(|(prefix, _)| prefix.contains(&address))
            .max_by_key(|(prefix, _)| prefix.bits());
        longest.map(|(_, found)| found)
    }

    /// Whether all peers' pods are where they are in `other`.
    pub fn same_pods(&self, other: &Self) -> bool {
        let ranges = |peers: &'_ Self| -> Vec<(u32, Prefix, SlotRef)> {
            let peers = peers.spec.peers.iter();
            peers
                .flat_map(|peer| {
                    let ranges = peer.ranges.iter();
                    ranges.map(|(prefix, slot)| (peer.port, *prefix, *slot))
                })
                .collect()
        };
        ranges(self) == ranges(other)
    }

    /// The name of the peer with that tunnel.
    pub fn name(&self, port: u32) -> Option<&str> {
        let at = (self.spec.peers.iter()).position(|peer| peer.port == port)?;
        self.names.get(at).map(String::as_str)
    }
}

/// The longest wrapped packet that is sent: what the punt pair takes.
const MTU_MOST: u16 = weft_xdp::netlink::PAIR_MTU as u16;
