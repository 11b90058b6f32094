//! Tunnels on the fast path, packet by packet against the engine: the same outer headers, and the same packet into the pod.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use etherparse::{PacketBuilder, TcpOptionElement};
use weft_datapath::{
    Encapsulation, FastEnds, FlowKey, FrameBuf, Front, Hook, Ingress, NameId, Now, OverlaySpec,
    PeerSpec, PinOp, Pod, PodState, Ports, Prefix, Protocol, Said, SlotRef, State, StateConfig,
    TUNNELS, Tables, TablesBuilder, Tuple, Uplink, Verdict, process,
};

use crate::{Counter, OverlayEntries, Steering};

use super::hooks::at;
use super::packets::{Context, L4, Outcome, REDIRECT, frame, is_punted, run};
use super::support::{Node, ip, monotonic_ns, node};
use super::world::{CLIENT, open, pod, tell};

const TUNNEL: u32 = TUNNELS + 1;
const UPLINK: u32 = 120;
/// The pod of the far node, and its veth there.
const FAR: u32 = 77;
const MTU: u16 = 1450;
/// Where the inner packet begins in a wrapped frame.
const INNER: usize = 64;
const FROM_PEER: u32 = crate::abi::TAG_UPLINK;

fn far_pod(v6: bool) -> IpAddr {
    at(if v6 { "fd10::77" } else { "10.10.0.77" })
}

/// The tables of one of two nodes, each with one pod.
fn tables(far: bool, encapsulation: Encapsulation) -> Tables {
    let (own, other) = if far { (FAR, CLIENT) } else { (CLIENT, FAR) };
    let address = |ifindex, v6| match ifindex {
        FAR => far_pod(v6),
        _ => pod(ifindex, v6),
    };
    let mut ends = [at("192.168.7.1").into(), at("192.168.7.2").into()];
    if far {
        ends.reverse();
    }
    let mut builder = TablesBuilder::new();
    builder.add_pod(Pod {
        ifindex: own,
        name: Box::default(),
        addresses: [false, true].map(|v6| address(own, v6).into()).into(),
        slot: SlotRef { slot: 1, epoch: 0 },
        state: PodState::Enrolled {
            grace_until: Now::default(),
        },
        mtu: 1500,
    });
    builder.set_overlay(OverlaySpec {
        vni: 77,
        encapsulation,
        port: encapsulation.port(),
        checksum: false,
        peers: vec![PeerSpec {
            port: TUNNEL,
            remote: ends[1],
            local: ends[0],
            uplink: UPLINK,
            mtu: MTU,
            native: false,
            ranges: [false, true]
                .map(|v6| (Prefix::new(address(other, v6).into(), 128), SlotRef::FIXED))
                .to_vec(),
        }],
    });
    builder.set_epochs(vec![0; 8]);
    builder.build(1).unwrap()
}

/// A node, and another one that only the engine knows.
struct Joined {
    steering: Steering,
    here: Engine,
    far: Engine,
}

struct Engine {
    tables: Tables,
    state: State,
}

impl Engine {
    fn new(far: bool, encapsulation: Encapsulation) -> Self {
        let state = State::new(StateConfig {
            max_flows: 1024,
            seed: 7,
            worker: 0,
            workers: 1,
            ports: Ports::default(),
            hairpin: Default::default(),
        });
        Self {
            tables: tables(far, encapsulation),
            state,
        }
    }

    /// What it makes of a frame that comes with this source MAC.
    fn decide(&mut self, source: [u8; 6], packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut memory = [0; 4096];
        memory[..packet.len()].copy_from_slice(packet);
        memory[6..12].copy_from_slice(&source);
        let mut buf = FrameBuf::new(&mut memory, packet.len());
        let now = Now::from_nanos(monotonic_ns());
        let verdict = process(&mut buf, now, &self.tables, &mut self.state);
        self.state.pin_ops.clear();
        (verdict, buf.bytes().to_vec())
    }

    /// A pod's packet, wrapped.
    #[track_caller]
    fn wraps(&mut self, ifindex: u32, packet: &[u8]) -> Vec<u8> {
        let ingress = Ingress {
            ifindex,
            hook: Hook::FromPod,
            target: 0,
        };
        let (verdict, frame) = self.decide(ingress.encode(), packet);
        assert_eq!(verdict, Verdict::Deliver);
        frame
    }

    /// A peer's packet, unwrapped.
    #[track_caller]
    fn unwraps(&mut self, packet: &[u8]) -> Vec<u8> {
        let uplink = Uplink {
            ifindex: UPLINK,
            target: 0,
        };
        let (verdict, frame) = self.decide(uplink.encode(), packet);
        assert_eq!(verdict, Verdict::Deliver);
        frame
    }
}

