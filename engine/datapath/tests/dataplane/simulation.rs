//! Pods on a node in memory under a virtual clock: echo clients and servers, a lossy wire, and a ledger
//! that must come out exactly.

use std::collections::VecDeque;
use std::time::Duration;

use arrayvec::ArrayVec;
use weft_datapath::*;

use crate::support::*;

/// A worker and its node. The kernel delivers to the pod that is not enrolled (host 4), which echoes.
struct Node {
    io: MemoryIo,
    tables: Tables,
    state: State,
    counters: Counters,
    now: Now,
    /// Frames that reached a pod or the kernel, by interface; re-ingressed ones apart.
    delivered: VecDeque<(u32, Vec<u8>)>,
    reingressed: VecDeque<(u32, Vec<u8>)>,
    pushed: u64,
}

impl Node {
    fn new() -> Self {
        Self {
            io: MemoryIo::new(256, 2048, 128),
            tables: tables(Standing::Settled, Standing::Settled),
            state: state(1),
            counters: Counters::default(),
            now: START,
            delivered: VecDeque::new(),
            reingressed: VecDeque::new(),
            pushed: 0,
        }
    }

    fn punt(&mut self, frame: &[u8]) {
        assert!(self.io.push(frame), "{:?}", self.io.frames());
        self.pushed += 1;
    }

    /// At most one burst, as a worker does it.
    fn step(&mut self) {
        let mut burst = ArrayVec::<_, BURST_MAX>::new();
        self.io.receive(&mut burst);
        for mut frame in burst {
            let verdict = self.io.with_frame(&mut frame, |buf| {
                process(buf, self.now, &self.tables, &mut self.state)
            });
            self.counters.record(verdict);
            match verdict {
                Verdict::Deliver | Verdict::Reply | Verdict::Kernel(_) => {
                    self.io.send(frame).unwrap()
                }
                Verdict::HandOver(_) | Verdict::Hold | Verdict::Terminate(_) | Verdict::Drop(_) => {
                    self.io.release(frame)
                }
            }
        }
        self.state.pin_ops.clear();
        self.io.flush();
        for frame in self.io.take_sent() {
            let Egress { ifindex, inject } = egress(&frame);
            match inject {
                Inject::Peer => self.delivered.push_back((ifindex, frame)),
                Inject::Reingress => self.reingressed.push_back((ifindex, frame)),
                Inject::Neighbour => panic!("there is no peer"),
            }
        }
        self.state.expire(self.now, &self.tables, 64);
        assert!(self.io.frames().balances(), "{:?}", self.io.frames());
    }
}

/// A seeded coin, so that a failure can be run again.
struct Coin(u64);

impl Coin {
    fn one_in(&mut self, n: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.is_multiple_of(n)
    }
}

/// 400 UDP questions to a service of enrolled backends and to one by the kernel; some are lost, some
/// come twice. Every answer comes from the VIP to the port that asked.
#[test]
fn questions_and_answers_with_loss_and_duplicates() {
    for net in Net::BOTH {
        let mut node = Node::new();
        let mut coin = Coin(0x5eed);
        let (mut asked, mut answers, mut served) = (0u64, 0u64, [0u64; 3]);
        for question in 0..400u16 {
            let port = if question % 4 == 0 { BY_KERNEL } else { SERVED };
            let spec = Spec::udp(net.pod(1), 20000 + question, net.vip(80), port)
                .payload(&question.to_be_bytes());
            let copies = if coin.one_in(10) {
                0
            } else {
                1 + u64::from(coin.one_in(10))
            };
            for _ in 0..copies {
                node.punt(&spec.punted(CLIENT, Hook::FromPod));
                asked += 1;
            }
            node.step();
            // What left for the kernel arrives at the pod that is not enrolled and comes back at the client's egress.
            while let Some((ifindex, frame)) = node.reingressed.pop_front() {
                assert_eq!(ifindex, CLIENT);
                let at_server = tuple(&frame);
                assert_eq!((at_server.src, at_server.dst), (net.pod(1), net.pod(4)));
                served[2] += 1;
                let answer = Spec {
                    payload: question.to_be_bytes().into(),
                    ..Spec::of(at_server.reversed(), 0)
                };
                node.punt(&answer.punted(CLIENT, Hook::ToPod));
            }
            let arrived: Vec<_> = node.delivered.drain(..).collect();
            for (ifindex, frame) in arrived {
                let at_server = tuple(&frame);
                assert_eq!(
                    at_server.src,
                    net.pod(1),
                    "AMB-08: the client's own address and port"
                );
                assert_eq!(at_server.sport, 20000 + question);
                served[(ifindex - BACKEND_1) as usize] += 1;
                let answer = Spec {
                    payload: question.to_be_bytes().into(),
                    ..Spec::of(at_server.reversed(), 0)
                };
                node.punt(&answer.punted(ifindex, Hook::FromPod));
            }
            node.step();
            for (ifindex, frame) in node.delivered.drain(..) {
                assert_eq!((ifindex, tuple(&frame)), (CLIENT, spec.tuple.reversed()));
                assert!(frame.ends_with(&question.to_be_bytes()));
                answers += 1;
            }
            node.now = node.now + Duration::from_millis(10);
        }
        // The ledger: every frame has exactly one fate.
        assert_eq!(served.iter().sum::<u64>(), asked);
        assert_eq!(answers, asked);
        assert_eq!(
            node.counters,
            Counters {
                forwarded: 2 * asked,
                ..Counters::default()
            }
        );
        assert_eq!(node.counters.received(), node.pushed);
        assert!(served.iter().all(|count| *count > 50), "{served:?}");
        // And the node forgets: UDP both ways lives for three minutes.
        node.now = node.now + timeouts::UDP_TWO_WAY + Duration::from_secs(1);
        for _ in 0..100 {
            node.step();
        }
        assert_eq!(node.state.flows.len(), 0);
    }
}

