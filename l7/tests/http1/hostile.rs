//! Clients and endpoints that mean harm, where the relay and hyper meet, and where one message could become part of another.

use crate::support::*;

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
