//! `[overlay]`: the other nodes and their pods.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_datapath::Encapsulation;

use super::error::{ConfigError, Location, Reason};
use super::model::{Node, Overlay, Peer};
use super::reader::{Kind, Value};
use super::registry::{Registry, Use};
use super::scalar::{INTERFACE, NAME};

pub(super) const KEYS: &[&str] = &["vni", "encap", "port", "checksum", "peer"];
pub(super) const PEER_KEYS: &[&str] = &["name", "address", "pods", "native"];

/// Peers, as many as the hooks have room for.
const PEERS_MAX: u64 = weft_xdp::MAX_PEERS as u64;

pub(super) fn read(value: &Value<'_, '_>, registry: &mut Registry) -> Option<Overlay> {
    let table = value.table(KEYS)?;
    let vni = table.optional("vni", 1, |value| {
        value.integer(0..=0xff_ffff)?.try_into().ok()
    });
    let encapsulation = table.optional("encap", Encapsulation::Geneve, |value| {
        let words = [
            ("geneve", Encapsulation::Geneve),
            ("vxlan", Encapsulation::Vxlan),
        ];
        value.word(&words, &[])
    });
    let port = match table.get("port") {
        Some(value) => value.port(),
        None => Some(encapsulation.unwrap_or_default().port()),
    };
    let checksum = table.optional("checksum", false, |value| value.boolean());
    let peers = table.optional("peer", Vec::new(), |value| {
        let items = value.items("an array of tables, written [[overlay.peer]]")?;
        let count = items.len();
        if count as u64 > PEERS_MAX {
            return value.reject(Reason::TooMany {
                count,
                max: PEERS_MAX,
            });
        }
        let peers: Vec<Peer> = items
            .filter_map(|item| read_peer(&item, registry))
            .collect();
        (peers.len() == count).then_some(peers)
    });
    Some(Overlay {
        vni: vni?,
        encapsulation: encapsulation?,
        port: port?,
        checksum: checksum?,
        peers: peers?,
        at: table.location(),
    })
}

fn read_peer(value: &Value<'_, '_>, registry: &mut Registry) -> Option<Peer> {
    let table = value.table(PEER_KEYS)?;
    let name = table.require("name").and_then(|value| {
        let name = value.name(&NAME)?;
        registry.peer_name(&value, &name);
        Some(name)
    });
    let address = table.require("address").and_then(|value| {
        let address = value.address()?;
        registry.address(&value, address, Use::Node);
        Some((address, value.location()))
    });
    let pods = table.require("pods").and_then(|value| {
        let items = value.items("an array of ranges such as \"10.244.2.0/24\"")?;
        let count = items.len();
        let ranges: Vec<IpNet> = items
            .filter_map(|item| {
                let range = item.range()?;
                registry.pod_range(&item, range);
                Some(range)
            })
            .collect();
        (ranges.len() == count).then_some(ranges)
    });
    let native = table.optional("native", false, |value| value.boolean());
    let (address, address_at) = address?;
    Some(Peer {
        name: name?,
        address,
        address_at,
        native: native?,
        pods: pods?,
    })
}

/// One interface, or several: each once, and no pod's.
pub(super) fn read_uplinks(
    value: &Value<'_, '_>,
    registry: &mut Registry,
) -> Option<Vec<(String, Location)>> {
    let mut one = |value: &Value<'_, '_>| {
        let name = value.name(&INTERFACE)?;
        registry.interface(value, &name);
        Some((name, value.location()))
    };
    if let Kind::String = value.kind() {
        return Some(vec![one(value)?]);
    }
    let items = value.items("an interface, or an array of interfaces")?;
    let count = items.len();
    if count == 0 {
        return value.reject(Reason::Empty);
    }
    let uplinks: Vec<_> = items.filter_map(|item| one(&item)).collect();
    (uplinks.len() == count).then_some(uplinks)
}

/// What an overlay lacks of the node: an address of each peer's family to speak from, and an uplink.
pub(super) fn unreachable(node: &Node, overlay: &Overlay) -> Vec<ConfigError> {
    let error = |at: &Location, reason| ConfigError {
        at: at.clone(),
        reason,
    };
    if overlay.peers.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if node.uplinks.is_empty() {
        found.push(error(&overlay.at, Reason::Needs("node.uplink")));
    }
    if node.addresses.is_empty() {
        found.push(error(&overlay.at, Reason::Needs("node.address")));
        return found;
    }
    for peer in &overlay.peers {
        if node.address_towards(peer.address).is_none() {
            found.push(error(
                &peer.address_at,
                Reason::NoNodeAddress {
                    address: peer.address,
                },
            ));
        }
    }
    found
}

impl Node {
    /// The node's address of the family of that one.
    pub fn address_towards(&self, address: IpAddr) -> Option<IpAddr> {
        let mut known = self.addresses.iter();
        known
            .find(|own| own.is_ipv4() == address.is_ipv4())
            .copied()
    }
}