/// TCP from SYN to the last ACK, refused connections, strays: named counters and nothing else.
#[test]
fn connections_open_and_close_and_every_frame_is_accounted_for() {
    for net in Net::BOTH {
        let mut node = Node::new();
        for connection in 0..100u16 {
            let client = Tuple {
                src: net.pod(1),
                dst: net.vip(80),
                sport: 30000 + connection,
                dport: SERVED,
                proto: Protocol::Tcp,
            };
            let mut server = None;
            for (from_client, flags) in [
                (true, SYN),
                (false, SYN | ACK),
                (true, ACK),
                (true, FIN | ACK),
                (false, FIN | ACK),
                (true, ACK),
            ] {
                let (spec, ifindex) = match (from_client, server) {
                    (true, _) => (Spec::of(client, flags), CLIENT),
                    (false, Some((tuple, ifindex))) => (Spec::of(tuple, flags), ifindex),
                    (false, None) => panic!("nobody answered"),
                };
                node.punt(&spec.punted(ifindex, Hook::FromPod));
                node.step();
                let (ifindex, frame) = node.delivered.pop_front().unwrap();
                if from_client {
                    server = Some((tuple(&frame).reversed(), ifindex));
                } else {
                    assert_eq!((ifindex, tuple(&frame)), (CLIENT, client.reversed()));
                }
            }
            // A refused one, one that nobody knows, one that is not ours, and a spoofed one.
            let refused = Spec::of(
                Tuple {
                    dport: UNUSED,
                    ..client
                },
                SYN,
            );
            let unknown = Spec::of(Tuple { sport: 7, ..client }, ACK);
            let foreign = Spec::of(
                Tuple {
                    dst: net.internet(),
                    ..client
                },
                SYN,
            );
            for spec in [&refused, &unknown, &foreign] {
                node.punt(&spec.punted(CLIENT, Hook::FromPod));
            }
            node.punt(&refused.punted(BACKEND_1, Hook::FromPod));
            node.step();
            assert_eq!(
                node.delivered.len() + node.reingressed.len(),
                2,
                "the reset and the kernel's"
            );
            node.delivered.clear();
            node.reingressed.clear();
            node.now = node.now + Duration::from_millis(1);
        }
        let mut expected = Counters {
            forwarded: 600,
            replied: 100,
            ..Counters::default()
        };
        expected.kernel[KernelReason::NotOurs as usize] = 100;
        expected.dropped[DropReason::UnknownFlow as usize] = 100;
        expected.dropped[DropReason::SrcSpoof as usize] = 100;
        assert_eq!(node.counters, expected);
        assert_eq!(node.counters.received(), node.pushed);
        assert_eq!(node.state.flows.len(), 100);
        assert!(
            node.state
                .flows
                .slice(0, 100)
                .all(|(_, flow)| flow.state() == FlowState::TimeWait)
        );
        node.now = node.now + timeouts::TCP_TIME_WAIT + Duration::from_secs(1);
        for _ in 0..10 {
            node.step();
        }
        assert!(node.state.flows.is_empty());
    }
}
