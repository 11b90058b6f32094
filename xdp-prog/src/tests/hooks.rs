//! What the hooks do beside the table: broken frames, dead workers, limits, marks, spoofs.

use std::net::IpAddr;

use weft_datapath::Protocol;

use crate::{Counter, PodEntry, ServiceKey, Steering, abi};

use super::packets::{Context, DROP, FROM_POD, L4, NEXT, POD_MAC, REDIRECT, frame, is_punted, run};
use super::support::{Node, ifindex, ip, monotonic_ns, node};

pub(super) const POD4: &str = "10.9.1.2";
pub(super) const POD6: &str = "fd09:1::2";
pub(super) const OTHER4: &str = "10.9.2.2";
const OTHER6: &str = "fd09:2::2";
pub(super) const VIP4: &str = "10.96.0.1";
const VIP6: &str = "fd96::1";

pub(super) fn at(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A steering with one enrolled pod at `veth1`, another address enrolled elsewhere, and a service.
pub(super) fn bench(node: &Node) -> (Steering, u32) {
    let steering = node.steering(1);
    ip("link add veth1 type veth peer name far1");
    let ifindex = ifindex("veth1");
    steering.set_pod(&entry(ifindex)).unwrap();
    steering
        .sync_endpoints(&[
            (at(POD4).into(), ifindex),
            (at(POD6).into(), ifindex),
            (at(OTHER4).into(), ifindex + 1),
            (at(OTHER6).into(), ifindex + 1),
        ])
        .unwrap();
    let services: Vec<ServiceKey> = [VIP4, VIP6]
        .into_iter()
        .flat_map(|vip| {
            let vip = at(vip).into();
            [
                ServiceKey::port(vip, 80, Protocol::Tcp),
                ServiceKey::wildcard(vip),
            ]
        })
        .collect();
    steering.sync_services(&services).unwrap();
    assert_eq!(steering.services().unwrap().len(), 4);
    steering.heartbeat(0).unwrap().beat(monotonic_ns());
    (steering, ifindex)
}

pub(super) fn entry(ifindex: u32) -> PodEntry {
    PodEntry {
        ifindex,
        addresses: vec![at(POD4).into(), at(POD6).into()],
        draining: false,
        punt_rate: 0,
        punt_burst: 0,
        grace_until: Default::default(),
    }
}

pub(super) fn syn4() -> Vec<u8> {
    frame(at(POD4), at(VIP4), L4::Syn(4000, 80))
}

pub(super) fn ack4() -> Vec<u8> {
    frame(at(POD4), at(VIP4), L4::Ack(4000, 80))
}

pub(super) fn syn6() -> Vec<u8> {
    frame(at(POD6), at(VIP6), L4::Syn(4000, 80))
}

#[test]
fn a_punt_says_where_from_and_remembers_the_mac() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        for packet in [syn4(), syn6()] {
            let outcome = run(from_pod, &packet, Context::at(ifindex));
            assert!(
                is_punted(&outcome, &packet, FROM_POD, ifindex),
                "{outcome:?}"
            );
        }
        assert_eq!(steering.pod_mac(ifindex).unwrap(), Some(POD_MAC));
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::FromPod], 2);
        assert_eq!(counters[Counter::FromPodPunted], 2);
    });
}

#[test]
fn every_truncation_is_malformed() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let mut expected = 0;
        for packet in [syn4(), syn6(), frame(at(POD4), at(VIP4), L4::Udp(1, 2))] {
            // From the end of the IP header, since a test run refuses less (the lab goes below that),
            // to a byte too few.
            let ip = if packet[12] == 0x08 { 20 } else { 40 };
            for length in 14 + ip..packet.len() {
                let cut = &packet[..length];
                let outcome = run(from_pod, cut, Context::at(ifindex));
                assert_eq!(outcome.action, DROP, "{length} of {} bytes", packet.len());
                assert_eq!(outcome.data, cut, "a dropped packet is not touched");
                expected += 1;
            }
        }
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::Malformed], expected);
        assert_eq!(counters[Counter::FromPod], expected);
    });
}

