//! Packets in fragments, in any order, through a VIP and back (SVC-35, K-18).

use weft_datapath::*;

use crate::support::fragments::{cut, piece, question, text, whole};
use crate::support::*;

/// What a network with an MTU of 1500 leaves of a packet.
const PIECE: usize = 1480 - 8;

/// A worker that takes released fragments as the edge does, and its ledger.
pub struct Driver {
    pub tables: Tables,
    pub state: State,
    pub counters: Counters,
    pub released: u64,
    /// What went out, in order.
    pub sent: Vec<Vec<u8>>,
}

impl Driver {
    pub fn new(workers: u16) -> Self {
        Self {
            tables: tables(Standing::Settled, Standing::Settled),
            state: state(workers),
            counters: Counters::default(),
            released: 0,
            sent: Vec::new(),
        }
    }

    /// Processes a frame and then everything that it releases.
    pub fn push(&mut self, frame: &[u8], now: Now) {
        let _ = self.verdict(frame, now);
    }

    /// As [`push`](Self::push), with the verdict on the frame.
    pub fn verdict(&mut self, frame: &[u8], now: Now) -> Verdict {
        let verdict = self.one(frame.to_vec(), now);
        while self.state.fragments.released() > 0 {
            let mut memory = [0; 2048];
            let mut buf = FrameBuf::new(&mut memory, 0);
            self.state.fragments.take(&mut buf).unwrap();
            let frame = buf.bytes().to_vec();
            self.released += 1;
            let _ = self.one(frame, now);
        }
        self.state.pin_ops.clear();
        self.balanced();
        verdict
    }

    fn one(&mut self, mut frame: Vec<u8>, now: Now) -> Verdict {
        let verdict = run(&mut frame, now, &self.tables, &mut self.state);
        self.counters.record(verdict);
        if !matches!(verdict, Verdict::Hold | Verdict::Drop(_)) {
            self.sent.push(frame);
        }
        verdict
    }

    /// Lets the clock hand go once round.
    pub fn expire(&mut self, now: Now) {
        self.state.fragments.expire(now, usize::MAX);
        self.balanced();
    }

    /// Every fragment that was held went on, timed out, or is held.
    fn balanced(&mut self) {
        let timed_out = self.state.fragments.timed_out();
        self.released += timed_out;
        self.counters.dropped[DropReason::FragmentTimeout as usize] += timed_out;
        let held = self.state.fragments.held() as u64;
        assert_eq!(self.counters.held, self.released + held);
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped[reason as usize]
    }

    pub fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent)
    }
}

/// Every order of `n` things (Heap's algorithm).
fn orders(n: usize) -> Vec<Vec<usize>> {
    fn go(k: usize, at: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        if k <= 1 {
            return all.push(at.clone());
        }
        for i in 0..k {
            go(k - 1, at, all);
            at.swap(if k.is_multiple_of(2) { i } else { 0 }, k - 1);
        }
    }
    let mut all = Vec::new();
    go(n, &mut (0..n).collect(), &mut all);
    all
}

#[test]
fn svc_35_k_18_a_datagram_arrives_whole_in_any_order_there_and_back() {
    for net in Net::BOTH {
        // An enrolled backend, and one by the kernel, whose replies are seen at the client's veth.
        for (port, ifindex, hook) in [
            (ONE_BACKEND, BACKEND_1, Hook::FromPod),
            (BY_KERNEL, CLIENT, Hook::ToPod),
        ] {
            let mut driver = Driver::new(1);
            for (id, order) in orders(4).into_iter().enumerate() {
                let asked = question(net, 40000 + id as u16, port, 3 * PIECE + 100);
                let pieces = cut(&asked.punted(CLIENT, Hook::FromPod), id as u32, PIECE);
                assert_eq!(pieces.len(), 4);
                for &at in &order {
                    driver.push(&pieces[at], START);
                }
                let sent = driver.take();
                assert_eq!(sent.len(), 4, "{order:?}");
                let out = egress(&sent[0]);
                assert!(sent.iter().all(|frame| egress(frame) == out));
                let there = whole(&sent);
                let arrived = tuple(&there);
                let server = if hook == Hook::FromPod { 2 } else { 4 };
                assert_eq!((arrived.dst, arrived.dport), (net.pod(server), TARGET));
                assert_eq!(
                    (arrived.src, arrived.sport),
                    (net.pod(1), asked.tuple.sport)
                );
                assert!(there.ends_with(&asked.payload));

                let answer = Spec::of(arrived.reversed(), 0).payload(&text(4000));
                let pieces = cut(&answer.punted(ifindex, hook), id as u32, PIECE);
                for &at in order.iter().filter(|at| **at < pieces.len()) {
                    driver.push(&pieces[at], START);
                }
                let sent = driver.take();
                assert_eq!(sent.len(), pieces.len());
                assert!(
                    sent.iter()
                        .all(|frame| egress(frame) == Egress::peer(CLIENT))
                );
                let back = whole(&sent);
                assert_eq!(tuple(&back), asked.tuple.reversed());
                assert!(back.ends_with(&answer.payload));
            }
            assert_eq!(driver.counters.total_dropped(), 0);
            assert_eq!(driver.counters.total_kernel(), 0);
            assert_eq!(driver.state.fragments.held(), 0);
            assert_eq!(driver.state.flows.len(), 24);
        }
    }
}

