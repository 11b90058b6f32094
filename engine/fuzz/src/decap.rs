//! Any sequence of wrapped packets, right and wrong, and of local pods' packets through `process`: what peers send gets to
//! whom it may, and what goes to them is wrapped as their documents say.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use weft_datapath::*;

use crate::frames::{Fate, Shown, icmp_error, residues, right_ipv4_checksum};
use crate::outer::{Dress, Inner, Joint, L3, VNI, mend, unwrapped, wrapped};
use crate::support::*;

/// Steps that one case takes at most: enough to fill the small table.
const STEPS_MAX: usize = 96;
const FRAME_ROOM: usize = 6144;
const UPLINK: u32 = 7;
/// Veths of the pods here, whose addresses end with 7 and 8.
const VETHS: [u32; 2] = [11, 12];
const HOSTS: [u8; 2] = [7, 8];
/// The other nodes, 2 and 3.
const PEERS: usize = 2;
/// The slot of the range that moves from one peer to the other.
const MOVES: u32 = 9;

/// One case in words.
#[derive(Arbitrary, Debug)]
struct Case {
    vxlan: bool,
    outer_v6: bool,
    checksum: bool,
    narrow: bool,
    several_workers: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A peer sends.
    Wrapped(Wrapped),
    /// A pod of this node sends.
    Local { pod: u8, packet: PacketCase },
    /// Whoever got the last packet answers it.
    Answer { flags: u8 },
    /// Any bytes behind the source MAC of the uplink or a pod.
    Raw { pod: Option<u8>, bytes: Vec<u8> },
    /// Seconds pass.
    Wait(u8),
    /// Flows are looked through.
    Expire(u8),
    /// Half of a peer's range goes to the other.
    Move,
    /// A pod of this node goes, or comes again.
    Enrol(u8),
    /// An uplink goes, or comes again.
    Link(u8),
}

#[derive(Arbitrary, Debug)]
struct Wrapped {
    peer: u8,
    target: u8,
    packet: PacketCase,
    dress: Dress,
    padding: u8,
    harm: Option<Harm>,
}

/// What befalls a wrapped packet.
#[derive(Arbitrary, Debug)]
enum Harm {
    /// Nothing, so that most get through.
    None,
    NoneEither,
    /// Bytes overwritten, and lengths and checksums made right behind them, or not.
    Damage {
        bytes: Vec<(u16, u8)>,
        lengths: bool,
        sums: bool,
    },
    /// Cut off.
    Cut(u16),
}

/// What is inside, or a pod sends.
#[derive(Arbitrary, Debug)]
struct PacketCase {
    v6: bool,
    kind: u8,
    from: u8,
    to: u8,
    sport: u8,
    dport: u8,
    flags: u8,
    hops: u8,
    length: u16,
    class: u8,
    segment: Option<u16>,
    fate: Option<Fate>,
}

/// One case.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let Shown(case) = &Shown(case);
    let mut node = Node::new(case);
    for step in case.steps.iter().take(STEPS_MAX) {
        node.step(step);
    }
}

/// Who sends.
#[derive(Copy, Clone, Debug)]
enum Sender {
    /// That pod of this node.
    Pod(usize),
    Peer(usize),
}

/// Whose an address is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Home {
    /// The pod behind that veth.
    Here(u32),
    /// One of the pods of that peer.
    Peer(usize),
}

/// A packet that got somewhere, and what its answer must become.
#[derive(Clone)]
struct Passed {
    /// As its receiver has it.
    frame: Vec<u8>,
    receiver: Home,
    /// Where the answer goes to, and its ends there; while nothing else has happened.
    expected: Option<(Home, Tuple)>,
}

struct Node {
    joint: Joint,
    workers: u16,
    moved: bool,
    enrolled: [bool; VETHS.len()],
    linked: [bool; PEERS],
    epochs: Vec<u32>,
    tables: Tables,
    state: State,
    counters: Counters,
    frames: u64,
    now: Now,
    last: Option<Passed>,
}

/// The address of a host of that node: from 128 on, in the half that may move.
fn host(net: Net, node: u8, host: u8) -> Address {
    match net {
        Net::V4 => v4(10, 244, node, host),
        Net::V6 => {
            let half = u16::from(host & 0x80) << 8;
            let (node, host) = (node.into(), host.into());
            std::net::Ipv6Addr::new(0xfd00, 0x244, node, half, 0, 0, 0, host).into()
        }
    }
}

