//! What wrapped packets look like, judged by another implementation.

use etherparse::{Ipv4HeaderSlice, NetHeaders, PacketHeaders, TransportHeader};

use super::*;

/// Source port and traffic class of the outer headers.
fn outer(frame: &[u8]) -> (u16, u8) {
    let headers = sound(frame);
    let Some(TransportHeader::Udp(udp)) = headers.transport else {
        panic!("no UDP");
    };
    let class = match headers.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert!(ip.dont_fragment && !ip.more_fragments);
            assert_eq!(ip.time_to_live, 64);
            ip.dscp.value() << 2 | ip.ecn.value()
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!(ip.hop_limit, 64);
            assert_ne!(ip.flow_label.value(), 0);
            ip.traffic_class
        }
        other => panic!("{other:?}"),
    };
    (udp.source_port, class)
}

/// The bytes of both headers, the addresses, and what is inside (RFC 8926 section 3.4, RFC 7348 section 5).
#[test]
fn tun_01_tun_07_headers_are_as_their_documents_say() {
    for joint in Joint::ALL {
        let [mut a, _] = joined(joint);
        let asked = between(Net::V4, Protocol::Udp, 0);
        let frame = a.sends(&asked);
        outer(&frame);
        let inner = INNER[joint.outer as usize];
        let udp = inner - 14 - 8 - 8;
        let port = joint.encapsulation.port().to_be_bytes();
        assert_eq!(frame[udp + 2..udp + 4], port);
        let has_checksum = frame[udp + 6..udp + 8] != [0, 0];
        let wants_checksum = joint.checksum || joint.outer == Net::V6;
        assert_eq!(has_checksum, wants_checksum, "{joint:?}");
        let expected = match joint.encapsulation {
            Encapsulation::Geneve => [0, 0, 0x65, 0x58, 0x0a, 0x0b, 0x0c, 0],
            Encapsulation::Vxlan => [8, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0],
        };
        assert_eq!(frame[udp + 8..udp + 16], expected);
        let packet = PacketHeaders::from_ethernet_slice(&frame[inner - 14..]).unwrap();
        assert!(packet.net.is_some());
        assert_eq!(frame[inner..], asked.hops(63).frame([0; 6])[14..]);
        let source = if joint.outer == Net::V4 {
            26..30
        } else {
            22..38
        };
        let node = Side::A.node(joint.outer).0;
        assert_eq!(frame[source.clone()], node[16 - source.len()..]);
    }
}

/// What Ethernet has added to a short packet stays here: a peer gets the packet, and the tunnel's MTU counts nothing else.
#[test]
fn tun_01_padding_is_not_wrapped() {
    for joint in Joint::ALL {
        for net in Net::BOTH {
            let [mut a, mut b] = joined(joint);
            let asked = between(net, Protocol::Udp, 0);
            let plain = a.sends(&asked);
            let mut padded = asked.punted(VETH, Hook::FromPod);
            padded.resize(padded.len() + 1450, 0xee);
            assert_eq!(a.run(&mut padded), Verdict::Deliver);
            assert_eq!(padded, plain);
            sound(&b.receives(&padded));
        }
    }
}

/// One source port a flow, and of many flows many: of the dynamic ones, all 14 bits.
#[test]
fn tun_06_the_source_port_is_the_flows_and_spreads() {
    let [mut a, _] = joined(Joint::PLAIN);
    let mut ports = std::collections::BTreeSet::new();
    for sport in 1..=3000 {
        let mut spec = between(Net::V4, Protocol::Udp, 0);
        spec.tuple.sport = sport;
        let [first, second] = [a.sends(&spec), a.sends(&spec.payload(b"longer"))];
        let port = outer(&first).0;
        assert_eq!(port, outer(&second).0);
        ports.insert(port);
    }
    assert!(ports.iter().all(|port| *port >= 0xc000));
    // 3,000 balls in 16,384 bins: 2,742 are expected to be hit, give or take some 15.
    assert!(ports.len() > 2_650, "{}", ports.len());
}

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// RFC 6040: the outer bits are the inner ones, and what the way has done to them comes out as figure 4 says.
#[test]
fn tun_06_congestion_is_carried_in_and_out() {
    for (inner_net, outer_net) in [(Net::V4, Net::V4), (Net::V6, Net::V4), (Net::V4, Net::V6)] {
        for inner in [NOT_ECT, ECT_1, ECT_0, CE] {
            for on_the_way in [NOT_ECT, ECT_1, ECT_0, CE] {
                carried([inner_net, outer_net], inner, on_the_way);
            }
        }
    }
}