#[test]
fn contradictory_headers_are_malformed() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let broken4: [(&str, usize, u8); 4] = [
            ("a header of 16 bytes", 14, 0x44),
            ("a header of 60 bytes that leaves no TCP", 14, 0x4f),
            ("version 5", 14, 0x55),
            ("a total length beyond the frame", 16, 0xff),
        ];
        for (what, offset, value) in broken4 {
            let mut packet = syn4();
            packet[offset] = value;
            let outcome = run(from_pod, &packet, Context::at(ifindex));
            assert_eq!(outcome.action, DROP, "{what}");
        }
        let mut packet = syn4();
        packet[16..18].copy_from_slice(&[0, 30]); // Ends within the TCP header.
        let outcome = run(from_pod, &packet, Context::at(ifindex));
        assert_eq!(outcome.action, DROP, "a total length that cuts TCP");
        let mut packet = syn6();
        packet[18] = 0xff;
        let outcome = run(from_pod, &packet, Context::at(ifindex));
        assert_eq!(outcome.action, DROP, "a payload length beyond the frame");
        assert_eq!(steering.counters().unwrap()[Counter::Malformed], 6);
    });
}

#[test]
fn ethernet_padding_and_ip_options_are_no_fault() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let mut padded = syn4();
        padded.extend([0; 9]);
        let mut options = syn4();
        options[14] = 0x46;
        let total = u16::from_be_bytes([options[16], options[17]]) + 4;
        options[16..18].copy_from_slice(&total.to_be_bytes());
        options.splice(34..34, [1, 1, 1, 0]);
        for packet in [padded, options] {
            let outcome = run(from_pod, &packet, Context::at(ifindex));
            assert!(
                is_punted(&outcome, &packet, FROM_POD, ifindex),
                "{outcome:?}"
            );
        }
    });
}

#[test]
fn a_reingressed_packet_passes_unseen_and_loses_its_mark() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let context = Context {
            ifindex,
            mark: abi::MARK,
            ..Context::default()
        };
        // Also one that the hook would drop: the second look is not for it.
        for packet in [syn4(), frame(at("203.0.113.9"), at(VIP4), L4::Syn(1, 80))] {
            let outcome = run(from_pod, &packet, context);
            assert_eq!(
                (outcome.action, outcome.mark, &outcome.data),
                (NEXT, 0, &packet)
            );
        }
        let other = Context {
            mark: 0x4000,
            ..context
        };
        let outcome = run(from_pod, &syn4(), other);
        assert_eq!(
            (outcome.action, outcome.mark),
            (REDIRECT, 0x4000),
            "somebody else's mark"
        );
        assert_eq!(steering.counters().unwrap()[Counter::Reingressed], 2);
    });
}

/// AMB-06.
#[test]
fn amb_06_a_source_that_is_not_the_pods_is_dropped_before_any_lookup() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let context = Context::at(ifindex);
        let drops = [
            frame(at(OTHER4), at(VIP4), L4::Syn(1, 80)),
            frame(at(OTHER4), at("192.0.2.1"), L4::Udp(1, 80)),
            frame(at("10.9.1.1"), at(OTHER4), L4::Icmp),
            frame(at(OTHER6), at(VIP6), L4::Syn(1, 80)),
            frame(at(OTHER6), at("2001:db8::1"), L4::Icmp),
            frame(at("::ffff:10.9.1.2"), at(VIP6), L4::Syn(1, 80)),
            // No address of its own yet, but a VIP or a pod for a destination.
            frame(at("0.0.0.0"), at(VIP4), L4::Udp(68, 67)),
            frame(at("169.254.7.7"), at(OTHER4), L4::Udp(1, 1)),
            frame(at("fe80::1"), at(VIP6), L4::Syn(1, 80)),
            frame(at("::"), at(OTHER6), L4::Udp(1, 1)),
        ];
        for packet in &drops {
            let outcome = run(from_pod, packet, context);
            assert_eq!(
                (outcome.action, &outcome.data),
                (DROP, packet),
                "{packet:02x?}"
            );
        }
        assert_eq!(
            steering.counters().unwrap()[Counter::SrcSpoof],
            drops.len() as u64
        );
        let kernels = [
            frame(at("0.0.0.0"), at("255.255.255.255"), L4::Udp(68, 67)), // DHCP
            frame(at("::"), at("ff02::1:ff00:2"), L4::Icmp),              // DAD
            frame(at("fe80::1"), at("ff02::16"), L4::Icmp),               // MLD
            frame(at("fe80::1"), at("fe80::2"), L4::Udp(546, 547)),
            frame(at("fe80::1"), at(OTHER6), L4::Icmp), // A unicast neighbour probe.
            frame(at("fe80::1"), at("fd09:1::1"), L4::Udp(1, 2)),
            frame(at("169.254.7.7"), at("169.254.7.8"), L4::Udp(1, 2)),
        ];
        for packet in &kernels {
            let outcome = run(from_pod, packet, context);
            assert_eq!(
                (outcome.action, &outcome.data),
                (NEXT, packet),
                "{packet:02x?}"
            );
        }
        assert_eq!(
            steering.counters().unwrap()[Counter::FromPodKernel],
            kernels.len() as u64
        );
    });
}

