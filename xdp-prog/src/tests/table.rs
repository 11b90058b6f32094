//! Every row of the steering table, through the programs, in both families.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_datapath::steering::{
    BpfVerdict, Destination, Enrolment, Entry, Opens, Row, Source, parse,
};
use weft_datapath::{
    Address, FlowKey, Hook, Inject, OverlaySpec, PeerSpec, PinOp, Prefix, Protocol, SlotRef,
    TUNNELS, Tuple,
};

use crate::{Counter, OverlayEntries, PodEntry, ServiceKey, Steering};

use super::packets::{Context, DROP, FROM_POD, L4, NEXT, TO_POD, frame, is_punted, run};
use super::support::{Node, ifindex, ip, monotonic_ns, node};

const DOCUMENT: &str = include_str!("../../../docs/steering.md");
const OWNER: u16 = 1;

/// The addresses of one family.
pub(super) struct Family {
    pub(super) pod: IpAddr,
    pub(super) enrolled: IpAddr,
    pub(super) vip: IpAddr,
    pub(super) hairpin: IpAddr,
    pub(super) other_pod: IpAddr,
    pub(super) overlay: IpAddr,
    pub(super) host: IpAddr,
    pub(super) outside: IpAddr,
    pub(super) link: [IpAddr; 3],
}

pub(super) fn families() -> [Family; 2] {
    let at = |text: &str| -> IpAddr { text.parse().expect("an address") };
    [
        Family {
            pod: at("10.9.1.2"),
            enrolled: at("10.9.2.2"),
            vip: at("10.96.0.1"),
            hairpin: at("192.0.0.8"),
            other_pod: at("10.9.3.2"),
            overlay: at("10.244.9.9"),
            host: at("10.9.1.1"),
            outside: at("203.0.113.7"),
            link: [at("224.0.0.251"), at("255.255.255.255"), at("169.254.1.1")],
        },
        Family {
            pod: at("fd09:1::2"),
            enrolled: at("fd09:2::2"),
            vip: at("fd96::1"),
            hairpin: at("fd77:6566:74::1"),
            other_pod: at("fd09:3::2"),
            overlay: at("fd44:9::9"),
            host: at("fd09:1::1"),
            outside: at("2001:db8::7"),
            link: [at("ff02::fb"), at("ff02::1:ff00:2"), at("fe80::1")],
        },
    ]
}

pub(super) const SERVICE_PORT: u16 = 80;
pub(super) const EMPTY_SERVICE_PORT: u16 = 81;
const OTHER_PORT: u16 = 9999;
/// Peers' addresses, by family.
const PEERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 7, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2)),
];

/// Packets that `opens` allows, to a port.
fn to_port(opens: Opens, port: u16) -> Vec<L4> {
    let yes = [L4::Syn(4000, port), L4::Udp(4000, port)];
    let no = [L4::Ack(4000, port)];
    match opens {
        Opens::Yes => yes.to_vec(),
        Opens::No => no.to_vec(),
        Opens::Any => [&yes[..], &no].concat(),
    }
}

