//! Flows that end here: a worker between stacks of pods, in memory, under a virtual clock.

mod changes;
mod limits;
mod overlay;
mod world;

use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use weft_datapath::{Direction, Egress, FlowKind, Inject, Stage, UpstreamSource};

use super::super::testing::{BACKEND, CLIENT};
use super::wire::{packet, v4};
use world::*;

const MOMENT: Duration = Duration::from_millis(20);

fn one() -> Service {
    Service::of(&[BACKEND])
}

/// Bytes that differ wherever one looks.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn bytes_go_both_ways_and_halves_end_one_after_the_other() {
    for backend in [BACKEND, OUTSIDE] {
        let mut world = World::new("tcp-bytes", &Service::of(&[backend]));
        let at = if backend == BACKEND {
            A_BACKEND
        } else {
            AN_OUTSIDER
        };
        let (ours, theirs) = world.open(40_000, at);
        world.transfer(&ours, &theirs, &pattern(300_000));
        world.transfer(&theirs, &ours, &pattern(200_000));

        assert!(matches!(
            ours.poll_shutdown(&mut context()),
            Poll::Ready(Ok(()))
        ));
        world.pass(MOMENT);
        assert_eq!(read(&theirs), Some(Ok(0)), "the end of the first half");
        assert_eq!(read(&ours), None, "and of no other");
        world.transfer(&theirs, &ours, &pattern(100_000));
        assert!(matches!(
            theirs.poll_shutdown(&mut context()),
            Poll::Ready(Ok(()))
        ));
        world.pass(MOMENT);
        assert_eq!(read(&ours), Some(Ok(0)));
        drop((ours, theirs));
        assert_eq!(world.lost, Vec::<Vec<u8>>::new());
        world.finish();
    }
}

#[test]
fn a_backend_sees_the_clients_address_and_port_or_the_nodes() {
    for (source, expected) in [
        (UpstreamSource::Client, (CLIENT.0, Some(40_000))),
        (UpstreamSource::Node, (NODE, None)),
    ] {
        let mut world = World::new("tcp-source", &one().stage(Stage::Tcp(source)));
        let (ours, theirs) = world.open(40_000, A_BACKEND);
        let flow = world.first_flow();
        assert_eq!(flow.kind(), FlowKind::Terminated);
        let seen = flow.backend_tuple();
        assert_eq!((seen.src, seen.dst), (v4(expected.0), v4(BACKEND.0)));
        if let Some(port) = expected.1 {
            assert_eq!(seen.sport, port);
        }
        assert_eq!(flow.answer(Direction::Reply), Some(Inject::Peer));
        world.transfer(&ours, &theirs, &pattern(10_000));
        world.transfer(&theirs, &ours, &pattern(10_000));
        ours.abort();
        world.pass(MOMENT);
        drop((ours, theirs));
        world.finish();
    }
}

#[test]
fn a_reset_of_either_end_reaches_the_other() {
    for (client_first, backend) in [
        (true, BACKEND),
        (false, BACKEND),
        (true, OUTSIDE),
        (false, OUTSIDE),
    ] {
        let mut world = World::new("tcp-reset", &Service::of(&[backend]));
        let at = if backend == BACKEND {
            A_BACKEND
        } else {
            AN_OUTSIDER
        };
        let (ours, theirs) = world.open(40_000, at);
        let (first, other) = if client_first {
            (&ours, &theirs)
        } else {
            (&theirs, &ours)
        };
        first.abort();
        world.pass(MOMENT);
        assert_eq!(read(other), Some(Err(ErrorKind::ConnectionReset)));
        drop((ours, theirs));
        world.finish();
    }
}

#[test]
fn a_backend_that_refuses_resets_the_client() {
    let mut world = World::new("tcp-refused", &one());
    world.peers[A_BACKEND].listens = false;
    let ours = world.peers[A_CLIENT].connect(40_000, SERVICE, world.now);
    world.pass(MOMENT);
    assert_eq!(read(&ours), Some(Err(ErrorKind::ConnectionReset)));
    drop(ours);
    world.finish();
}

#[test]
fn a_service_without_a_ready_backend_refuses() {
    let mut world = World::new("tcp-nobody", &Service::of(&[]));
    let ours = world.peers[A_CLIENT].connect(40_000, SERVICE, world.now);
    world.pass(MOMENT);
    assert_eq!(read(&ours), Some(Err(ErrorKind::ConnectionRefused)));
    drop(ours);
    world.finish();
}

