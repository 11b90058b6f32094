//! Two nodes with one pod each, and the underlay between them: a frame of one node's uplink is the other's.

use crate::support::*;
use weft_datapath::*;

mod headers;
mod named;
mod refused;

/// The tunnel to the other node, on either.
const TUNNEL: u32 = TUNNELS + 3;
const UPLINK: u32 = 7;
const VETH: u32 = 11;
const VNI: u32 = 0x0a_0b0c;
/// Where the inner packet begins in a wrapped frame, with either outer family.
const INNER: [usize; 2] = [14 + 20 + 8 + 8 + 14, 14 + 40 + 8 + 8 + 14];

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Side {
    A,
    B,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    /// Its pod's address.
    fn pod(self, net: Net) -> Address {
        self.other_pod(net, 7)
    }

    /// An address of its pods' range.
    fn other_pod(self, net: Net, host: u8) -> Address {
        let node = self.number();
        match net {
            Net::V4 => v4(10, 244, node, host),
            Net::V6 => {
                std::net::Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, host.into()).into()
            }
        }
    }

    /// Its own on the underlay.
    fn node(self, net: Net) -> Address {
        let node = self.number();
        match net {
            Net::V4 => v4(192, 168, 7, node),
            Net::V6 => std::net::Ipv6Addr::new(0xfd07, 7, 0, 0, 0, 0, 0, node.into()).into(),
        }
    }
}

/// How the two are joined.
#[derive(Copy, Clone, Debug)]
struct Joint {
    outer: Net,
    encapsulation: Encapsulation,
    checksum: bool,
    mtu: u16,
    uplink: u32,
    native: bool,
    /// Of either pod.
    name: &'static str,
}

impl Joint {
    const PLAIN: Self = Self {
        outer: Net::V4,
        encapsulation: Encapsulation::Geneve,
        checksum: false,
        mtu: 1450,
        uplink: UPLINK,
        native: false,
        name: "",
    };

    const ALL: [Self; 6] = {
        let mut all = [Self::PLAIN; 6];
        all[1].outer = Net::V6;
        all[2].encapsulation = Encapsulation::Vxlan;
        all[3].encapsulation = Encapsulation::Vxlan;
        all[3].outer = Net::V6;
        all[4].checksum = true;
        all[5].checksum = true;
        all[5].encapsulation = Encapsulation::Vxlan;
        all
    };
}

/// One node.
struct Node {
    tables: Tables,
    state: State,
}

impl Node {
    fn new(side: Side, joint: Joint) -> Self {
        Self::enrolled(side, joint, Now::default())
    }

    /// Its pod is in the grace after its enrolment until then.
    fn enrolled(side: Side, joint: Joint, grace_until: Now) -> Self {
        let mut builder = TablesBuilder::new();
        let there = side.other();
        let slot = |slot| SlotRef { slot, epoch: 1 };
        builder.add_pod(Pod {
            ifindex: VETH,
            name: joint.name.into(),
            addresses: Net::BOTH.map(|net| side.pod(net)).into(),
            slot: slot(1),
            state: PodState::Enrolled { grace_until },
            mtu: 9000,
        });
        let range = |net: Net, bits| Prefix::new(there.other_pod(net, 0), bits);
        builder.set_overlay(OverlaySpec {
            vni: VNI,
            encapsulation: joint.encapsulation,
            port: joint.encapsulation.port(),
            checksum: joint.checksum,
            peers: vec![PeerSpec {
                port: TUNNEL,
                remote: there.node(joint.outer),
                local: side.node(joint.outer),
                uplink: joint.uplink,
                mtu: joint.mtu,
                native: joint.native,
                ranges: vec![(range(Net::V4, 24), slot(2)), (range(Net::V6, 48), slot(3))],
            }],
        });
        for net in Net::BOTH {
            builder.set_node_address(VETH, side.node(net));
            builder.set_node_address(TUNNEL, side.node(net));
            for (id, proto) in [(1, Protocol::Tcp), (2, Protocol::Udp)] {
                builder.add_service_port(ServicePortSpec {
                    id,
                    address: net.vip(80),
                    port: SERVED,
                    proto,
                    algorithm: Algorithm::Maglev,
                    backends: vec![Backend {
                        address: Side::B.pod(net),
                        port: TARGET,
                        path: BackendPath::Pod {
                            ifindex: if side == Side::A { TUNNEL } else { VETH },
                        },
                        slot: slot(if side == Side::A { 2 } else { 1 }),
                        member: SlotRef::FIXED,
                        state: BackendState::Ready,
                        weight: 1,
                        name: None,
                    }],
                    options: ServiceOptions::default(),
                });
            }
        }
        builder.set_epochs(epochs());
        Self {
            tables: builder.build(1).unwrap(),
            state: state(1),
        }
    }

