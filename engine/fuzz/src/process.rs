//! Any sequence of packets, waits and changes of the tables through `process`: what comes out keeps every
//! rule that an edge relies on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use weft_datapath::*;

use crate::frames::{PacketCase, Shown, icmp_error, residues};
use crate::stack::{Stack, sent};
use crate::support::*;
use crate::world::{Change, PODS, World};

/// Steps that one case takes at most: enough to fill the small tables twice.
const STEPS_MAX: usize = 128;
const FRAME_ROOM: usize = 2048;

/// One case in words.
#[derive(Arbitrary, Debug)]
struct Case {
    several_workers: bool,
    algorithm: u8,
    /// Flows there may be, beyond one.
    max_flows: u8,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A pod sends, or the kernel delivers to it.
    Packet(PacketCase),
    /// Whoever got the last packet answers it.
    Answer {
        flags: u8,
    },
    /// An ICMP error about the last packet delivered.
    Error {
        from: u8,
        kind: u8,
        cut: u8,
    },
    /// Any bytes behind a source MAC of ours, or behind any.
    Raw {
        ours: Option<u8>,
        bytes: Vec<u8>,
    },
    /// Time passes: seconds, up to a day and a bit in the second form.
    Wait(u8),
    LongWait(u16),
    Control(Change),
    Expire(u8),
    /// The edge writes the owner entries.
    Flush,
    /// The worker was away, and unknown flows are the kernel's for so many seconds.
    Away(u8),
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
        node.check();
    }
    node.forget();
}

/// A packet that was delivered, and what its answer must become.
#[derive(Clone)]
struct Delivered {
    frame: Vec<u8>,
    /// Where its receiver's answer is seen.
    answered_at: (u32, Hook),
    /// The answer as the sender must get it, and the way; while nothing else has happened.
    expected: Option<(Tuple, Egress)>,
}

struct Node {
    world: World,
    state: State,
    counters: Counters,
    frames: u64,
    now: Now,
    max_flows: usize,
    several_workers: bool,
    /// The kernel's map of owner entries.
    pins: HashMap<FlowKey, u64>,
    stack: Stack,
    last: Option<Delivered>,
}

impl Node {
    fn new(case: &Case) -> Self {
        let max_flows = 1 + usize::from(case.max_flows % 48);
        let state = State::new(StateConfig {
            max_flows,
            seed: u64::from(case.max_flows),
            worker: 0,
            workers: 1 + u16::from(case.several_workers),
            ports: Ports { weft0_mac: WEFT0 },
            hairpin: Net::BOTH.map(Net::hairpin).into(),
        });
        Self {
            world: World::new(case.algorithm),
            state,
            counters: Counters::default(),
            frames: 0,
            now: START,
            max_flows,
            several_workers: case.several_workers,
            pins: HashMap::new(),
            stack: Stack::default(),
            last: None,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Answer { flags } => return self.answer(*flags),
            Step::Packet(packet) => return self.punt(&packet.frame(&self.world)),
            Step::Error { from, kind, cut } => {
                if let Some(frame) = self.error(*from, *kind, *cut) {
                    return self.punt(&frame);
                }
            }
            Step::Raw { ours, bytes } => {
                let mut frame = bytes[..bytes.len().min(FRAME_ROOM)].to_vec();
                if let (Some(pod), Some(source)) = (ours, frame.get_mut(6..12)) {
                    let ifindex = PODS[usize::from(*pod) % PODS.len()];
                    let hook = if *pod < 128 {
                        Hook::FromPod
                    } else {
                        Hook::ToPod
                    };
                    source.copy_from_slice(
                        &Ingress {
                            ifindex,
                            hook,
                            target: 0,
                        }
                        .encode(),
                    );
                }
                return self.punt(&frame);
            }
            Step::Wait(seconds) => self.now = self.now + Duration::from_secs((*seconds).into()),
            Step::LongWait(pairs) => {
                self.now = self.now + Duration::from_secs(2 * u64::from(*pairs));
            }
            Step::Control(change) => self.world.apply(change),
            Step::Expire(budget) => {
                self.state
                    .expire(self.now, &self.world.tables, (*budget).into());
            }
            Step::Flush => return self.flush(),
            Step::Away(seconds) => {
                let until = self.now + Duration::from_secs((*seconds).into());
                self.state.was_away(until);
            }
        }
        if let Some(last) = &mut self.last {
            last.expected = None;
        }
    }

