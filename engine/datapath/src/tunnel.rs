//! Wrapping and unwrapping: GENEVE (RFC 8926) and VXLAN (RFC 7348) over UDP, with an inner Ethernet header.
//!
//! A frame in the engine is an Ethernet header and an IP packet, wherever it came from. [`wrap`] puts the outer headers
//! before it and [`unwrap`] takes them off, both in the frame's own memory. What either asks for stands in
//! `docs/overlay.md`.

use crate::checksum::{Checksum, Delta};
use crate::hash::{finish, mix};
use crate::overlay::{Encapsulation, Overlay, PeerSpec, is_tunnel};
use crate::wire::{be16, be32, ethernet, geneve, ipv4, ipv6, tcp, udp, vxlan};
use crate::{
    Address, DropReason, Egress, Family, FrameBuf, Hook, Ingress, Now, Ports, Protocol, State,
    Tables, Uplink,
};

mod options;
#[cfg(test)]
mod tests;

pub use options::{Front, Said};
pub(crate) use options::{Opening, Options};

/// Where the outer IP header stands.
const L3: usize = ethernet::LEN;
/// Hops of outer headers, as of all that Weft sends itself.
const HOPS: u8 = 64;
/// Source ports of outer headers: the dynamic ones (RFC 8926 section 3.3), 14 bits of the inner flow's hash.
const SOURCE_PORTS: u16 = 0xc000;
/// MACs of inner Ethernet headers, "weft" behind a locally administered byte. Nobody looks at them but bridges of
/// other implementations.
const INNER_DST: [u8; 6] = [0x02, 0x77, 0x65, 0x66, 0x74, 0x01];
const INNER_SRC: [u8; 6] = [0x02, 0x77, 0x65, 0x66, 0x74, 0x00];
/// The two bits of congestion (RFC 3168 section 5).
const ECN: u8 = 0x03;
/// There was congestion.
const CE: u8 = 0x03;
/// The transport knows of congestion: the second codepoint, which some routers set by themselves (RFC 6040 section 4.2).
const ECT_1: u8 = 0x01;