    fn run(&mut self, frame: &mut Vec<u8>) -> Verdict {
        let verdict = run_in::<4096>(frame, START, &self.tables, &mut self.state);
        self.state.pin_ops.clear();
        verdict
    }

    /// What the pod's packet looks like on the underlay.
    fn sends(&mut self, spec: &Spec) -> Vec<u8> {
        let mut frame = spec.punted(VETH, Hook::FromPod);
        assert_eq!(self.run(&mut frame), Verdict::Deliver, "{spec:?}");
        assert_eq!(egress(&frame), Egress::neighbour(UPLINK));
        frame
    }

    /// What the pod gets of a frame of the underlay.
    fn receives(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut frame = arriving(frame);
        assert_eq!(self.run(&mut frame), Verdict::Deliver);
        assert_eq!(egress(&frame), Egress::peer(VETH));
        frame
    }

    /// What the other node has said of its flows.
    fn said(&self) -> Vec<Said> {
        let flows = self.state.flows.slice(0, 4096);
        flows.map(|(_, flow)| flow.said()).collect()
    }

    /// The names of their clients.
    fn client_names(&self) -> Vec<Option<String>> {
        let said = self.said().into_iter();
        said.map(|said| self.state.client_names.name(said.client?))
            .collect()
    }

    /// What becomes of it.
    fn refuses(&mut self, frame: &[u8]) -> Verdict {
        self.run(&mut arriving(frame))
    }
}

/// The frame as the hook of an uplink punts it.
fn arriving(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let uplink = Uplink {
        ifindex: UPLINK,
        target: 0,
    };
    frame[6..12].copy_from_slice(&uplink.encode());
    frame
}

fn joined(joint: Joint) -> [Node; 2] {
    [Side::A, Side::B].map(|side| Node::new(side, joint))
}

fn between(net: Net, proto: Protocol, flags: u8) -> Spec {
    let (src, dst) = (Side::A.pod(net), Side::B.pod(net));
    match proto {
        Protocol::Tcp => Spec::tcp(src, 40000, dst, TARGET, flags),
        Protocol::Udp => Spec::udp(src, 40000, dst, TARGET),
    }
}

/// A pod's packet reaches a pod of another node as it is, but for two hops; and so does the answer.
#[test]
fn tun_01_ter_4_a_pod_reaches_a_remote_pod_and_is_answered() {
    for joint in Joint::ALL {
        for net in Net::BOTH {
            for proto in [Protocol::Tcp, Protocol::Udp] {
                let [mut a, mut b] = joined(joint);
                let asked = between(net, proto, SYN);
                let got = b.receives(&a.sends(&asked));
                let expected = asked.clone().hops(62).frame(Egress::peer(VETH).encode());
                assert_eq!(got[6..], expected[6..], "{joint:?} {net:?} {proto:?}");
                sound(&got);
                let answer = Spec {
                    tuple: asked.tuple.reversed(),
                    ..between(net, proto, SYN | ACK)
                };
                let back = a.receives(&b.sends(&answer));
                let expected = answer.hops(62).frame(Egress::peer(VETH).encode());
                assert_eq!(back[6..], expected[6..]);
                sound(&back);
            }
        }
    }
}

