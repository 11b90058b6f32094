//! The node under test, and what a case does to it.

use std::time::Duration;

use weft_datapath::*;

use super::case::{Case, Harm, Step, Wrapped};
use super::*;
use crate::outer::{Dress, L3, VNI, mend, wrapped};

impl Node {
    pub(super) fn new(case: &Case) -> Self {
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
    pub(super) fn home(&self, address: &Address) -> Option<Home> {
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

    pub(super) fn step(&mut self, step: &Step) {
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
}
