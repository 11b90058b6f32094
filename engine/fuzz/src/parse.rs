//! Any bytes through the parser: what it says holds, and another library says the same.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use weft_datapath::{Parsed, Protocol, Tuple, parse, wire};

/// Longer frames than any worker holds add nothing but time.
const FRAME_MAX: usize = 4096;

/// One case.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let frame = &data[..data.len().min(FRAME_MAX)];
    let Ok(Parsed::Flow(packet)) = parse(frame) else {
        let bare = independent(frame).filter(|_| !extended(frame));
        assert_eq!(bare, None, "a whole packet has its ports");
        return;
    };
    assert!(wire::ethernet::LEN <= packet.l4());
    assert!(packet.l4() <= packet.end() && packet.end() <= frame.len());
    assert_eq!(independent(frame), Some(*packet.tuple()));
    let end = packet.end();
    assert_eq!(
        parse(&frame[..end]),
        Ok(Parsed::Flow(packet)),
        "Ethernet padding says nothing"
    );
    for len in 0..end {
        assert!(parse(&frame[..len]).is_err(), "cut at {len} of {end}");
    }
}

/// Whether the frame has IPv6 extension headers, which Weft follows within bounds.
fn extended(frame: &[u8]) -> bool {
    SlicedPacket::from_ethernet(frame).is_ok_and(|packet| match packet.net {
        Some(NetSlice::Ipv6(ip)) => ip.header().next_header() != ip.payload().ip_number,
        _ => false,
    })
}

/// The tuple that another library reads; `None` for what has no ports, or none that Weft goes by.
fn independent(frame: &[u8]) -> Option<Tuple> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    if !packet.link_exts.is_empty() {
        return None; // VLAN tags: never punted.
    }
    let [src, dst]: [IpAddr; 2] = match packet.net? {
        NetSlice::Ipv4(ip) if !ip.is_payload_fragmented() => {
            let header = ip.header();
            (header.protocol() == ip.payload_ip_number()).then(|| {
                [
                    header.source_addr().into(),
                    header.destination_addr().into(),
                ]
            })?
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let addresses = [header.source_addr(), header.destination_addr()];
            let mapped = addresses.iter().any(|ip| ip.to_ipv4_mapped().is_some());
            // A payload of 0 is a jumbogram there (RFC 2675), which no frame of ours holds.
            let jumbo = header.payload_length() == 0;
            (!ip.is_payload_fragmented() && !mapped && !jumbo)
                .then(|| addresses.map(IpAddr::from))?
        }
        _ => return None,
    };
    let (sport, dport, proto) = match packet.transport? {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port(), Protocol::Tcp),
        // And so is a datagram of length 0.
        TransportSlice::Udp(udp) if udp.length() == 0 => return None,
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port(), Protocol::Udp),
        _ => return None,
    };
    Some(Tuple {
        src: src.into(),
        dst: dst.into(),
        sport,
        dport,
        proto,
    })
}
