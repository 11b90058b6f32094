//! Three nodes and the underlay between them, which loses, doubles, reorders, corrupts and delays: pods with a TCP of
//! their own reach each other and services whose backends are on all nodes, while a process begins anew and a range of pods
//! moves from one node to another. In the end every node's ledger is exact, nothing has got to a wrong pod or into
//! another's connection, and everything works again.
//!
//! `WEFT_SIMULATION_SEED` runs another one.

mod ends;
mod node;
mod world;

use std::time::Duration;

use weft_datapath::DropReason;

use ends::Asked;
use node::{FROM_NODE, L4, NODES, STAGE};
use world::{DATAGRAMS, Seen, World};

/// OVL: two restarts and two moves, at times of the seed's own.
fn run(seed: u64) -> Seen {
    let mut world = World::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let moment = Duration::from_millis(2);
    let rounds = 110;
    let mut settled = world.now;
    let changes: Vec<u64> = (0..4)
        .map(|nth| 10 + nth * 20 + world.coin.below(10))
        .collect();
    for round in 0..rounds {
        let asked = world.any();
        world.open(asked);
        if round % 4 == 0 {
            world.talk();
        }
        match changes.iter().position(|at| *at == round) {
            Some(0 | 2) => world.relocate(),
            Some(at) => {
                let node = world.coin.below(NODES as u64) as usize;
                // A pod that is enrolled anew may have connections that are older.
                let grace = Duration::from_millis(if at == 1 { 0 } else { 50 });
                world.restart(node, grace);
            }
            None => {}
        }
        world.pass(moment);
        if round == changes[3] + 12 {
            settled = world.now; // By now, everybody has heard of everything.
        }
    }
    world.faulty = false;
    world.pass(Duration::from_secs(2));
    let waiting = world.waiting(settled);
    assert_eq!(waiting, [], "faults of the underlay end no connection");
    let calm = world.now;
    for node in 0..NODES {
        for asked in [
            Asked::Pod(node),
            Asked::Mover,
            Asked::Service(L4),
            Asked::Service(STAGE),
            Asked::Service(FROM_NODE),
        ] {
            world.open(asked);
        }
        world.talk();
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.waiting(calm), [], "everything works again");
    let since = world.flows.len() - NODES;
    for flow in &world.flows[since..] {
        assert_eq!(flow.answered, DATAGRAMS, "{}", flow.tuple);
    }
    finish(&mut world);
    world.seen.completed = world.connections.iter().filter(|c| c.done).count() as u64;
    for reason in [
        DropReason::FramePoolEmpty,
        DropReason::TransmitFull,
        DropReason::FlowTableFull,
        DropReason::FrameRoom,
        DropReason::ForeignFrame,
    ] {
        assert_eq!(world.dropped(reason), 0, "{}", reason.name());
    }
    assert!(
        world.dropped(DropReason::UnknownFlow) > 0,
        "what was under way ends by name"
    );
    assert!(
        world.dropped(DropReason::TunnelChecksum) > 0,
        "corruption shows"
    );
    std::mem::take(&mut world.seen)
}

/// Everything ends, and nothing is left of anything.
fn finish(world: &mut World) {
    for connection in &mut world.connections {
        if let Some(stream) = connection.stream.take() {
            stream.abort();
        }
    }
    for echo in world.echoes.drain(..) {
        echo.stream.abort();
    }
    world.pass(Duration::from_secs(1));
    world.now = world.now + Duration::from_secs(25 * 3600);
    for _ in 0..4096 / 64 + 64 {
        world.now = world.now + Duration::from_millis(20);
        world.tick();
    }
    assert!(world.events.is_empty());
    for node in 0..NODES {
        world.nodes[node].books();
        let seen = world.nodes[node].seen();
        assert_eq!(
            (seen.flows, seen.pins, seen.pin_errors),
            (0, 0, 0),
            "{seen:?}"
        );
        assert_eq!(seen.frames.free, seen.frames.total, "{seen:?}");
        assert!(world.nodes[node].steering.pins.is_empty());
    }
}

#[test]
fn u_08_ovl_nodes_over_a_bad_underlay_whose_pods_and_processes_come_and_go() {
    let seeds = match std::env::var("WEFT_SIMULATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (1..=4).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        println!("WEFT_SIMULATION_SEED={seed}"); // Shown on failure.
        let seen = run(seed);
        println!("{seen:?}");
        assert!(seen.completed > 80, "{seen:?}");
        let faults = [seen.lost, seen.doubled, seen.corrupted];
        assert!(faults.iter().all(|fault| *fault > 10), "{seen:?}");
        assert!(seen.unsound > 0, "{seen:?}");
        assert!(seen.wrapped > 1_000, "{seen:?}");
    }
}