impl Joined {
    fn new(node: &Node, encapsulation: Encapsulation) -> Self {
        for (name, index) in [("p", CLIENT), ("up", UPLINK)] {
            ip(&format!(
                "link add {name} index {index} type veth peer name far-{name}"
            ));
        }
        let mut steering = open(node, 1);
        let here = Engine::new(false, encapsulation);
        tell(&mut steering, &here.tables);
        let entries = OverlayEntries {
            nodes: vec![at("192.168.7.1").into()],
            spec: here.tables.overlay().clone(),
        };
        steering.sync_overlay(&entries).unwrap();
        Self {
            steering,
            here,
            far: Engine::new(true, encapsulation),
        }
    }

    /// Opens a flow from the pod here to the far one, and back, and [leaves](Self::leave) it.
    fn open(&mut self, v6: bool, proto: Protocol) {
        let [asks, answers] = self.packets(v6, proto, true);
        self.far.unwraps(&self.here.wraps(CLIENT, &asks));
        self.here.unwraps(&self.far.wraps(FAR, &answers));
        self.leave(v6, proto, Said::default());
    }

    /// Leaves it to the hooks, and what a peer has said of it.
    fn leave(&self, v6: bool, proto: Protocol, said: Said) {
        let client = FlowKey {
            tuple: Tuple {
                src: pod(CLIENT, v6).into(),
                dst: far_pod(v6).into(),
                sport: 4000,
                dport: 5000,
                proto,
            },
            ifindex: CLIENT,
        };
        let answers = FlowKey {
            tuple: client.tuple.reversed(),
            ifindex: TUNNEL,
        };
        self.leave_ends(FastEnds { client, answers }, said);
        thread::sleep(Duration::from_millis(60)); // Datagrams are held until there is a pause by the coarse clock.
    }

    fn leave_ends(&self, ends: FastEnds, said: Said) {
        let leave = PinOp::Leave {
            ends,
            slot: SlotRef::FIXED,
            service: None,
            said,
        };
        self.steering.pin_writer(None).unwrap().apply(&[leave]);
    }

    /// What the pod here sends, and what the far one answers.
    fn packets(&self, v6: bool, proto: Protocol, opening: bool) -> [Vec<u8>; 2] {
        let (here, far) = (pod(CLIENT, v6), far_pod(v6));
        let [asks, answers] = match (proto, opening) {
            (Protocol::Udp, _) => [L4::Udp(4000, 5000), L4::Udp(5000, 4000)],
            (Protocol::Tcp, true) => [L4::Syn(4000, 5000), L4::SynAck(5000, 4000)],
            (Protocol::Tcp, false) => [L4::Ack(4000, 5000), L4::Ack(5000, 4000)],
        };
        [frame(here, far, asks), frame(far, here, answers)]
    }

    fn pod_sends(&self, packet: &[u8]) -> Outcome {
        let program = &self.steering.skel.progs.weft_from_pod;
        run(program, packet, Context::at(CLIENT))
    }

    fn peer_sends(&self, packet: &[u8]) -> Outcome {
        let program = &self.steering.skel.progs.weft_from_peer;
        run(program, packet, Context::at(UPLINK))
    }
}

const BOTH: [Encapsulation; 2] = [Encapsulation::Geneve, Encapsulation::Vxlan];

/// Whatever a peer says of a flow stays with it.
#[test]
fn u_15_flows_of_the_hooks_keep_what_a_peer_has_said() {
    let front = Some(Front {
        address: at("10.96.0.1").into(),
        port: 80,
    });
    let client = NameId::from_number(u32::MAX);
    assert!(client.is_some());
    for (front, client) in [(None, None), (front, None), (None, client), (front, client)] {
        node(move |node| {
            let joined = Joined::new(node, Encapsulation::Geneve);
            let said = Said { front, client };
            joined.leave(false, Protocol::Tcp, said);
            let flows = joined.steering.fast_flows();
            let found: Vec<_> = flows.iter().map(|flow| (flow.said, flow.service)).collect();
            assert_eq!(found, [(said, None)]);
        });
    }
}

