//! Bounds, and packets that a connection cannot use.

use std::io::ErrorKind;
use std::time::Duration;

use etherparse::PacketBuilder;
use weft_datapath::{DropReason, Stage, UpstreamSource};

use super::super::super::testing::{BACKEND, CLIENT};
use super::super::wire::packet;
use super::world::*;
use super::{MOMENT, one, pattern};

#[test]
fn beyond_a_services_flows_clients_are_reset_and_room_comes_back() {
    let mut service = one();
    service.options.max_flows = Some(4);
    let mut world = World::new("tcp-max-flows", &service);
    let mut open: Vec<_> = (0..4)
        .map(|port| world.open(40_000 + port, A_BACKEND))
        .collect();
    let more = world.peers[A_CLIENT].connect(41_000, SERVICE, world.now);
    world.pass(Duration::from_millis(500));
    assert!(
        !connected(&more) || read(&more) == Some(Err(ErrorKind::ConnectionReset)),
        "beyond the bound"
    );
    drop(more);
    // Those that are there are not evicted by what comes.
    for (ours, theirs) in &open {
        world.transfer(ours, theirs, &pattern(1_000));
    }
    let (ours, theirs) = open.pop().unwrap();
    ours.abort();
    world.pass(MOMENT);
    drop((ours, theirs));
    let again = world.open(42_000, A_BACKEND);
    open.push(again);
    for (ours, _) in &open {
        ours.abort();
    }
    world.pass(MOMENT);
    drop(open);
    world.finish();
}

#[test]
fn a_full_flow_table_evicts_no_terminated_flow() {
    let mut world = World::with("tcp-full", &one(), 1, 16);
    let mut open = Vec::new();
    for port in 0..40 {
        let ours = world.peers[A_CLIENT].connect(40_000 + port, SERVICE, world.now);
        world.pass(MOMENT);
        let alive = connected(&ours) && read(&ours).is_none();
        let theirs = world.peers[A_BACKEND].accepted.pop_front();
        if alive {
            open.push((ours, theirs.expect("the backend's end")));
        }
    }
    assert!((8..=16).contains(&open.len()), "{} are open", open.len());
    for (ours, theirs) in &open {
        world.transfer(ours, theirs, &pattern(1_000));
        world.transfer(theirs, ours, &pattern(1_000));
    }
    assert_eq!(world.bench.workers[0].shared().read().flows_evicted, 0);
    for (ours, _) in &open {
        ours.abort();
    }
    drop(open);
    world.finish();
}

/// A router behind the backend carries less than the node thought.
#[test]
fn a_path_that_turns_out_narrow_makes_segments_shorter() {
    let mut world = World::new(
        "tcp-narrow",
        &Service::of(&[BACKEND]).stage(Stage::Tcp(UpstreamSource::Client)),
    );
    let (ours, theirs) = world.open(40_000, A_BACKEND);
    let longest = std::rc::Rc::new(std::cell::Cell::new(0));
    let (seen, complain) = (
        std::rc::Rc::clone(&longest),
        std::rc::Rc::new(std::cell::RefCell::new(Vec::new())),
    );
    let complaints = std::rc::Rc::clone(&complain);
    world.tap = Box::new(move |peer, to_peer, frame| {
        if peer != A_BACKEND || !to_peer {
            return false;
        }
        if frame.len() - 14 > 1200 {
            complaints.borrow_mut().push(frame.to_vec());
            return true;
        }
        seen.set(frame.len().max(seen.get()));
        false
    });
    for _ in 0..4 {
        let _ = ours.poll_write(&mut context(), &pattern(20_000));
        world.pass(Duration::from_millis(50));
        for long in complain.borrow_mut().drain(..) {
            world_complains(&mut world.lost, &long);
        }
        let complaints: Vec<_> = world.lost.drain(..).collect();
        for complaint in complaints {
            world.punt(A_BACKEND, complaint);
        }
    }
    world.pass(Duration::from_secs(2));
    let mut got = 0;
    while let Some(Ok(more @ 1..)) = read(&theirs) {
        got += more;
        world.pass(Duration::from_millis(5));
    }
    assert!(got > 20_000, "{got} bytes got through");
    assert!(longest.get() > 1000, "{}", longest.get());
    ours.abort();
    world.pass(MOMENT);
    drop((ours, theirs));
    world.tap = Box::new(|_, _, _| false);
    world.finish();
}

/// "Fragmentation needed" about that frame, from its receiver (RFC 1191).
fn world_complains(into: &mut Vec<Vec<u8>>, about: &[u8]) {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([0; 6], [2, 0, 0, 0, 0, 1])
        .ipv4(BACKEND.0.octets(), CLIENT.0.octets(), 64)
        .icmpv4_raw(3, 4, [0, 0, 4, 176])
        .write(&mut frame, &about[14..14 + 20 + 20])
        .unwrap();
    into.push(frame);
}

#[test]
fn fragments_of_a_terminated_flow_are_dropped_by_name() {
    let mut world = World::new("tcp-fragments", &one());
    let (ours, theirs) = world.open(40_000, A_BACKEND);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([0; 6], [2, 0, 0, 0, 0, 1])
        .ipv4(CLIENT.0.octets(), SERVICE.0.octets(), 64)
        .tcp(40_000, SERVICE.1, 1, 1000)
        .ack(1)
        .write(&mut frame, &pattern(64))
        .unwrap();
    let (mut first, mut later) = (frame.clone(), frame);
    first[20] = 0x20; // More fragments.
    later[20..22].copy_from_slice(&[0, 8]);
    for fragment in [&mut first, &mut later] {
        fragment[24..26].fill(0);
        let sum = weft_datapath::Checksum::default()
            .with(&fragment[14..34])
            .finish();
        fragment[24..26].copy_from_slice(&sum.to_be_bytes());
        assert!(packet(fragment).is_none());
    }
    let before = world.bench.workers[0].shared().read().totals.fates;
    world.punt(A_CLIENT, first);
    world.punt(A_CLIENT, later);
    world.pass(Duration::from_secs(2));
    let after = world.bench.workers[0].shared().read().totals.fates;
    let dropped: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| after.dropped[**reason as usize] > before.dropped[**reason as usize])
        .collect();
    assert!(!dropped.is_empty(), "{after:?}");
    let total = |fates: &weft_datapath::Counters| fates.dropped.iter().sum::<u64>();
    assert_eq!(total(&after) - total(&before), 2, "{dropped:?}");
    world.transfer(&ours, &theirs, &pattern(1_000));
    ours.abort();
    world.pass(MOMENT);
    drop((ours, theirs));
    world.finish();
}
