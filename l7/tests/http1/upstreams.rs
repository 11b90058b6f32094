//! Pools, limits, retries and failures of endpoints.

use std::io::ErrorKind;
use std::time::Duration;

use weft_l7::observe::Flag;
use weft_l7::route::{Rule, Timeouts};
use weft_l7::upstream::{Algorithm, BackendConfig, BackendLimits, EndpointState};
use weft_l7::{Reject, ServiceConfig, Source};

use crate::support::*;

fn node(backend: BackendConfig) -> ServiceConfig {
    ServiceConfig {
        source: Source::Node,
        ..service_with(vec![rule("/")], backend)
    }
}

fn limited(limits: BackendLimits) -> ServiceConfig {
    node(BackendConfig {
        limits,
        ..backend(1)
    })
}

/// Asks, and expects this answer of the node's own.
#[track_caller]
fn fails(world: &mut World, client: &mut Peer, flag: Flag) {
    world.run();
    let answer = client.read();
    assert_eq!(status(&answer), flag.status().as_u16(), "{answer}");
    let record = world.record();
    assert_eq!(
        (record.status, record.flag),
        (flag.status().as_u16(), Some(flag))
    );
}

#[test]
fn connections_are_bounded_and_requests_wait_in_order() {
    let mut world = World::new(limited(BackendLimits {
        connections: 1,
        pending: 2,
        ..BackendLimits::default()
    }));
    let mut clients: Vec<Peer> = (0..4).map(|_| world.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(get(&format!("/{n}")));
        world.run();
    }
    fails(&mut world, &mut clients[3], Flag::Overflow);
    let mut endpoint = world.opened();
    for (n, client) in clients.iter_mut().enumerate().take(3) {
        assert!(endpoint.read().starts_with(&format!("GET /{n} ")));
        endpoint.send(ok("x"));
        world.run();
        assert_eq!(client.read(), ok("x"));
    }
    assert_eq!(world.network.borrow().connects, 1);
}

#[test]
fn one_who_waits_and_goes_gives_up_its_place() {
    let mut world = World::new(limited(BackendLimits {
        connections: 1,
        ..BackendLimits::default()
    }));
    let mut clients: Vec<Peer> = (0..3).map(|_| world.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(get(&format!("/{n}")));
        world.run();
    }
    let mut endpoint = world.opened();
    clients[1].0.shutdown_now(); // The field treats the end of a client that is owed an answer as its going.
    world.run();
    assert!(endpoint.read().starts_with("GET /0 "));
    endpoint.send(ok("x"));
    world.run();
    assert!(endpoint.read().starts_with("GET /2 "));
    assert_eq!(world.metrics().flags[Flag::ClientGone as usize], 1);
}

#[test]
fn requests_are_bounded() {
    let mut world = World::new(limited(BackendLimits {
        requests: 1,
        ..BackendLimits::default()
    }));
    let (mut first, mut second) = (world.client(), world.client());
    first.send(get("/1"));
    world.run();
    second.send(get("/2"));
    fails(&mut world, &mut second, Flag::Overflow);
}

#[test]
fn an_endpoint_that_cannot_be_reached() {
    let mut world = World::new(service());
    let mut client = world.client();
    let network = world.network.clone();
    network
        .borrow_mut()
        .refuses
        .insert(address(1), ErrorKind::ConnectionRefused);
    client.send(get("/"));
    fails(&mut world, &mut client, Flag::ConnectFailed);
    network.borrow_mut().refuses.clear();
    network.borrow_mut().silent.push(address(1));
    client.send(get("/"));
    let endpoint = world.opened();
    endpoint.0.faults().fail(ErrorKind::ConnectionRefused);
    fails(&mut world, &mut client, Flag::ConnectFailed);
    client.send(get("/"));
    let _endpoint = world.opened();
    world.pass(Duration::from_secs(4));
    assert_eq!(client.read(), "");
    world.pass(Duration::from_secs(2));
    fails(&mut world, &mut client, Flag::ConnectTimeout);
}

#[test]
fn an_endpoint_that_ends_before_its_answer() {
    let mut world = World::new(service());
    for reset in [false, true] {
        let mut client = world.client();
        client.send(get("/"));
        let mut endpoint = world.opened();
        endpoint.read();
        match reset {
            true => endpoint.0.faults().fail(ErrorKind::ConnectionReset),
            false => endpoint.0.shutdown_now(),
        }
        fails(&mut world, &mut client, Flag::UpstreamClosed);
        assert_eq!(
            world.network.borrow().opened.len(),
            0,
            "a new connection is no reason to try again"
        );
    }
}

