//! How a flow whose connections end here goes on, ends, and is forgotten.

use std::time::Duration;

use super::*;

const CLIENTS: Stage = Stage::Tcp(UpstreamSource::Client);
const LONG: Duration = Duration::from_secs(10 * 24 * 3600);

/// Forgets what can be forgotten, as the worker does: entries written, and severed connections reset.
fn expire(now: Now, tables: &Tables, state: &mut State, pins: &mut Pins) -> Vec<Severed> {
    let mut severed = Vec::new();
    for _ in 0..10 {
        state.expire(now, tables, 10_000);
        pins.write(state);
        severed.append(&mut state.severed.drain(..).collect());
    }
    severed
}

#[test]
fn a_flow_is_over_when_both_of_its_connections_are() {
    for clients_first in [true, false] {
        let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
        let mut pins = Pins::default();
        let client = key(Net::V4, 1, 40_000);
        let id = open(client, &tables, &mut state);
        let backend = reply(id, &state);
        let [first, second] = if clients_first {
            [client, backend]
        } else {
            [backend, client]
        };
        for _ in 0..2 {
            state.connection_over(&first, START);
            assert!(expire(START + LONG, &tables, &mut state, &mut pins).is_empty());
            assert_eq!(state.flows.len(), 1, "one half, however often");
        }
        let closed = START + LONG;
        state.connection_over(&second, closed);
        assert_eq!(state.flows.at(id).unwrap().state(), FlowState::Closed);
        let before = expire(
            closed + timeouts::TCP_CLOSED,
            &tables,
            &mut state,
            &mut pins,
        );
        assert_eq!((before.len(), state.flows.len()), (0, 1));
        let after = closed + timeouts::TCP_CLOSED + Duration::from_secs(1);
        assert!(
            expire(after, &tables, &mut state, &mut pins).is_empty(),
            "nobody to tell"
        );
        assert!(state.flows.is_empty() && pins.0.is_empty());
    }
}

#[test]
fn what_is_over_is_of_a_flow_that_ends_here_or_changes_nothing() {
    let (tables, mut state) = (World::new(Stage::L4, &[BACKEND_1]).tables(), state(1));
    let client = key(Net::V4, 1, 40_000);
    let (verdict, _) = send(&Spec::of(client.tuple, SYN), CLIENT, &tables, &mut state);
    assert_eq!(verdict, Verdict::Deliver);
    let (id, _) = state.flows.find(&client).unwrap();
    let backend = reply(id, &state);
    for key in [client, backend, key(Net::V4, 1, 1)] {
        state.connection_over(&key, START);
    }
    assert_eq!(state.flows.at(id).unwrap().state(), FlowState::SynSent);
}

#[test]
fn a_connection_to_a_backend_that_cannot_be_made_ends_the_flow() {
    let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
    let mut pins = Pins::default();
    let id = open(key(Net::V4, 1, 40_000), &tables, &mut state);
    state.not_connected(id, START);
    let after = START + timeouts::TCP_CLOSED + Duration::from_secs(1);
    assert!(expire(after, &tables, &mut state, &mut pins).is_empty());
    assert!(state.flows.is_empty() && pins.0.is_empty());
}

/// The stack's connections have timeouts of their own.
#[test]
fn silence_ends_nothing() {
    let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
    let mut pins = Pins::default();
    let client = key(Net::V4, 1, 40_000);
    open(client, &tables, &mut state);
    assert!(expire(START + 100 * LONG, &tables, &mut state, &mut pins).is_empty());
    let mut frame = Spec::of(client.tuple, ACK).punted(CLIENT, Hook::FromPod);
    let verdict = run(&mut frame, START + 100 * LONG, &tables, &mut state);
    assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
}