    /// Whoever got the last packet sends one back. If nothing happened since, it must arrive where the
    /// packet came from, from the address it was sent to.
    fn answer(&mut self, flags: u8) {
        let Some(last) = self.last.clone() else {
            return;
        };
        let Ok(Parsed::Flow(packet)) = parse(&last.frame) else {
            return;
        };
        let (ifindex, hook) = last.answered_at;
        let answer = Spec::of(packet.tuple().reversed(), flags);
        let mut frame = answer.punted(ifindex, hook);
        let verdict = self.punt_in_place(&mut frame);
        // A SYN may open another connection, and a flag may end this one.
        if let Some((tuple, egress)) = last.expected.filter(|_| flags & (SYN | RST | FIN) == 0) {
            assert_eq!(verdict, Verdict::Deliver, "the answer to {tuple}");
            let found = (*packet_of(&frame).tuple(), found_egress(&frame));
            assert_eq!(found, (tuple, Some(egress)));
        }
    }

    fn error(&self, from: u8, kind: u8, cut: u8) -> Option<Vec<u8>> {
        let last = self.last.as_ref()?;
        let (ifindex, hook) = last.answered_at;
        let net = if last.frame[12] == 0x08 {
            Net::V4
        } else {
            Net::V6
        };
        let address = match from {
            0 => net.node(),
            1 => net.internet(),
            host => net.pod(host % 8),
        };
        let ingress = Ingress {
            ifindex,
            hook,
            target: 0,
        };
        let quoted = &last.frame[..last.frame.len().saturating_sub(cut.into())];
        icmp_error(quoted, address, kind, ingress)
    }

    fn punt(&mut self, frame: &[u8]) {
        let mut frame = frame.to_vec();
        let _ = self.punt_in_place(&mut frame);
    }

    fn punt_in_place(&mut self, frame: &mut Vec<u8>) -> Verdict {
        if let Some(last) = &mut self.last {
            last.expected = None; // Whatever this packet does, it has happened since.
        }
        let before = frame.clone();
        let mut memory = [0; FRAME_ROOM];
        memory[..frame.len()].copy_from_slice(frame);
        let mut buf = FrameBuf::new(&mut memory, frame.len());
        let ops = self.state.pin_ops.as_slice().len();
        let mut ahead = LookAhead::default();
        ahead.note(buf.bytes(), &self.state);
        ahead.fetch(&self.world.tables, &self.state);
        let mut verdict = process(&mut buf, self.now, &self.world.tables, &mut self.state);
        let key = segment(buf.bytes());
        let known = key.is_some_and(|(key, _)| self.stack.knows(&key));
        if verdict == Verdict::Terminate(Claim::PerhapsOlder) && !known {
            verdict = older(&mut buf, self.now, &self.world.tables, &mut self.state);
            let kernel = Verdict::Kernel(KernelReason::OlderThanEnrolment);
            assert!([kernel, Verdict::Drop(DropReason::UnknownFlow)].contains(&verdict));
        }
        *frame = buf.bytes().to_vec();
        let caused = self.state.pin_ops.as_slice().len() - ops;
        assert!(caused <= PIN_OPS_PER_FRAME, "{caused} owner entries");
        self.frames += 1;
        self.counters.record(verdict);
        assert_eq!(
            self.counters.received(),
            self.frames,
            "every frame has one fate"
        );
        self.judge(&before, frame, verdict);
        match (verdict, key) {
            (Verdict::Terminate(Claim::TooLong), _) => self.too_long(),
            (Verdict::Terminate(_), key) => self.ingest(key.expect("a segment")),
            (Verdict::Drop(DropReason::UnknownFlow), Some(key)) if known => self.ingest(key),
            _ => {}
        }
        verdict
    }

    /// As the worker gives a segment to its stack, and joins what that accepts.
    fn ingest(&mut self, (key, packet): (FlowKey, (Hook, TcpFlags))) {
        let (hook, flags) = packet;
        let (now, tables, state) = (self.now, &self.world.tables, &mut self.state);
        let mut answer = (key.tuple.reversed(), ACK, (key.ifindex, hook));
        if self.stack.ingest(key, flags, now, tables, state)
            && let Some((ends, ifindex, hook)) = self.stack.join(key, now, tables, state)
        {
            answer = (ends, SYN, (ifindex, hook));
        }
        let (tuple, flags, answered_at) = answer;
        self.last = Some(Delivered {
            frame: sent(tuple, flags),
            answered_at,
            expected: None,
        });
    }