#[test]
fn tun_01_tun_06_the_hooks_wrap_and_unwrap_as_the_engine_does_byte_for_byte() {
    for encapsulation in BOTH {
        node(move |node| {
            let mut joined = Joined::new(node, encapsulation);
            for v6 in [false, true] {
                for proto in [Protocol::Tcp, Protocol::Udp] {
                    joined.open(v6, proto);
                    let [asks, answers] = joined.packets(v6, proto, false);
                    let wrapped = joined.pod_sends(&asks);
                    assert_eq!(wrapped.action, REDIRECT, "{proto} {v6}");
                    let engine = joined.here.wraps(CLIENT, &asks);
                    assert_eq!(wrapped.data[12..], engine[12..], "{proto} {v6}");

                    let arrives = joined.far.wraps(FAR, &answers);
                    let unwrapped = joined.peer_sends(&arrives);
                    assert_eq!(unwrapped.action, REDIRECT, "{proto} {v6}");
                    let engine = joined.here.unwraps(&arrives);
                    assert_eq!(unwrapped.data[12..], engine[12..], "{proto} {v6}");
                }
            }
            let counters = joined.steering.counters().unwrap();
            assert_eq!(counters[Counter::FromPodForwarded], 4);
            assert_eq!(counters[Counter::FromPeerForwarded], 4);
            assert_eq!(counters[Counter::FromPeer], 4);
        });
    }
}

/// A SYN, or the answer to one, that asks for segments of that length first of all.
fn asking(src: IpAddr, dst: IpAddr, [from, to]: [u16; 2], answer: bool, segment: u16) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let step = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{src} and {dst} are of two families"),
    };
    let syn = step.tcp(from, to, 1, 1024).syn();
    let step = if answer { syn.ack(9) } else { syn };
    let options = [
        TcpOptionElement::MaximumSegmentSize(segment),
        TcpOptionElement::WindowScale(7),
    ];
    let mut bytes = Vec::new();
    step.options(&options)
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

/// The answer to a SYN goes by the hooks, which lower what it asks for; without an option to lower it is the engine's.
#[test]
fn tun_04_the_hooks_clamp_the_answer_to_a_syn_as_the_engine_does() {
    node(|node| {
        let mut joined = Joined::new(node, Encapsulation::Geneve);
        for v6 in [false, true] {
            let (here, far) = (pod(CLIENT, v6), far_pod(v6));
            let asked_at = INNER + if v6 { 40 } else { 20 } + 20 + 2;
            joined.open(v6, Protocol::Tcp);
            // From there: with what another implementation would have left in it.
            for segment in [1000, 9000] {
                let answer = asking(far, here, [5000, 4000], true, 1000);
                let mut arrives = joined.far.wraps(FAR, &answer);
                arrives[asked_at..][..2].copy_from_slice(&u16::to_be_bytes(segment));
                let got = joined.peer_sends(&arrives);
                assert_eq!(got.action, REDIRECT, "{segment} {v6}");
                let engine = joined.here.unwraps(&arrives);
                assert_eq!(got.data[12..], engine[12..], "{segment} {v6}");
            }
            let [_, without] = joined.packets(v6, Protocol::Tcp, true);
            let arrives = joined.far.wraps(FAR, &without);
            assert!(is_punted(
                &joined.peer_sends(&arrives),
                &arrives,
                FROM_PEER,
                UPLINK
            ));
            // From here, of a connection that a pod there has opened.
            let syn = asking(far, here, [6000, 7000], false, 1000);
            joined.here.unwraps(&joined.far.wraps(FAR, &syn));
            let client = FlowKey {
                tuple: Tuple {
                    src: far.into(),
                    dst: here.into(),
                    sport: 6000,
                    dport: 7000,
                    proto: Protocol::Tcp,
                },
                ifindex: TUNNEL,
            };
            let answers = FlowKey {
                tuple: client.tuple.reversed(),
                ifindex: CLIENT,
            };
            joined.leave_ends(FastEnds { client, answers }, Said::default());
            for segment in [1000, 9000] {
                let answer = asking(here, far, [7000, 6000], true, segment);
                let sent = joined.pod_sends(&answer);
                assert_eq!(sent.action, REDIRECT, "{segment} {v6}");
                let engine = joined.here.wraps(CLIENT, &answer);
                assert_eq!(sent.data[12..], engine[12..], "{segment} {v6}");
            }
        }
    });
}