/// What comes through a tunnel was never the kernel's: its datagrams open flows while the pods are new, too.
#[test]
fn ter_4_a_datagram_through_a_tunnel_opens_a_flow_within_the_grace() {
    for net in Net::BOTH {
        let [mut a, mut b] =
            [Side::A, Side::B].map(|side| Node::enrolled(side, Joint::PLAIN, GRACE_UNTIL));
        b.receives(&a.sends(&between(net, Protocol::Udp, 0)));
        for node in [a, b] {
            let kinds: Vec<_> = (node.state.flows.slice(0, 4096))
                .map(|(_, flow)| flow.kind())
                .collect();
            assert_eq!(kinds, [FlowKind::Direct], "{net:?}");
        }
    }
}

/// The client's node translates, in both directions; the other one sees a flow from pod to pod.
#[test]
fn ter_7_a_service_with_a_remote_backend_keeps_the_clients_address_and_port() {
    for joint in Joint::ALL {
        for net in Net::BOTH {
            for proto in [Protocol::Tcp, Protocol::Udp] {
                let [mut a, mut b] = joined(joint);
                let asked = Spec {
                    tuple: Tuple {
                        dst: net.vip(80),
                        dport: SERVED,
                        ..between(net, proto, SYN).tuple
                    },
                    ..between(net, proto, SYN)
                };
                let seen = tuple(&b.receives(&a.sends(&asked)));
                assert_eq!(seen, between(net, proto, SYN).tuple);
                let answer = Spec {
                    tuple: seen.reversed(),
                    ..between(net, proto, SYN | ACK)
                };
                let back = a.receives(&b.sends(&answer));
                assert_eq!(tuple(&back), asked.tuple.reversed());
            }
        }
    }
}

/// What has no ports goes without a flow: pings, and fragments of datagrams.
#[test]
fn tun_03_pings_and_fragments_pass_without_a_flow() {
    for net in Net::BOTH {
        let [mut a, mut b] = joined(Joint::PLAIN);
        let (src, dst) = (Side::A.pod(net), Side::B.pod(net));
        let header = match net {
            Net::V4 => (8, 0, [0, 1, 0, 1]),
            Net::V6 => (128, 0, [0, 1, 0, 1]),
        };
        let ping = icmp::Message::new(src, dst, header, b"ping".to_vec());
        let mut frame = ping.punted(VETH, Hook::FromPod);
        assert_eq!(a.run(&mut frame), Verdict::Deliver);
        let got = b.receives(&frame);
        sound(&got);
        assert_eq!(a.state.flows.len() + b.state.flows.len(), 0);
    }
}

/// The first packets name the service that the client has asked; what it makes too long goes without.
#[test]
fn u_15_ter_7_the_option_names_the_vip_until_the_backend_has_answered() {
    let net = Net::V4;
    let [mut a, mut b] = joined(Joint::PLAIN);
    let asked = Spec::tcp(Side::A.pod(net), 40000, net.vip(80), SERVED, SYN);
    let wrapped = a.sends(&asked);
    assert_eq!(wrapped[42] & 0x3f, 3, "three words of options");
    assert_eq!(wrapped[50..54], [0xff, 0x77, 1, 2]);
    assert_eq!(wrapped[54..62], [10, 96, 0, 80, 0, 80, 0, 0]);
    let seen = tuple(&b.receives(&wrapped));
    let vip = Front {
        address: net.vip(80),
        port: SERVED,
    };
    let nameless = Said {
        front: Some(vip),
        client: None,
    };
    assert_eq!(
        b.said(),
        [nameless],
        "the far node knows what its client has asked"
    );
    let answer = Spec::of(seen.reversed(), SYN | ACK);
    let back = b.sends(&answer);
    assert_eq!(back[42] & 0x3f, 0, "what it answers has nothing to say");
    a.receives(&back);
    let next = a.sends(&Spec::of(asked.tuple, ACK));
    assert_eq!(next[42] & 0x3f, 0);
    // As long as the tunnel takes: no room for the option.
    let long = vec![0; 1450 - 28];
    let datagram = Spec::udp(Side::A.pod(net), 40001, net.vip(80), SERVED).payload(&long);
    let wrapped = a.sends(&datagram);
    assert_eq!((wrapped[42] & 0x3f, wrapped.len()), (0, 14 + 1500));
    // With VXLAN there are no options.
    let [mut a, _] = joined(Joint::ALL[2]);
    assert_eq!(a.sends(&asked).len(), INNER[0] + 40);
}