/// The longest datagram there is, in order: 45 fragments and one flow.
#[test]
fn svc_35_the_longest_datagram_in_order_holds_nothing() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let asked = question(net, 40000, SERVED, 65_000);
        for piece in cut(&asked.punted(CLIENT, Hook::FromPod), 1, PIECE) {
            assert_eq!(driver.verdict(&piece, START), Verdict::Deliver);
        }
        assert!(whole(&driver.take()).ends_with(&asked.payload));
        assert_eq!((driver.counters.held, driver.state.flows.len()), (0, 1));
    }
}

#[test]
fn svc_35_interleaved_datagrams_and_duplicates_do_not_mix() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let asked: Vec<Spec> = (0..8)
            .map(|n| question(net, 41000 + n, SERVED, 2 * PIECE + usize::from(n)))
            .collect();
        let pieces: Vec<_> = (0u32..)
            .zip(&asked)
            .map(|(id, spec)| cut(&spec.punted(CLIENT, Hook::FromPod), id, PIECE))
            .collect();
        // The second ones, twice; then the last ones; then the first ones, twice.
        for at in [1, 1, 2, 0, 0] {
            for datagram in &pieces {
                driver.push(&datagram[at], START);
            }
        }
        let sent = driver.take();
        assert_eq!(sent.len(), 8 * 5);
        for (spec, id) in asked.iter().zip(0u32..) {
            let own: Vec<_> = sent
                .iter()
                .filter(|frame| match parse(frame) {
                    Ok(Parsed::Fragment(part)) => part.id() == id,
                    other => panic!("{other:?}"),
                })
                .cloned()
                .collect();
            assert_eq!(own.len(), 5);
            let there = whole(&own);
            assert_eq!(tuple(&there).sport, spec.tuple.sport);
            assert!(there.ends_with(&spec.payload));
        }
        assert_eq!(driver.counters.total_dropped(), 0);
    }
}

#[test]
fn svc_35_a_datagram_without_udp_checksum_keeps_none() {
    let asked = question(Net::V4, 40000, ONE_BACKEND, 3000);
    let mut frame = asked.punted(CLIENT, Hook::FromPod);
    frame[40..42].fill(0);
    let mut driver = Driver::new(1);
    for piece in cut(&frame, 1, PIECE) {
        assert_eq!(driver.verdict(&piece, START), Verdict::Deliver);
    }
    assert_eq!(whole(&driver.take())[40..42], [0, 0]);
}

/// Nobody does it, but TCP may be fragmented too.
#[test]
fn svc_35_tcp_in_fragments_follows_its_connection() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let open = Spec::tcp(net.pod(1), 40000, net.vip(80), ONE_BACKEND, SYN);
        driver.push(&open.punted(CLIENT, Hook::FromPod), START);
        driver.take();
        let data = Spec::of(open.tuple, ACK).payload(&text(2000));
        let pieces = cut(&data.punted(CLIENT, Hook::FromPod), 5, 1000);
        for piece in pieces.iter().rev() {
            driver.push(piece, START);
        }
        let there = whole(&driver.take());
        assert_eq!(tuple(&there).dst, net.pod(2));
        assert!(there.ends_with(&data.payload));
        // One that belongs to no connection: dropped as it would be in one piece, and the rest with it.
        let stray = Spec {
            tuple: Tuple {
                sport: 7,
                ..open.tuple
            },
            ..data
        };
        let pieces = cut(&stray.punted(CLIENT, Hook::FromPod), 6, 1000);
        for piece in &pieces {
            driver.push(piece, START);
        }
        assert_eq!(driver.dropped(DropReason::UnknownFlow), 1);
        assert_eq!(
            driver.dropped(DropReason::FragmentRefused),
            pieces.len() as u64 - 1
        );
    }
}