#[test]
fn an_endpoint_that_lies() {
    for (answer, reject) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::LengthAndEncoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            Reject::ContentLengthRepeated,
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 1\n\na", Reject::BareLf),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Reject::ObsFold),
        ("SSH-2.0-x\r\n\r\n", Reject::StartLine),
    ] {
        let mut world = World::new(service());
        let (mut client, mut endpoint, _) = world.exchange(&get("/"), answer);
        fails(&mut world, &mut client, Flag::UpstreamProtocol);
        assert!(endpoint.is_reset());
        assert_eq!(
            world.metrics().upstream_rejected[reject as usize],
            1,
            "{answer:?}"
        );
    }
}

/// An answer to nobody's question must not become that of the next one's.
#[test]
fn an_answer_in_advance_is_nobodys() {
    let mut world = World::new(node(backend(1)));
    let twice = ok("one") + &ok("poison");
    let (mut client, mut endpoint, _) = world.exchange(&get("/1"), &twice);
    assert_eq!(client.read(), ok("one"));
    assert!(endpoint.is_reset());
    client.send(get("/2"));
    let mut endpoint = world.opened();
    endpoint.send(ok("two"));
    world.run();
    assert_eq!(client.read(), ok("two"));
    assert_eq!(
        world.metrics().upstream_rejected[Reject::Unsolicited as usize],
        1
    );
}

