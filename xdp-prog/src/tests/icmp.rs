//! ICMP errors: the programs find the owner by the packet that is quoted (SVC-34).

use std::net::IpAddr;

use weft_datapath::{FlowKey, PinOp, Protocol, Tuple};

use crate::PodEntry;

use super::packets::{Context, FROM_POD, L4, NEXT, TO_POD, frame, is_punted, run};
use super::support::{ifindex, ip, monotonic_ns, node};

const OWNER: u8 = 1;

fn at(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An error from `src` to `dst` of that type about `quoted`, with zeroed checksums: the programs read none.
fn error(src: IpAddr, dst: IpAddr, kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = frame(src, dst, L4::IcmpType(kind));
    let (header, length_at) = if src.is_ipv4() { (34, 16) } else { (54, 18) };
    bytes.truncate(header + 8);
    bytes.extend(quoted);
    let length = bytes.len() - if src.is_ipv4() { 14 } else { 54 };
    bytes[length_at..length_at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    bytes
}

/// Quoted packets of 10.9.1.2:4000 > 10.9.3.2:53 and its like, and whether their flow can be found by them.
fn quotations(pod: IpAddr, server: IpAddr) -> Vec<(&'static str, Vec<u8>, bool)> {
    let whole = frame(pod, server, L4::Udp(4000, 53))[14..].to_vec();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut quoted = whole.clone();
        change(&mut quoted);
        quoted
    };
    let header = if pod.is_ipv4() { 20 } else { 40 };
    let mut list = vec![
        ("whole", whole.clone(), true),
        ("8 bytes of UDP", whole[..header + 8].to_vec(), true),
        ("half the ports", whole[..header + 2].to_vec(), false),
        ("half an IP header", whole[..header / 2].to_vec(), false),
        ("no packet", vec![], false),
        (
            "another version",
            changed(&|quoted| quoted[0] = 0x75),
            false,
        ),
        (
            "another port",
            changed(&|quoted| quoted[header + 1] ^= 1),
            false,
        ),
        ("ICMP", frame(pod, server, L4::Icmp)[14..].to_vec(), false),
    ];
    if pod.is_ipv4() {
        let options = changed(&|quoted| {
            quoted[0] = 0x47;
            quoted.splice(20..20, [1; 8]);
        });
        list.push(("IP options", options, true));
        list.push((
            "a first fragment",
            changed(&|quoted| quoted[6] = 0x20),
            true,
        ));
        list.push(("a later fragment", changed(&|quoted| quoted[7] = 1), false));
    } else {
        let behind = |number: u8, body: [u8; 7]| {
            changed(&move |quoted| {
                let header = [&[quoted[6]][..], &body].concat();
                quoted[6] = number;
                quoted.splice(40..40, header);
            })
        };
        list.push(("options", behind(60, [0; 7]), true));
        list.push(("a first fragment", behind(44, [0, 0, 1, 0, 0, 0, 7]), true));
        list.push(("a later fragment", behind(44, [0, 0, 9, 0, 0, 0, 7]), false));
    }
    list
}

/// SVC-34, K-01: at the client's veth an error that a router sent is the owner's, who gave the flow to a backend by the kernel; and
/// so is one from a backend's pod. What quotes no such flow is the kernel's.
#[test]
fn svc_34_k_01_an_error_goes_to_the_owner_of_the_quoted_flow() {
    node(|node| {
        let steering = node.steering(2);
        ip("link add veth1 type veth peer name far1");
        let ifindex = ifindex("veth1");
        let families = [
            (at("10.9.1.2"), at("10.9.3.2"), at("203.0.113.7")),
            (at("fd09:1::2"), at("fd09:3::2"), at("2001:db8::7")),
        ];
        let pod = PodEntry {
            ifindex,
            addresses: families.map(|(pod, ..)| pod.into()).to_vec(),
            draining: false,
            punt_rate: 0,
            punt_burst: 0,
            grace_until: Default::default(),
        };
        steering.set_pod(&pod).unwrap();
        for worker in 0..2 {
            steering.heartbeat(worker).unwrap().beat(monotonic_ns());
        }
        let mut pins = steering.pin_writer(None).unwrap();
        let context = Context::at(ifindex);
        let programs = &steering.skel.progs;
        for (pod, server, router) in families {
            let key = |from: (IpAddr, u16), to: (IpAddr, u16)| FlowKey {
                tuple: Tuple {
                    src: from.0.into(),
                    dst: to.0.into(),
                    sport: from.1,
                    dport: to.1,
                    proto: Protocol::Udp,
                },
                ifindex,
            };
            for key in [
                key((server, 53), (pod, 4000)), // To the pod: replies.
                key((pod, 53), (server, 4000)), // From the pod: its own replies.
            ] {
                let owner = OWNER.into();
                pins.apply([&PinOp::Insert {
                    key,
                    owner,
                    cookie: 1,
                    terminated: None,
                }]);
            }
            let (translated, others): (&[u8], &[u8]) = if pod.is_ipv4() {
                (&[3, 11, 12], &[0, 4, 5, 8, 13])
            } else {
                (&[1, 2, 3, 4], &[0, 5, 127, 128, 129, 136, 137])
            };
            for (what, quoted, found) in quotations(pod, server) {
                for &kind in translated.iter().chain(others) {
                    let packet = error(router, pod, kind, &quoted);
                    let outcome = run(&programs.weft_to_pod, &packet, context);
                    let what = format!("{what}, type {kind}: {outcome:?}");
                    if found && translated.contains(&kind) {
                        assert!(is_punted(&outcome, &packet, TO_POD, ifindex), "{what}");
                        assert_eq!(outcome.data[11], OWNER, "{what}");
                    } else {
                        assert_eq!((outcome.action, outcome.data), (NEXT, packet), "{what}");
                    }
                }
            }
            for (what, quoted, found) in quotations(server, pod) {
                let packet = error(pod, server, translated[0], &quoted);
                let outcome = run(&programs.weft_from_pod, &packet, context);
                if found {
                    assert!(is_punted(&outcome, &packet, FROM_POD, ifindex), "{what}");
                    assert_eq!(outcome.data[11], OWNER, "{what}");
                } else {
                    assert_eq!((outcome.action, outcome.data), (NEXT, packet), "{what}");
                }
            }
        }
    });
}