/// RFC 6946: a fragment that is the whole packet has nothing to do with others of its identification.
#[test]
fn svc_35_an_atomic_fragment_stands_alone() {
    let mut driver = Driver::new(1);
    let asked = question(Net::V6, 40000, ONE_BACKEND, 100);
    let frame = asked.punted(CLIENT, Hook::FromPod);
    let len = frame.len() - 14 - 40;
    // A late fragment of another packet waits under the same identification.
    let other = question(Net::V6, 40001, ONE_BACKEND, 3000).punted(CLIENT, Hook::FromPod);
    let others = cut(&other, 9, PIECE);
    assert_eq!(driver.verdict(&others[1], START), Verdict::Hold);
    assert_eq!(
        driver.verdict(&piece(&frame, 9, 0, len), START),
        Verdict::Deliver
    );
    assert_eq!(driver.state.fragments.held(), 1);
    assert_eq!(tuple(&whole(&driver.take())).dst, Net::V6.pod(2));
    driver.push(&others[0], START);
    driver.push(&others[2], START);
    assert_eq!(tuple(&whole(&driver.take())).sport, 40001);
}

/// Port unreachable for the first one, nothing for the rest.
#[test]
fn svc_35_svc_03_fragments_to_an_unused_port_are_answered_once() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let asked = question(net, 40000, UNUSED, 4000).punted(CLIENT, Hook::FromPod);
        let pieces = cut(&asked, 1, PIECE);
        driver.push(&pieces[2], START);
        assert_eq!(driver.verdict(&pieces[0], START), Verdict::Reply);
        driver.push(&pieces[1], START);
        assert_eq!(driver.sent.len(), 1);
        sound(&driver.sent[0]);
        assert_eq!(driver.dropped(DropReason::FragmentRefused), 2);
    }
}

/// A direct datagram needs no translation and opens nothing: the kernel's, whatever the order, and how many.
#[test]
fn svc_35_a_direct_datagram_in_fragments_stays_the_kernels() {
    for net in Net::BOTH {
        let direct = Spec::udp(net.pod(1), 40000, net.pod(2), 53).payload(&text(40_000));
        for (ifindex, hook, back) in [
            (CLIENT, Hook::FromPod, Egress::reingress(CLIENT)),
            (BACKEND_1, Hook::ToPod, Egress::peer(BACKEND_1)),
        ] {
            let pieces = cut(&direct.punted(ifindex, hook), 1, PIECE);
            for reversed in [false, true] {
                let mut driver = Driver::new(1);
                for at in 0..pieces.len() {
                    let at = if reversed { pieces.len() - 1 - at } else { at };
                    driver.push(&pieces[at], START);
                }
                let sent = driver.take();
                assert_eq!(sent.len(), pieces.len());
                assert!(sent.iter().all(|frame| egress(frame) == back));
                // Nothing but the MACs was touched.
                let (before, after) = (whole(&pieces), whole(&sent));
                assert_eq!(before[12..], after[12..]);
                assert!(driver.state.flows.is_empty());
                let kernel = driver.counters.kernel;
                let overflow = kernel[KernelReason::FragmentOverflow as usize];
                assert_eq!(overflow > 0, reversed);
                assert_eq!(driver.counters.total_dropped(), 0);
            }
        }
    }
}

/// A flow's fragments and its whole packets are one flow, with one count of time.
#[test]
fn svc_35_fragments_and_whole_packets_share_a_flow() {
    let mut driver = Driver::new(1);
    let small = question(Net::V4, 40000, SERVED, 10);
    driver.push(&small.punted(CLIENT, Hook::FromPod), START);
    let backend = tuple(&driver.take()[0]).dst;
    for (id, net) in [(1, Net::V4), (2, Net::V4)] {
        let large = question(net, 40000, SERVED, 4000).punted(CLIENT, Hook::FromPod);
        for piece in cut(&large, id, PIECE) {
            driver.push(&piece, START);
        }
        assert_eq!(tuple(&whole(&driver.take())).dst, backend);
    }
    let flows: Vec<_> = driver.state.flows.slice(0, 9).collect();
    assert_eq!((flows.len(), flows[0].1.packets()), (1, [7, 0]));
}

/// Where a hop is counted, each fragment has its own.
#[test]
fn svc_35_hops_are_counted_in_every_fragment() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let asked = question(net, 40000, ONE_BACKEND, 3000);
        let mut pieces = cut(&asked.punted(CLIENT, Hook::FromPod), 1, PIECE);
        let at = if net == Net::V4 { 22 } else { 21 };
        pieces[1][at] = 1;
        let verdicts: Vec<_> = pieces.iter().map(|p| driver.verdict(p, START)).collect();
        assert_eq!(verdicts[1], Verdict::Drop(DropReason::TtlExpired));
        for frame in driver.take() {
            assert_eq!(frame[at], 63);
        }
    }
}

