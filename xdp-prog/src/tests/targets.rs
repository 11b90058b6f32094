//! Which worker a packet is punted to.

use std::net::IpAddr;

use weft_datapath::{Hook, Protocol, source_hash};

use super::packets::{Context, L4, NEXT, frame, run};
use super::support::node;
use super::table::*;

/// Flows that nobody owns spread over the workers by their source alone.
#[test]
fn unowned_flows_spread_evenly_and_stay_where_they_are() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        enrol(&steering, ifindex, false);
        let from_pod = &steering.skel.progs.weft_from_pod;
        for family in families() {
            let target = |l4, dst| {
                let context = Context::at(ifindex);
                let data = run(from_pod, &frame(family.pod, dst, l4), context).data;
                u16::from_be_bytes([data[10], data[11]])
            };
            let mut hits = [0_usize; 4];
            for port in 1024..3072 {
                hits[usize::from(target(L4::Syn(port, SERVICE_PORT), family.vip) % 4)] += 1;
            }
            assert!(
                hits.iter().all(|hits| (430..600).contains(hits)),
                "{hits:?}"
            );
            let syn = target(L4::Syn(4000, SERVICE_PORT), family.vip);
            assert_eq!(syn, target(L4::Ack(4000, SERVICE_PORT), family.vip));
            assert_eq!(syn, target(L4::Syn(4000, 5000), family.enrolled));
        }
    });
}

/// SVC-11, SVC-33: flows to all services go by their source, whatever a service's affinity. Otherwise one worker
/// could not know which source ports of a client its other flows have.
#[test]
fn svc11_svc33_flows_to_services_go_by_their_source_alone() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        enrol(&steering, ifindex, false);
        let from_pod = &steering.skel.progs.weft_from_pod;
        for family in families() {
            for port in 10_000..10_064 {
                let source = source_hash(&family.pod.into(), port, Protocol::Tcp);
                for service in [SERVICE_PORT, EMPTY_SERVICE_PORT] {
                    let packet = frame(family.pod, family.vip, L4::Syn(port, service));
                    let data = run(from_pod, &packet, Context::at(ifindex)).data;
                    assert_eq!(data[10..12], source.to_be_bytes());
                }
            }
        }
    });
}

/// The engine computes the same hash where it looks for the worker of a first fragment's flow; all fragments of
/// a sender come to one worker, at either hook.
#[test]
fn svc_35_the_engine_and_the_programs_hash_alike() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        enrol(&steering, ifindex, false);
        let target = |hook, src, dst, l4| {
            let program = match hook {
                Hook::FromPod => &steering.skel.progs.weft_from_pod,
                Hook::ToPod => &steering.skel.progs.weft_to_pod,
            };
            let context = Context::at(ifindex);
            let outcome = run(program, &frame(src, dst, l4), context);
            assert_ne!(outcome.action, NEXT, "{l4:?}");
            u16::from_be_bytes([outcome.data[10], outcome.data[11]])
        };
        for family in families() {
            let (pod, vip) = (family.pod, family.vip);
            let hash = |src: IpAddr, port, proto| source_hash(&src.into(), port, proto);
            for port in [1, 53, 80, 255, 256, 4000, 40001, u16::MAX] {
                let syn = target(Hook::FromPod, pod, vip, L4::Syn(port, SERVICE_PORT));
                assert_eq!(syn, hash(pod, port, Protocol::Tcp));
                let udp = target(Hook::FromPod, pod, vip, L4::Udp(port, SERVICE_PORT));
                assert_eq!(udp, hash(pod, port, Protocol::Udp));
                for l4 in [L4::Fragment(port, 53), L4::LaterFragment(port, 7)] {
                    let meet = hash(pod, 0, Protocol::Udp);
                    assert_eq!(target(Hook::FromPod, pod, vip, l4), meet);
                    assert_eq!(target(Hook::FromPod, pod, family.enrolled, l4), meet);
                    let back = target(Hook::ToPod, family.other_pod, pod, l4);
                    assert_eq!(back, hash(family.other_pod, 0, Protocol::Udp));
                }
            }
        }
    });
}