/// Nor if it comes in the same moment as the next question, which is asked elsewhere then.
#[test]
fn an_answer_that_crosses_the_next_question_is_nobodys() {
    for method in ["GET", "POST"] {
        let mut world = World::new(node(backend(1)));
        let (mut client, mut endpoint, _) = world.exchange(&get("/1"), &ok("one"));
        assert_eq!(client.read(), ok("one"));
        endpoint.send(ok("poison"));
        client.send(format!("{method} /2 HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut second = world.opened();
        assert!(endpoint.is_reset());
        assert!(second.read().starts_with(&format!("{method} /2 ")));
        second.send(ok("two"));
        world.run();
        assert_eq!(client.read(), ok("two"));
    }
}

#[test]
fn a_body_that_breaks_off_resets_the_client() {
    for chunked in [false, true] {
        let mut world = World::new(service());
        let answer = match chunked {
            true => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        };
        let (mut client, mut endpoint, _) = world.exchange(&get("/"), answer);
        assert!(client.read().contains("hello"));
        endpoint.0.shutdown_now();
        world.run();
        assert!(client.is_reset());
        let record = world.record();
        assert_eq!(
            (record.status, record.flag, record.sent),
            (200, Some(Flag::UpstreamCut), 5)
        );
    }
}

/// K-23: the end of an idle connection is noticed, and its last moment does not cost a request.
#[test]
fn k_23_a_stale_connection_is_tried_once_more() {
    let mut world = World::new(service());
    let (mut client, endpoint, _) = world.exchange(&get("/1"), &ok("one"));
    client.read();
    world.record();
    // The end and the next request cross.
    client.send(get("/2"));
    world.stage.turn(world.now);
    drop(endpoint);
    let mut endpoint = world.opened();
    assert!(endpoint.read().starts_with("GET /2 "));
    // Again, and this time the new connection fails, too.
    endpoint.0.shutdown_now();
    fails(&mut world, &mut client, Flag::UpstreamClosed);
    assert_eq!(world.metrics().retries, 1);
}

#[test]
fn k_23_what_may_have_been_done_is_not_done_again() {
    let mut world = World::new(service());
    let (mut client, mut endpoint, _) = world.exchange(&get("/1"), &ok("one"));
    client.read();
    world.record();
    client.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    world.run();
    assert!(endpoint.read().starts_with("POST /2 "));
    endpoint.0.shutdown_now();
    fails(&mut world, &mut client, Flag::UpstreamClosed);
    assert_eq!(world.network.borrow().connects, 1);
}

#[test]
fn k_23_an_idle_connection_that_ended_is_not_used() {
    let mut world = World::new(service());
    let (mut client, mut endpoint, _) = world.exchange(&get("/1"), &ok("one"));
    client.read();
    endpoint.0.shutdown_now();
    world.run();
    assert!(endpoint.is_ended());
    client.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert!(world.opened().read().starts_with("POST /2 "));
    assert_eq!(world.metrics().retries, 0);
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    let mut world = World::new(node(backend(1)));
    let (mut client, mut endpoint, _) = world.exchange(&get("/1"), &ok("one"));
    client.read();
    world.pass(Duration::from_secs(59));
    assert!(!endpoint.is_ended());
    world.pass(Duration::from_secs(2));
    assert!(endpoint.is_ended());
}

/// Section 4.2: RequestTimeout and BackendTimeout answer 504.
#[test]
fn httproute_timeouts() {
    let bounded = |request, backend_request| Rule {
        timeouts: Timeouts {
            request,
            backend_request,
        },
        ..rule("/")
    };
    let second = Some(Duration::from_secs(1));
    for (rule, flag) in [
        (bounded(second, None), Flag::RequestTimeout),
        (bounded(None, second), Flag::BackendTimeout),
    ] {
        let mut world = World::new(service_with(vec![rule], backend(1)));
        let mut client = world.client();
        client.send(get("/"));
        let mut endpoint = world.opened();
        world.pass(Duration::from_millis(999));
        assert_eq!(client.read(), "");
        world.pass(Duration::from_millis(2));
        fails(&mut world, &mut client, flag);
        assert!(endpoint.is_reset());
        client.send(get("/"));
        let mut endpoint = world.opened();
        endpoint.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        world.pass(Duration::from_secs(2));
        // The whole request has a bound; a try has one until its header only.
        assert_eq!(client.is_reset(), flag == Flag::RequestTimeout);
    }
}

#[test]
fn an_endpoint_that_never_answers_is_answered_for_without_timeouts_too() {
    let mut world = World::new(service_with(vec![rule("/")], backend(1)));
    let mut client = world.client();
    client.send(get("/"));
    let mut endpoint = world.opened();
    world.pass(Duration::from_secs(299));
    assert_eq!(client.read(), "");
    world.pass(Duration::from_secs(2));
    fails(&mut world, &mut client, Flag::BackendTimeout);
    assert!(endpoint.is_reset());
    // Not while the request is still coming in.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    let _endpoint = world.opened();
    for _ in 0..10 {
        world.pass(Duration::from_secs(50));
        assert_eq!(client.read(), "");
        client.send("x");
    }
    world.pass(Duration::from_secs(601));
    fails(&mut world, &mut client, Flag::BackendTimeout);
    // A bound of the whole request is one.
    let mut patient = rule("/");
    patient.timeouts.request = Some(Duration::from_secs(1_000));
    let mut world = World::new(service_with(vec![patient], backend(1)));
    let mut client = world.client();
    client.send(get("/"));
    let _endpoint = world.opened();
    world.pass(Duration::from_secs(999));
    assert_eq!(client.read(), "");
    world.pass(Duration::from_secs(2));
    fails(&mut world, &mut client, Flag::RequestTimeout);
}

/// K-24: endpoint states as at layer 4, for requests instead of connections.
#[test]
fn k_24_an_endpoint_that_drains_gets_no_new_requests() {
    let mut two = backend(2);
    two.algorithm = Algorithm::RoundRobin;
    let mut world = World::new(node(two.clone()));
    let mut client = world.client();
    client.send(get("/1"));
    let mut first = world.opened();
    two.endpoints[0].state = EndpointState::Draining;
    world.stage.configure(SERVICE, node(two.clone()).into());
    // What is under way goes on.
    first.send(ok("one"));
    world.run();
    assert_eq!(client.read(), ok("one"));
    first.read();
    client.send(get("/2"));
    let mut second = world.opened();
    assert!(second.read().starts_with("GET /2 "));
    assert_eq!(first.read(), "");
    second.send(ok("two"));
    world.run();
    client.read();
    // Gone: its idle connection is closed.
    two.endpoints.remove(0);
    world.stage.configure(SERVICE, node(two).into());
    world.run();
    assert!(first.is_ended() && !second.is_ended());
}

#[test]
fn an_early_answer_ends_the_connection_to_the_endpoint() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome");
    let mut endpoint = world.opened();
    endpoint.read();
    endpoint.send("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    world.run();
    assert_eq!(status(&client.read()), 413);
    world.pass(Duration::from_secs(2));
    assert!(endpoint.is_reset() || endpoint.is_ended());
    assert_eq!(world.record().flag, None);
}