/// The name of a pod of this node.
fn pod_name(nth: usize) -> String {
    format!("pods/{nth}")
}

/// A node's own address.
fn underlay(net: Net, node: u8) -> Address {
    match net {
        Net::V4 => v4(192, 168, 7, node),
        Net::V6 => std::net::Ipv6Addr::new(0xfd07, 7, 0, 0, 0, 0, 0, node.into()).into(),
    }
}

fn peer_address(net: Net, peer: usize) -> Address {
    underlay(net, 2 + peer as u8)
}

fn tunnel(peer: usize) -> u32 {
    TUNNELS + 2 + peer as u32
}

impl PacketCase {
    /// Its ends: most from one of the sender's own to whom it can reach, others from and to anybody and nobody.
    fn ends(&self, net: Net, sender: Sender) -> [Address; 2] {
        let anybody = |number: u8| match number % 14 {
            number @ (0 | 1) => host(net, 1, HOSTS[usize::from(number)]),
            2 => host(net, 1, 9),
            3 => host(net, 2, 9),
            4 => host(net, 2, 10),
            5 => host(net, 2, 200),
            6 => host(net, 3, 9),
            7 => host(net, 3, 200),
            number @ 8..11 => underlay(net, number - 7),
            11 => net.internet(),
            12 => net.vip(80),
            _ => net.hairpin(),
        };
        let (own, others): (&[u8], &[u8]) = match sender {
            Sender::Pod(0) => (&[0], &[1, 3, 4, 5, 6, 7, 12, 12]),
            Sender::Pod(_) => (&[1], &[0, 3, 4, 5, 6, 7, 12, 12]),
            Sender::Peer(0) => (&[3, 4, 5], &[0, 1]),
            Sender::Peer(_) => (&[6, 7, 5], &[0, 1]),
        };
        let end = |number: u8, likely: &[u8]| match number {
            0..192 => anybody(likely[usize::from(number) % likely.len()]),
            number => anybody(number),
        };
        [end(self.from, own), end(self.to, others)]
    }

    /// The frame, with any source MAC. `about`: what an ICMP error can speak of.
    fn frame(&self, sender: Sender, about: Option<&[u8]>) -> Vec<u8> {
        let net = if self.v6 { Net::V6 } else { Net::V4 };
        let [src, dst] = self.ends(net, sender);
        const FLAGS: [u8; 6] = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];
        let flags = match self.flags {
            flags @ 0..128 => FLAGS[usize::from(flags) % FLAGS.len()],
            flags => flags,
        };
        const PORTS: [u16; 4] = [SERVED, TARGET, UNUSED, 40_000];
        let port = |port: u8| match port {
            port @ 0..4 => PORTS[usize::from(port)],
            port => 1000 + u16::from(port % 16),
        };
        let payload: Vec<u8> = (0..self.length % 1700).map(|at| at as u8).collect();
        let ports = (port(self.sport), port(self.dport));
        let nobody = Ingress {
            ifindex: 0,
            hook: Hook::FromPod,
            target: 0,
        };
        let mut frame = match (self.kind % 6, about) {
            (0 | 1, _) => Spec::tcp(src, ports.0, dst, ports.1, flags)
                .payload(&payload)
                .hops(self.hops)
                .frame([0; 6]),
            (4, _) => {
                let kind = if self.v6 { 128 } else { 8 };
                let ping = icmp::Message::new(src, dst, (kind, 0, [0, 1, 0, 1]), payload);
                ping.hops(self.hops).frame([0; 6])
            }
            (5, Some(about)) => {
                icmp_error(about, src, self.flags, nobody).unwrap_or_else(|| about.to_vec())
            }
            _ => Spec::udp(src, ports.0, dst, ports.1)
                .payload(&payload)
                .hops(self.hops)
                .frame([0; 6]),
        };
        if let (0 | 1, Some(segment)) = (self.kind % 6, self.segment) {
            with_segment(&mut frame, segment);
        }
        if frame[L3] >> 4 == 4 {
            frame[L3 + 1] = self.class;
            right_ipv4_checksum(&mut frame);
        } else {
            frame[L3] = 0x60 | self.class >> 4;
            frame[L3 + 1] = self.class << 4;
        }
        if let Some(fate) = &self.fate {
            fate.befall(&mut frame);
        }
        frame
    }
}

