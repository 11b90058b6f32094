//! What is relayed as it comes, and where that ends.

use std::io::ErrorKind;
use std::time::Duration;

use weft_l7::observe::Flag;
use weft_l7::{ServiceConfig, Source};

use crate::support::{World, get, ok, service};

#[test]
fn a_request_that_takes_more_than_a_relay_is_served_on_the_same_connection() {
    let mut world = World::new(service());
    let (mut client, _, _) = world.exchange(&get("/1"), &ok("one"));
    assert_eq!(client.read(), ok("one"));
    assert_eq!(&*world.record().path, "/1");
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let mut endpoint = world.opened();
    assert!(client.read().starts_with("HTTP/1.1 100 Continue\r\n\r\n"));
    client.send("ok".to_owned() + &get("/3"));
    world.run();
    assert!(endpoint.read().ends_with("\r\n\r\nok"));
    endpoint.send(ok("two"));
    world.run();
    assert_eq!(client.read(), ok("two"));
    assert_eq!(world.record().received, 2);
    assert!(endpoint.read().starts_with("GET /3 "));
    endpoint.send(ok("three"));
    world.run();
    assert_eq!(client.read(), ok("three"));
    assert_eq!(&*world.record().path, "/3");
}

#[test]
fn trailers_pass_though_nobody_has_announced_them_and_extensions_do_not() {
    let mut world = World::new(service());
    let chunks = "2;a=b\r\nhi\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\n\r\n";
    let post = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let (mut client, _, seen) = world.exchange(&post, &response);
    for passed in [seen, client.read()] {
        assert!(!passed.contains("a=b"), "{passed}");
        assert!(
            passed.ends_with("\r\nhi!\r\n0\r\nx-sum: 7\r\n\r\n"),
            "{passed}"
        );
    }
    let record = world.record();
    assert_eq!((record.received, record.sent), (3, 3));
}

#[test]
fn a_response_before_the_end_of_its_request_is_the_last_one() {
    let mut world = World::new(service());
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx";
    let (mut client, mut endpoint, _) = world.exchange(post, &ok("no more"));
    assert_eq!(client.read(), ok("no more"));
    client.send("y".repeat(99) + &get("/"));
    world.pass(Duration::from_secs(2));
    assert!(client.is_ended() || client.is_reset());
    assert!(endpoint.is_ended() || endpoint.is_reset());
    assert!(client.read().is_empty());
}

#[test]
fn a_client_that_resets_behind_a_pipelined_request_is_gone() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(get("/1") + &get("/2"));
    let mut endpoint = world.opened();
    assert!(endpoint.read().starts_with("GET /1 "));
    client.0.faults().fail(ErrorKind::ConnectionReset);
    world.run();
    assert!(endpoint.is_reset());
    assert_eq!(world.record().flag, Some(Flag::ClientGone));
}

#[test]
fn a_connection_that_rests_is_everybodys_and_says_nothing_unasked() {
    let mut world = World::new(ServiceConfig {
        source: Source::Node,
        ..service()
    });
    let (_, mut endpoint, _) = world.exchange(&get("/1"), &ok("one"));
    let mut second = world.client();
    second.send(get("/2"));
    world.run();
    assert!(endpoint.read().starts_with("GET /2 "));
    endpoint.send(ok("two") + &ok("and another"));
    world.run();
    assert_eq!(second.read(), ok("two"));
    assert!(endpoint.is_reset());
    second.send(get("/3"));
    assert!(world.opened().read().starts_with("GET /3 "));
}

#[test]
fn a_request_does_not_meet_the_end_of_connections_that_rested() {
    let mut world = World::new(ServiceConfig {
        source: Source::Node,
        ..service()
    });
    let mut clients = [world.client(), world.client(), world.client()];
    for client in &mut clients {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    }
    let mut endpoints = [world.opened(), world.opened(), world.opened()];
    for endpoint in &mut endpoints {
        endpoint.send(ok("x"));
    }
    world.run();
    // All end at once, before anybody on this side had a turn; what is asked then is not idempotent.
    for endpoint in &mut endpoints {
        endpoint.0.shutdown_now();
    }
    clients[0].send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let mut endpoint = world.opened();
    endpoint.send(ok("y"));
    world.run();
    assert!(clients[0].read().ends_with("\r\n\r\ny"));
}