/// A packet longer than the tunnel takes is answered to its sender with the tunnel's MTU, from the node.
#[test]
fn tun_04_k_03_a_packet_too_long_for_the_tunnel_is_answered_with_its_mtu() {
    for net in Net::BOTH {
        let [mut a, _] = joined(Joint::PLAIN);
        let head = if net == Net::V4 { 28 } else { 48 };
        for (to, port) in [(Side::B.pod(net), TARGET), (net.vip(80), SERVED)] {
            let fits = Spec::udp(Side::A.pod(net), 40000, to, port);
            a.sends(&fits.clone().payload(&vec![1; 1450 - head]));
            let mut frame = fits
                .payload(&vec![1; 1451 - head])
                .punted(VETH, Hook::FromPod);
            assert_eq!(a.run(&mut frame), Verdict::Reply);
            assert_eq!(egress(&frame), Egress::peer(VETH));
            sound(&frame);
            let (l4, at) = if net == Net::V4 { (34, 40) } else { (54, 60) };
            let kind = if net == Net::V4 { [3, 4] } else { [2, 0] };
            assert_eq!(frame[l4..l4 + 2], kind);
            assert_eq!(frame[at..at + 2], 1450_u16.to_be_bytes());
            let source = if net == Net::V4 { 26..30 } else { 22..38 };
            let node = Side::A.node(net).0;
            assert_eq!(frame[source.clone()], node[16 - source.len()..]);
        }
    }
}

/// A pod's ICMP error about a peer's packet travels, but not where it is too long for the tunnel: nobody answers an error.
#[test]
fn tun_04_an_icmp_error_that_is_too_long_for_the_tunnel_is_dropped_by_name() {
    for (quoted, then) in [
        (1216 - 48, Verdict::Deliver),
        (1217 - 48, Verdict::Drop(DropReason::PodMtu)),
    ] {
        let joint = Joint {
            mtu: 1216,
            ..Joint::PLAIN
        };
        let [mut a, mut b] = joined(joint);
        let sent = between(Net::V6, Protocol::Udp, 0).payload(&[1; 1000]);
        let mut about = b.receives(&a.sends(&sent))[14..].to_vec();
        about.resize(quoted, 0);
        let (from, to) = (Side::B.pod(Net::V6), Side::A.pod(Net::V6));
        let error = icmp::Message::new(from, to, (1, 4, [0; 4]), about);
        let mut frame = error.punted(VETH, Hook::FromPod);
        assert_eq!(b.run(&mut frame), then);
    }
}

