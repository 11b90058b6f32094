//! IPv6 extension headers: the programs find the ports where the engine does.

use std::net::IpAddr;

use weft_datapath::{Parsed, parse};

use crate::{PodEntry, ServiceKey};

use super::packets::{Context, DROP, FROM_POD, L4, NEXT, frame, is_punted, run};
use super::support::{ifindex, ip, monotonic_ns, node};

const POD: &str = "fd09:1::2";
const VIP: &str = "fd96::1";
const OUTSIDE: &str = "2001:db8::7";

fn at(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Extension headers: number, and the bytes after next header and length.
type Headers = Vec<(u8, Vec<u8>)>;

/// UDP to `dst` behind these headers.
fn behind(dst: &str, headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut packet = frame(at(POD), at(dst), L4::Udp(4000, 80));
    let (mut named_at, mut end) = (20, 54);
    for (number, body) in headers {
        let mut header = vec![packet[named_at], (body.len() / 8) as u8];
        header.extend(body);
        packet[named_at] = *number;
        packet.splice(end..end, header.iter().copied());
        (named_at, end) = (end, end + header.len());
    }
    let length = (packet.len() - 54) as u16;
    packet[18..20].copy_from_slice(&length.to_be_bytes());
    packet
}

/// Whether a packet has ports is seen from where it goes: a pin or a service port, else the VIP's wildcard. Here by
/// the ledger of a destination that is nobody's, with an owner entry for the ports.
#[test]
fn the_programs_walk_as_the_engine_does() {
    node(|node| {
        let steering = node.steering(2);
        ip("link add veth1 type veth peer name far1");
        let ifindex = ifindex("veth1");
        let pod = PodEntry {
            ifindex,
            addresses: vec![at(POD).into()],
            draining: false,
            punt_rate: 0,
            punt_burst: 0,
            grace_until: Default::default(),
        };
        steering.set_pod(&pod).unwrap();
        steering
            .sync_services(&[ServiceKey::wildcard(at(VIP).into())])
            .unwrap();
        for worker in 0..2 {
            steering.heartbeat(worker).unwrap().beat(monotonic_ns());
        }
        let plain = behind(OUTSIDE, &[]);
        let Ok(Parsed::Flow(flow)) = parse(&plain) else {
            panic!("UDP");
        };
        let key = weft_datapath::FlowKey {
            tuple: *flow.tuple(),
            ifindex,
        };
        let mut pins = steering.pin_writer(None).unwrap();
        pins.apply([&weft_datapath::PinOp::Insert {
            key,
            owner: 1,
            cookie: 1,
            terminated: None,
        }]);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let context = Context::at(ifindex);
        let small = |number: u8| (number, vec![0; 6]);
        let undone = (43, vec![0, 1, 0, 0, 0, 0]);
        let cases: [(&str, Headers); 13] = [
            ("nothing", vec![]),
            ("hop-by-hop", vec![small(0)]),
            ("all three", vec![small(0), small(43), small(60)]),
            ("eight", vec![small(60); 8]),
            ("nine", vec![small(60); 9]),
            ("256 bytes", vec![(60, vec![0; 254])]),
            ("264 bytes", vec![(60, vec![0; 262])]),
            ("256 bytes in two", vec![small(60), (60, vec![0; 246])]),
            ("264 bytes in two", vec![small(60), (60, vec![0; 254])]),
            ("segments left", vec![undone]),
            ("a late hop-by-hop header", vec![small(60), small(0)]),
            ("authentication", vec![(51, vec![0; 10])]),
            ("a fragment behind options", vec![small(60), small(44)]),
        ];
        for (what, headers) in &cases {
            let packet = behind(OUTSIDE, headers);
            let ports = matches!(parse(&packet), Ok(Parsed::Flow(_)));
            let outcome = run(from_pod, &packet, context);
            if ports {
                assert!(is_punted(&outcome, &packet, FROM_POD, ifindex), "{what}");
                assert_eq!(outcome.data[11], 1, "{what}: the owner's");
            } else {
                assert_eq!((outcome.action, &outcome.data), (NEXT, &packet), "{what}");
            }
            let packet = behind(VIP, headers);
            let outcome = run(from_pod, &packet, context);
            assert!(is_punted(&outcome, &packet, FROM_POD, ifindex), "{what}");
        }
        // Headers, or ports, that end behind the packet.
        let packet = behind(VIP, &[small(0), small(60)]);
        for length in 54..packet.len() {
            let mut cut = packet[..length].to_vec();
            cut[18..20].copy_from_slice(&((length - 54) as u16).to_be_bytes());
            let outcome = run(from_pod, &cut, context);
            assert_eq!(outcome.action == DROP, length < 54 + 16 + 8, "{length}");
        }
    });
}