/// Everything that a row's destination and `opens` stand for.
fn packets(row: &Row, family: &Family) -> Vec<(IpAddr, L4)> {
    let ports = |to: IpAddr, port| to_port(row.opens, port).into_iter().map(move |l4| (to, l4));
    let tcp = |(_, l4): &(IpAddr, L4)| !matches!(l4, L4::Udp(..));
    let all = |to: IpAddr| {
        ports(to, 5000).chain([
            (to, L4::Icmp),
            (to, L4::Fragment(4000, 80)),
            (to, L4::LaterFragment(1, 2)),
        ])
    };
    let kind = row.destination;
    let ends_here = row.entry == Entry::Terminated;
    match kind {
        Destination::ServicePort if ends_here => {
            ports(family.vip, SERVICE_PORT).filter(tcp).collect()
        }
        Destination::ServicePort => ports(family.vip, SERVICE_PORT).collect(),
        Destination::ServicePortWithStage => ports(family.vip, SERVICE_PORT).filter(tcp).collect(),
        Destination::ServicePortWithoutBackends => ports(family.vip, EMPTY_SERVICE_PORT).collect(),
        Destination::VipOtherPort => ports(family.vip, OTHER_PORT).collect(),
        Destination::VipFirstFragment | Destination::StageFirstFragment => {
            vec![(family.vip, L4::Fragment(4000, SERVICE_PORT))]
        }
        Destination::VipLaterFragment => vec![(family.vip, L4::LaterFragment(1, 2))],
        Destination::VipError if ends_here => {
            vec![(family.vip, L4::TcpUnreachable(4000, SERVICE_PORT))]
        }
        Destination::VipError => vec![(family.vip, L4::Unreachable(4000, SERVICE_PORT))],
        Destination::VipTooLong => vec![(family.vip, L4::TcpTooBig(4000, SERVICE_PORT))],
        Destination::VipEcho => vec![(family.vip, L4::Icmp)],
        Destination::VipOtherIcmp => [0, 5, 129, 137]
            .map(|kind| (family.vip, L4::IcmpType(kind)))
            .into(),
        Destination::VipOtherProtocol => [132, 47]
            .map(|number| (family.vip, L4::Protocol(number)))
            .into(),
        Destination::EnrolledPodError if ends_here => {
            vec![(family.enrolled, L4::TcpUnreachable(4000, 5000))]
        }
        Destination::EnrolledPodTooLong => vec![(family.enrolled, L4::TcpTooBig(4000, 5000))],
        Destination::EnrolledPodError => vec![(family.enrolled, L4::Unreachable(4000, 5000))],
        Destination::OtherPodError => vec![(family.other_pod, L4::Unreachable(4000, 5000))],
        Destination::VipExtension if family.vip.is_ipv4() => vec![],
        Destination::VipExtension => vec![(family.vip, L4::Extensions(4000, SERVICE_PORT, 9))],
        Destination::EnrolledPod => ports(family.enrolled, 5000).collect(),
        Destination::EnrolledPodTcp => ports(family.enrolled, 5000).filter(tcp).collect(),
        Destination::EnrolledPodUdp => ports(family.enrolled, 5000).filter(|p| !tcp(p)).collect(),
        Destination::EnrolledPodFirstFragment => vec![(family.enrolled, L4::Fragment(4000, 5000))],
        Destination::EnrolledPodLaterFragment => vec![(family.enrolled, L4::LaterFragment(1, 2))],
        Destination::Hairpin if ends_here => ports(family.hairpin, 5000).filter(tcp).collect(),
        Destination::Hairpin => ports(family.hairpin, 5000).collect(),
        Destination::EnrolledPodOtherProtocol => [L4::Icmp, L4::IcmpType(0), L4::Protocol(132)]
            .map(|l4| (family.enrolled, l4))
            .into(),
        // A flow of ours has ports; without one, everything goes.
        Destination::OtherPod if ends_here => ports(family.other_pod, 5000).filter(tcp).collect(),
        Destination::OtherPod if row.entry == Entry::Ours => {
            ports(family.other_pod, 5000).collect()
        }
        Destination::OtherPod => all(family.other_pod).collect(),
        Destination::Overlay => all(family.overlay).collect(),
        Destination::Tunnel => [L4::Udp(4000, 6081), L4::Fragment(4000, 6081)]
            .map(|l4| (PEERS[usize::from(family.vip.is_ipv6())], l4))
            .into(),
        Destination::Node if ends_here => ports(family.host, 5000).filter(tcp).collect(),
        Destination::NodeError => vec![(family.host, L4::TcpUnreachable(4000, 5000))],
        Destination::NodeTooLong => vec![(family.host, L4::TcpTooBig(4000, 5000))],
        Destination::Node => all(family.host).collect(),
        Destination::AnythingElse => all(family.outside).collect(),
        Destination::LinkLocal => family.link.iter().flat_map(|to| all(*to)).collect(),
        Destination::Any => [family.vip, family.enrolled, family.outside]
            .into_iter()
            .flat_map(|to| ports(to, SERVICE_PORT).chain(all(to)))
            .collect(),
    }
}

/// The entry of a packet, if it has ports to have one by.
fn pin(src: IpAddr, dst: IpAddr, l4: L4, ifindex: u32) -> Option<FlowKey> {
    let (sport, dport, proto) = match l4 {
        L4::Syn(from, to)
        | L4::SynAck(from, to)
        | L4::Ack(from, to)
        | L4::TcpUnreachable(from, to)
        | L4::TcpTooBig(from, to) => (from, to, Protocol::Tcp),
        // That of the flow that it speaks of.
        L4::Udp(from, to) | L4::Unreachable(from, to) => (from, to, Protocol::Udp),
        L4::Icmp
        | L4::IcmpType(_)
        | L4::Protocol(_)
        | L4::Fragment(..)
        | L4::LaterFragment(..)
        | L4::Extensions(..) => return None,
    };
    let tuple = Tuple {
        src: src.into(),
        dst: dst.into(),
        sport,
        dport,
        proto,
    };
    Some(FlowKey { tuple, ifindex })
}

