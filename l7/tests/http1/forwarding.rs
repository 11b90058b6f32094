//! What is passed on, and how.

use weft_l7::observe::Flag;

use crate::support::*;

#[test]
fn a_request_and_its_response_pass() {
    let mut world = World::new(service());
    let (mut client, _endpoint, seen) = world.exchange(&get("/reviews?x=1"), &ok("hello"));
    assert_eq!(seen, "GET /reviews?x=1 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.read(), ok("hello"));
    let record = world.record();
    assert_eq!((record.status, record.flag), (200, None));
    assert_eq!(
        (&*record.path, record.sent, record.received),
        ("/reviews?x=1", 5, 0)
    );
    assert_eq!(record.endpoint, Some(address(1)));
    assert_eq!(world.metrics().with_status(200), 1);
}

#[test]
fn keep_alive_uses_both_connections_again() {
    let mut world = World::new(service());
    let (mut client, mut endpoint, _) = world.exchange(&get("/1"), &ok("one"));
    assert_eq!(client.read(), ok("one"));
    for n in 2..5 {
        client.send(get(&format!("/{n}")));
        world.run();
        assert_eq!(
            endpoint.read(),
            format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n")
        );
        endpoint.send(ok("next"));
        world.run();
        assert_eq!(client.read(), ok("next"));
    }
    assert_eq!(world.network.borrow().connects, 1);
}

#[test]
fn nothing_matches_and_nothing_is_there() {
    let mut world = World::new(service_with(vec![rule("/a")], backend(0)));
    let mut client = world.client();
    client.send(get("/b"));
    world.run();
    let answer = client.read();
    assert!(answer.ends_with("404 Not Found: no_route\n"), "{answer}");
    assert_eq!(world.record().flag, Some(Flag::NoRoute));
    client.send(get("/a"));
    world.run();
    assert_eq!(status(&client.read()), 503);
    assert_eq!(world.record().flag, Some(Flag::NoEndpoint));
}