/// Asks for segments of that size, behind a no-operation or not.
fn with_segment(frame: &mut Vec<u8>, segment: u16) {
    let v4 = frame[L3] >> 4 == 4;
    let (l4, length_at) = if v4 { (34, 16) } else { (54, 18) };
    let [high, low] = segment.to_be_bytes();
    let option = match segment % 2 {
        0 => [2, 4, high, low, 1, 1, 1, 0],
        _ => [1, 2, 4, high, low, 1, 1, 0],
    };
    frame.splice(l4 + 20..l4 + 20, option);
    frame[l4 + 12] += 2 << 4;
    let length = u16::from_be_bytes([frame[length_at], frame[length_at + 1]]) + 8;
    frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    frame[l4 + 16..l4 + 18].fill(0);
    let ends = Inner::of(frame).ends().expect("two ends");
    let sum = l4_checksum(&ends[0], &ends[1], Protocol::Tcp, &frame[l4..]);
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
}

impl Node {
    fn new(case: &Case) -> Self {
        let workers = 1 + u16::from(case.several_workers);
        let mut node = Self {
            joint: Joint {
                outer: if case.outer_v6 { Net::V6 } else { Net::V4 },
                encapsulation: match case.vxlan {
                    true => Encapsulation::Vxlan,
                    false => Encapsulation::Geneve,
                },
                checksum: case.checksum,
                mtu: if case.narrow { 1300 } else { 1450 },
            },
            workers,
            moved: false,
            enrolled: [true; VETHS.len()],
            linked: [true; PEERS],
            epochs: vec![1; 16],
            tables: Tables::default(),
            state: State::new(StateConfig {
                max_flows: 24,
                seed: 7,
                worker: 0,
                workers,
                ports: Ports { weft0_mac: WEFT0 },
                hairpin: Net::BOTH.map(Net::hairpin).into(),
            }),
            counters: Counters::default(),
            frames: 0,
            now: START,
            last: None,
        };
        node.compile();
        node
    }

    fn compile(&mut self) {
        let mut builder = TablesBuilder::new();
        let slot = |slot: u32| SlotRef {
            slot,
            epoch: self.epochs[slot as usize],
        };
        let mut backends = [Vec::new(), Vec::new()];
        let at = |address, ifindex, slot| Backend {
            address,
            port: TARGET,
            path: BackendPath::Pod { ifindex },
            slot,
            member: SlotRef::FIXED,
            state: BackendState::Ready,
            weight: 1,
            name: None,
        };
        for (veth, nth) in VETHS.into_iter().zip(0..) {
            if !self.enrolled[nth as usize] {
                continue;
            }
            let addresses = Net::BOTH.map(|net| host(net, 1, HOSTS[nth as usize]));
            builder.add_pod(Pod {
                ifindex: veth,
                name: pod_name(nth as usize).into(),
                addresses: addresses.into(),
                slot: slot(1 + nth),
                state: Standing::Settled.state(),
                mtu: 1500,
            });
            if nth == 1 {
                for (backends, address) in backends.iter_mut().zip(addresses) {
                    backends.push(at(address, veth, slot(1 + nth)));
                }
            }
        }
        let mut peers = Vec::new();
        for (peer, nth) in (0..PEERS).zip(0u32..) {
            let mut ranges = Vec::new();
            let slots = [slot(3 + 2 * nth), slot(4 + 2 * nth)];
            for ((net, slot), backends) in Net::BOTH.into_iter().zip(slots).zip(&mut backends) {
                let bits = if net == Net::V4 { 24 } else { 48 };
                ranges.push((Prefix::new(host(net, 2 + nth as u8, 0), bits), slot));
                backends.push(at(host(net, 2 + nth as u8, 9), tunnel(peer), slot));
            }
            if (peer == 1) == self.moved {
                for net in Net::BOTH {
                    let bits = if net == Net::V4 { 25 } else { 49 };
                    ranges.push((Prefix::new(host(net, 2, 128), bits), slot(MOVES)));
                }
            }
            peers.push(PeerSpec {
                port: tunnel(peer),
                remote: peer_address(self.joint.outer, peer),
                local: underlay(self.joint.outer, 1),
                uplink: if self.linked[peer] { UPLINK } else { 0 },
                mtu: self.joint.mtu,
                native: false,
                ranges,
            });
        }
        let (mut id, ports) = (0, VETHS.into_iter().chain((0..PEERS).map(tunnel)));
        for (net, port) in Net::BOTH
            .into_iter()
            .flat_map(|net| ports.clone().map(move |port| (net, port)))
        {
            builder.set_node_address(port, underlay(net, 1));
        }
        for ((net, backends), proto) in Net::BOTH
            .into_iter()
            .zip(&backends)
            .flat_map(|each| [Protocol::Tcp, Protocol::Udp].map(|proto| (each, proto)))
        {
            id += 1;
            builder.add_service_port(ServicePortSpec {
                id,
                address: net.vip(80),
                port: SERVED,
                proto,
                algorithm: Algorithm::RoundRobin,
                backends: backends.clone(),
                options: ServiceOptions::default(),
            });
        }
        builder.set_overlay(OverlaySpec {
            vni: VNI,
            encapsulation: self.joint.encapsulation,
            port: self.joint.port(),
            checksum: self.joint.checksum,
            peers,
        });
        builder.set_epochs(self.epochs.clone());
        self.tables = builder
            .build(self.tables.generation + 1)
            .expect("tables that keep every rule");
    }