pub(super) fn bench(node: &Node) -> (Steering, u32) {
    let steering = node.steering(2);
    ip("link add veth1 type veth peer name far1");
    let ifindex = ifindex("veth1");
    let mut endpoints = Vec::new();
    let mut services = Vec::new();
    for family in families() {
        endpoints.push((family.pod.into(), ifindex));
        endpoints.push((family.enrolled.into(), ifindex + 1));
        endpoints.push((family.hairpin.into(), 0));
        let vip = family.vip.into();
        services.push(ServiceKey::wildcard(vip));
        for port in [SERVICE_PORT, EMPTY_SERVICE_PORT] {
            services.push(ServiceKey::port(vip, port, Protocol::Tcp));
            services.push(ServiceKey::port(vip, port, Protocol::Udp));
        }
    }
    steering.sync_endpoints(&endpoints).unwrap();
    steering.sync_services(&services).unwrap();
    let ranges = families().map(|family| {
        let prefix = Prefix::new(family.overlay.into(), 24);
        (prefix, SlotRef::FIXED)
    });
    let peer = PeerSpec {
        port: TUNNELS,
        remote: PEERS[0].into(),
        local: Address::from_v4([192, 168, 7, 1]),
        uplink: ifindex + 2,
        mtu: 1450,
        native: false,
        ranges: ranges.to_vec(),
    };
    let over_ipv6 = PeerSpec {
        port: TUNNELS + 1,
        remote: PEERS[1].into(),
        local: IpAddr::from([0xfd00, 7, 0, 0, 0, 0, 0, 1]).into(),
        ranges: Vec::new(),
        ..peer.clone()
    };
    let overlay = OverlayEntries {
        nodes: vec![peer.local, over_ipv6.local],
        spec: OverlaySpec {
            port: 6081,
            peers: vec![peer, over_ipv6],
            ..OverlaySpec::default()
        },
    };
    steering.sync_overlay(&overlay).unwrap();
    for worker in 0..2 {
        steering.heartbeat(worker).unwrap().beat(monotonic_ns());
    }
    (steering, ifindex)
}

pub(super) fn enrol(steering: &Steering, ifindex: u32, draining: bool) {
    let addresses = families().map(|family| family.pod.into()).to_vec();
    let pod = PodEntry {
        ifindex,
        addresses,
        draining,
        punt_rate: 0,
        punt_burst: 0,
        grace_until: Default::default(),
    };
    steering.set_pod(&pod).unwrap();
}

/// Runs one packet of a row and checks the verdict.
fn check(
    steering: &Steering,
    row: &Row,
    (src, dst, l4): (IpAddr, IpAddr, L4),
    ifindex: u32,
    pinned: bool,
) {
    let packet = frame(src, dst, l4);
    let (program, tag) = match row.hook {
        Hook::FromPod => (&steering.skel.progs.weft_from_pod, FROM_POD),
        Hook::ToPod => (&steering.skel.progs.weft_to_pod, TO_POD),
    };
    let mark = if row.source == Source::Reingressed {
        crate::abi::MARK
    } else {
        0
    };
    let context = Context {
        ifindex,
        mark,
        ..Context::default()
    };
    let before = steering.counters().unwrap();
    let outcome = run(program, &packet, context);
    let counted = steering.counters().unwrap().since(&before);
    let what = format!(
        "line {}: {src} > {dst} {l4:?}, pinned: {pinned}: {outcome:?}",
        row.line
    );
    match row.bpf {
        BpfVerdict::Punt => {
            assert!(is_punted(&outcome, &packet, tag, ifindex), "{what}");
            let target = u16::from_be_bytes([outcome.data[10], outcome.data[11]]);
            assert!(!pinned || target == OWNER, "{what}");
        }
        BpfVerdict::Kernel => {
            assert_eq!((outcome.action, outcome.mark), (NEXT, 0), "{what}");
            assert_eq!(outcome.data, packet, "{what}");
        }
        BpfVerdict::Drop(reason) => {
            assert_eq!(outcome.action, DROP, "{what}");
            assert_eq!(outcome.data, packet, "{what}");
            let counter = Counter::ALL.into_iter().find(|c| c.name() == reason.name());
            assert_eq!(
                counted[counter.expect("a counter of that name")],
                1,
                "{what}"
            );
        }
    }
    let (seen, left) = match row.hook {
        Hook::FromPod => (
            Counter::FromPod,
            [Counter::FromPodKernel, Counter::FromPodPunted],
        ),
        Hook::ToPod => (Counter::ToPod, [Counter::ToPodKernel, Counter::ToPodPunted]),
    };
    let dropped = [Counter::SrcSpoof, Counter::Malformed, Counter::PuntRate];
    let sum: u64 = left
        .iter()
        .chain(&dropped)
        .map(|counter| counted[*counter])
        .sum();
    assert_eq!(counted[seen], sum, "the ledger of {what}");
    assert_eq!(
        counted[seen] + counted[Counter::Reingressed],
        1,
        "the ledger of {what}"
    );
}

