//! Between which ends a connection to a backend is opened, and by whom it is served.

use std::collections::HashSet;
use std::time::Duration;

use super::*;

const CLIENTS: Stage = Stage::Tcp(UpstreamSource::Client);
const NODES: Stage = Stage::Tcp(UpstreamSource::Node);

#[test]
fn a_backend_sees_the_clients_address_and_port() {
    for net in Net::BOTH {
        let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
        let client = key(net, 1, 40_000);
        let id = open(client, &tables, &mut state);
        let expected = Spec::tcp(net.pod(1), 40_000, net.pod(2), TARGET, 0).tuple;
        assert_eq!(ends(id, &state), expected);
        let flow = state.flows.at(id).unwrap();
        assert_eq!(
            (flow.kind(), flow.tuple()),
            (FlowKind::Terminated, client.tuple)
        );
        let backend = FlowKey {
            tuple: expected.reversed(),
            ifindex: BACKEND_1,
        };
        assert_eq!(flow.key(Direction::Reply), Some(backend));
        let cookie = flow.cookie();
        // With one worker, too: so that its ends are told should the worker be gone.
        let pins = [client, backend].map(|key| PinOp::Insert {
            key,
            owner: 0,
            cookie,
            terminated: Some(Inject::Peer),
        });
        assert_eq!(state.pin_ops.as_slice(), pins);
    }
}

#[test]
fn a_backend_that_the_kernel_brings_packets_to_sees_the_client_whatever_the_source() {
    for (net, stage) in Net::BOTH
        .into_iter()
        .flat_map(|net| [(net, CLIENTS), (net, NODES)])
    {
        let (tables, mut state) = (World::new(stage, &[BY_KERNEL_ONLY]).tables(), state(1));
        let id = open(key(net, 1, 40_000), &tables, &mut state);
        let expected = Spec::tcp(net.pod(1), 40_000, net.pod(4), TARGET, 0).tuple;
        assert_eq!(ends(id, &state), expected);
        // What it sends is seen before the kernel delivers it to the client, and is answered as if the client did.
        let flow = state.flows.at(id).unwrap();
        assert_eq!(reply(id, &state).ifindex, CLIENT);
        assert_eq!(flow.hook(Direction::Reply), Hook::ToPod);
        let answers = [Direction::Forward, Direction::Reply].map(|way| flow.answer(way));
        assert_eq!(answers, [Some(Inject::Peer), Some(Inject::Reingress)]);
        let back = Spec::of(expected.reversed(), ACK);
        let mut frame = back.punted(CLIENT, Hook::ToPod);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
    }
}

#[test]
fn a_backend_spoken_to_from_the_node_sees_a_port_that_no_other_worker_gives_out() {
    for net in Net::BOTH {
        let tables = World::new(NODES, &[BACKEND_1]).tables();
        let mut seen = HashSet::new();
        for worker in 0..4 {
            let mut state = State::new(StateConfig {
                max_flows: 4096,
                seed: 3,
                worker,
                workers: 4,
                ports: Ports { weft0_mac: WEFT0 },
                hairpin: Default::default(),
            });
            for sport in 0..100 {
                let id = open(key(net, 1, 10_000 + sport), &tables, &mut state);
                state.pin_ops.clear();
                let ends = ends(id, &state);
                assert_eq!((ends.src, ends.dst), (net.node(), net.pod(2)));
                assert!((61_000..65_535).contains(&ends.sport), "{}", ends.sport);
                assert_eq!(
                    source_hash(&ends.src, ends.sport, Protocol::Tcp) % 4,
                    worker
                );
                assert!(seen.insert(ends.sport), "{} twice", ends.sport);
                let (verdict, _) = send(
                    &Spec::of(ends.reversed(), ACK),
                    BACKEND_1,
                    &tables,
                    &mut state,
                );
                // The hook punts it to the worker that its entry says; the tests' packets are for worker 0.
                if worker == 0 {
                    assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
                }
            }
        }
    }
}

#[test]
fn without_an_address_of_the_node_towards_the_backend_it_sees_the_client() {
    let mut builder = TablesBuilder::new();
    for ifindex in [CLIENT, BACKEND_1] {
        builder.add_pod(support_pod(ifindex));
    }
    builder.set_epochs(epochs());
    builder.set_node_address(BACKEND_1, Net::V4.node());
    for (id, net) in (1..).zip(Net::BOTH) {
        builder.add_service_port(ServicePortSpec {
            id,
            address: net.vip(80),
            port: SERVED,
            proto: Protocol::Tcp,
            algorithm: Algorithm::Maglev,
            backends: vec![enrolled_backend(net, BACKEND_1, TARGET)],
            options: World::new(NODES, &[]).options,
        });
    }
    let (tables, mut state) = (builder.build(1).unwrap(), state(1));
    let [v4, v6] = Net::BOTH.map(|net| {
        let id = open(key(net, 1, 40_000), &tables, &mut state);
        ends(id, &state)
    });
    assert_eq!(v4.src, Net::V4.node());
    assert_eq!((v6.src, v6.sport), (Net::V6.pod(1), 40_000));
}