    /// What is said is of a flow that ends here, and can be.
    fn too_long(&mut self) {
        let said = self.state.too_long.take().expect("something was said");
        let (id, direction) = self.state.flows.find(&said.key).expect("of a flow");
        let flow = self.state.flows.at(id).expect("of a flow");
        assert_eq!(flow.answer(direction), Some(said.answer));
        let least = if said.key.tuple.src.is_v4() {
            576
        } else {
            1280
        };
        assert!(said.mtu >= least);
    }

    /// What the verdict says of the frame is true of it.
    fn judge(&mut self, before: &[u8], after: &[u8], verdict: Verdict) {
        match verdict {
            Verdict::Deliver => self.delivered(before, after),
            Verdict::Reply => self.replied(before, after),
            Verdict::Kernel(_) => {
                let ingress = Ingress::decode(before[6..12].try_into().unwrap()).unwrap();
                let egress = found_egress(after).expect("an injected frame");
                assert_eq!(egress.ifindex, ingress.ifindex);
                match egress.inject {
                    Inject::Reingress => assert_eq!(before[..6], after[..6]),
                    Inject::Peer => assert_eq!(after[..6], WEFT0),
                    Inject::Neighbour => panic!("there is no peer"),
                }
                assert_eq!(before[12..], after[12..], "as if never touched");
            }
            // The owner of a fragment's flow stands where the hash of its source did.
            Verdict::HandOver(owner) => {
                let target = Ingress::decode(after[6..12].try_into().unwrap()).unwrap();
                assert_eq!(target.target % (1 + u16::from(self.several_workers)), owner);
                assert_eq!(before[..10], after[..10]);
                assert_eq!(before[12..], after[12..]);
            }
            // What stays here is as it was.
            _ => assert_eq!(before, after, "{verdict:?} must leave the bytes alone"),
        }
    }

    fn delivered(&mut self, before: &[u8], after: &[u8]) {
        let ingress = Ingress::decode(before[6..12].try_into().unwrap()).unwrap();
        let egress = found_egress(after).expect("an injected frame");
        assert_eq!(before.len(), after.len());
        let (sums, sums_after) = (residues(before), residues(after));
        assert_eq!(sums, sums_after, "right stays right, wrong stays as wrong");
        let (Ok(Parsed::Flow(sent)), Ok(Parsed::Flow(got))) = (parse(before), parse(after)) else {
            assert!(parse(after).is_ok(), "what is delivered still parses");
            return;
        };
        let tables_know = |ifindex, address| self.world.at_home(ifindex, address);
        if ingress.hook == Hook::FromPod {
            let src = &sent.tuple().src;
            assert!(
                tables_know(ingress.ifindex, src),
                "AMB-06: {src} is not its own"
            );
        }
        let answered_at = match egress.inject {
            Inject::Peer => {
                let dst = &got.tuple().dst;
                assert!(
                    tables_know(egress.ifindex, dst),
                    "{dst} is not behind that veth"
                );
                assert_eq!(after[..6], WEFT0);
                (egress.ifindex, Hook::FromPod)
            }
            Inject::Reingress => {
                assert_eq!(egress.ifindex, ingress.ifindex);
                assert_eq!(before[..6], after[..6]);
                (egress.ifindex, Hook::ToPod)
            }
            Inject::Neighbour => panic!("there is no peer"),
        };
        let hop = ingress.hook == Hook::FromPod && egress.inject == Inject::Peer;
        assert_eq!(
            got.hops(),
            sent.hops() - u8::from(hop),
            "who forwards counts the hop"
        );
        assert_eq!((sent.l4(), sent.end()), (got.l4(), got.end()));
        let ports = sent.l4() + 4..;
        let changed = before[ports.clone()].iter().zip(&after[ports]);
        let changed = changed.filter(|(a, b)| a != b).count();
        assert!(changed <= 2, "nothing but the checksum behind the ports");
        let back = match ingress.hook {
            Hook::FromPod => Egress::peer(ingress.ifindex),
            Hook::ToPod => Egress::reingress(ingress.ifindex),
        };
        self.last = Some(Delivered {
            frame: after.to_vec(),
            answered_at,
            expected: Some((sent.tuple().reversed(), back)),
        });
    }