/// Without a tunnel packets travel as they are, and all else is the same: translation, hops, lengths, and who may send.
#[test]
fn ter_4_a_native_peer_is_reached_without_wrapping() {
    let native = Joint {
        native: true,
        mtu: 1500,
        ..Joint::PLAIN
    };
    let came = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        let ingress = Ingress {
            ifindex: TUNNEL,
            hook: Hook::FromPod,
            target: 0,
        };
        frame[6..12].copy_from_slice(&ingress.encode());
        frame
    };
    for net in Net::BOTH {
        for (to, port) in [(Side::B.pod(net), TARGET), (net.vip(80), SERVED)] {
            let [mut a, mut b] = joined(native);
            let asked = Spec::tcp(Side::A.pod(net), 40000, to, port, SYN);
            let sent = a.sends(&asked);
            assert_eq!(tuple(&sent), between(net, Protocol::Tcp, SYN).tuple);
            let mut frame = came(&sent);
            assert_eq!(b.run(&mut frame), Verdict::Deliver);
            assert_eq!(egress(&frame), Egress::peer(VETH));
            let answer = Spec::of(tuple(&frame).reversed(), SYN | ACK);
            let mut back = came(&b.sends(&answer));
            assert_eq!(a.run(&mut back), Verdict::Deliver);
            assert_eq!(tuple(&back), asked.tuple.reversed());
        }
        let [_, mut b] = joined(native);
        let stranger = Spec::udp(net.internet(), 1, Side::B.pod(net), 2);
        let mut frame = came(&stranger.frame([0; 6]));
        assert_eq!(b.run(&mut frame), Verdict::Drop(DropReason::SrcSpoof));
        let elsewhere = Spec::udp(Side::A.pod(net), 1, Side::B.other_pod(net, 9), 2);
        let mut frame = came(&elsewhere.frame([0; 6]));
        assert_eq!(b.run(&mut frame), Verdict::Drop(DropReason::NoRoute));
    }
}

/// What no peer has, what a peer sends to nobody here, and what no route leads to.
#[test]
fn tun_05_an_unknown_destination_is_no_route_and_never_a_flood() {
    let net = Net::V4;
    let [mut a, mut b] = joined(Joint::PLAIN);
    // The kernel's, as everything that Weft knows nothing about.
    let elsewhere = Spec::tcp(Side::A.pod(net), 40000, v4(10, 244, 9, 1), 80, SYN);
    let mut frame = elsewhere.punted(VETH, Hook::FromPod);
    assert_eq!(a.run(&mut frame), Verdict::Kernel(KernelReason::NotOurs));
    // From the peer to an address of this node's range that no pod has, to this node, and back out.
    for to in [
        Side::B.other_pod(net, 9),
        Side::B.node(net),
        Side::A.other_pod(net, 9),
    ] {
        let mut wrapped = a.sends(&between(net, Protocol::Udp, 0));
        let inner = INNER[0] + 16;
        wrapped[inner..inner + 4].copy_from_slice(&to.v4_octets());
        assert_eq!(
            b.refuses(&wrapped),
            Verdict::Drop(DropReason::NoRoute),
            "{to}"
        );
    }
    let [mut a, _] = joined(Joint {
        uplink: 0,
        ..Joint::PLAIN
    });
    let mut frame = between(net, Protocol::Tcp, SYN).punted(VETH, Hook::FromPod);
    assert_eq!(a.run(&mut frame), Verdict::Drop(DropReason::NoRoute));
}

/// A flow ends with the range that its pod was in, and another peer's number makes no difference to others.
#[test]
fn tun_05_a_range_that_moves_ends_the_flows_to_its_pods() {
    let net = Net::V4;
    let [mut a, mut b] = joined(Joint::PLAIN);
    let opened = between(net, Protocol::Tcp, SYN);
    b.receives(&a.sends(&opened));
    let mut spec = a.tables.overlay().clone();
    spec.peers[0].ranges[0].1.epoch = 2;
    let mut moved = TablesBuilder::editing(&a.tables);
    moved.set_overlay(spec);
    let mut later = epochs();
    later[2] = 2;
    moved.set_epochs(later);
    a.tables = moved.build(2).unwrap();
    let mut frame = Spec::of(opened.tuple, ACK).punted(VETH, Hook::FromPod);
    assert_eq!(a.run(&mut frame), Verdict::Drop(DropReason::UnknownFlow));
    a.sends(&opened); // Begun anew.
}

