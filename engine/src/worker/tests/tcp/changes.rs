//! Configurations that change under connections.

use std::io::ErrorKind;
use std::time::Duration;

use weft_datapath::{FlowKind, KernelReason, Stage, UpstreamSource};

use super::super::super::testing::BACKEND;
use super::super::wire::packet;
use super::world::*;
use super::{MOMENT, one, pattern};

const TCP: Stage = Stage::Tcp(UpstreamSource::Client);

fn kinds(world: &World) -> Vec<FlowKind> {
    let flows = &world.bench.workers[0].state.flows;
    flows.slice(0, 4096).map(|(_, flow)| flow.kind()).collect()
}

#[test]
fn a_pod_that_is_deleted_takes_both_ends_of_its_connections_along() {
    for (gone, left_is_client) in [(BACKEND.1, true), (11, false)] {
        let mut service = one();
        let mut world = World::new("tcp-deleted", &service);
        let (ours, theirs) = world.open(40_000, A_BACKEND);
        world.transfer(&ours, &theirs, &pattern(1_000));
        service.epochs[gone as usize] += 1;
        world.serve(&service);
        // Nobody sends anything: the flow table is looked through all the same.
        world.pass(Duration::from_secs(6));
        let left = if left_is_client { &ours } else { &theirs };
        assert_eq!(read(left), Some(Err(ErrorKind::ConnectionReset)));
        drop((ours, theirs));
        world.finish();
    }
}

#[test]
fn a_backend_that_leaves_resets_its_connections_only_where_asked_to() {
    for asked in [false, true] {
        let mut service = Service::of(&[BACKEND, SECOND]);
        service.options.reset_on_removal = asked;
        let mut world = World::new("tcp-removal", &service);
        let ours = world.peers[A_CLIENT].connect(40_000, SERVICE, world.now);
        world.pass(MOMENT);
        let at = if world.peers[A_BACKEND].accepted.is_empty() {
            A_SECOND
        } else {
            A_BACKEND
        };
        let theirs = world.peers[at].accepted.pop_front().unwrap();
        let left = world.peers[at].ifindex;
        service.members[left as usize] += 1;
        service.backends.retain(|(_, ifindex)| *ifindex != left);
        world.serve(&service);
        world.pass(MOMENT);
        if asked {
            let _ = ours.poll_write(&mut context(), b"still there?");
            world.pass(Duration::from_secs(6));
            for end in [&ours, &theirs] {
                assert_eq!(read(end), Some(Err(ErrorKind::ConnectionReset)));
            }
        } else {
            world.pass(Duration::from_secs(6));
            world.transfer(&ours, &theirs, &pattern(1_000));
            world.transfer(&theirs, &ours, &pattern(1_000));
            ours.abort();
            world.pass(MOMENT);
        }
        drop((ours, theirs));
        world.finish();
    }
}

/// AMB-11.
#[test]
fn amb_11_a_reload_between_stages_touches_new_connections_only() {
    let l4 = one().stage(Stage::L4);
    let tcp = one().stage(TCP);
    let mut world = World::new("tcp-reload", &l4);
    let mut open = Vec::new();
    for (round, service) in [&l4, &tcp, &l4, &tcp].into_iter().enumerate() {
        world.serve(service);
        world.pass(MOMENT);
        for (ours, theirs) in &open {
            world.transfer(ours, theirs, &pattern(3_000));
            world.transfer(theirs, ours, &pattern(3_000));
        }
        let before = kinds(&world);
        open.push(world.open(40_000 + round as u16, A_BACKEND));
        let after = kinds(&world);
        let of = |kinds: &[FlowKind], kind| kinds.iter().filter(|it| **it == kind).count();
        let (new, other) = match service.options.stage {
            Stage::L4 => (FlowKind::Service, FlowKind::Terminated),
            Stage::Tcp(_) | Stage::Http(_) => (FlowKind::Terminated, FlowKind::Service),
        };
        assert_eq!(of(&after, new), of(&before, new) + 1);
        assert_eq!(of(&after, other), of(&before, other));
    }
    for (ours, theirs) in &open {
        world.transfer(ours, theirs, &pattern(3_000));
        world.transfer(theirs, ours, &pattern(3_000));
        ours.abort();
    }
    world.pass(MOMENT);
    drop(open);
    world.finish();
}

/// The client's half of the handshake is on its way when the stage changes.
#[test]
fn amb_11_a_reload_between_stages_breaks_no_handshake() {
    for (from, to) in [(Stage::L4, TCP), (TCP, Stage::L4)] {
        for lost in 0..3 {
            let mut world = World::new("tcp-half-open", &one().stage(from));
            // Of the handshake: the SYN, its answer, the ACK. From `lost` on it is held up by the wire.
            let stopped = std::rc::Rc::new(std::cell::Cell::new(true));
            let (stop, count) = (std::rc::Rc::clone(&stopped), std::cell::Cell::new(0));
            world.tap = Box::new(move |peer, _, frame| {
                if peer != A_CLIENT || !stop.get() || packet(frame).is_none() {
                    return false;
                }
                count.set(count.get() + 1);
                count.get() > lost
            });
            let ours = world.peers[A_CLIENT].connect(40_000, SERVICE, world.now);
            world.pass(MOMENT);
            world.serve(&one().stage(to));
            world.pass(MOMENT);
            stopped.set(false);
            world.pass(Duration::from_secs(8));
            let case = format!("{from:?} to {to:?}, {lost} packets of the handshake through");
            assert!(connected(&ours), "{case}");
            assert_eq!(read(&ours), None, "{case}");
            let mut accepted = std::mem::take(&mut world.peers[A_BACKEND].accepted);
            let theirs = accepted.pop_back().unwrap_or_else(|| panic!("{case}"));
            world.transfer(&ours, &theirs, &pattern(3_000));
            world.transfer(&theirs, &ours, &pattern(3_000));
            ours.abort();
            world.pass(MOMENT);
            drop((ours, theirs, accepted));
            world.finish();
        }
    }
}

/// The kernel may know connections that are older than the enrolment.
#[test]
fn what_is_older_than_the_enrolment_is_the_kernels_and_what_ends_here_is_not() {
    let mut service = one();
    service.grace_until = weft_datapath::Now::from_nanos(u64::MAX);
    let mut world = World::new("tcp-grace", &service);
    let (ours, theirs) = world.open(40_000, A_BACKEND);
    world.transfer(&ours, &theirs, &pattern(3_000));
    let before = world.bench.workers[0].shared().read().totals.fates;
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([0; 6], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 244, 1, 1], SERVICE.0.octets(), 64)
        .tcp(50_000, SERVICE.1, 1, 1000)
        .ack(1)
        .write(&mut frame, b"an old one")
        .unwrap();
    world.punt(A_CLIENT, frame);
    world.pass(MOMENT);
    let after = world.bench.workers[0].shared().read().totals.fates;
    let old = KernelReason::OlderThanEnrolment as usize;
    assert_eq!(after.kernel[old], before.kernel[old] + 1);
    world.transfer(&theirs, &ours, &pattern(3_000));
    ours.abort();
    world.pass(MOMENT);
    drop((ours, theirs));
    let kernels = |kinds: &[FlowKind]| kinds.iter().all(|kind| *kind == FlowKind::Kernel);
    world.pass(Duration::from_secs(30));
    assert_eq!((world.held().1, kernels(&kinds(&world))), (0, true));
}
