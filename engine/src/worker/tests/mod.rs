//! A worker stepped by hand, as its thread steps it.

mod churn;
mod configured;
mod fragments;
mod generations;
mod idle;
mod owners;
mod simulation;
mod tcp;
mod wire;

use std::net::SocketAddrV4;

use crossbeam::channel::bounded;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use weft_datapath::{BURST_MAX, DropReason, Egress, KernelReason, Now, PacketIo, PinOp};

use super::testing::{BACKEND, Bench, CLIENT, HEARTBEAT_LIMIT, VIP, bench, builder, tables, udp};
use super::*;

fn at(micros: u64) -> Now {
    Now::from_nanos(1_000_000 + micros * 1_000)
}

fn addresses(frame: &[u8]) -> (SocketAddrV4, SocketAddrV4) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else {
        panic!("not IPv4")
    };
    let Some(TransportSlice::Udp(udp)) = packet.transport else {
        panic!("not UDP")
    };
    let header = ip.header();
    (
        SocketAddrV4::new(header.source_addr(), udp.source_port()),
        SocketAddrV4::new(header.destination_addr(), udp.destination_port()),
    )
}

fn balanced(bench: &mut Bench) {
    for worker in &mut bench.workers {
        let seen = worker.shared().read();
        assert_eq!(seen.totals.unaccounted(), 0, "{seen:?}");
        let frames = worker.io_mut().frames();
        assert!(frames.balances(), "{frames:?}");
        assert_eq!(
            frames.app, 0,
            "no frame stays in hand after a step: {frames:?}"
        );
    }
}

#[test]
fn svc_01_amb_08_a_datagram_reaches_the_backend_and_its_reply_the_client() {
    let mut bench = bench(1, 64, 32);
    let worker = &mut bench.workers[0];
    assert!(worker.io_mut().push(&udp(CLIENT, 5000, VIP, 0)));
    assert_eq!(worker.step(at(0)), 1);
    let sent = worker.io_mut().take_sent();
    let client = SocketAddrV4::new(CLIENT.0, 5000);
    assert_eq!(
        addresses(&sent[0]),
        (client, SocketAddrV4::new(BACKEND.0, 7000))
    );
    assert_eq!(sent[0][6..12], Egress::peer(BACKEND.1).encode());

    worker
        .io_mut()
        .push(&udp((BACKEND.0, BACKEND.1), 7000, client, 0));
    worker.step(at(1));
    let sent = worker.io_mut().take_sent();
    assert_eq!(addresses(&sent[0]), (VIP, client));
    assert_eq!(sent[0][6..12], Egress::peer(CLIENT.1).encode());
    assert_eq!(worker.shared().read().totals.fates.forwarded, 2);
    assert!(
        bench.pins.0.lock().unwrap().is_empty(),
        "one worker owns everything anyway"
    );
    balanced(&mut bench);
}

#[test]
fn a_stray_is_handed_to_the_worker_it_was_meant_for() {
    let mut bench = bench(2, 64, 32);
    bench.workers[0].io_mut().push(&udp(CLIENT, 5000, VIP, 1)); // Queue 0, meant for worker 1.
    bench.workers[0].step(at(0));
    assert!(bench.workers[0].io_mut().take_sent().is_empty());
    assert!(bench.workers[1].has_work());
    assert_eq!(bench.workers[1].step(at(1)), 1);
    assert_eq!(bench.workers[1].io_mut().take_sent().len(), 1);

    let fates = |index: usize| bench.workers[index].shared().read().totals;
    assert_eq!((fates(0).fates.handed_over, fates(1).handed_in), (1, 1));
    assert_eq!(fates(1).fates.forwarded, 1);
    let pins = bench.pins.0.lock().unwrap().clone();
    assert_eq!(pins.len(), 2, "both directions: {pins:?}");
    assert!(
        pins.iter()
            .all(|op| matches!(op, PinOp::Insert { owner: 1, .. })),
        "{pins:?}"
    );
    balanced(&mut bench);
}