#[test]
fn other_ethertypes_tags_and_interfaces_are_the_kernels() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let mut arp = syn4();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let context = Context::at(ifindex);
        assert_eq!(run(from_pod, &arp, context).action, NEXT);
        let elsewhere = Context {
            ifindex: 1,
            ..Context::default()
        };
        assert_eq!(
            run(from_pod, &syn4(), elsewhere).action,
            NEXT,
            "not an enrolled pod's"
        );
        steering.remove_pod(ifindex).unwrap();
        assert_eq!(
            run(from_pod, &syn4(), context).action,
            NEXT,
            "enrolled no more"
        );
        assert_eq!(steering.counters().unwrap()[Counter::FromPod], 0);
    });
}

#[test]
fn a_mapped_address_in_ipv6_does_not_alias_ipv4() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let packet = frame(at(POD6), at(&format!("::ffff:{VIP4}")), L4::Syn(1, 80));
        let outcome = run(from_pod, &packet, Context::at(ifindex));
        assert_eq!((outcome.action, outcome.data), (NEXT, packet));
    });
}

#[test]
fn weft0_takes_only_what_user_space_encoded() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let injected = &steering.skel.progs.weft_injected;
        let from_pod = &steering.skel.progs.weft_from_pod;
        run(from_pod, &syn4(), Context::at(ifindex)); // Teaches the MAC.
        let with_source = |mac: [u8; 6]| {
            let mut packet = syn4();
            packet[6..12].copy_from_slice(&mac);
            packet
        };
        let [_, a, b, c] = ifindex.to_be_bytes();
        let at_weft0 = Context {
            ifindex: steering.config.pair.weft0_ifindex,
            ..Context::default()
        };

        let peer = run(injected, &with_source([6, a, b, c, 1, 0]), at_weft0);
        assert_eq!(peer.action, REDIRECT);
        let back = run(injected, &with_source([6, a, b, c, 2, 0]), at_weft0);
        assert_eq!((back.action, back.mark), (REDIRECT, abi::MARK));
        assert_eq!(
            back.data,
            syn4(),
            "the pod's own MAC is back, the destination was never touched"
        );

        // What user space has made itself goes where the pod sends what is for services.
        let mut made = with_source([6, a, b, c, 2, 0]);
        made[..6].copy_from_slice(&steering.config.pair.weft0_mac);
        assert_eq!(run(injected, &made, at_weft0).data, syn4());

        // Out of an uplink: to whom is for the kernel's routes to say.
        let uplink = with_source([6, a, b, c, 4, 0]);
        assert_eq!(run(injected, &uplink, at_weft0).action, REDIRECT);

        for mac in [
            POD_MAC,
            [6, a, b, c, 3, 0],
            [6, 0, 0, 0, 1, 0],
            [0x0a, a, b, c, 1, 0],
        ] {
            assert_eq!(
                run(injected, &with_source(mac), at_weft0).action,
                DROP,
                "{mac:02x?}"
            );
        }
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::InjectedPeer], 1);
        assert_eq!(counters[Counter::InjectedReingress], 2);
        assert_eq!(counters[Counter::InjectedUplink], 1);
        assert_eq!(counters[Counter::InjectForeign], 4);
    });
}