/// The client has a connection of its own with the tuple that the backend would see.
#[test]
fn the_clients_own_connection_to_the_backend_comes_first() {
    // Its own first: the service's gets another port.
    let mut world = World::new("tcp-own-first", &one());
    let own = world.peers[A_CLIENT].connect(40_000, (BACKEND.0, TARGET), world.now);
    world.pass(MOMENT);
    assert!(connected(&own));
    let own_far = world.peers[A_BACKEND].accepted.pop_front().unwrap();
    let (ours, theirs) = world.open(40_000, A_BACKEND);
    let both = |world: &mut World| {
        world.transfer(&own, &own_far, &pattern(20_000));
        world.transfer(&ours, &theirs, &pattern(30_000));
        world.transfer(&own_far, &own, &pattern(20_000));
        world.transfer(&theirs, &ours, &pattern(30_000));
    };
    both(&mut world);
    for stream in [&own, &ours] {
        stream.abort();
    }
    world.pass(MOMENT);
    drop((own, own_far, ours, theirs));
    world.finish();
}

#[test]
fn the_clients_own_connection_to_the_backend_works_after_the_services() {
    let mut world = World::new("tcp-own-second", &one());
    let (ours, theirs) = world.open(40_000, A_BACKEND);
    world.transfer(&ours, &theirs, &pattern(10_000));
    let own = world.peers[A_CLIENT].connect(40_000, (BACKEND.0, TARGET), world.now);
    world.pass(Duration::from_secs(3));
    assert!(
        connected(&own),
        "{:?}",
        world.report().map(|report| report.counters)
    );
    let own_far = world.peers[A_BACKEND]
        .accepted
        .pop_front()
        .expect("its own connection");
    world.transfer(&own, &own_far, &pattern(20_000));
    world.transfer(&own_far, &own, &pattern(20_000));
    own.abort();
    ours.abort();
    world.pass(MOMENT);
    drop((own, own_far, ours, theirs));
    world.finish();
}

#[test]
fn two_workers_share_a_service_and_each_keeps_its_flows() {
    let mut world = World::with("tcp-two", &one(), 2, 4096);
    let mut open = Vec::new();
    for port in 0..40 {
        open.push(world.open(40_000 + port, A_BACKEND));
    }
    for (ours, theirs) in &open {
        world.transfer(ours, theirs, &pattern(5_000));
        world.transfer(theirs, ours, &pattern(5_000));
    }
    let held = [0, 1].map(|worker| world.report_of(worker).unwrap().holdings.connections);
    assert!(
        held.iter().all(|held| *held > 10) && held.iter().sum::<usize>() == 80,
        "{held:?}"
    );
    for (ours, _) in &open {
        ours.abort();
    }
    world.pass(MOMENT);
    for (_, theirs) in &open {
        assert_eq!(read(theirs), Some(Err(ErrorKind::ConnectionReset)));
    }
    drop(open);
    world.finish();
}

/// What stops resets both ends of everything, whatever they do.
#[test]
fn a_worker_that_ends_resets_every_connection() {
    let mut world = World::new("tcp-ends", &Service::of(&[OUTSIDE]));
    let open: Vec<_> = (0..50)
        .map(|port| world.open(40_000 + port, AN_OUTSIDER))
        .collect();
    for _ in 0..100 {
        let done = world.bench.workers[0].close_tcp(world.now);
        world.round();
        if done {
            break;
        }
    }
    for _ in 0..5 {
        world.round();
    }
    for (ours, theirs) in &open {
        for end in [ours, theirs] {
            assert_eq!(read(end), Some(Err(ErrorKind::ConnectionReset)));
        }
    }
}

/// Entries say how an answer to their packets is injected, which is what a reset without us goes by.
#[test]
fn entries_say_how_their_peers_are_answered() {
    for (backend, reply) in [(BACKEND, Inject::Peer), (OUTSIDE, Inject::Reingress)] {
        let mut world = World::new("tcp-entries", &Service::of(&[backend]));
        let ops = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let seen = std::rc::Rc::clone(&ops);
        // Everything that the workers send of the flow goes the way that its entries say.
        world.tap = Box::new(move |_, to_peer, frame| {
            if to_peer && packet(frame).is_some() {
                let egress = Egress::decode(frame[6..12].try_into().unwrap()).unwrap();
                seen.borrow_mut().push(egress.inject);
            }
            false
        });
        let at = if backend == BACKEND {
            A_BACKEND
        } else {
            AN_OUTSIDER
        };
        let (ours, theirs) = world.open(40_000, at);
        world.transfer(&ours, &theirs, &pattern(5_000));
        let flow = world.first_flow();
        assert_eq!(flow.answer(Direction::Forward), Some(Inject::Peer));
        assert_eq!(flow.answer(Direction::Reply), Some(reply));
        assert_eq!(world.steering.pins.len(), 2, "both ends");
        assert_eq!(
            ops.borrow().contains(&Inject::Reingress),
            reply == Inject::Reingress
        );
        ours.abort();
        world.pass(MOMENT);
        drop((ours, theirs));
        world.finish();
    }
}
