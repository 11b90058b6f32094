//! Back-pressure, and services that harm only themselves.

use std::time::Duration;

use weft_l7::ServiceId;
use weft_l7::observe::Flag;
use weft_l7::upstream::{Algorithm, BackendConfig, Picker};

use crate::support::*;

/// More than all buffers on the way can hold.
const MUCH: usize = 4 << 20;

#[test]
fn a_client_that_reads_nothing_stops_the_endpoint() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(get("/"));
    let mut endpoint = world.opened();
    endpoint.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"));
    let chunk = [b'x'; 8 << 10];
    let mut taken = 0;
    for _ in 0..1_000 {
        taken += endpoint.0.write_now(&chunk).unwrap();
        world.run();
    }
    assert!(taken < 1 << 20, "{taken} bytes were taken");
    // It reads again, and everything comes.
    let mut got = client.read().len();
    let mut sent = taken;
    for _ in 0..10_000 {
        let rest = (MUCH - sent).min(chunk.len());
        sent += endpoint.0.write_now(&chunk[..rest]).unwrap();
        world.run();
        got += client.read().len();
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
    assert_eq!((sent, got), (MUCH, MUCH + head.len()));
}

#[test]
fn an_endpoint_that_reads_nothing_stops_the_client() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n"
    ));
    let chunk = [b'x'; 8 << 10];
    let mut taken = 0;
    for _ in 0..1_000 {
        taken += client.0.write_now(&chunk).unwrap();
        world.run();
    }
    assert!(taken < 1 << 20, "{taken} bytes were taken");
}

#[test]
fn a_client_that_reads_nothing_for_too_long_is_reset() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(get("/"));
    let mut endpoint = world.opened();
    endpoint.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"));
    for _ in 0..100 {
        let _ = endpoint.0.write_now(&[b'x'; 8 << 10]);
        world.run();
    }
    world.pass(Duration::from_secs(61));
    assert!(client.is_reset() && endpoint.is_reset());
    assert_eq!(world.record().flag, Some(Flag::ClientGone));
    assert_eq!(world.stage.tasks(SERVICE), 0);
}

/// Fails as a bug would.
#[derive(Debug)]
struct Broken;

impl Picker for Broken {
    fn pick(&self, hash: u64) -> usize {
        assert!(hash < 40_003, "on purpose");
        0
    }
}

/// AMB-12, U-07: a panic in one service resets its connections and no other's.
#[test]
fn amb_12_a_panic_stays_in_its_service() {
    const OTHER: ServiceId = ServiceId(2);
    let broken = BackendConfig {
        algorithm: Algorithm::Hash(std::sync::Arc::new(Broken)),
        ..backend(1)
    };
    let mut world = World::new(service_with(vec![rule("/")], broken));
    world.stage.configure(OTHER, service().into());
    let mut other = world.client_of(OTHER);
    other.send(get("/other"));
    let mut others_endpoint = world.opened();
    let (mut idle, mut endpoint, _) = world.exchange(&get("/1"), &ok("one"));
    idle.read();
    let mut third = world.client();
    third.send(get("/3"));
    world.run();
    assert!(third.is_reset() && idle.is_reset() && endpoint.is_reset());
    assert_eq!(
        (world.metrics().panics, world.metrics().connections_lost),
        (1, 2)
    );
    assert_eq!(world.stage.connections(SERVICE), 0);
    others_endpoint.send(ok("other"));
    world.run();
    assert_eq!(other.read(), ok("other"));
    // The service itself begins anew.
    let healthy = service_with(vec![rule("/")], backend(1));
    world.stage.configure(SERVICE, healthy.into());
    let (mut client, _, _) = world.exchange(&get("/2"), &ok("two"));
    assert_eq!(client.read(), ok("two"));
}
