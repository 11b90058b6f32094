//! Clients and endpoints that mean harm, where the relay and hyper meet, and where one message could become part of another.

use std::io::ErrorKind;

use weft_l7::upstream::BackendConfig;
use weft_l7::{ServiceConfig, Source};

use crate::support::*;

fn node(backend: BackendConfig) -> ServiceConfig {
    ServiceConfig {
        source: Source::Node,
        ..service_with(vec![rule("/")], backend)
    }
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[test]
fn a_head_request_whose_endpoint_switches_protocols_gets_no_body() {
    let mut world = World::new(service());
    let head = "HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let (mut client, _, _) = world.exchange(head, switch);
    let answer = client.read();
    assert_eq!(status(&answer), 502);
    assert!(answer.ends_with("\r\n\r\n"), "a body follows: {answer:?}");
}

#[test]
fn k_23_a_body_is_whole_when_it_goes_out_again() {
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
    ] {
        let mut world = World::new(node(backend(1)));
        let (_client, stale, _) = world.exchange(&get("/1"), &ok("one"));
        // There is no room for what is to be sent, and then no connection.
        stale.0.faults().stall(true);
        let mut client = world.client();
        client.send(format!("POST /2 HTTP/1.1\r\nHost: a\r\n{body}"));
        world.run();
        stale.0.faults().fail(ErrorKind::ConnectionReset);
        let mut endpoint = world.opened();
        let seen = endpoint.read();
        assert!(
            seen.starts_with("POST /2 ") && seen.contains("hello"),
            "{seen}"
        );
        assert_eq!(
            seen.contains("chunked"),
            seen.ends_with("5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
            "{seen}"
        );
        endpoint.send(ok("two"));
        world.run();
        assert_eq!(client.read(), ok("two"));
        assert_eq!(world.metrics().retries, 1);
    }
}

#[test]
fn what_comes_before_anything_was_sent_is_no_answer() {
    let mut world = World::new(node(backend(1)));
    let mut client = world.client();
    client.send(post("/1", &"x".repeat(10_000)));
    let mut endpoint = world.opened();
    let head = endpoint.0.faults().in_flight()[1] - 10_000;
    endpoint.read();
    endpoint.send(ok("one"));
    world.run();
    client.send(post("/1", &"x".repeat(CAPACITY - head)));
    world.run();
    endpoint.send(ok("one"));
    world.run();
    assert_eq!(client.read(), ok("one").repeat(2));
    // Nothing was read of that: the next one finds no room.
    client.send(post("/2", "body"));
    world.run();
    endpoint.send(ok("poison"));
    world.run();
    assert!(endpoint.is_reset());
    let mut endpoint = world.opened();
    assert!(endpoint.read().ends_with("body"));
    endpoint.send(ok("two"));
    world.run();
    assert_eq!(client.read(), ok("two"));
}
