use super::*;
use crate::upstream::{BackendLimits, EndpointConfig, Picker};

#[derive(Debug)]
struct Modulo;

impl Picker for Modulo {
    fn pick(&self, hash: u64) -> usize {
        hash as usize
    }
}

fn address(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80 + at as u16))
}

fn config(algorithm: Algorithm, states: &[EndpointState]) -> Arc<BackendConfig> {
    let endpoints = states.iter().enumerate();
    Arc::new(BackendConfig {
        endpoints: endpoints
            .map(|(at, state)| EndpointConfig {
                address: address(at),
                state: *state,
                sees_client: false,
            })
            .collect(),
        algorithm,
        ..BackendConfig::default()
    })
}

/// Which endpoint each of some choices falls on.
fn chosen(backend: &Backend, hashes: impl Iterator<Item = u64>) -> Vec<usize> {
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state
    };
    let choices = hashes.map(|hash| backend.choose(hash, &mut random));
    choices
        .map(|choice| usize::from(choice.unwrap().address.port()) - 80)
        .collect()
}

use EndpointState::{Draining, Ready, Unready};

#[test]
fn round_robin_takes_turns_among_the_ready() {
    let backend = Backend::new(&config(
        Algorithm::RoundRobin,
        &[Ready, Unready, Ready, Draining],
    ));
    assert_eq!(chosen(&backend, 0..5), [0, 2, 0, 2, 0]);
}

/// K-24: endpoint states as at layer 4.
#[test]
fn k_24_what_drains_is_taken_only_while_nothing_is_ready() {
    let backend = Backend::new(&config(Algorithm::RoundRobin, &[Draining, Unready]));
    assert_eq!(chosen(&backend, 0..2), [0, 0]);
    backend.configure(&config(Algorithm::RoundRobin, &[Draining, Ready]));
    assert_eq!(chosen(&backend, 0..2), [1, 1]);
    backend.configure(&config(Algorithm::RoundRobin, &[Unready, Unready]));
    assert!(backend.choose(0, || 0).is_none());
    backend.configure(&config(Algorithm::RoundRobin, &[]));
    assert!(backend.choose(0, || 0).is_none());
}

#[test]
fn a_hash_keeps_its_endpoint_and_passes_over_what_is_not_ready() {
    let backend = Backend::new(&config(
        Algorithm::Hash(Arc::new(Modulo)),
        &[Ready, Unready, Ready],
    ));
    assert_eq!(chosen(&backend, 0..7), [0, 2, 2, 0, 2, 2, 0]);
}

#[test]
fn least_request_avoids_the_busy() {
    let backend = Backend::new(&config(
        Algorithm::LeastRequest,
        &[Ready, Unready, Ready, Ready],
    ));
    let endpoints = backend.endpoints.borrow();
    let busy: Vec<_> = (0..10).map(|_| endpoints[2].begin().unwrap()).collect();
    let choices = chosen(&backend, 0..300);
    assert!(!choices.contains(&2), "two different ones are compared");
    assert!(choices.contains(&0) && choices.contains(&3));
    drop(busy);
    assert!(chosen(&backend, 0..300).contains(&2));
    let alone = Backend::new(&config(Algorithm::LeastRequest, &[Unready, Ready]));
    assert_eq!(chosen(&alone, 0..2), [1, 1]);
}

#[test]
fn requests_are_bounded() {
    let backend = Backend::new(&Arc::new(BackendConfig {
        limits: BackendLimits {
            requests: 2,
            ..BackendLimits::default()
        },
        ..(*config(Algorithm::RoundRobin, &[Ready])).clone()
    }));
    let endpoint = &backend.endpoints.borrow()[0];
    let first = endpoint.begin().unwrap();
    let _second = endpoint.begin().unwrap();
    assert!(endpoint.begin().is_none());
    drop(first);
    assert_eq!(endpoint.requests(), 1);
    assert!(endpoint.begin().is_some());
}
