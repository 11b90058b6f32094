//! A tunnel to one peer, and frames that come by it.

use weft_datapath::*;

use super::{CLIENT, Net, START, Standing, builder, v4};

/// A peer's tunnel, and whose pods are behind it.
pub fn joined(encapsulation: Encapsulation, outer: Net) -> Tables {
    let mut builder = builder(&[(CLIENT, Standing::Settled)], Algorithm::Maglev);
    let ends = [1, 2].map(|node| match outer {
        Net::V4 => v4(192, 168, 7, node),
        Net::V6 => std::net::Ipv6Addr::new(0xfd07, 7, 0, 0, 0, 0, 0, node.into()).into(),
    });
    let ranges = Net::BOTH.map(|net| (Prefix::new(far(net), 24), SlotRef::FIXED));
    builder.set_overlay(OverlaySpec {
        vni: 7,
        encapsulation,
        port: encapsulation.port(),
        checksum: false,
        peers: vec![PeerSpec {
            port: TUNNELS + 1,
            remote: ends[1],
            local: ends[0],
            uplink: 7,
            mtu: 1430,
            native: false,
            ranges: ranges.into(),
        }],
    });
    builder.build(1).unwrap()
}

/// A pod of the peer's.
pub fn far(net: Net) -> Address {
    match net {
        Net::V4 => v4(10, 244, 2, 9),
        Net::V6 => std::net::Ipv6Addr::new(0xfe00, 0x244, 2, 0, 0, 0, 0, 9).into(),
    }
}

/// The frame as the far node sends it: wrapped here, with the outer ends changed about.
pub fn coming(mut frame: Vec<u8>, outer: Net, tables: &Tables, state: &mut State) -> Vec<u8> {
    let length = frame.len();
    frame.resize(2048, 0);
    let mut buf = FrameBuf::new(&mut frame, length);
    assert_eq!(process(&mut buf, START, tables, state), Verdict::Deliver);
    let length = buf.len();
    frame.truncate(length);
    let (at, len) = if outer == Net::V4 { (26, 4) } else { (22, 16) };
    for byte in at..at + len {
        frame.swap(byte, byte + len); // No sum changes.
    }
    let options = match tables.overlay().encapsulation {
        Encapsulation::Geneve => usize::from(frame[at + 2 * len + 8] & 0x3f) * 4,
        Encapsulation::Vxlan => 0,
    };
    let inner = at + 2 * len + 30 + options;
    let uplink = Uplink {
        ifindex: 7,
        target: 0,
    };
    frame[6..12].copy_from_slice(&uplink.encode());
    let (at, len) = if frame[inner] >> 4 == 4 {
        (inner + 12, 4)
    } else {
        (inner + 8, 16)
    };
    for byte in at..at + len {
        frame.swap(byte, byte + len);
    }
    frame
}