#[test]
fn the_stack_hears_of_live_flows_that_are_removed_and_of_no_others() {
    for net in Net::BOTH {
        let mut world = World::new(CLIENTS, &[BACKEND_1, BY_KERNEL_ONLY]);
        world.algorithm = Algorithm::RoundRobin;
        let (tables, mut state) = (world.tables(), state(1));
        let mut pins = Pins::default();
        let [live, half, over] = [1, 2, 3].map(|sport| {
            let client = key(net, 1, sport);
            let id = open(client, &tables, &mut state);
            (
                client,
                reply(id, &state),
                state.flows.at(id).unwrap().answer(Direction::Reply),
            )
        });
        state.connection_over(&half.0, START);
        state.connection_over(&over.0, START);
        state.connection_over(&over.1, START);
        world.epochs[CLIENT as usize] += 1;
        world.pods.remove(0);
        let severed = expire(START, &world.tables(), &mut state, &mut pins);
        // Of the second one the client's connection is over, so the other is told.
        let told = [(live.0, Some(Inject::Peer)), (half.1, half.2)].map(|(key, answer)| Severed {
            key,
            answer: answer.unwrap(),
        });
        assert_eq!(severed, told);
        assert!(state.flows.is_empty() && pins.0.is_empty());
    }
}

/// SVC-24: a backend that leaves the service keeps its connections, unless they are to be reset.
#[test]
fn svc_24_a_removed_backend_is_severed_only_where_its_clients_are_to_be_told() {
    for reset in [false, true] {
        let mut world = World::new(CLIENTS, &[BACKEND_1]);
        world.options.reset_on_removal = reset;
        let (tables, mut state) = (world.tables(), state(1));
        let mut pins = Pins::default();
        let client = key(Net::V4, 1, 40_000);
        open(client, &tables, &mut state);
        world.backends = vec![BACKEND_2];
        world.members[BACKEND_1 as usize] += 1;
        let severed = expire(START, &world.tables(), &mut state, &mut pins);
        assert_eq!(severed.len(), usize::from(reset));
        assert_eq!(state.flows.len(), usize::from(!reset));
    }
    // By the client's next packet, too, which then is the stack's.
    let mut world = World::new(CLIENTS, &[BACKEND_1]);
    world.options.reset_on_removal = true;
    let (tables, mut state) = (world.tables(), state(1));
    let client = key(Net::V4, 1, 40_000);
    open(client, &tables, &mut state);
    world.members[BACKEND_1 as usize] += 1;
    let (verdict, _) = send(
        &Spec::of(client.tuple, ACK),
        CLIENT,
        &world.tables(),
        &mut state,
    );
    assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
    assert_eq!(state.severed.len(), 1);
}

#[test]
fn however_many_are_severed_at_once_the_list_does_not_grow() {
    let mut world = World::new(CLIENTS, &[BACKEND_1]);
    let (tables, mut state) = (world.tables(), state(1));
    let room = state.severed.capacity();
    let flows = 3000;
    for sport in 0..flows {
        open(key(Net::V4, 1, 1000 + sport), &tables, &mut state);
        state.pin_ops.clear();
    }
    world.epochs[BACKEND_1 as usize] += 1;
    let tables = world.tables();
    let mut told = 0;
    while !state.flows.is_empty() {
        for _ in 0..100 {
            state.expire(START, &tables, 10_000);
            state.pin_ops.clear(); // Written often, and told of seldom.
            let _ = send(
                &Spec::of(key(Net::V4, 1, 1000).tuple, SYN),
                CLIENT,
                &tables,
                &mut state,
            );
        }
        assert!(state.severed.len() <= PIN_OPS_MAX);
        assert_eq!(state.severed.capacity(), room);
        told += state.severed.drain(..).count();
    }
    assert_eq!(told, usize::from(flows));
}

