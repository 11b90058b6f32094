//! The overlay: where wrapped packets come in, and whose pods are where.

use std::net::IpAddr;

use weft_datapath::{Address, Encapsulation, OverlaySpec, PeerSpec};
use zerocopy::byteorder::big_endian::U16;

use crate::abi;
use crate::links::{Attach, attach_pinned, detach_pinned, link_path};
use crate::netlink::{self, NetlinkError, Way};
use crate::owned::blocking;

use super::link_names::FROM_PEER;
use super::sync::sync;
use super::{Error, Steering, key};

/// What the hooks know of the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayEntries {
    /// This node's addresses on the underlay, one a family at most; without one there is no overlay.
    pub nodes: Vec<Address>,
    /// The other nodes.
    pub spec: OverlaySpec,
}

/// As [`netlink::ways`], for a thread that waits: some 100 us and 10 us a pair.
///
/// # Errors
/// When netlink does not answer.
pub fn ways(asked: &[(IpAddr, IpAddr)]) -> Result<Vec<Option<Way>>, NetlinkError> {
    blocking(netlink::ways(asked))
}

impl Steering {
    /// Makes the overlay exactly this one. Packets to pods of peers are punted once it has returned, and wrapped ones
    /// where the hook is [attached](Self::attach_uplink).
    pub fn sync_overlay(&self, wanted: &OverlayEntries) -> Result<(), Error> {
        let spec = &wanted.spec;
        let encap = match spec.encapsulation {
            Encapsulation::Geneve => abi::ENCAP_GENEVE as u8,
            Encapsulation::Vxlan => abi::ENCAP_VXLAN as u8,
        };
        let tunnel = |peer: &PeerSpec| abi::Tunnel { port: peer.port };
        let peers = spec.peers.iter();
        let remotes = peers.clone().map(|peer| (key(&peer.remote), tunnel(peer)));
        sync(&self.peers, remotes.collect())?;
        let ways = peers.clone().map(|peer| {
            let way = abi::Peer {
                local: peer.local.v4_octets(),
                remote: peer.remote.v4_octets(),
                uplink: if spec.hooks_carry(peer) {
                    peer.uplink
                } else {
                    0
                },
                vni: (spec.vni << 8).to_be_bytes(),
                port: U16::new(spec.port),
                mtu: peer.mtu,
                encap,
                native: peer.native.into(),
                pad: [0; 2],
            };
            (peer.port, way)
        });
        sync(&self.tunnels, ways.collect())?;
        let ranges = peers.flat_map(|peer| {
            let ranges = peer.ranges.iter();
            ranges.map(move |(prefix, _)| {
                let range = abi::Range {
                    bits: prefix.bits().into(),
                    addr: key(&prefix.address()),
                };
                (range, tunnel(peer))
            })
        });
        sync(&self.ranges, ranges.collect())?;
        let node = |v4: bool| {
            let found = wanted.nodes.iter().find(|node| node.is_v4() == v4);
            found.map_or([0; 16], key)
        };
        let here = abi::Overlay {
            node4: node(true),
            node6: node(false),
            port: U16::new(if wanted.nodes.is_empty() {
                0
            } else {
                spec.port
            }),
            encap,
            pad: [0; 5],
        };
        self.overlay.insert(&0, &here)?;
        Ok(())
    }

    /// Attaches the program of an uplink, or exchanges the one that is there.
    pub fn attach_uplink(&self, ifindex: u32) -> Result<(), Error> {
        let (dir, program) = (&self.config.pin_dir, &self.skel.progs.weft_from_peer);
        attach_pinned(dir, FROM_PEER, Attach::TcxIngress, ifindex, program)?;
        Ok(())
    }

    /// Takes the program off an uplink; no link, or no interface, is no error.
    pub fn detach_uplink(&self, ifindex: u32) -> Result<(), Error> {
        detach_pinned(&link_path(&self.config.pin_dir, FROM_PEER, ifindex))?;
        Ok(())
    }

    /// Interfaces that hold a link of ours as an uplink, also from a run before.
    pub fn attached_uplinks(&self) -> Result<Vec<u32>, Error> {
        self.attached(&[FROM_PEER])
    }
}
