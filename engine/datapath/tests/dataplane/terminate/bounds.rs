//! What a client is refused for, and what makes room for it.

use std::time::Duration;

use super::*;

const CLIENTS: Stage = Stage::Tcp(UpstreamSource::Client);

fn small(max_flows: usize) -> State {
    State::new(StateConfig {
        max_flows,
        seed: 7,
        worker: 0,
        workers: 1,
        ports: Ports { weft0_mac: WEFT0 },
        hairpin: Net::BOTH.map(Net::hairpin).into(),
    })
}

/// Opens flows of a pod until one is refused; says how many, and why no more.
fn fill(net: Net, host: u8, now: Now, tables: &Tables, state: &mut State) -> (u16, DropReason) {
    let first = 1000 + state.flows.places() as u16;
    for sport in first.. {
        state.pin_ops.clear();
        if let Err(reason) = state.terminate(key(net, host, sport), now, tables) {
            return (sport - first, reason);
        }
    }
    panic!("no bound");
}

fn close(key: FlowKey, state: &mut State) {
    let (id, _) = state.flows.find(&key).unwrap();
    let backend = reply(id, state);
    state.connection_over(&key, START);
    state.connection_over(&backend, START);
}

#[test]
fn k22_a_service_has_no_more_flows_than_its_max_flows() {
    let mut world = World::new(CLIENTS, &[BACKEND_1]);
    world.options.max_flows = Some(10);
    let (tables, mut state) = (world.tables(), small(1024));
    assert_eq!(
        fill(Net::V4, 1, START, &tables, &mut state),
        (10, DropReason::ServiceFlowShare)
    );
    let refused = state.terminate(key(Net::V4, 2, 1), START, &tables);
    assert_eq!(refused, Err(DropReason::ServiceFlowShare));
    close(key(Net::V4, 1, 1000), &mut state);
    open(key(Net::V4, 2, 1), &tables, &mut state);
    assert_eq!(
        (state.flows.len(), state.evicted(), state.severed.len()),
        (10, 1, 0)
    );
}

#[test]
fn k22_pods_and_services_have_their_shares() {
    let mut world = World::new(CLIENTS, &[BY_KERNEL_ONLY]);
    world.pods = (11..30)
        .filter(|ifindex| *ifindex != BY_KERNEL_ONLY)
        .collect();
    let (tables, mut state) = (world.tables(), small(1000));
    let (first, why) = fill(Net::V4, 1, START, &tables, &mut state);
    assert_eq!((first, why), (800, DropReason::FlowShare));
    let (second, why) = fill(Net::V4, 2, START, &tables, &mut state);
    assert_eq!((second, why), (142, DropReason::ServiceFlowShare));
    let other = fill(Net::V6, 3, START, &tables, &mut state);
    assert!(other.0 > 0, "another service still has room");
}

/// However long they are silent, and whoever wants their room.
#[test]
fn k22_live_connections_never_make_room() {
    let tables = World::new(CLIENTS, &[BACKEND_1]).tables();
    let mut state = small(100);
    let (opened, _) = fill(Net::V4, 1, START, &tables, &mut state);
    let late = START + Duration::from_secs(10 * 24 * 3600);
    assert_eq!(
        fill(Net::V4, 1, late, &tables, &mut state).1,
        DropReason::FlowShare
    );
    for sport in 0..100 {
        let spec = Spec::tcp(Net::V4.pod(1), 5000 + sport, Net::V4.pod(3), 80, SYN);
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        let verdict = run(&mut frame, late, &tables, &mut state);
        assert_eq!(verdict, Verdict::Drop(DropReason::FlowShare));
    }
    assert_eq!(state.expire(late, &tables, 1000), 0);
    assert_eq!((state.flows.len(), state.evicted()), (opened.into(), 0));
    // One half is not enough, both are.
    let client = key(Net::V4, 1, 1000);
    state.connection_over(&client, late);
    let refused = state.terminate(key(Net::V4, 1, 9), late, &tables);
    assert_eq!(refused, Err(DropReason::FlowShare));
    close(client, &mut state);
    // Each looks at a part of the table.
    let mut tries = (0..3).map(|_| state.terminate(key(Net::V4, 1, 9), late, &tables));
    assert!(tries.any(|opened| opened.is_ok()));
    assert_eq!((state.evicted(), state.severed.len()), (1, 0));
}

/// It was there when the client's SYN came.
#[test]
fn what_has_gone_since_the_syn_is_named() {
    let world = World::new(CLIENTS, &[]);
    let mut state = state(1);
    let client = key(Net::V4, 1, 40_000);
    // No backend: a SYN is refused at once, and the end of a handshake is the stack's.
    let empty = world.tables();
    let refused = Err(DropReason::UnknownFlow);
    assert_eq!(state.terminate(client, START, &empty), refused);
    let (verdict, _) = send(&Spec::of(client.tuple, SYN), CLIENT, &empty, &mut state);
    assert_eq!(verdict, Verdict::Reply);
    let (verdict, _) = send(&Spec::of(client.tuple, ACK), CLIENT, &empty, &mut state);
    assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
    // No port, and no pod.
    let served = World::new(CLIENTS, &[BACKEND_1]);
    let mut elsewhere = client;
    elsewhere.tuple.dport = UNUSED;
    assert_eq!(state.terminate(elsewhere, START, &served.tables()), refused);
    let mut gone = World::new(CLIENTS, &[BACKEND_1]);
    gone.pods.remove(0);
    assert_eq!(state.terminate(client, START, &gone.tables()), refused);
    assert!(state.flows.is_empty() && state.pin_ops.is_empty());
}

#[test]
fn a_connection_begun_before_its_port_lost_the_stage_is_served_all_the_same() {
    let tables = World::new(Stage::L4, &[BACKEND_1]).tables();
    let mut state = state(1);
    let client = key(Net::V4, 1, 40_000);
    let id = open(client, &tables, &mut state);
    assert_eq!(state.flows.at(id).unwrap().kind(), FlowKind::Terminated);
    let (verdict, _) = send(&Spec::of(client.tuple, ACK), CLIENT, &tables, &mut state);
    assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
}

/// No more owner entries than the edge takes at a time.
#[test]
fn a_full_buffer_of_owner_entries_refuses() {
    let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
    let mut opened = 0;
    while state
        .terminate(key(Net::V4, 1, 1000 + opened), START, &tables)
        .is_ok()
    {
        opened += 1;
    }
    let refused = state.terminate(key(Net::V4, 1, 9), START, &tables);
    assert_eq!(refused, Err(DropReason::PinRoom));
    assert_eq!(state.flows.len(), usize::from(opened));
    state.pin_ops.clear();
    open(key(Net::V4, 1, 9), &tables, &mut state);
}