    /// Whose an address is, without Weft's own look-up.
    fn home(&self, address: &Address) -> Option<Home> {
        for net in Net::BOTH {
            for (nth, veth) in VETHS.into_iter().enumerate() {
                if self.enrolled[nth] && *address == host(net, 1, HOSTS[nth]) {
                    return Some(Home::Here(veth));
                }
            }
            let octets = address.0;
            let (is_ours, node, half) = match net {
                Net::V4 => (
                    address.is_v4() && octets[12..14] == [10, 244],
                    octets[14],
                    octets[15],
                ),
                Net::V6 => (octets[..5] == [0xfd, 0, 2, 0x44, 0], octets[5], octets[6]),
            };
            match node {
                2 if is_ours && half & 0x80 != 0 => return Some(Home::Peer(self.moved.into())),
                2 | 3 if is_ours => return Some(Home::Peer(usize::from(node) - 2)),
                _ => {}
            }
        }
        None
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wrapped(wrapped) => return self.peer_sends(wrapped),
            Step::Local { pod, packet } => {
                let pod = usize::from(*pod) % VETHS.len();
                let about = self.last.as_ref().map(|last| last.frame.as_slice());
                let frame = packet.frame(Sender::Pod(pod), about);
                let ingress = Ingress {
                    ifindex: VETHS[pod],
                    hook: Hook::FromPod,
                    target: 0,
                };
                return self.arrives(frame, ingress.encode());
            }
            Step::Answer { flags } => return self.answer(*flags),
            Step::Raw { pod, bytes } => {
                let bytes = bytes[..bytes.len().min(2048)].to_vec();
                let source = match pod {
                    Some(pod) => Ingress {
                        ifindex: VETHS[usize::from(*pod) % VETHS.len()],
                        hook: if *pod < 128 {
                            Hook::FromPod
                        } else {
                            Hook::ToPod
                        },
                        target: 0,
                    }
                    .encode(),
                    None => uplink(0),
                };
                return self.arrives(bytes, source);
            }
            Step::Wait(seconds) => self.now = self.now + Duration::from_secs((*seconds).into()),
            Step::Expire(budget) => {
                self.state.expire(self.now, &self.tables, (*budget).into());
                self.state.pin_ops.clear();
            }
            Step::Move => {
                self.moved = !self.moved;
                self.epochs[MOVES as usize] += 1;
                self.compile();
            }
            Step::Enrol(pod) => {
                let pod = usize::from(*pod) % VETHS.len();
                self.enrolled[pod] = !self.enrolled[pod];
                self.epochs[1 + pod] += 1;
                self.compile();
            }
            Step::Link(peer) => {
                let peer = usize::from(*peer) % PEERS;
                self.linked[peer] = !self.linked[peer];
                self.compile();
            }
        }
        if let Some(last) = &mut self.last {
            last.expected = None;
        }
    }

    /// A peer sends, and the way does what it does.
    fn peer_sends(&mut self, case: &Wrapped) {
        let peer = usize::from(case.peer) % PEERS;
        let about = self.last.as_ref().map(|last| last.frame.as_slice());
        let inner = case.packet.frame(Sender::Peer(peer), about);
        if inner.len() < L3 + 20 {
            return;
        }
        let mut frame = self.wrap(peer, &inner, &case.dress);
        match &case.harm {
            None | Some(Harm::None | Harm::NoneEither) => {}
            Some(Harm::Damage {
                bytes,
                lengths,
                sums,
            }) => {
                for (at, value) in bytes.iter().take(6) {
                    let at = usize::from(*at) % frame.len();
                    frame[at] = *value;
                }
                mend(&mut frame, &self.joint, *lengths, *sums);
            }
            Some(Harm::Cut(length)) => frame.truncate(usize::from(*length) % frame.len()),
        }
        frame.resize(frame.len() + usize::from(case.padding % 8), 0xee);
        self.arrives(frame, uplink(case.target.into()));
    }

    fn wrap(&self, peer: usize, inner: &[u8], dress: &Dress) -> Vec<u8> {
        let outer = self.joint.outer;
        let ends = (peer_address(outer, peer), underlay(outer, 1));
        wrapped(&self.joint, inner, ends, dress)
    }

    /// Whoever got the last packet sends one back. If nothing happened since, it gets to where the packet came from, from
    /// the address that was asked.
    fn answer(&mut self, flags: u8) {
        let Some(last) = self.last.clone() else {
            return;
        };
        let Ok(Parsed::Flow(packet)) = parse(&last.frame) else {
            return;
        };
        let frame = Spec::of(packet.tuple().reversed(), flags).frame([0; 6]);
        match last.receiver {
            Home::Here(ifindex) => {
                let ingress = Ingress {
                    ifindex,
                    hook: Hook::FromPod,
                    target: 0,
                };
                self.arrives(frame, ingress.encode());
            }
            Home::Peer(peer) => {
                let frame = self.wrap(peer, &frame, &Dress::default());
                self.arrives(frame, uplink(0));
            }
        }
        // A SYN may open another connection, and a flag may end this one.
        if let Some((to, ends)) = last.expected.filter(|_| flags & (SYN | RST | FIN) == 0) {
            let passed = self
                .last
                .as_ref()
                .filter(|passed| passed.expected.is_some());
            let passed = passed.unwrap_or_else(|| panic!("the answer to {ends} is lost"));
            assert_eq!((passed.receiver, tuple(&passed.frame)), (to, ends));
        }
    }

    /// A frame as a hook punts it, and the fragments that it sets free.
    fn arrives(&mut self, mut frame: Vec<u8>, source: [u8; 6]) {
        if let Some(last) = &mut self.last {
            last.expected = None; // Whatever this packet does, it has happened since.
        }
        if let Some(mac) = frame.get_mut(6..12) {
            mac.copy_from_slice(&source);
        }
        let (after, verdict) = self.decided(&frame);
        self.judge(&frame, &after, verdict);
        while self.state.fragments.released() > 0 {
            let mut memory = [0; FRAME_ROOM];
            let mut buf = FrameBuf::new(&mut memory, 0);
            self.state.fragments.take(&mut buf).expect("room");
            let frame = buf.bytes().to_vec();
            let (after, verdict) = self.decided(&frame);
            self.judge(&frame, &after, verdict);
        }
    }

    fn decided(&mut self, frame: &[u8]) -> (Vec<u8>, Verdict) {
        let mut memory = [0; FRAME_ROOM];
        memory[..frame.len()].copy_from_slice(frame);
        let mut buf = FrameBuf::new(&mut memory, frame.len());
        let mut ahead = LookAhead::default();
        ahead.note(buf.bytes(), &self.state);
        ahead.fetch(&self.tables, &self.state);
        self.state.forget_rest(); // As if it had been sent.
        let verdict = process(&mut buf, self.now, &self.tables, &mut self.state);
        self.state.pin_ops.clear();
        self.frames += 1;
        self.counters.record(verdict);
        assert_eq!(
            self.counters.received(),
            self.frames,
            "every frame has one fate"
        );
        (buf.bytes().to_vec(), verdict)
    }

    /// What the verdict says of the frame is true of it.
    fn judge(&mut self, before: &[u8], after: &[u8], verdict: Verdict) {
        let source = before.get(6..12).map(|mac| mac.try_into().unwrap());
        let Some(uplink) = source.as_ref().and_then(Uplink::decode) else {
            let ingress = source.as_ref().and_then(Ingress::decode);
            let Some(ingress) = ingress.filter(|_| before.len() >= L3) else {
                assert!(matches!(verdict, Verdict::Drop(_)));
                return assert_eq!(before, after);
            };
            return self.judge_packet(before, after, verdict, ingress);
        };
        let owner = uplink.target % self.workers;
        if owner != 0 {
            assert_eq!((verdict, before), (Verdict::HandOver(owner), after));
            return;
        }
        let Some((peer, inner)) = self.acceptable(before) else {
            let Verdict::Drop(reason) = verdict else {
                panic!("{verdict:?} of what is not right");
            };
            assert!(of_tunnels(reason), "{reason:?}");
            return assert_eq!(before, after, "{reason:?} must leave the bytes alone");
        };
        let ingress = Ingress {
            ifindex: tunnel(peer),
            hook: Hook::FromPod,
            target: uplink.target,
        };
        let mut frame = inner.frame(ingress.encode());
        if inner.packet[0] >> 4 != if inner.ethertype == 0x0800 { 4 } else { 6 } {
            return assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        }
        let Some(ecn) = inner.carried_ecn() else {
            assert_eq!(
                (verdict, before),
                (Verdict::Drop(DropReason::TunnelEcn), after)
            );
            return;
        };
        if ecn != inner.inner_ecn() {
            carry(&mut frame, ecn);
        }
        if verdict == Verdict::Deliver {
            self.judge_name(&frame, &inner, ingress.ifindex);
        }
        self.judge_packet(&frame, after, verdict, ingress);
    }

    /// The peer, and what is inside, if a node must take it: from the peer, to this node, and from one of the peer's own to
    /// a pod here.
    fn acceptable(&self, frame: &[u8]) -> Option<(usize, Inner)> {
        let inner = unwrapped(frame, &self.joint)?;
        let outer = self.joint.outer;
        let peer = (0..PEERS).find(|peer| peer_address(outer, *peer) == inner.from)?;
        let [src, dst] = inner.ends()?;
        let own = self.home(&src) == Some(Home::Peer(peer)) || src == peer_address(outer, peer);
        let here = matches!(self.home(&dst), Some(Home::Here(_)));
        (inner.to == underlay(outer, 1) && own && here).then_some((peer, inner))
    }

    fn judge_packet(&mut self, before: &[u8], after: &[u8], verdict: Verdict, ingress: Ingress) {
        let from_peer = (0..PEERS).find(|peer| tunnel(*peer) == ingress.ifindex);
        match verdict {
            Verdict::Deliver => self.delivered(before, after, ingress, from_peer),
            Verdict::Reply => self.replied(before, after, ingress, from_peer),
            Verdict::Kernel(_) => {
                assert_eq!(from_peer, None, "nothing of a peer's is the kernel's");
                assert_eq!(before[12..], after[12..], "as if never touched");
            }
            Verdict::Terminate(claim) => panic!("nothing ends here: {claim:?}"),
            Verdict::HandOver(owner) => {
                assert!(owner < self.workers);
                assert_eq!(but_for_segments(before), but_for_segments(after));
            }
            // All there but for the outer headers, when it turns out that nothing leads there.
            Verdict::Drop(DropReason::NoRoute) if self.linked != [true; PEERS] => {}
            Verdict::Hold | Verdict::Drop(_) => {
                let (before, after) = (but_for_segments(before), but_for_segments(after));
                assert_eq!(before, after, "{verdict:?} must leave the bytes alone");
            }
        }
    }

    /// What was delivered as its receiver has it, and who that is: outer headers are right, and off.
    fn received(&self, after: &[u8]) -> (Vec<u8>, Home) {
        let egress = Egress::decode(after[6..12].try_into().unwrap()).expect("an injected frame");
        assert_eq!(after[..6], WEFT0);
        match egress.inject {
            Inject::Peer => {
                assert!(VETHS.contains(&egress.ifindex), "{egress:?}");
                (after.to_vec(), Home::Here(egress.ifindex))
            }
            Inject::Neighbour => {
                assert_eq!(egress.ifindex, UPLINK);
                sound(after);
                let inner = unwrapped(after, &self.joint).expect("outer headers are right");
                let outer = self.joint.outer;
                assert_eq!(inner.from, underlay(outer, 1));
                let peer = (0..PEERS).find(|peer| peer_address(outer, *peer) == inner.to);
                let peer = peer.expect("to a peer");
                assert!(self.linked[peer], "no way there");
                assert_eq!(inner.udp_sum, outer == Net::V6 || self.joint.checksum);
                assert_eq!(inner.ecn, inner.inner_ecn(), "RFC 6040, normal mode");
                let longest = usize::from(self.joint.mtu) - inner.options;
                assert!(
                    inner.packet.len() <= longest,
                    "too long for the way: {inner:?}"
                );
                if inner.client.is_some() {
                    assert_eq!(inner.client, self.named(&inner), "the client is named");
                }
                (inner.frame([0; 6]), Home::Peer(peer))
            }
            Inject::Reingress => panic!("there is nothing behind the kernel"),
        }
    }

    /// The name of the pod here that has sent it.
    fn named(&self, inner: &Inner) -> Option<String> {
        let src = inner.ends()?[0];
        let is = |nth: &usize| {
            Net::BOTH
                .map(|net| host(net, 1, HOSTS[*nth]))
                .contains(&src)
        };
        (0..VETHS.len()).find(is).map(pod_name)
    }

    /// A flow that a peer's packet has just opened has the name that came with it.
    fn judge_name(&self, frame: &[u8], inner: &Inner, tunnel: u32) {
        let Ok(Parsed::Flow(packet)) = parse(frame) else {
            return;
        };
        let key = FlowKey {
            tuple: *packet.tuple(),
            ifindex: tunnel,
        };
        let found = self.state.flows.find(&key);
        let opened = found.filter(|(_, direction)| *direction == Direction::Forward);
        if let Some(flow) = opened.and_then(|(id, _)| self.state.flows.at(id))
            && flow.packets() == [1, 0]
        {
            let id = flow.said().client;
            let name = id.and_then(|id| self.state.client_names.name(id));
            assert_eq!(name, inner.client);
        }
    }

    fn delivered(
        &mut self,
        before: &[u8],
        after: &[u8],
        ingress: Ingress,
        from_peer: Option<usize>,
    ) {
        let (got, receiver) = self.received(after);
        assert!(from_peer.is_none() || matches!(receiver, Home::Here(_)));
        assert!(parse(&got).is_ok(), "what is delivered still parses");
        let (mut sums, sums_after) = (residues(before), residues(&got));
        // Of what was too long the first fragment has gone.
        let cut = self.state.has_rest();
        if cut {
            sums[1] = None;
        }
        assert_eq!(sums, sums_after, "right stays right, wrong stays as wrong");
        let [src, dst] = Inner::of(before).ends().expect("two ends");
        let [src_after, dst_after] = Inner::of(&got).ends().expect("two ends");
        let sender = match from_peer {
            Some(peer) => Home::Peer(peer),
            None => Home::Here(ingress.ifindex),
        };
        let itself = from_peer.is_some_and(|peer| src == peer_address(self.joint.outer, peer));
        assert!(
            itself || self.home(&src) == Some(sender),
            "AMB-06: {src} is not {sender:?}'s"
        );
        let to_itself = match receiver {
            Home::Peer(peer) => dst_after == peer_address(self.joint.outer, peer),
            Home::Here(_) => false,
        };
        assert!(
            to_itself || self.home(&dst_after) == Some(receiver),
            "{dst_after} is not {receiver:?}'s"
        );
        if from_peer.is_some() {
            assert_eq!(dst_after, dst, "a peer asks for pods, and for nothing else");
        }
        let hops = |frame: &[u8]| match frame[L3] >> 4 {
            4 => frame[L3 + 8],
            _ => frame[L3 + 7],
        };
        assert_eq!(hops(&got), hops(before) - 1, "who forwards counts the hop");
        let (Ok(Parsed::Flow(sent)), Ok(Parsed::Flow(passed))) = (parse(before), parse(&got))
        else {
            if (src, dst) == (src_after, dst_after) && !matches!(parse(before), Ok(Parsed::Icmp(_)))
            {
                let be16 = |at: usize| {
                    usize::from(before[L3 + at]) << 8 | usize::from(before[L3 + at + 1])
                };
                let (header, length) = match before[L3] >> 4 {
                    4 => (20, be16(2)),
                    _ => (40, 40 + be16(4)),
                };
                let (a, b) = (but_for_segments(before), but_for_segments(&got));
                let start = L3 - 12;
                // Padding does not travel far.
                let end = if cut { b.len() } else { start + length };
                let rest = start + header..end;
                assert_eq!(a[rest.clone()], b[rest], "nothing of it was Weft's");
            }
            return;
        };
        let (sent, passed) = (sent.tuple(), passed.tuple());
        let vips =
            [&sent.dst, &passed.src].map(|end| *end == Net::V4.vip(80) || *end == Net::V6.vip(80));
        if vips == [false; 2] {
            // But for another source port, where two flows would look the same.
            let (mut back, mut forth) = (*passed, *passed);
            (back.dport, forth.sport) = (sent.dport, sent.sport);
            assert!(sent == &back || sent == &forth, "{sent} became {passed}");
        }
        let (a, b) = (but_for_segments(before), but_for_segments(&got));
        let ports = packet(before).l4() + 4 - 12..;
        let changed = a[ports.clone()].iter().zip(&b[ports]);
        let changed = changed.filter(|(a, b)| a != b).count();
        assert!(changed <= 2, "nothing but the checksum behind the ports");
        let answer = sent.reversed();
        let answers = from_peer.is_none_or(|peer| self.linked[peer]);
        self.last = Some(Passed {
            frame: got,
            receiver,
            expected: answers.then_some((sender, answer)),
        });
    }

    /// Our own answer: sound, to the sender, from whom it asked or from the node.
    fn replied(&self, before: &[u8], after: &[u8], ingress: Ingress, from_peer: Option<usize>) {
        let (got, receiver) = self.received(after);
        let sender = match from_peer {
            Some(peer) => Home::Peer(peer),
            None => Home::Here(ingress.ifindex),
        };
        assert_eq!(receiver, sender);
        let [src, dst] = Inner::of(before).ends().expect("two ends");
        let [from, to] = Inner::of(&got).ends().expect("two ends");
        let node = Net::BOTH.map(|net| underlay(net, 1));
        assert!(to == src && (from == dst || node.contains(&from)));
        sound(&got);
    }
}

