//! Fragments through whole workers: held, released, handed over, given up; the ledger comes out (SVC-35, K-18).

use std::net::SocketAddrV4;
use std::time::Duration;

use weft_datapath::{
    Checksum, DropReason, Egress, Hook, Ingress, Parsed, Protocol, parse, source_hash,
};

use super::super::testing::{BACKEND, Bench, CLIENT, Coin, VIP, bench, udp};
use super::{Now, at, balanced};

/// Bytes of payload in each fragment, but for the last one.
const PIECE: usize = 400;

/// A datagram of `len` bytes from the client to the VIP in fragments, as the hooks punt them.
fn asked(sport: u16, id: u16, len: usize, workers: u16) -> Vec<Vec<u8>> {
    let client = std::net::IpAddr::from(CLIENT.0).into();
    // All fragments of a sender come to one worker.
    let target = source_hash(&client, 0, Protocol::Udp) % workers;
    let small = udp(CLIENT, sport, VIP, target);
    let mut datagram = small[34..42].to_vec();
    datagram[4..6].copy_from_slice(&(8 + len as u16).to_be_bytes());
    datagram[6..8].fill(0); // No checksum.
    datagram.extend((0..len).map(|n| (n / 3) as u8 ^ id as u8));
    let pieces = datagram.chunks(PIECE);
    let last = pieces.len() - 1;
    let cut = pieces.enumerate().map(|(n, piece)| {
        let mut frame = small[..34].to_vec();
        frame[16..18].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        let field = (n * PIECE / 8) as u16 | u16::from(n < last) << 13;
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame[24..26].fill(0);
        let sum = Checksum::default().with(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend(piece);
        frame
    });
    cut.collect()
}

/// Ends, identification and payload of a datagram whose fragments these are.
fn whole(frames: &[&Vec<u8>]) -> (SocketAddrV4, SocketAddrV4, Vec<u8>) {
    let mut parts: Vec<(usize, &[u8])> = Vec::new();
    for frame in frames {
        let Ok(Parsed::Fragment(part)) = parse(frame) else {
            panic!("no fragment: {frame:02x?}")
        };
        assert_eq!(Checksum::default().with(&frame[14..34]).finish(), 0);
        parts.push((part.offset(), &frame[34..]));
    }
    parts.sort();
    let bytes: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    let end = |address: usize, port: usize| {
        let octets: [u8; 4] = frames[0][address..address + 4].try_into().unwrap();
        SocketAddrV4::new(
            octets.into(),
            u16::from_be_bytes([bytes[port], bytes[port + 1]]),
        )
    };
    (end(26, 0), end(30, 2), bytes[8..].to_vec())
}

fn sent(bench: &mut Bench) -> Vec<Vec<u8>> {
    let workers = bench.workers.iter_mut();
    workers
        .flat_map(|worker| worker.io_mut().take_sent())
        .collect()
}

#[test]
fn svc_35_k_18_the_first_fragment_releases_those_that_came_before() {
    let mut bench = bench(1, 64, 32);
    let pieces = asked(5000, 7, 1500, 1);
    for piece in pieces.iter().rev() {
        assert!(bench.workers[0].io_mut().push(piece));
    }
    assert_eq!(bench.workers[0].step(at(0)), 2 * pieces.len() - 1);
    let out = sent(&mut bench);
    assert!(
        out.iter()
            .all(|frame| frame[6..12] == Egress::peer(BACKEND.1).encode())
    );
    let (from, to, payload) = whole(&out.iter().collect::<Vec<_>>());
    assert_eq!(from, SocketAddrV4::new(CLIENT.0, 5000));
    assert_eq!(
        (to, payload.len()),
        (SocketAddrV4::new(BACKEND.0, 7000), 1500)
    );
    let seen = bench.workers[0].shared().read();
    let held = pieces.len() as u64 - 1;
    assert_eq!((seen.totals.fates.held, seen.totals.released), (held, held));
    assert_eq!((seen.totals.fates.forwarded, seen.waiting), (held + 1, 0));
    balanced(&mut bench);
}

#[test]
fn k_18_fragments_without_a_first_are_dropped_by_name_even_on_an_idle_node() {
    let mut bench = bench(1, 64, 32);
    for piece in &asked(5000, 7, 1500, 1)[1..] {
        bench.workers[0].io_mut().push(piece);
    }
    bench.workers[0].step(at(0));
    let seen = bench.workers[0].shared().read();
    assert_eq!((seen.totals.fates.held, seen.waiting), (3, 3));
    balanced(&mut bench);
    bench.workers[0].step(at(1_000_000));
    assert_eq!(bench.workers[0].shared().read().waiting, 3, "a second");
    bench.workers[0].step(at(1_001_001));
    let seen = bench.workers[0].shared().read();
    let timed_out = seen.totals.fates.dropped[DropReason::FragmentTimeout as usize];
    assert_eq!((timed_out, seen.totals.released, seen.waiting), (3, 3, 0));
    balanced(&mut bench);
}

/// More is released at once than a step sends: the rest comes with the next step, which is asked for.
#[test]
fn svc_35_releases_are_bounded_by_a_burst() {
    let mut bench = bench(1, 512, 256);
    let datagrams: Vec<_> = (0..10).map(|id| asked(5000 + id, id, 5000, 1)).collect();
    let worker = &mut bench.workers[0];
    for piece in datagrams.iter().flat_map(|pieces| &pieces[1..]) {
        assert!(worker.io_mut().push(piece));
    }
    while worker.step(at(0)) > 0 {}
    for pieces in &datagrams {
        worker.io_mut().push(&pieces[0]);
    }
    let held = worker.shared().read().waiting;
    assert_eq!(held, 120);
    assert_eq!(worker.step(at(1)), 10 + weft_datapath::BURST_MAX);
    assert!(worker.has_work());
    while worker.step(at(2)) > 0 {}
    assert!(!worker.has_work());
    assert_eq!(sent(&mut bench).len(), 130);
    balanced(&mut bench);
}

#[test]
fn svc_35_without_a_free_frame_a_released_fragment_is_a_named_drop() {
    let mut bench = bench(1, 4, 4);
    let pieces = asked(5000, 7, 1500, 1);
    let worker = &mut bench.workers[0];
    for piece in &pieces[1..] {
        worker.io_mut().push(piece);
    }
    worker.step(at(0));
    let other = udp(CLIENT, 9, VIP, 0);
    for frame in [&other, &other, &pieces[0]] {
        assert!(worker.io_mut().push(frame));
    }
    worker.step(at(1)); // Three of four frames are sent and not reaped yet.
    let totals = worker.shared().read().totals;
    assert_eq!(totals.fates.dropped[DropReason::FramePoolEmpty as usize], 2);
    assert_eq!((totals.fates.forwarded, totals.released), (4, 3));
    balanced(&mut bench);
}

/// Two workers, hundreds of datagrams whose fragments overtake, double and get lost, some on the wrong queue:
/// what arrives whole has the right backend and bytes, and every frame has one fate.
#[test]
fn svc_35_fragments_in_any_order_over_two_workers_are_accounted_for() {
    for seed in 1..=4u64 {
        let mut coin = Coin(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bench = bench(2, 1024, 512);
        let mut on_the_way: Vec<(u64, u16, Vec<u8>)> = Vec::new();
        let mut complete = Vec::new();
        for id in 0..300u16 {
            let mut lost = false;
            for piece in asked(5000 + id % 50, id, 300 + 13 * usize::from(id), 2) {
                let copies = match () {
                    () if coin.one_in(60) => 0,
                    () => 1 + u64::from(coin.one_in(20)),
                };
                lost |= copies == 0;
                for _ in 0..copies {
                    let time = u64::from(id) * 40 + coin.below(200);
                    on_the_way.push((time, u16::from(coin.one_in(10)), piece.clone()));
                }
            }
            if !lost {
                complete.push(id);
            }
        }
        on_the_way.sort();
        let mut arrived: Vec<Vec<u8>> = Vec::new();
        let mut pushed = 0;
        for (time, stray, frame) in &on_the_way {
            let source = Ingress::decode(frame[6..12].try_into().unwrap()).unwrap();
            assert_eq!(source.hook, Hook::FromPod);
            let queue = usize::from((source.target + stray) % 2);
            assert!(bench.workers[queue].io_mut().push(frame));
            pushed += 1;
            for worker in &mut bench.workers {
                worker.step(at(*time));
            }
            arrived.extend(sent(&mut bench));
        }
        let end = on_the_way.last().unwrap().0;
        for round in 0..200 {
            for worker in &mut bench.workers {
                worker.step(at(end) + Duration::from_millis(20 * round));
            }
            arrived.extend(sent(&mut bench));
        }
        assert!(complete.len() > 150, "{}", complete.len());
        for id in complete {
            let own = arrived.iter().filter(|f| f[18..20] == id.to_be_bytes());
            let mut own: Vec<&Vec<u8>> = own.collect();
            own.sort();
            own.dedup();
            if own[0][20..22] == [0, 0] {
                continue; // Never was in fragments.
            }
            let (from, to, payload) = whole(&own);
            assert_eq!(from, SocketAddrV4::new(CLIENT.0, 5000 + id % 50));
            assert_eq!(to, SocketAddrV4::new(BACKEND.0, 7000));
            assert_eq!(payload.len(), 300 + 13 * usize::from(id));
            assert!(
                payload
                    .iter()
                    .enumerate()
                    .all(|(n, b)| *b == (n / 3) as u8 ^ id as u8)
            );
        }
        let mut received = 0;
        for worker in &bench.workers {
            let seen = worker.shared().read();
            received += seen.totals.received;
            assert_eq!(seen.totals.fates.held, seen.totals.released);
            assert_eq!(seen.waiting, 0);
            let dropped = &seen.totals.fates;
            let late = dropped.dropped[DropReason::FragmentTimeout as usize];
            assert_eq!(dropped.total_dropped(), late, "{dropped:?}");
        }
        assert_eq!(received, pushed);
        balanced(&mut bench);
    }
}

/// Design rule: nothing allocates per packet.
#[test]
fn k_18_a_step_with_fragments_allocates_nothing() {
    let mut bench = bench(1, 512, 256);
    let datagrams: Vec<_> = (0..8).map(|id| asked(5000 + id, id, 2000, 1)).collect();
    let round = |bench: &mut Bench, time: Now| {
        let worker = &mut bench.workers[0];
        for piece in datagrams.iter().flat_map(|pieces| pieces.iter().rev()) {
            worker.io_mut().push(piece);
        }
        let counted = allocation_counter::measure(|| while worker.step(time) > 0 {});
        worker.io_mut().drain_sent(|_| {});
        counted.count_total
    };
    round(&mut bench, at(0)); // The test's own rings grow to their size.
    assert_eq!(round(&mut bench, at(5_000_000)), 0);
    assert_eq!(
        bench.workers[0].shared().read().totals.fates.forwarded,
        2 * 8 * 6
    );
    balanced(&mut bench);
}