/// A client that has closed may begin anew from the same port while the connection to the backend has something to
/// send yet. Neither of the two is in the way of the other, and neither is told that it is over.
#[test]
fn the_same_port_again_leaves_the_old_connection_to_its_backend_alone() {
    for net in Net::BOTH {
        let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
        let mut pins = Pins::default();
        let client = key(net, 1, 40_000);
        let old = open(client, &tables, &mut state);
        let old_reply = reply(old, &state);
        state.connection_over(&client, START);
        let new = open(client, &tables, &mut state);
        pins.write(&mut state);
        assert_ne!(ends(new, &state).sport, 40_000);
        assert_eq!(state.flows.find(&client), Some((new, Direction::Forward)));
        assert_eq!(state.flows.find(&old_reply), Some((old, Direction::Reply)));
        // Once more, and then the first two end.
        let newest = open(client, &tables, &mut state);
        pins.write(&mut state);
        let (new_reply, newest_reply) = (reply(new, &state), reply(newest, &state));
        state.connection_over(&old_reply, START);
        state.connection_over(&new_reply, START);
        let after = START + timeouts::TCP_CLOSED + Duration::from_secs(1);
        assert!(expire(after, &tables, &mut state, &mut pins).is_empty());
        assert_eq!(state.flows.len(), 1);
        assert_eq!(
            state.flows.find(&newest_reply),
            Some((newest, Direction::Reply))
        );
        for spec in [Spec::of(client.tuple, ACK), Spec::of(client.tuple, SYN)] {
            let (verdict, _) = send(&spec, CLIENT, &tables, &mut state);
            assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
        }
    }
}

/// The old flow has nothing left, though its client's end was not heard of: it makes way at once, port and all.
#[test]
fn the_same_port_again_after_the_backend_has_closed_keeps_its_ends() {
    let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
    let mut pins = Pins::default();
    let client = key(Net::V4, 1, 40_000);
    let old = open(client, &tables, &mut state);
    let (before, backend) = (ends(old, &state), reply(old, &state));
    pins.write(&mut state);
    state.connection_over(&backend, START);
    let new = open(client, &tables, &mut state);
    pins.write(&mut state);
    assert_eq!((ends(new, &state), state.flows.len()), (before, 1));
    assert!(state.severed.is_empty());
}

/// An old flow that nothing supports any more is severed by its connection to the backend: the client's is the new one.
#[test]
fn the_same_port_again_is_not_severed_with_the_old_flow() {
    let mut world = World::new(CLIENTS, &[BACKEND_1]);
    let (tables, mut state) = (world.tables(), state(1));
    let mut pins = Pins::default();
    let client = key(Net::V4, 1, 40_000);
    let old = open(client, &tables, &mut state);
    let backend = reply(old, &state);
    pins.write(&mut state);
    world.epochs[BACKEND_1 as usize] += 1;
    world.backends = vec![BY_KERNEL_ONLY];
    let tables = world.tables();
    let new = open(client, &tables, &mut state);
    pins.write(&mut state);
    assert_eq!(ends(new, &state).dst, Net::V4.pod(4));
    let severed = expire(START, &tables, &mut state, &mut pins);
    let answer = Inject::Peer;
    assert_eq!(
        severed,
        [Severed {
            key: backend,
            answer
        }]
    );
    assert_eq!(state.flows.len(), 1);
}

#[test]
fn known_flows_keep_their_kind_over_a_reload() {
    for net in Net::BOTH {
        let translated = World::new(Stage::L4, &[BACKEND_1]).tables();
        let ended = World::new(CLIENTS, &[BACKEND_1]).tables();
        let mut state = state(1);
        let [one, other] = [1, 2].map(|sport| key(net, 1, sport));
        let (verdict, _) = send(&Spec::of(one.tuple, SYN), CLIENT, &translated, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        let id = open(other, &ended, &mut state);
        let ended_reply = Spec::of(ends(id, &state).reversed(), ACK);
        let (id, _) = state.flows.find(&one).unwrap();
        let translated_reply = Spec::of(ends(id, &state).reversed(), ACK);
        for tables in [&translated, &ended] {
            let stack = Verdict::Terminate(Claim::Stack);
            let [one, other] = [one, other].map(|key| Spec::of(key.tuple, ACK));
            for (spec, at, expected) in [
                (&one, CLIENT, Verdict::Deliver),
                (&translated_reply, BACKEND_1, Verdict::Deliver),
                (&other, CLIENT, stack),
                (&ended_reply, BACKEND_1, stack),
            ] {
                assert_eq!(
                    send(spec, at, tables, &mut state).0,
                    expected,
                    "{}",
                    spec.tuple
                );
            }
        }
    }
}