#[test]
fn svc_31_a_pod_reaches_itself() {
    for net in Net::BOTH {
        for (stage, sees) in [(CLIENTS, net.hairpin()), (NODES, net.node())] {
            let (tables, mut state) = (World::new(stage, &[CLIENT]).tables(), state(1));
            let id = open(key(net, 1, 40_000), &tables, &mut state);
            let ends = ends(id, &state);
            assert_eq!((ends.src, ends.dst, ends.dport), (sees, net.pod(1), TARGET));
            assert_eq!(ends.sport == 40_000, stage == CLIENTS);
            let (verdict, _) = send(
                &Spec::of(ends.reversed(), SYN | ACK),
                CLIENT,
                &tables,
                &mut state,
            );
            assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
        }
    }
    let tables = World::new(CLIENTS, &[CLIENT]).tables();
    let mut without = State::new(StateConfig {
        max_flows: 64,
        seed: 1,
        worker: 0,
        workers: 1,
        ports: Ports { weft0_mac: WEFT0 },
        hairpin: Default::default(),
    });
    let refused = without.terminate(key(Net::V4, 1, 40_000), START, &tables);
    assert_eq!(refused, Err(DropReason::Hairpin));
}

/// The client's own connection to the backend from the same port: it came first, and keeps its ends.
#[test]
fn a_direct_connection_that_was_there_first_goes_on() {
    for net in Net::BOTH {
        let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
        let there = Spec::tcp(net.pod(1), 40_000, net.pod(2), TARGET, SYN);
        let back = Spec::of(there.tuple.reversed(), SYN | ACK);
        let again = Spec::of(there.tuple, ACK);
        let goes_on = |state: &mut State| {
            for (spec, from) in [(&there, CLIENT), (&back, BACKEND_1), (&again, CLIENT)] {
                let (verdict, frame) = send(spec, from, &tables, state);
                assert_eq!((verdict, tuple(&frame)), (Verdict::Deliver, spec.tuple));
            }
        };
        goes_on(&mut state);
        let id = open(key(net, 1, 40_000), &tables, &mut state);
        let ends = ends(id, &state);
        assert_eq!(ends.src, net.pod(1));
        assert!((61_000..65_535).contains(&ends.sport), "{}", ends.sport);
        goes_on(&mut state);
        let (verdict, _) = send(
            &Spec::of(ends.reversed(), ACK),
            BACKEND_1,
            &tables,
            &mut state,
        );
        assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
    }
}

/// It came second: it has the same backend, which sees it from another port.
#[test]
fn a_direct_connection_that_comes_second_gets_another_port() {
    for net in Net::BOTH {
        let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
        let id = open(key(net, 1, 40_000), &tables, &mut state);
        let there = Spec::tcp(net.pod(1), 40_000, net.pod(2), TARGET, SYN);
        let (verdict, frame) = send(&there, CLIENT, &tables, &mut state);
        let seen = tuple(&frame);
        assert_eq!(
            (verdict, seen.src, seen.dst),
            (Verdict::Deliver, net.pod(1), net.pod(2))
        );
        assert_ne!(seen.sport, 40_000);
        let (verdict, frame) = send(
            &Spec::of(seen.reversed(), SYN | ACK),
            BACKEND_1,
            &tables,
            &mut state,
        );
        assert_eq!(
            (verdict, tuple(&frame)),
            (Verdict::Deliver, there.tuple.reversed())
        );
        let ours = Spec::of(ends(id, &state).reversed(), ACK);
        let (verdict, _) = send(&ours, BACKEND_1, &tables, &mut state);
        assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
    }
}

#[test]
fn svc_11_a_client_stays_with_its_backend_whatever_the_stage() {
    let mut world = World::new(CLIENTS, &[BACKEND_1, BACKEND_2]);
    world.algorithm = Algorithm::RoundRobin;
    world.options.affinity = Some(Duration::from_secs(60));
    let (tables, mut state) = (world.tables(), state(1));
    let first = open(key(Net::V4, 1, 1000), &tables, &mut state);
    let backend = ends(first, &state).dst;
    for sport in 1001..1010 {
        let id = open(key(Net::V4, 1, sport), &tables, &mut state);
        assert_eq!(ends(id, &state).dst, backend);
        state.pin_ops.clear();
    }
    world.options.stage = Stage::L4;
    let translated = world.tables();
    for sport in 1010..1020 {
        let spec = Spec::of(key(Net::V4, 1, sport).tuple, SYN);
        let (verdict, frame) = send(&spec, CLIENT, &translated, &mut state);
        assert_eq!((verdict, tuple(&frame).dst), (Verdict::Deliver, backend));
    }
}

#[test]
fn backends_take_turns_and_the_least_loaded_is_found() {
    let mut world = World::new(CLIENTS, &[BACKEND_1, BACKEND_2]);
    world.algorithm = Algorithm::RoundRobin;
    let (tables, mut state) = (world.tables(), state(1));
    let turns: Vec<Address> = (0..20)
        .map(|sport| {
            let id = open(key(Net::V4, 1, 1000 + sport), &tables, &mut state);
            ends(id, &state).dst
        })
        .collect();
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");

    world.algorithm = Algorithm::LeastConnections;
    let (tables, mut state) = (world.tables(), crate::support::state(1));
    let ids: Vec<FlowId> = (0..20)
        .map(|sport| open(key(Net::V4, 1, 1000 + sport), &tables, &mut state))
        .collect();
    let to = |backend: u8, state: &State| {
        let at = |id: &&FlowId| ends(**id, state).dst == Net::V4.pod(backend);
        ids.iter().filter(at).copied().collect::<Vec<_>>()
    };
    assert_eq!((to(2, &state).len(), to(3, &state).len()), (10, 10));
    // Those of one backend end, so the next ones are its.
    for id in to(2, &state) {
        let [client, backend] = [Direction::Forward, Direction::Reply]
            .map(|way| state.flows.at(id).unwrap().key(way).unwrap());
        state.connection_over(&client, START);
        state.connection_over(&backend, START);
    }
    for sport in 0..10 {
        let id = open(key(Net::V4, 1, 2000 + sport), &tables, &mut state);
        assert_eq!(ends(id, &state).dst, Net::V4.pod(2));
    }
}