fn uplink(target: u16) -> [u8; 6] {
    let ifindex = UPLINK;
    Uplink { ifindex, target }.encode()
}

/// Sets the congestion bits of a frame's packet, and the checksum as far from right as it was.
fn carry(frame: &mut [u8], ecn: u8) {
    if frame[L3] >> 4 == 6 {
        frame[L3 + 1] = frame[L3 + 1] & 0xcf | ecn << 4;
        return;
    }
    let before = u16::from_be_bytes([frame[L3], frame[L3 + 1]]);
    frame[L3 + 1] = frame[L3 + 1] & 0xfc | ecn;
    let after = u16::from_be_bytes([frame[L3], frame[L3 + 1]]);
    // RFC 1624, equation 3.
    let sum = u16::from_be_bytes([frame[L3 + 10], frame[L3 + 11]]);
    let sum = !crate::frames::fold(u64::from(!sum) + u64::from(!before) + u64::from(after));
    frame[L3 + 10..L3 + 12].copy_from_slice(&sum.to_be_bytes());
}

/// The frame behind its MACs, without what the clamp of a SYN changes.
fn but_for_segments(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame[12..].to_vec();
    let at = 2;
    let (tcp, l4) = match frame.get(at).map_or(0, |first| first >> 4) {
        4 => (
            frame.get(at + 9) == Some(&6),
            at + usize::from(frame[at] & 15) * 4,
        ),
        _ => (frame.get(at + 6) == Some(&6), at + 40),
    };
    let Some(segment) = frame
        .get_mut(l4..)
        .filter(|segment| tcp && segment.len() >= 20)
    else {
        return frame;
    };
    if segment[13] & SYN != 0 {
        let header = usize::from(segment[12] >> 4) * 4;
        segment[16..18].fill(0);
        let end = header.min(segment.len());
        segment[20.min(end)..end].fill(0);
    }
    frame
}

/// Whether the reason is one of those that a wrapped packet itself gives.
fn of_tunnels(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::TunnelHeader
            | DropReason::TunnelChecksum
            | DropReason::TunnelPeer
            | DropReason::TunnelVersion
            | DropReason::TunnelVni
            | DropReason::TunnelPayload
            | DropReason::GeneveOam
            | DropReason::GeneveOptions
            | DropReason::GeneveCriticalOption
            | DropReason::SrcSpoof
            | DropReason::NoRoute
            | DropReason::TunnelEcn
    )
}