/// Wraps the packet in `frame` for `peer`, unless it goes there as it is, and addresses the frame to the uplink. `options`: what else the peer is to
/// know; left out where they make the packet too long.
///
/// The Ethernet header is replaced, the packet, with which the frame ends, stays as it is. Nothing is written on an error:
/// [`DropReason::NoRoute`] where no uplink leads there, [`DropReason::FrameRoom`] where the memory ends.
pub(crate) fn wrap(
    frame: &mut FrameBuf<'_>,
    overlay: &Overlay,
    peer: &PeerSpec,
    options: Options<'_>,
    ports: &Ports,
) -> Result<(), DropReason> {
    if peer.uplink == 0 {
        return Err(DropReason::NoRoute);
    }
    if peer.native {
        Egress::neighbour(peer.uplink).write(frame.bytes_mut(), ports);
        return Ok(());
    }
    let spec = &overlay.spec;
    let family = peer.remote.family();
    let inner = frame.len() - L3;
    let said = match spec.encapsulation {
        Encapsulation::Geneve => options.within(usize::from(peer.mtu).saturating_sub(inner)),
        Encapsulation::Vxlan => Options::default(),
    };
    let options = said.wire_len();
    let ip = ip_len(family);
    let outer = ip + udp::LEN + geneve::LEN + options;
    let headers = outer + ethernet::LEN;
    frame.resize(L3 + headers + inner)?;
    let bytes = frame.bytes_mut();
    // The packet with its EtherType, which the inner Ethernet header ends with.
    let from = ethernet::TYPE.start;
    bytes.copy_within(from..L3 + inner, from + headers);
    let (head, packet) = bytes.split_at_mut(L3 + headers);
    let class = traffic_class(packet);
    let hash = inner_hash(packet);

    Egress::neighbour(peer.uplink).write(head, ports);
    let l4 = &mut head[L3 + ip..];
    let sport = SOURCE_PORTS | (hash as u16 & !SOURCE_PORTS);
    let length = (udp::LEN + geneve::LEN + options + ethernet::LEN + inner) as u16;
    l4[udp::SPORT].copy_from_slice(&sport.to_be_bytes());
    l4[udp::DPORT].copy_from_slice(&spec.port.to_be_bytes());
    l4[udp::LENGTH].copy_from_slice(&length.to_be_bytes());
    l4[udp::CHECKSUM].fill(0);
    let (tunnel, rest) = l4[udp::LEN..].split_at_mut(geneve::LEN);
    tunnel.fill(0);
    let vni = spec.vni.to_be_bytes();
    match spec.encapsulation {
        Encapsulation::Geneve => {
            tunnel[geneve::VERSION_LENGTH] = (options / geneve::OPTION_UNIT) as u8;
            tunnel[geneve::PROTOCOL].copy_from_slice(&geneve::ETHERNET.to_be_bytes());
            tunnel[geneve::VNI].copy_from_slice(&vni[1..]);
        }
        Encapsulation::Vxlan => {
            tunnel[vxlan::FLAGS] = vxlan::HAS_VNI;
            tunnel[vxlan::VNI].copy_from_slice(&vni[1..]);
        }
    }
    let (options, mac) = rest.split_at_mut(options);
    said.write(options);
    mac[ethernet::DST].copy_from_slice(&INNER_DST);
    mac[ethernet::SRC].copy_from_slice(&INNER_SRC);

    let bytes = frame.bytes_mut();
    ip_header(bytes, peer, length, class, hash);
    if family == Family::V6 || spec.checksum {
        let datagram = &mut bytes[L3 + ip..];
        let sum = crate::l4_checksum(&peer.local, &peer.remote, Protocol::Udp, datagram);
        datagram[udp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Writes the outer Ethernet type and IP header. The traffic class is the inner one, congestion included (RFC 6040 section
/// 4.1, normal mode); the flow label spreads as the source port does (RFC 6438).
fn ip_header(bytes: &mut [u8], peer: &PeerSpec, length: u16, class: u8, hash: u64) {
    match peer.remote.family() {
        Family::V4 => {
            bytes[ethernet::TYPE].copy_from_slice(&ethernet::IPV4.to_be_bytes());
            let header = &mut bytes[L3..L3 + ipv4::LEN];
            header.fill(0);
            header[ipv4::VERSION_IHL] = 0x40 | (ipv4::LEN / 4) as u8;
            header[ipv4::TOS] = class;
            header[ipv4::TOTAL_LENGTH].copy_from_slice(&(length + ipv4::LEN as u16).to_be_bytes());
            // Never fragmented, so the identification needs no value (RFC 6864 section 4.1).
            header[ipv4::FRAGMENT].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
            header[ipv4::TTL] = HOPS;
            header[ipv4::PROTOCOL] = Protocol::Udp.number();
            header[ipv4::SRC].copy_from_slice(&peer.local.v4_octets());
            header[ipv4::DST].copy_from_slice(&peer.remote.v4_octets());
            let sum = Checksum::default().with(header).finish();
            header[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        }
        Family::V6 => {
            bytes[ethernet::TYPE].copy_from_slice(&ethernet::IPV6.to_be_bytes());
            let header = &mut bytes[L3..L3 + ipv6::LEN];
            let label = (hash >> 32) as u32 & 0x000f_ffff;
            let first = 6 << 28 | u32::from(class) << 20 | label;
            header[ipv6::VERSION_CLASS_FLOW].copy_from_slice(&first.to_be_bytes());
            header[ipv6::PAYLOAD_LENGTH].copy_from_slice(&length.to_be_bytes());
            header[ipv6::NEXT_HEADER] = Protocol::Udp.number();
            header[ipv6::HOP_LIMIT] = HOPS;
            header[ipv6::SRC].copy_from_slice(&peer.local.0);
            header[ipv6::DST].copy_from_slice(&peer.remote.0);
        }
    }
}

/// Takes the outer headers off a frame of an uplink: it is then as one that the tunnel's far pod had sent here, and its
/// source MAC names the tunnel. Returns what else the peer had to say; a client's name is noted.
///
/// Every check comes before the first write: of the outer headers, and that the packet is from a pod of that peer's to one of
/// this node's. Services are translated where their client is, so nothing to one comes by here.
///
/// # Errors
/// The name of what is wrong with it; the frame is untouched then.
pub(crate) fn unwrap(
    frame: &mut FrameBuf<'_>,
    uplink: Uplink,
    now: Now,
    tables: &Tables,
    state: &State,
) -> Result<Said, DropReason> {
    let overlay = tables.tunnels();
    let bytes = frame.bytes();
    let outer = Outer::parse(bytes)?;
    let peer = overlay.peer_at(&outer.src).ok_or(DropReason::TunnelPeer)?;
    let spec = &overlay.spec;
    if outer.dst != peer.local || outer.dport != spec.port {
        return Err(DropReason::TunnelHeader);
    }
    let payload = &bytes[outer.payload..outer.end];
    let (header, options, ethertype) = match spec.encapsulation {
        Encapsulation::Geneve => geneve_header(payload, spec.vni)?,
        Encapsulation::Vxlan => vxlan_header(payload, spec.vni)?,
    };
    let mut inner = outer.payload + header;
    let ethertype = match ethertype {
        geneve::ETHERNET => {
            let mac = bytes[inner..outer.end].get(..ethernet::LEN);
            inner += ethernet::LEN;
            be16(mac.ok_or(DropReason::TunnelPayload)?, ethernet::TYPE)
        }
        bare => bare,
    };
    let packet = &bytes[inner..outer.end];
    let [src, dst] = ip_ends(packet, ethertype).ok_or(DropReason::TunnelPayload)?;
    if tables.sender(peer.port, &src).is_none() {
        return Err(DropReason::SrcSpoof);
    }
    let to = tables.pod_by_address(&dst);
    if to.is_none_or(|pod| is_tunnel(pod.ifindex)) {
        return Err(DropReason::NoRoute);
    }
    let ecn = decapsulated_ecn(outer.class & ECN, traffic_class(packet) & ECN)?;

    let port = peer.port;
    let name = options.client;
    let said = Said {
        front: options.front,
        client: name.and_then(|name| state.client_names.note(port, name, now)),
    };
    let bytes = frame.bytes_mut();
    bytes.copy_within(inner..outer.end, L3);
    let ingress = Ingress {
        ifindex: port,
        hook: Hook::FromPod,
        target: uplink.target,
    };
    bytes[ethernet::DST].copy_from_slice(&state.ports.weft0_mac);
    bytes[ethernet::SRC].copy_from_slice(&ingress.encode());
    bytes[ethernet::TYPE].copy_from_slice(&ethertype.to_be_bytes());
    if let Some(ecn) = ecn {
        set_ecn(&mut bytes[L3..], ecn);
    }
    frame.resize(L3 + outer.end - inner)?;
    Ok(said)
}

/// The outer headers of a datagram, as far as UDP.
struct Outer {
    src: Address,
    dst: Address,
    class: u8,
    dport: u16,
    /// Where what UDP carries starts and ends in the frame.
    payload: usize,
    end: usize,
}

impl Outer {
    fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        const BAD: DropReason = DropReason::TunnelHeader;
        let header = frame.get(..ethernet::LEN).ok_or(BAD)?;
        let l3 = &frame[L3..];
        let (src, dst, class, ip, length) = match be16(header, ethernet::TYPE) {
            ethernet::IPV4 => {
                let fixed: &[u8; ipv4::LEN] = l3.first_chunk().ok_or(BAD)?;
                let ip = usize::from(fixed[ipv4::VERSION_IHL] & 0x0f) * 4;
                let length = usize::from(be16(fixed, ipv4::TOTAL_LENGTH));
                let whole = be16(fixed, ipv4::FRAGMENT) & ipv4::FRAGMENT_MASK == 0;
                let right = fixed[ipv4::VERSION_IHL] >> 4 == 4 && ip >= ipv4::LEN && whole;
                if !right || ip > length || fixed[ipv4::PROTOCOL] != Protocol::Udp.number() {
                    return Err(BAD);
                }
                let all = l3.get(..ip).ok_or(BAD)?;
                if Checksum::default().with(all).finish() != 0 {
                    return Err(DropReason::TunnelChecksum);
                }
                let [src, dst] = ip_ends(fixed, ethernet::IPV4).ok_or(BAD)?;
                (src, dst, fixed[ipv4::TOS], ip, length)
            }
            ethernet::IPV6 => {
                let fixed: &[u8; ipv6::LEN] = l3.first_chunk().ok_or(BAD)?;
                // No extension header has any business here: nobody fragments IPv6 but its sender.
                let udp = fixed[ipv6::NEXT_HEADER] == Protocol::Udp.number();
                if fixed[0] >> 4 != 6 || !udp {
                    return Err(BAD);
                }
                let [src, dst] = ip_ends(fixed, ethernet::IPV6).ok_or(BAD)?;
                let length = ipv6::LEN + usize::from(be16(fixed, ipv6::PAYLOAD_LENGTH));
                (src, dst, traffic_class(l3), ipv6::LEN, length)
            }
            _ => return Err(BAD),
        };
        let datagram = l3.get(ip..length).ok_or(BAD)?;
        let fixed: &[u8; udp::LEN] = datagram.first_chunk().ok_or(BAD)?;
        let length = usize::from(be16(fixed, udp::LENGTH));
        let datagram = datagram.get(..length).filter(|all| all.len() >= udp::LEN);
        let datagram = datagram.ok_or(BAD)?;
        let right = match be16(fixed, udp::CHECKSUM) {
            0 => src.is_v4(),
            _ => crate::l4_checksum(&src, &dst, Protocol::Udp, datagram) == 0xffff,
        };
        if !right {
            return Err(DropReason::TunnelChecksum);
        }
        Ok(Self {
            src,
            dst,
            class,
            dport: be16(fixed, udp::DPORT),
            payload: L3 + ip + udp::LEN,
            end: L3 + ip + length,
        })
    }
}

/// The length of the header with its options, what Weft's own say, and the EtherType of what is wrapped.
fn geneve_header(payload: &[u8], vni: u32) -> Result<(usize, Options<'_>, u16), DropReason> {
    let fixed: &[u8; geneve::LEN] = payload.first_chunk().ok_or(DropReason::TunnelHeader)?;
    if fixed[geneve::VERSION_LENGTH] & geneve::VERSION_MASK != 0 {
        return Err(DropReason::TunnelVersion);
    }
    if fixed[geneve::FLAGS] & geneve::OAM != 0 {
        return Err(DropReason::GeneveOam);
    }
    if network(&fixed[geneve::VNI]) != vni {
        return Err(DropReason::TunnelVni);
    }
    let words = usize::from(fixed[geneve::VERSION_LENGTH] & !geneve::VERSION_MASK);
    let end = geneve::LEN + words * geneve::OPTION_UNIT;
    let options = payload
        .get(geneve::LEN..end)
        .ok_or(DropReason::GeneveOptions)?;
    let options = Options::read(options)?;
    Ok((end, options, be16(fixed, geneve::PROTOCOL)))
}

/// The same of VXLAN, which has no options and wraps nothing but Ethernet.
fn vxlan_header(payload: &[u8], vni: u32) -> Result<(usize, Options<'_>, u16), DropReason> {
    let fixed: &[u8; vxlan::LEN] = payload.first_chunk().ok_or(DropReason::TunnelHeader)?;
    if fixed[vxlan::FLAGS] & vxlan::HAS_VNI == 0 {
        return Err(DropReason::TunnelHeader);
    }
    if network(&fixed[vxlan::VNI]) != vni {
        return Err(DropReason::TunnelVni);
    }
    Ok((vxlan::LEN, Options::default(), geneve::ETHERNET))
}

fn network(vni: &[u8]) -> u32 {
    vni.iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Source and destination of a packet of that EtherType; `None` where it is no IP packet.
fn ip_ends(packet: &[u8], ethertype: u16) -> Option<[Address; 2]> {
    match ethertype {
        ethernet::IPV4 => {
            let fixed: &[u8; ipv4::LEN] = packet.first_chunk()?;
            let ends = [ipv4::SRC, ipv4::DST];
            Some(ends.map(|at| Address::from_v4(be32(fixed, at).to_be_bytes())))
        }
        ethernet::IPV6 => {
            let fixed: &[u8; ipv6::LEN] = packet.first_chunk()?;
            let mut ends = [Address([0; 16]); 2];
            ends[0].0.copy_from_slice(&fixed[ipv6::SRC]);
            ends[1].0.copy_from_slice(&fixed[ipv6::DST]);
            // A mapped one would look like IPv4.
            ends.iter().all(|end| !end.is_v4()).then_some(ends)
        }
        _ => None,
    }
}

/// What the inner header's congestion bits become: figure 4 of RFC 6040. `None`: they stay.
fn decapsulated_ecn(outer: u8, inner: u8) -> Result<Option<u8>, DropReason> {
    match (outer, inner) {
        (CE, 0) => Err(DropReason::TunnelEcn),
        (CE, inner) if inner != CE => Ok(Some(CE)),
        (ECT_1, inner) if inner != 0 && inner != CE && inner != ECT_1 => Ok(Some(ECT_1)),
        _ => Ok(None),
    }
}

/// Bytes of the IP packet in what a frame carries: what Ethernet has added is neither counted nor looked at anywhere.
pub(crate) fn without_padding(packet: &[u8]) -> usize {
    let length = match packet[0] >> 4 {
        4 => usize::from(be16(packet, ipv4::TOTAL_LENGTH)),
        _ => ipv6::LEN + usize::from(be16(packet, ipv6::PAYLOAD_LENGTH)),
    };
    length.min(packet.len())
}

/// DSCP and congestion bits of an IP packet.
fn traffic_class(packet: &[u8]) -> u8 {
    match packet[0] >> 4 {
        4 => packet[ipv4::TOS],
        _ => packet[0] << 4 | packet[1] >> 4,
    }
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    if packet[0] >> 4 == 4 {
        let before = [packet[0], packet[ipv4::TOS]];
        packet[ipv4::TOS] = packet[ipv4::TOS] & !ECN | ecn;
        let after = [packet[0], packet[ipv4::TOS]];
        Delta::default()
            .replace(&before, &after)
            .patch(&mut packet[ipv4::CHECKSUM]);
    } else {
        packet[1] = packet[1] & !(ECN << 4) | ecn << 4;
    }
}

fn ip_len(family: Family) -> usize {
    match family {
        Family::V4 => ipv4::LEN,
        Family::V6 => ipv6::LEN,
    }
}

/// A hash of the inner flow, the same for all its packets: of addresses and protocol, and of ports unless the packet is in
/// fragments or has extension headers (TUN-06).
fn inner_hash(packet: &[u8]) -> u64 {
    const SEED: u64 = 0x7765_6674;
    let word = |bytes: &[u8]| {
        let (words, _) = bytes.as_chunks::<8>();
        words
            .iter()
            .fold(SEED, |hash, word| mix(hash, u64::from_be_bytes(*word)))
    };
    let (addresses, protocol, l4) = match packet[0] >> 4 {
        4 => {
            let whole = be16(packet, ipv4::FRAGMENT) & ipv4::FRAGMENT_MASK == 0;
            let l4 = usize::from(packet[ipv4::VERSION_IHL] & 0x0f) * 4;
            let l4 = if whole { packet.get(l4..) } else { None };
            (
                &packet[ipv4::SRC.start..ipv4::DST.end],
                packet[ipv4::PROTOCOL],
                l4,
            )
        }
        _ => {
            let l4 = packet.get(ipv6::LEN..);
            (
                &packet[ipv6::SRC.start..ipv6::DST.end],
                packet[ipv6::NEXT_HEADER],
                l4,
            )
        }
    };
    let has_ports = Protocol::from_number(protocol).is_some();
    let ports = l4
        .filter(|_| has_ports)
        .and_then(|l4| l4.first_chunk::<4>());
    let ports = ports.map_or(0, |ports| u32::from_be_bytes(*ports));
    finish(mix(
        word(addresses),
        u64::from(ports) << 8 | u64::from(protocol),
    ))
}

/// Lowers the largest segment that a SYN or SYN-ACK asks for to what an inner packet of `mtu` bytes holds (TUN-04). Any
/// other packet stays as it is.
pub(crate) fn clamp_segments(packet: &mut [u8], mtu: u16) {
    let (l4, family) = match packet[0] >> 4 {
        4 if packet[ipv4::PROTOCOL] == Protocol::Tcp.number()
            && be16(packet, ipv4::FRAGMENT) & ipv4::OFFSET_MASK == 0 =>
        {
            (
                usize::from(packet[ipv4::VERSION_IHL] & 0x0f) * 4,
                Family::V4,
            )
        }
        6 if packet[ipv6::NEXT_HEADER] == Protocol::Tcp.number() => (ipv6::LEN, Family::V6),
        _ => return,
    };
    let Some(segment) = packet.get_mut(l4..) else {
        return;
    };
    if segment.len() < tcp::LEN || segment[tcp::FLAGS] & tcp::SYN == 0 {
        return;
    }
    let header = usize::from(segment[tcp::DATA_OFFSET] >> 4) * 4;
    if header > segment.len() {
        return;
    }
    let most = mtu.saturating_sub((ip_len(family) + tcp::LEN) as u16);
    let mut at = tcp::LEN;
    // Bound: 40 bytes of options.
    while at < header {
        let length = match segment[at] {
            tcp::OPTION_END => return,
            tcp::OPTION_NOP => 1,
            _ => match segment[..header].get(at + 1) {
                Some(&length) if length >= 2 => usize::from(length),
                _ => return,
            },
        };
        let value = at + 2..at + 4;
        if segment[at] == tcp::OPTION_MSS && length == 4 && value.end <= header {
            let asked = be16(segment, value.clone());
            if asked > most {
                segment[value].copy_from_slice(&most.to_be_bytes());
                // Behind an odd number of bytes it lies across two words of the sum, its bytes the other way round.
                let [before, after] = match at % 2 {
                    0 => [asked, most],
                    _ => [asked.swap_bytes(), most.swap_bytes()],
                };
                Delta::default()
                    .replace(&before.to_be_bytes(), &after.to_be_bytes())
                    .patch(&mut segment[tcp::CHECKSUM]);
            }
            return;
        }
        at += length;
    }
}