/// An IPv4 packet that may be fragmented is: the far pod gets all of it, in fragments that fit, and one that may not be is answered.
#[test]
fn tun_04_u_09_what_may_be_fragmented_is_cut_to_the_tunnel() {
    let net = Net::V4;
    for (to, port) in [(Side::B.pod(net), TARGET), (net.vip(80), SERVED)] {
        for length in [1451, 1452, 2875, 2876, 2877, 3500] {
            let [mut a, mut b] = joined(Joint::PLAIN);
            let data: Vec<u8> = (0..length - 28).map(|n: usize| n as u8).collect();
            let spec = Spec::udp(Side::A.pod(net), 40000, to, port).payload(&data);
            let mut frame = spec.punted(VETH, Hook::FromPod);
            frame[20] = 0;
            frame[24..26].fill(0);
            let sum = Checksum::default().with(&frame[14..34]).finish();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(a.run(&mut frame), Verdict::Deliver, "{length}");
            let mut fragments = vec![frame];
            while a.state.has_rest() {
                let mut memory = [0; 4096];
                let mut buf = FrameBuf::new(&mut memory, 0);
                next_fragment(&mut buf, &a.tables, &mut a.state).unwrap();
                fragments.push(buf.bytes().to_vec());
            }
            let mut whole = vec![0; length - 20];
            let mut sum = 0;
            for wrapped in &fragments {
                assert!(wrapped.len() <= 14 + 1500);
                let got = b.receives(wrapped);
                let header = Checksum::default().with(&got[14..34]).finish();
                assert_eq!(
                    (header, got[16..18].to_vec()),
                    (0, (got.len() as u16 - 14).to_be_bytes().to_vec())
                );
                let offset = usize::from(u16::from_be_bytes([got[20] & 0x1f, got[21]])) * 8;
                let more = got[20] & 0x20 != 0;
                assert_eq!(more, offset + got.len() - 34 < whole.len());
                whole[offset..offset + got.len() - 34].copy_from_slice(&got[34..]);
                sum += got.len() - 34;
            }
            assert_eq!(
                (sum, fragments.len()),
                (length - 20, (length - 20).div_ceil(1424))
            );
            let (src, dst) = (Side::A.pod(net), Side::B.pod(net));
            assert_eq!(l4_checksum(&src, &dst, Protocol::Udp, &whole), 0xffff);
            assert_eq!(whole[8..], data);
        }
    }
}

/// A router of the underlay says that a wrapped packet was too long: it is noted, for the peer that the packet was to. Anything else that
/// is said there, or of what this node has not sent, is not.
#[test]
fn u_09_k_01_a_router_of_the_underlay_is_listened_to() {
    for outer in Net::BOTH {
        let joint = Joint {
            outer,
            ..Joint::PLAIN
        };
        let [mut a, _] = joined(joint);
        let sent = a.sends(&between(Net::V4, Protocol::Udp, 0));
        let quoted = sent[14..14 + 64].to_vec();
        let (kind, other) = match outer {
            Net::V4 => ((3, 4, [0, 0, 5, 120]), (3, 3, [0; 4])),
            Net::V6 => ((2, 0, [0, 0, 5, 120]), (1, 4, [0; 4])),
        };
        let router = outer.internet();
        let said = |header, quoted: &[u8], to: Address| {
            let message = icmp::Message::new(router, to, header, quoted.to_vec());
            arriving(&message.frame([0; 6]))
        };
        let node = Side::A.node(outer);
        let mut frame = said(kind, &quoted, node);
        assert_eq!(a.run(&mut frame), Verdict::Drop(DropReason::TunnelTooLong));
        assert_eq!(a.state.narrowed.take(), Some((TUNNEL, 1400)));
        // To somebody who is no peer, and to another port.
        let mut stranger = quoted.clone();
        stranger[if outer == Net::V4 { 19 } else { 39 }] ^= 8;
        let mut dns = quoted.clone();
        dns[if outer == Net::V4 { 23 } else { 43 }] = 53;
        for (header, quoted) in [(other, &quoted), (kind, &stranger), (kind, &dns)] {
            let mut frame = said(header, quoted, node);
            let verdict = a.run(&mut frame);
            assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
            assert_eq!(a.state.narrowed, None);
        }
    }
}
