//! Connections of an HTTP stage: a client's, and those to backends, each a flow of its own.

use super::*;

const CLIENTS: Stage = Stage::Http(UpstreamSource::Client);

/// A connection to a backend for a client.
fn connect(
    client: FlowKey,
    backend: (Address, u16),
    source: UpstreamSource,
    tables: &Tables,
    state: &mut State,
) -> Result<FlowId, DropReason> {
    let tuple = &client.tuple;
    let through = tables.service(&tuple.dst, tuple.dport, Protocol::Tcp);
    let wanted = UpstreamSpec {
        service: (7, None),
        client,
        through: through.unwrap(),
        backend,
        source,
    };
    state.connect(&wanted, START, tables)
}

#[test]
fn amb_08_a_client_and_its_connections_to_a_backend_are_flows_with_one_key_each() {
    for net in Net::BOTH {
        let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
        let mut pins = Pins::default();
        let key = key(net, 1, 40_000);
        let client = state.admit(key, START, &tables).unwrap();
        let backend = (net.pod(2), TARGET);
        let source = UpstreamSource::Client;
        let mut open = || {
            let id = connect(key, backend, source, &tables, &mut state).unwrap();
            (id, ends(id, &state), reply(id, &state))
        };
        let (first, second) = (open(), open());
        pins.write(&mut state);
        // The first has the client's port; there is one such tuple.
        assert_eq!((first.1.src, first.1.sport), (net.pod(1), 40_000));
        assert_eq!(second.1.src, net.pod(1));
        assert_ne!(second.1.sport, 40_000);
        assert_eq!(state.flows.find(&key), Some((client, Direction::Forward)));
        for (id, way) in [(client, Direction::Reply), (first.0, Direction::Forward)] {
            assert_eq!(state.flows.at(id).unwrap().key(way), None);
        }
        for from in [first.2, second.2] {
            let (verdict, _) = send(&Spec::of(from.tuple, ACK), BACKEND_1, &tables, &mut state);
            assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
        }
        // Each is over by itself.
        state.connection_over(&key, START);
        state.connection_over(&first.2, START);
        let over = |id| state.flows.at(id).unwrap().state() == FlowState::Closed;
        assert_eq!([client, first.0, second.0].map(over), [true, true, false]);
    }
}

#[test]
fn amb_08_from_the_nodes_address_a_connection_outlives_its_client() {
    for net in Net::BOTH {
        let mut world = World::new(Stage::Http(UpstreamSource::Node), &[BACKEND_1]);
        let (tables, mut state) = (world.tables(), state(1));
        let key = key(net, 1, 40_000);
        let client = state.admit(key, START, &tables).unwrap();
        let backend = (net.pod(2), TARGET);
        let [own, nodes] = [UpstreamSource::Client, UpstreamSource::Node]
            .map(|source| connect(key, backend, source, &tables, &mut state).unwrap());
        assert_eq!(ends(nodes, &state).src, net.node());
        assert_eq!(ends(own, &state).src, net.pod(1));
        world.epochs[CLIENT as usize] += 1; // Its pod is deleted.
        let tables = world.tables();
        state.pin_ops.clear();
        state.expire(START, &tables, 64);
        let left = [client, own, nodes].map(|id| state.flows.at(id).is_some());
        assert_eq!(left, [false, false, true]);
        // Both ends that it had are to be reset.
        assert_eq!(state.severed.len(), 2);
    }
}

#[test]
fn k_24_a_backend_that_has_left_is_not_connected_to() {
    let net = Net::V4;
    let (tables, mut state) = (World::new(CLIENTS, &[BACKEND_1]).tables(), state(1));
    let backend = (net.pod(3), TARGET);
    let source = UpstreamSource::Client;
    let left = connect(key(net, 1, 40_000), backend, source, &tables, &mut state);
    assert_eq!(left, Err(DropReason::UnknownFlow));
}

#[test]
fn a_stage_takes_connections_without_a_backend() {
    for net in Net::BOTH {
        let (tables, mut state) = (World::new(CLIENTS, &[]).tables(), state(1));
        let key = key(net, 1, 40_000);
        let (verdict, _) = send(&Spec::of(key.tuple, SYN), CLIENT, &tables, &mut state);
        assert_eq!(verdict, Verdict::Terminate(Claim::Stack));
        assert!(state.admit(key, START, &tables).is_ok());
    }
}