#[test]
fn strays_beyond_the_ring_are_dropped_by_name() {
    let mut bench = bench(2, 1024, 512);
    let mut pushed = 0;
    for sport in 0..300 {
        pushed += u64::from(
            bench.workers[0]
                .io_mut()
                .push(&udp(CLIENT, 1000 + sport, VIP, 1)),
        );
    }
    for _ in 0..10 {
        bench.workers[0].step(at(0));
    }
    let fates = bench.workers[0].shared().read().totals.fates;
    let full = fates.dropped[DropReason::HandOverFull as usize];
    assert!(full > 0 && fates.handed_over > 0);
    assert_eq!(fates.handed_over + full, pushed);
    balanced(&mut bench);
    for _ in 0..10 {
        bench.workers[1].step(at(1));
    }
    assert_eq!(
        bench.workers[1].shared().read().totals.handed_in,
        fates.handed_over
    );
    balanced(&mut bench);
}

#[test]
fn a_stray_that_finds_no_free_frame_is_dropped_by_name() {
    let mut bench = bench(2, 4, 4);
    for sport in 0..4 {
        let io = bench.workers[1].io_mut();
        assert!(io.push(&udp(CLIENT, 1000 + sport, VIP, 1))); // Every frame of worker 1.
    }
    bench.workers[0].io_mut().push(&udp(CLIENT, 2000, VIP, 1));
    bench.workers[0].step(at(0));
    bench.workers[1].step(at(1));
    let totals = bench.workers[1].shared().read().totals;
    let empty = totals.fates.dropped[DropReason::FramePoolEmpty as usize];
    assert_eq!((totals.received, totals.handed_in, empty), (4, 1, 1));
    assert_eq!(totals.fates.forwarded, 4);
    balanced(&mut bench);
}

#[test]
fn strays_of_several_workers_take_turns() {
    let mut bench = bench(3, 512, 256);
    for from in [1, 2] {
        for sport in 0..BURST_MAX as u16 {
            let frame = udp(CLIENT, 1000 * from + sport, VIP, 0);
            bench.workers[usize::from(from)].io_mut().push(&frame);
        }
        bench.workers[usize::from(from)].step(at(0));
    }
    bench.workers[0].step(at(1));
    let sent = bench.workers[0].io_mut().take_sent();
    let first = sent.iter().filter(|f| addresses(f).0.port() < 2000).count();
    assert_eq!((first, sent.len()), (BURST_MAX / 2, BURST_MAX));
}

#[test]
fn a_full_transmit_ring_is_a_named_drop() {
    let mut bench = bench(1, 256, 4);
    let worker = &mut bench.workers[0];
    for round in 0..3 {
        for sport in 0..4 {
            worker
                .io_mut()
                .push(&udp(CLIENT, 1000 + round * 4 + sport, VIP, 0));
        }
        worker.step(at(u64::from(round))); // Nobody takes what was sent.
    }
    let fates = worker.shared().read().totals.fates;
    assert_eq!(
        (
            fates.forwarded,
            fates.dropped[DropReason::TransmitFull as usize]
        ),
        (4, 8)
    );
    balanced(&mut bench);
}

#[test]
fn one_step_takes_at_most_a_burst() {
    let mut bench = bench(1, 512, 512);
    let worker = &mut bench.workers[0];
    for sport in 0..200 {
        worker.io_mut().push(&udp(CLIENT, 1000 + sport, VIP, 0));
    }
    assert_eq!(worker.step(at(0)), BURST_MAX);
}

#[test]
fn new_tables_count_from_the_next_step_on() {
    let mut bench = bench(1, 64, 32);
    bench.workers[0].step(at(0));
    assert_eq!(bench.workers[0].shared().generation(), 1);
    bench.tables.store(Arc::new(tables(2)));
    bench.workers[0].step(at(1));
    assert_eq!(
        bench.workers[0].shared().generation(),
        2,
        "published even without traffic"
    );
}

