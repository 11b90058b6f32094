//! SVC-43: how evenly flows spread, through `process`.

use std::collections::HashMap;

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
    builder.add_pod(pod(CLIENT, Stage::Settled));
    builder.set_epochs(epochs());
    let tables = builder.build(1).unwrap();
    let config = StateConfig {
        max_flows: 16384,
        seed: 3,
        worker: 0,
        workers: 1,
        ports: Ports::default(),
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
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin, Algorithm::Random] {
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