/// A peer without a tunnel: packets leave and arrive as they are. What is to nobody here, or from nobody there, is the kernel's.
#[test]
fn ter_4_the_hooks_carry_flows_to_a_native_peer() {
    node(|node| {
        let mut joined = Joined::new(node, Encapsulation::Geneve);
        for engine in [&mut joined.here, &mut joined.far] {
            let mut spec = engine.tables.overlay().clone();
            spec.peers[0].native = true;
            let mut builder = TablesBuilder::editing(&engine.tables);
            builder.set_overlay(spec);
            engine.tables = builder.build(2).unwrap();
        }
        let entries = OverlayEntries {
            nodes: vec![at("192.168.7.1").into()],
            spec: joined.here.tables.overlay().clone(),
        };
        joined.steering.sync_overlay(&entries).unwrap();
        let came = Ingress {
            ifindex: TUNNEL,
            hook: Hook::FromPod,
            target: 0,
        };
        for v6 in [false, true] {
            let [syn, _] = joined.packets(v6, Protocol::Tcp, true);
            joined.here.wraps(CLIENT, &syn);
            let [_, answers] = joined.packets(v6, Protocol::Tcp, true);
            let unknown = joined.peer_sends(&answers);
            assert!(
                is_punted(&unknown, &answers, crate::abi::TAG_FROM_POD, TUNNEL),
                "{unknown:?}"
            );
            joined.leave(v6, Protocol::Tcp, Said::default());
            let [asks, answers] = joined.packets(v6, Protocol::Tcp, false);
            let sent = joined.pod_sends(&asks);
            assert_eq!(sent.action, REDIRECT);
            assert_eq!(sent.data[12..], joined.here.wraps(CLIENT, &asks)[12..]);
            let got = joined.peer_sends(&answers);
            assert_eq!(got.action, REDIRECT);
            let (verdict, engine) = joined.here.decide(came.encode(), &answers);
            assert_eq!(verdict, Verdict::Deliver);
            assert_eq!(got.data[12..], engine[12..]);
            let stranger = frame(
                at(if v6 { "fd10::78" } else { "10.10.0.78" }),
                pod(CLIENT, v6),
                L4::Syn(1, 2),
            );
            let elsewhere = frame(
                far_pod(v6),
                at(if v6 { "fd09::9" } else { "10.9.0.9" }),
                L4::Syn(1, 2),
            );
            for other in [stranger, elsewhere] {
                assert_eq!(joined.peer_sends(&other).action, super::packets::NEXT);
            }
        }
    });
}

/// What opens a connection, is too long, or is not as the hooks themselves would wrap it, is the engine's.
#[test]
fn tun_01_tun_04_what_is_not_plain_goes_to_the_engine_still_wrapped() {
    node(|node| {
        let mut joined = Joined::new(node, Encapsulation::Geneve);
        joined.open(false, Protocol::Tcp);
        joined.open(false, Protocol::Udp);
        let [syn, _] = joined.packets(false, Protocol::Tcp, true);
        assert!(is_punted(
            &joined.pod_sends(&syn),
            &syn,
            crate::abi::TAG_FROM_POD,
            CLIENT
        ));
        let long = long_datagram(usize::from(MTU) + 1);
        assert!(is_punted(
            &joined.pod_sends(&long),
            &long,
            crate::abi::TAG_FROM_POD,
            CLIENT
        ));
        assert_eq!(
            joined.pod_sends(&long_datagram(MTU.into())).action,
            REDIRECT
        );

        let [_, answers] = joined.packets(false, Protocol::Udp, false);
        let plain = joined.far.wraps(FAR, &answers);
        assert!(!is_punted(
            &joined.peer_sends(&plain),
            &plain,
            FROM_PEER,
            UPLINK
        ));
        type Change = fn(&mut Vec<u8>);
        let changes: [(&str, Change); 11] = [
            ("an outer checksum", |f| f[40] = 1),
            ("a wrong sum of the outer header", |f| f[24] ^= 1),
            ("a datagram that ends too early", |f| f[39] -= 1),
            ("more than one packet inside", |f| f[INNER + 3] -= 1),
            ("a control packet", |f| f[43] = 0x80),
            ("another version", |f| f[42] = 0x40),
            ("another network", |f| f[48] ^= 1),
            ("no Ethernet inside", |f| f[44] = 8),
            ("ARP inside", |f| f[INNER - 1] = 6),
            ("congestion on the way", |f| f[15] |= 3),
            ("its last hop", |f| f[INNER + 8] = 1),
        ];
        for (what, change) in changes {
            let mut other = plain.clone();
            change(&mut other);
            let outcome = joined.peer_sends(&other);
            assert!(
                is_punted(&outcome, &other, FROM_PEER, UPLINK),
                "{what}: {outcome:?}"
            );
        }
        // Nobody's here: the kernel's.
        let changes: [(&str, Change); 2] = [
            ("another port", |f| f[37] ^= 1),
            ("another node", |f| f[33] ^= 4),
        ];
        for (what, change) in changes {
            let mut other = plain.clone();
            change(&mut other);
            assert_eq!(
                joined.peer_sends(&other).action,
                super::packets::NEXT,
                "{what}"
            );
        }
    });
}

/// A datagram of the flow, as an IP packet of that length.
fn long_datagram(length: usize) -> Vec<u8> {
    let mut packet = frame(pod(CLIENT, false), far_pod(false), L4::Udp(4000, 5000));
    packet.resize(14 + length, 0x55);
    packet[16..18].copy_from_slice(&(length as u16).to_be_bytes());
    packet[38..40].copy_from_slice(&(length as u16 - 20).to_be_bytes());
    packet
}