#[test]
fn every_row_holds_in_both_families() {
    node(|node| {
        let rows = parse(DOCUMENT).expect("docs/steering.md");
        assert!(rows.len() > 30, "only {} rows", rows.len());
        let (steering, ifindex) = bench(node);
        let mut writer = steering.pin_writer(None).unwrap();
        let mut checked = BTreeSet::new();
        for (row, family) in rows
            .iter()
            .flat_map(|row| families().map(|family| (row, family)))
        {
            let sources = match row.source {
                Source::EnrolledPod | Source::Reingressed => vec![family.pod],
                Source::SpoofingPod => vec![family.enrolled, family.outside, family.vip],
                Source::OtherPod => vec![family.other_pod],
                Source::Host => vec![family.host],
                Source::Outside => vec![family.outside],
            };
            let drainings: &[bool] = match row.enrolment {
                Enrolment::Grace | Enrolment::Settled => &[false],
                Enrolment::Draining => &[true],
                Enrolment::Any => &[false, true],
            };
            let entries: &[bool] = match row.entry {
                Entry::None => &[false],
                Entry::Ours | Entry::Terminated => &[true],
                Entry::Any => &[false, true],
            };
            let mut packets = packets(row, &family);
            if row.hook == Hook::ToPod {
                let to_pod = [
                    Destination::EnrolledPod,
                    Destination::EnrolledPodTcp,
                    Destination::EnrolledPodTooLong,
                    Destination::EnrolledPodFirstFragment,
                    Destination::EnrolledPodLaterFragment,
                    Destination::EnrolledPodError,
                ];
                assert!(to_pod.contains(&row.destination), "line {}", row.line);
                packets.iter_mut().for_each(|(to, _)| *to = family.pod);
            }
            let ipv6_only = row.destination == Destination::VipExtension;
            assert!(
                !packets.is_empty() || ipv6_only && family.vip.is_ipv4(),
                "line {} stands for no packet",
                row.line
            );
            for draining in drainings {
                enrol(&steering, ifindex, *draining);
                for (src, (dst, l4)) in sources
                    .iter()
                    .flat_map(|src| packets.iter().map(move |packet| (*src, *packet)))
                {
                    for pinned in entries {
                        let key = pin(src, dst, l4, ifindex).filter(|_| *pinned);
                        if let Some(key) = key {
                            writer.apply([&PinOp::Insert {
                                key,
                                owner: OWNER,
                                cookie: 1,
                                terminated: (row.entry == Entry::Terminated)
                                    .then_some(Inject::Peer),
                            }]);
                        }
                        check(&steering, row, (src, dst, l4), ifindex, key.is_some());
                        if let Some(key) = key {
                            writer.apply([&PinOp::Remove { key, cookie: None }]);
                        }
                        checked.insert(row.line);
                    }
                }
            }
        }
        assert_eq!(checked.len(), rows.len(), "every row was checked");
    });
}

/// The interface is part of the key, so the same packet at another pod's veth does not hit.
#[test]
fn no_pod_hits_anothers_entry() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        enrol(&steering, ifindex, false);
        let [family, _] = families();
        let l4 = L4::Udp(4000, 5000);
        let key = pin(family.pod, family.outside, l4, ifindex + 1).unwrap();
        steering.pin_writer(None).unwrap().apply([&PinOp::Insert {
            key,
            owner: OWNER,
            cookie: 1,
            terminated: None,
        }]);
        let packet = frame(family.pod, family.outside, l4);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let outcome = run(from_pod, &packet, Context::at(ifindex));
        assert_eq!((outcome.action, outcome.data), (NEXT, packet));
    });
}

/// Multicast in fragments is delivered without a detour; an IPv6 fragment header must be whole.
#[test]
fn svc_35_other_fragments_are_left_alone() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        enrol(&steering, ifindex, false);
        let context = Context::at(ifindex);
        for family in families() {
            for link in family.link {
                let packet = frame(family.other_pod, link, L4::Fragment(5353, 5353));
                let outcome = run(&steering.skel.progs.weft_to_pod, &packet, context);
                assert_eq!((outcome.action, outcome.data), (NEXT, packet));
            }
        }
        let [_, v6] = families();
        let whole = frame(v6.pod, v6.vip, L4::LaterFragment(1, 2));
        let mut cut = whole[..14 + 40 + 7].to_vec();
        cut[19] = 7;
        cut[18] = 0;
        let outcome = run(&steering.skel.progs.weft_from_pod, &cut, context);
        assert_eq!(outcome.action, DROP);
        assert_eq!(steering.counters().unwrap()[Counter::Malformed], 1);
    });
}