    /// Our own answer: sound, to the sender, from whom it asked.
    fn replied(&self, before: &[u8], after: &[u8]) {
        let node = if before[12] == 0x08 {
            Net::V4.node().v4_octets().to_vec()
        } else {
            Net::V6.node().0.to_vec()
        };
        let ingress = Ingress::decode(before[6..12].try_into().unwrap()).unwrap();
        assert_eq!(found_egress(after), Some(Egress::peer(ingress.ifindex)));
        assert_eq!(after[..6], WEFT0);
        let addresses = |frame: &[u8]| match frame[12] {
            0x08 => (frame[26..30].to_vec(), frame[30..34].to_vec()),
            _ => (frame[22..38].to_vec(), frame[38..54].to_vec()),
        };
        let ((src, dst), (from, to)) = (addresses(before), addresses(after));
        // That the hop count is used up comes from the node.
        assert!(to == src && (from == dst || from == node));
        sound(after);
    }

    /// The edge writes the owner entries, as the kernel's map takes them, and what has no flow any more is reset.
    fn flush(&mut self) {
        self.stack.sever(self.now, &mut self.state);
        for op in self.state.pin_ops.as_slice() {
            match *op {
                PinOp::Insert {
                    key, owner, cookie, ..
                } => {
                    assert_eq!(owner, 0);
                    let before = self.pins.insert(key, cookie);
                    assert_eq!(before, None, "{key:?} was somebody's");
                }
                PinOp::Leave { .. } => unreachable!("no hooks"),
                PinOp::Remove { key, cookie } => {
                    let before = self.pins.remove(&key);
                    assert!(before.is_some(), "{key:?} was nobody's already");
                    assert!(
                        cookie.is_none() || cookie == before,
                        "{key:?} was another's"
                    );
                }
            }
        }
        self.state.pin_ops.clear();
        let flows = self.state.flows.slice(0, self.state.flows.places());
        let steered = flows.flat_map(|(_, flow)| {
            [Direction::Forward, Direction::Reply]
                .into_iter()
                .filter(|direction| {
                    self.several_workers
                        || flow.hook(*direction) == Hook::ToPod
                        || flow.kind() == FlowKind::Terminated
                })
                .filter_map(|direction| flow.key(direction))
        });
        let steered: HashSet<FlowKey> = steered.collect();
        let pinned: HashSet<FlowKey> = self.pins.keys().copied().collect();
        assert_eq!(
            pinned, steered,
            "owner entries come and go with their flows"
        );
    }

    /// What holds after every step.
    fn check(&self) {
        let flows = &self.state.flows;
        assert!(flows.len() <= self.max_flows && flows.places() <= self.max_flows);
        assert!(self.state.pin_ops.as_slice().len() <= PIN_OPS_MAX);
        let mut count = 0;
        for (id, flow) in flows.slice(0, flows.places()) {
            count += 1;
            for direction in [Direction::Forward, Direction::Reply] {
                let Some(key) = flow.key(direction) else {
                    continue;
                };
                assert_eq!(flows.find(&key), Some((id, direction)), "{key:?}");
            }
        }
        assert_eq!(count, flows.len());
        self.stack.check(&self.state);
    }

    /// In the end nothing is left of anything.
    fn forget(&mut self) {
        self.now = self.now + 2 * timeouts::TCP_ESTABLISHED;
        for round in 0..6 {
            if round == 3 {
                self.stack.reset_all(self.now, &mut self.state); // Nothing else ends it.
                self.now = self.now + 2 * timeouts::TCP_CLOSED;
            }
            self.flush();
            self.state
                .expire(self.now, &self.world.tables, self.max_flows);
        }
        self.flush();
        self.check();
        assert!(self.state.flows.is_empty() && self.pins.is_empty());
    }
}

fn packet_of(frame: &[u8]) -> Packet {
    match parse(frame) {
        Ok(Parsed::Flow(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

/// The key of a TCP packet, where it was seen, and its control bits.
fn segment(frame: &[u8]) -> Option<(FlowKey, (Hook, TcpFlags))> {
    let ingress = Ingress::decode(frame.get(6..12)?.try_into().ok()?)?;
    let Ok(Parsed::Flow(packet)) = parse(frame) else {
        return None;
    };
    let key = FlowKey {
        tuple: *packet.tuple(),
        ifindex: ingress.ifindex,
    };
    (key.tuple.proto == Protocol::Tcp).then(|| (key, (ingress.hook, packet.flags())))
}

fn found_egress(frame: &[u8]) -> Option<Egress> {
    Egress::decode(frame[6..12].try_into().unwrap())
}
