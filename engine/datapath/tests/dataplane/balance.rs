//! SVC-43: how evenly flows spread, through `process`.

use std::collections::HashMap;
use std::time::Duration;

use weft_datapath::*;

use crate::support::*;

/// Backends by kernel, so that any number needs no pods; returns flows per backend.
fn spread(algorithm: Algorithm, weights: &[u16], flows: u16) -> Vec<u32> {
    let net = Net::V4;
    let mut builder = TablesBuilder::new();
    let backends = weights
        .iter()
        .zip(100..)
        .map(|(weight, host)| Backend {
            weight: *weight,
            member: SlotRef::member(host.into(), 1),
            ..kernel_backend(net.pod(host), TARGET)
        })
        .collect();
    let (address, port, proto) = (net.vip(80), SERVED, Protocol::Tcp);
    builder.add_service_port(ServicePortSpec {
        id: 1,
        address,
        port,
        proto,
        algorithm,
        backends,
        options: ServiceOptions::default(),
    });
    builder.add_pod(pod(CLIENT, Standing::Settled));
    builder.set_epochs(epochs()).set_members(vec![1; 256]);
    let tables = builder.build(1).unwrap();
    let config = StateConfig {
        max_flows: 16384,
        seed: 3,
        worker: 0,
        workers: 1,
        ports: Ports::default(),
        hairpin: Default::default(),
    };
    let mut state = State::new(config);
    let mut counts: HashMap<Address, u32> = HashMap::new();
    for flow in 0..flows {
        let mut frame =
            Spec::tcp(net.pod(1), 10000 + flow, address, port, SYN).punted(CLIENT, Hook::FromPod);
        assert_eq!(
            run(&mut frame, START, &tables, &mut state),
            Verdict::Deliver
        );
        state.pin_ops.clear();
        *counts.entry(packet(&frame).tuple().dst).or_default() += 1;
    }
    (100..)
        .take(weights.len())
        .map(|host| counts.get(&net.pod(host)).copied().unwrap_or(0))
        .collect()
}

fn within(counts: &[u32], weights: &[u16], tolerance: f64) {
    let total: u32 = counts.iter().sum();
    let weight: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
    for (count, share) in counts.iter().zip(weights) {
        let fair = f64::from(total) * f64::from(*share) / f64::from(weight);
        assert!(
            (f64::from(*count) - fair).abs() <= fair * tolerance,
            "{counts:?} for {weights:?}"
        );
    }
}

#[test]
fn svc_43_random_and_round_robin_are_within_5_percent() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random] {
        within(&spread(algorithm, &[1, 1, 1], 10_000), &[1, 1, 1], 0.05);
    }
    assert_eq!(
        spread(Algorithm::RoundRobin, &[1; 4], 10_000),
        [2500; 4],
        "in turn, exactly"
    );
}

/// Sampling 10,000 flows adds its own spread to the table's 2 %.
#[test]
fn svc_43_maglev_spreads_real_tuples() {
    within(
        &spread(Algorithm::Maglev, &[1, 1, 1], 10_000),
        &[1, 1, 1],
        0.05,
    );
}

#[test]
fn svc_42_weights_count_in_every_algorithm() {
    for algorithm in [
        Algorithm::Maglev,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::LeastConnections,
    ] {
        within(
            &spread(algorithm, &[1, 3, 0, 4], 10_000),
            &[1, 3, 0, 4],
            0.08,
        );
    }
}

/// SVC-43: round robin over a turn gives everybody one.
#[test]
fn svc_43_round_robin_takes_turns() {
    assert_eq!(spread(Algorithm::RoundRobin, &[1, 1, 1], 3), [1, 1, 1]);
}

/// SVC-43: the least loaded of all is found exactly; of two drawn among many, nearly.
#[test]
fn svc_43_least_connections_levels_live_flows() {
    let few = spread(Algorithm::LeastConnections, &[1; 5], 10_000);
    assert_eq!(few, [2000; 5]);
    let many = spread(Algorithm::LeastConnections, &[1; 100], 10_000);
    let (least, most) = (many.iter().min().unwrap(), many.iter().max().unwrap());
    assert!(most - least <= 8, "two choices, not one: {many:?}");
    within(
        &spread(Algorithm::LeastConnections, &[3, 1, 2], 6000),
        &[3, 1, 2],
        0.01,
    );
}

/// SVC-43: flows that end stop counting at once, and one that its peers did not believe dead counts again.
#[test]
fn svc_43_least_connections_forgets_what_has_ended() {
    let net = Net::V4;
    let mut builder = TablesBuilder::new();
    let backends: Vec<Backend> = (100..102)
        .map(|host| Backend {
            member: SlotRef::member(host.into(), 1),
            ..kernel_backend(net.pod(host), TARGET)
        })
        .collect();
    builder.add_service_port(ServicePortSpec {
        id: 1,
        address: net.vip(80),
        port: SERVED,
        proto: Protocol::Tcp,
        algorithm: Algorithm::LeastConnections,
        backends: backends.clone(),
        options: ServiceOptions::default(),
    });
    builder.add_pod(pod(CLIENT, Standing::Settled));
    builder.set_epochs(epochs()).set_members(vec![1; 256]);
    let (tables, mut state) = (builder.build(1).unwrap(), state(1));
    let send = |sport: u16, flags: u8, state: &mut State| {
        let spec = Spec::tcp(net.pod(1), sport, net.vip(80), SERVED, flags);
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        assert_eq!(run(&mut frame, START, &tables, state), Verdict::Deliver);
        state.pin_ops.clear();
        packet(&frame).tuple().dst
    };
    let loads = |state: &State| [0, 1].map(|at| state.flows.load(backends[at].member));
    let first: Vec<Address> = (0..10)
        .map(|port| send(1000 + port, SYN, &mut state))
        .collect();
    assert_eq!(loads(&state), [5, 5]);
    for (port, _) in (0..10).zip(&first).filter(|(_, at)| **at == net.pod(100)) {
        send(1000 + port, RST, &mut state);
        send(1000 + port, RST, &mut state);
    }
    assert_eq!((loads(&state), state.flows.len()), ([0, 5], 10));
    for port in 0..5 {
        assert_eq!(send(2000 + port, SYN, &mut state), net.pod(100));
    }
    // Both ends of a flow that was reset speak on.
    let (port, at) = (1000..)
        .zip(&first)
        .find(|(_, at)| **at == net.pod(101))
        .unwrap();
    send(port, RST, &mut state);
    assert_eq!(loads(&state), [5, 4]);
    send(port, ACK, &mut state);
    let back = Spec::tcp(*at, TARGET, net.pod(1), port, ACK).punted(CLIENT, Hook::ToPod);
    assert_eq!(
        run(&mut back.clone(), START, &tables, &mut state),
        Verdict::Deliver
    );
    assert_eq!(loads(&state), [5, 5]);
    state.expire(START + Duration::from_secs(86_400 * 2), &tables, usize::MAX);
    assert_eq!((loads(&state), state.flows.len()), ([0, 0], 0));
}