/// The hooks send all of a sender's fragments to one worker; the flow may be another's.
#[test]
fn svc_35_a_first_fragment_finds_the_worker_that_owns_its_flow() {
    for net in Net::BOTH {
        let mut owners = [0; 2];
        for sport in 40000..40032 {
            let asked = question(net, sport, ONE_BACKEND, 4000);
            let owner = source_hash(&net.pod(1), sport, Protocol::Udp) % 2;
            owners[usize::from(owner)] += 1;
            // Target 0: worker 0 gets them all.
            let pieces = cut(&asked.punted(CLIENT, Hook::FromPod), sport.into(), PIECE);
            let mut workers = [0, 1].map(|worker| {
                let mut driver = Driver::new(2);
                driver.state = State::new(StateConfig {
                    max_flows: 64,
                    seed: 7,
                    worker,
                    workers: 2,
                    ports: Ports { weft0_mac: WEFT0 },
                    hairpin: Net::BOTH.map(Net::hairpin).into(),
                });
                driver
            });
            let [zero, one] = &mut workers;
            for at in [1, 0, 2] {
                zero.push(&pieces[at], START);
            }
            let sent = zero.take();
            if owner == 0 {
                assert_eq!(tuple(&whole(&sent)).dst, net.pod(2));
                continue;
            }
            assert_eq!((zero.counters.handed_over, zero.state.flows.len()), (3, 0));
            for frame in &sent {
                let source = frame[6..12].try_into().unwrap();
                let ingress = Ingress::decode(&source).unwrap();
                assert_eq!((ingress.target, ingress.ifindex), (1, CLIENT));
                assert_eq!(one.verdict(frame, START), Verdict::Deliver);
            }
            let arrived = tuple(&whole(&one.take()));
            assert_eq!((arrived.dst, arrived.sport), (net.pod(2), sport));
            // The reply's way back: from the backend's fragments to the client's worker.
            let answer = Spec::of(arrived.reversed(), 0).payload(&text(3000));
            for piece in cut(&answer.punted(BACKEND_1, Hook::FromPod), 7, PIECE) {
                assert_eq!(zero.verdict(&piece, START), Verdict::HandOver(1));
            }
            for frame in zero.take() {
                one.push(&frame, START);
            }
            assert_eq!(tuple(&whole(&one.take())), asked.tuple.reversed());
        }
        assert!(owners.iter().all(|count| *count > 4), "{owners:?}");
    }
}

/// A pod that leaves, and flows that the kernel opened: every fragment with the first.
#[test]
fn svc_35_what_is_the_kernels_in_one_piece_is_so_in_fragments() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        driver.tables = tables(Standing::Draining, Standing::Settled);
        let asked = question(net, 40000, SERVED, 4000).punted(CLIENT, Hook::FromPod);
        let pieces = cut(&asked, 1, PIECE);
        for at in [2, 0, 1] {
            driver.push(&pieces[at], START);
        }
        assert_eq!(driver.counters.kernel[KernelReason::Draining as usize], 3);
        let sent = driver.take();
        assert!(sent.iter().all(|f| egress(f) == Egress::reingress(CLIENT)));
        assert_eq!(whole(&sent)[12..], whole(&pieces)[12..]);

        driver.tables = tables(Standing::Grace, Standing::Settled);
        let old = Spec::tcp(net.pod(1), 9, net.vip(80), SERVED, ACK).payload(&text(2000));
        for piece in cut(&old.punted(CLIENT, Hook::FromPod), 2, 1000) {
            driver.push(&piece, START);
        }
        let old = driver.counters.kernel[KernelReason::OlderThanEnrolment as usize];
        assert_eq!(old, 3);
    }
}

/// A pod that asks itself by way of a service: both ends of every fragment are translated.
#[test]
fn svc_35_fragments_by_the_hairpin_address_come_back() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let asked = question(net, 40000, ONLY_CLIENT, 4000);
        for piece in cut(&asked.punted(CLIENT, Hook::FromPod), 1, PIECE)
            .iter()
            .rev()
        {
            driver.push(piece, START);
        }
        let arrived = tuple(&whole(&driver.take()));
        assert_eq!((arrived.src, arrived.dst), (net.hairpin(), net.pod(1)));
        let answer = Spec::of(arrived.reversed(), 0).payload(&text(5000));
        let pieces = cut(&answer.punted(CLIENT, Hook::FromPod), 1, PIECE);
        for piece in pieces.iter().rev() {
            driver.push(piece, START);
        }
        assert_eq!(tuple(&whole(&driver.take())), asked.tuple.reversed());
        // One that answers nothing leads nowhere.
        let stray = Spec {
            tuple: Tuple {
                sport: 9,
                ..answer.tuple
            },
            ..answer
        };
        let pieces = cut(&stray.punted(CLIENT, Hook::FromPod), 2, PIECE);
        for piece in &pieces {
            driver.push(piece, START);
        }
        assert!(driver.sent.is_empty());
        assert_eq!(driver.dropped(DropReason::UnknownFlow), 1);
    }
}