fn carried([inner_net, outer_net]: [Net; 2], inner: u8, on_the_way: u8) {
    const DSCP: u8 = 0xb8;
    let [mut a, mut b] = joined(Joint {
        outer: outer_net,
        ..Joint::PLAIN
    });
    let mut frame = between(inner_net, Protocol::Udp, 0).punted(VETH, Hook::FromPod);
    set_class(&mut frame, DSCP | inner);
    assert_eq!(a.run(&mut frame), Verdict::Deliver);
    assert_eq!(outer(&frame).1, DSCP | inner, "both are copied");
    set_class(&mut frame, DSCP | on_the_way); // Which no checksum of UDP has in it.
    let expected = match (inner, on_the_way) {
        (NOT_ECT, CE) => Err(DropReason::TunnelEcn),
        (NOT_ECT, _) => Ok(NOT_ECT),
        (CE, _) | (_, CE) => Ok(CE),
        (ECT_0, ECT_1) => Ok(ECT_1),
        (kept, _) => Ok(kept),
    };
    let ecn = match expected {
        Err(reason) => return assert_eq!(b.refuses(&frame), Verdict::Drop(reason)),
        Ok(ecn) => ecn,
    };
    let got = b.receives(&frame);
    sound(&got);
    let class = match inner_net {
        Net::V4 => got[15],
        Net::V6 => got[14] << 4 | got[15] >> 4,
    };
    assert_eq!(class, DSCP | ecn, "{inner} {on_the_way}");
}

/// Sets the traffic class of a frame's packet, with the checksum of IPv4.
fn set_class(frame: &mut [u8], class: u8) {
    if frame[14] >> 4 == 4 {
        frame[15] = class;
        let header = Ipv4HeaderSlice::from_slice(&frame[14..])
            .unwrap()
            .to_header();
        frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4 | frame[15] & 0x0f;
    }
}

/// A SYN and its answer ask for no more than the tunnel holds, wherever their option stands; what asks for less, and any other
/// packet, stays as it is (RFC 9293 section 3.7.1).
#[test]
fn tun_04_u_09_segments_are_clamped_to_the_tunnel_in_both_directions() {
    for (net, most) in [(Net::V4, 1410_u16), (Net::V6, 1390)] {
        for flags in [SYN, SYN | ACK, ACK] {
            for asked in [1460_u16, 1200] {
                let [high, low] = asked.to_be_bytes();
                for (options, at) in [
                    (vec![2, 4, high, low], 2),
                    (vec![1, 2, 4, high, low, 1, 1, 1], 3),
                    (vec![4, 2, 3, 3, 7, 2, 4, high, low, 1, 1, 0], 7),
                ] {
                    let clamped = if flags & SYN == 0 {
                        asked
                    } else {
                        asked.min(most)
                    };
                    assert_eq!(asks(net, flags, &options, at), clamped, "{net:?} {flags:x}");
                }
            }
        }
    }
}

/// The largest segment that a pod of the other node is asked for, whose bytes are the options' from `at` on.
fn asks(net: Net, flags: u8, options: &[u8], at: usize) -> u16 {
    let [mut a, mut b] = joined(Joint::PLAIN);
    if flags != SYN {
        b.receives(&a.sends(&between(net, Protocol::Tcp, SYN)));
    }
    let mut spec = between(net, Protocol::Tcp, flags);
    let (mut near, mut far) = (&mut a, &mut b);
    if flags == SYN | ACK {
        spec.tuple = spec.tuple.reversed();
        (near, far) = (far, near);
    }
    let mut frame = with_options(&spec, options);
    assert_eq!(near.run(&mut frame), Verdict::Deliver);
    let got = far.receives(&frame);
    sound(&got);
    let l4 = if net == Net::V4 { 34 } else { 54 };
    u16::from_be_bytes([got[l4 + 20 + at], got[l4 + 21 + at]])
}

/// The segment with these options, in whole words.
fn with_options(spec: &Spec, options: &[u8]) -> Vec<u8> {
    let mut frame = spec.punted(VETH, Hook::FromPod);
    let v4 = frame[14] >> 4 == 4;
    let (l4, length_at) = if v4 { (34, 16) } else { (54, 18) };
    frame.splice(l4 + 20..l4 + 20, options.iter().copied());
    frame[l4 + 12] = (((20 + options.len()) / 4) << 4) as u8;
    let length = u16::from_be_bytes([frame[length_at], frame[length_at + 1]]);
    let length = length + options.len() as u16;
    frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    if v4 {
        set_class(&mut frame, 0);
    }
    frame[l4 + 16..l4 + 18].fill(0);
    let (src, dst) = (&spec.tuple.src, &spec.tuple.dst);
    let sum = l4_checksum(src, dst, Protocol::Tcp, &frame[l4..]);
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}