/// A connection that the kernel opened while the worker stood still.
#[test]
fn a_worker_that_was_away_gives_unknown_flows_to_the_kernel_for_the_grace() {
    const GRACE: u64 = 50_000;
    let limit = HEARTBEAT_LIMIT.as_micros() as u64;
    let kernel = KernelReason::OlderThanEnrolment as usize;
    for (time, away) in [(limit - 10, false), (limit + 1, true)] {
        let mut bench = bench(1, 64, 32);
        let mut builder = builder();
        builder.set_grace(Duration::from_micros(GRACE));
        bench.tables.store(Arc::new(builder.build(1).unwrap()));
        let worker = &mut bench.workers[0];
        worker.step(at(0));
        worker.step(at(1));
        // The heartbeat of the step at 1 was written at the end of that step: by then, the hooks may
        // have waited since the one at 0.
        let peer = SocketAddrV4::new(BACKEND.0, 9);
        worker.io_mut().push(&udp(CLIENT, 5000, peer, 0));
        worker.step(at(time));
        worker.io_mut().push(&udp(CLIENT, 5001, peer, 0));
        worker.step(at(time + 2));
        let fates = worker.shared().read().totals.fates;
        let found = (fates.forwarded, fates.kernel[kernel]);
        assert_eq!(found, if away { (0, 2) } else { (2, 0) }, "{time}");

        worker.io_mut().push(&udp(CLIENT, 5002, peer, 0));
        worker.step(at(time + GRACE + 10));
        worker.io_mut().push(&udp(CLIENT, 5000, peer, 0));
        worker.step(at(time + GRACE + 11));
        let fates = worker.shared().read().totals.fates;
        let found = (fates.forwarded, fates.kernel[kernel]);
        assert_eq!(
            found,
            if away { (1, 3) } else { (4, 0) },
            "what was the kernel's stays the kernel's"
        );
        balanced(&mut bench);
    }
}

#[test]
fn flows_are_listed_in_slices() {
    let mut bench = bench(1, 256, 128);
    let worker = &mut bench.workers[0];
    for sport in 0..100 {
        worker.io_mut().push(&udp(CLIENT, 1000 + sport, VIP, 0));
    }
    worker.step(at(0));
    worker.step(at(1));
    let (mut start, mut ports) = (Some(0), Vec::new());
    while let Some(from) = start {
        let (reply, answer) = bounded(1);
        let asked = Command::Flows {
            start: from,
            flows: Vec::with_capacity(16),
            reply,
        };
        bench.commands[0].send(asked).unwrap();
        assert!(bench.workers[0].has_work());
        bench.workers[0].step(at(2));
        let slice = answer.try_recv().unwrap();
        assert!(slice.flows.len() <= 16);
        ports.extend(slice.flows.iter().map(|flow| flow.tuple().sport));
        start = slice.next;
    }
    ports.sort_unstable();
    assert_eq!(ports, (1000..1100).collect::<Vec<u16>>());
}

#[test]
fn a_sleeping_worker_is_woken_by_a_stray() {
    let mut bench = bench(2, 64, 32);
    let shared = Arc::clone(bench.workers[1].shared());
    let waker = Waker::new(Arc::clone(&shared)).unwrap();
    shared.set_sleeping(true);
    waker.wake();
    let mut counter = [0; 8];
    rustix::io::read(waker.fd(), &mut counter).unwrap();
    assert_eq!(u64::from_ne_bytes(counter), 1);
    shared.set_sleeping(false);
    waker.wake();
    assert!(
        rustix::io::read(waker.fd(), &mut counter).is_err(),
        "awake: no system call wasted"
    );
    balanced(&mut bench);
}

/// Design rule: nothing allocates per packet, neither for warm flows nor for new ones.
#[test]
fn a_step_allocates_nothing() {
    let mut bench = bench(2, 512, 256);
    let frames: Vec<Vec<u8>> = (0..64).map(|n| udp(CLIENT, 1000 + n, VIP, 0)).collect();
    let strays: Vec<Vec<u8>> = (0..16).map(|n| udp(CLIENT, 3000 + n, VIP, 1)).collect();
    let round = |bench: &mut Bench, time| {
        let Bench { workers, pins, .. } = bench;
        for frame in frames.iter().chain(&strays) {
            workers[0].io_mut().push(frame);
        }
        pins.0.lock().unwrap().clear();
        pins.0.lock().unwrap().reserve(1024);
        let counted = allocation_counter::measure(|| {
            while workers[0].step(at(time)) > 0 {}
            workers[1].step(at(time));
        });
        for worker in workers {
            worker.io_mut().drain_sent(|_| {});
        }
        counted.count_total
    };
    let boxed = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(0))));
    assert_eq!(boxed.count_total, 1, "the counter counts");
    round(&mut bench, 0); // The test's own rings grow to their size.
    assert_eq!(round(&mut bench, 1), 0, "warm flows");
    bench.tables.store(Arc::new(tables(2)));
    assert_eq!(round(&mut bench, 2), 0, "new tables");
    // Past the UDP timeout every packet opens a flow again.
    assert_eq!(round(&mut bench, 60_000_000), 0, "new flows");
    assert_eq!(
        bench.workers[0].shared().read().totals.fates.forwarded,
        4 * 64
    );
    balanced(&mut bench);
}
