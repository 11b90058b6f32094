//! What is passed on, and how.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use weft_l7::observe::Flag;
use weft_l7::route::{Action, HeaderModifier, Redirect, Rule};
use weft_l7::{ServiceConfig, Source};

use crate::support::*;

#[test]
fn a_request_and_its_response_pass() {
    let mut world = World::new(service());
    let (mut client, _endpoint, seen) = world.exchange(&get("/reviews?x=1"), &ok("hello"));
    assert_eq!(seen, "GET /reviews?x=1 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.read(), ok("hello"));
    let record = world.record();
    assert_eq!((record.status, record.flag), (200, None));
    let logged = (&*record.path, record.sent, record.received);
    assert_eq!(logged, ("/reviews?x=1", 5, 0));
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
fn a_connection_ends_when_either_side_says_so() {
    let mut world = World::new(service());
    let close = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (mut client, mut endpoint, seen) = world.exchange(close, &ok("x"));
    assert!(!seen.contains("close"), "it is for one hop: {seen}");
    assert!(client.read().contains("connection: close"));
    assert!(client.is_ended());
    drop(client);
    world.run();
    assert!(
        endpoint.is_ended(),
        "it was this client's own (source = client)"
    );

    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
    let (mut client, mut endpoint, _) = world.exchange(&get("/"), closing);
    assert_eq!(client.read(), ok("x"));
    assert!(endpoint.is_ended());
    client.send(get("/again"));
    assert_eq!(
        world.opened().read(),
        "GET /again HTTP/1.1\r\nhost: a\r\n\r\n"
    );

    let (mut client, _, seen) = world.exchange("GET / HTTP/1.0\r\n\r\n", &ok("x"));
    assert!(seen.contains("host: 10.96.0.80:80"), "{seen}");
    assert!(client.read().starts_with("HTTP/1.0 200 OK"));
    assert!(client.is_ended());
}

#[test]
fn bodies_pass_with_their_length() {
    let mut world = World::new(service());
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let (mut client, _, seen) = world.exchange(post, &ok("back"));
    assert!(seen.contains("content-length: 5\r\n") && seen.ends_with("\r\n\r\nhello"));
    assert_eq!(client.read(), ok("back"));
    assert_eq!(world.record().received, 5);
    let empty = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let (_, _, seen) = world.exchange(empty, &ok(""));
    assert!(seen.contains("content-length: 0\r\n"), "{seen}");
    assert!(!seen.contains("transfer-encoding"), "{seen}");
}

#[test]
fn chunked_bodies_pass_with_their_trailers() {
    let mut world = World::new(service());
    let post = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                5;ext=1\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nback\r\n0\r\nX-End: 9\r\n\r\n";
    let (mut client, _, seen) = world.exchange(post, response);
    assert!(seen.contains("transfer-encoding: chunked\r\n"), "{seen}");
    assert!(
        seen.ends_with("\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{seen}"
    );
    let answer = client.read();
    assert!(
        answer.ends_with("\r\n\r\n4\r\nback\r\n0\r\nx-end: 9\r\n\r\n"),
        "{answer}"
    );
}

#[test]
fn a_response_that_ends_with_its_connection_is_framed_anew() {
    let mut world = World::new(service());
    let (mut client, mut endpoint, _) = world.exchange(&get("/"), "HTTP/1.1 200 OK\r\n\r\nun");
    endpoint.send("til");
    endpoint.0.shutdown_now();
    world.run();
    let answer = client.read();
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    client.send(get("/next"));
    assert!(world.opened().read().starts_with("GET /next"));
}

#[test]
fn head_has_a_length_and_no_body() {
    let mut world = World::new(service());
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    let (mut client, mut endpoint, _) = world.exchange("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", head);
    assert_eq!(client.read(), head);
    client.send(get("/"));
    world.run();
    assert!(endpoint.read().starts_with("GET /"));
    endpoint.send(ok("body"));
    world.run();
    assert_eq!(client.read(), ok("body"));
}

#[test]
fn interim_responses_are_not_the_response() {
    let mut world = World::new(service());
    let answer = format!(
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{}",
        ok("x")
    );
    let (mut client, _, _) = world.exchange(&get("/"), &answer);
    assert_eq!(client.read(), ok("x"));
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let mut endpoint = world.opened();
    assert!(client.read().starts_with("HTTP/1.1 100 Continue\r\n\r\n"));
    client.send("ok");
    world.run();
    let seen = endpoint.read();
    assert!(
        !seen.contains("expect") && seen.ends_with("\r\n\r\nok"),
        "{seen}"
    );
    endpoint.send(ok("done"));
    world.run();
    assert_eq!(client.read(), ok("done"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(
        get("/1")
            + &get("/2")
            + "POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
            + &get("/4"),
    );
    let mut endpoint = world.opened();
    for n in 1..=4 {
        let seen = endpoint.read();
        assert!(
            seen.contains(&format!(" /{n} ")) && seen.matches("HTTP/1.1").count() == 1,
            "{seen}"
        );
        endpoint.send(ok(&n.to_string()));
        world.run();
        assert_eq!(client.read(), ok(&n.to_string()));
    }
    assert_eq!(world.network.borrow().connects, 1);
}

#[test]
fn what_is_for_one_hop_stays_there() {
    let mut world = World::new(service());
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Other: 2\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nConnection: x-his\r\nX-His: 1\r\nX-Rest: 2\r\nContent-Length: 0\r\n\r\n";
    let (mut client, _, seen) = world.exchange(request, response);
    assert_eq!(
        seen,
        "GET / HTTP/1.1\r\nhost: a\r\nhttp2-settings: AAMAAABk\r\nx-other: 2\r\n\r\n"
    );
    assert_eq!(
        client.read(),
        "HTTP/1.1 200 OK\r\nx-rest: 2\r\ncontent-length: 0\r\n\r\n"
    );
}

/// AMB-08, U-02: with `source = "node"` the header says who the client is.
#[test]
fn amb_08_source_node_is_forwarded_for_the_client() {
    let mut world = World::new(ServiceConfig {
        source: Source::Node,
        ..service()
    });
    let request = "GET / HTTP/1.1\r\nHost: a:80\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    let (_client, mut endpoint, seen) = world.exchange(request, &ok(""));
    assert!(
        seen.contains("x-forwarded-for: 9.9.9.9, 10.1.0.7\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains("forwarded: for=10.1.0.7;host=\"a:80\";proto=http\r\n"),
        "{seen}"
    );
    // The connection is everybody's.
    let mut other = world.client();
    other.send(get("/other"));
    world.run();
    assert!(endpoint.read().contains("/other"));
}

/// With `source = "client"` it is the client's alone, and goes with it.
#[test]
fn amb_08_source_client_shares_no_connection() {
    let mut world = World::new(service());
    let (mut client, mut endpoint, seen) = world.exchange(&get("/"), &ok(""));
    assert!(!seen.contains("forwarded"), "{seen}");
    let (_other, _theirs, _) = world.exchange(&get("/other"), &ok(""));
    assert_eq!(world.network.borrow().connects, 2);
    client.0.shutdown_now();
    world.run();
    client.read();
    assert!(client.is_ended() && endpoint.is_ended());
}

#[test]
fn absolute_form_is_routed_and_passed_as_origin_form() {
    let mut world = World::new(service_with(vec![rule("/x")], backend(1)));
    let request = "GET http://a/x?y HTTP/1.1\r\nHost: A:80\r\n\r\n";
    let (_, _, seen) = world.exchange(request, &ok(""));
    assert_eq!(seen, "GET /x?y HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut world = World::new(service());
    let (_, _, seen) = world.exchange("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &ok(""));
    assert!(seen.starts_with("OPTIONS * HTTP/1.1\r\n"), "{seen}");
}

/// Section 4.2: RequestHeaderModifier and RequestRedirect, through the stage.
#[test]
fn httproute_filters_apply() {
    let header = |name, value| {
        let value = HeaderValue::from_static(value);
        (HeaderName::from_static(name), value)
    };
    let modified = Rule {
        request_headers: HeaderModifier {
            set: vec![header("x-set", "new")],
            add: vec![header("x-add", "more")],
            remove: vec![HeaderName::from_static("x-gone")],
        },
        ..rule("/m")
    };
    let redirected = Rule {
        action: Action::Redirect(Redirect {
            scheme: None,
            hostname: Some("b".into()),
            port: None,
            status: http::StatusCode::MOVED_PERMANENTLY,
        }),
        ..rule("/r")
    };
    let mut world = World::new(service_with(vec![modified, redirected], backend(1)));
    let request = "GET /m HTTP/1.1\r\nHost: a\r\nX-Set: old\r\nX-Gone: x\r\n\r\n";
    let (mut client, _, seen) = world.exchange(request, &ok(""));
    assert_eq!(
        seen,
        "GET /m HTTP/1.1\r\nhost: a\r\nx-set: new\r\nx-add: more\r\n\r\n"
    );
    client.read();
    world.record();
    client.send(get("/r?q"));
    world.run();
    let answer = client.read();
    assert!(
        answer.starts_with("HTTP/1.1 301 Moved Permanently\r\nlocation: http://b/r?q\r\n"),
        "{answer}"
    );
    assert_eq!(
        (world.record().status, world.metrics().with_status(301)),
        (301, 1)
    );
}

/// Section 4.2: 404 and 500, and 503 of a backend without endpoints.
#[test]
fn nothing_matches_and_nothing_is_there() {
    let mut invalid = rule("/invalid");
    invalid.action = Action::Forward(vec![]);
    let mut world = World::new(service_with(vec![rule("/a"), invalid], backend(0)));
    let mut client = world.client();
    for (path, code, flag) in [
        ("/b", 404, Flag::NoRoute),
        ("/invalid", 500, Flag::InvalidBackend),
        ("/a", 503, Flag::NoEndpoint),
    ] {
        client.send(get(path));
        world.run();
        let answer = client.read();
        assert_eq!(status(&answer), code);
        assert!(answer.ends_with(&format!(": {flag}\n")), "{answer}");
        let record = world.record();
        assert_eq!((record.status, record.flag), (code, Some(flag)));
        assert_eq!(world.metrics().flags[flag as usize], 1);
    }
}

/// AMB-11: a change is for requests that come after it.
#[test]
fn amb_11_a_change_of_routes_leaves_what_is_under_way() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(get("/old"));
    let mut endpoint = world.opened();
    let next = service_with(vec![rule("/new")], backend(0));
    world.stage.configure(SERVICE, next.into());
    endpoint.send(ok("old"));
    world.run();
    assert_eq!(client.read(), ok("old"));
    world.run();
    endpoint.read();
    assert!(endpoint.is_ended(), "the endpoint is no more");
    client.send(get("/old"));
    world.run();
    assert_eq!(status(&client.read()), 404);
    world.pass(Duration::from_secs(1));
}

#[test]
fn a_stage_that_ends_lets_requests_finish_and_ends_connections_in_order() {
    let mut world = World::new(service());
    let (mut idle, _endpoint, _) = world.exchange(&get("/"), &ok("one"));
    assert_eq!(idle.read(), ok("one"));
    let mut busy = world.client();
    busy.send(get("/"));
    let mut endpoint = world.opened();
    world.stage.drain();
    world.run();
    assert!(idle.is_ended());
    endpoint.send(ok("two"));
    world.run();
    let answer = busy.read();
    assert!(answer.ends_with("two"), "{answer}");
    assert!(busy.is_ended());
    // What comes now is served once.
    let mut late = world.client();
    late.send(get("/"));
    world.opened().send(ok("three"));
    world.run();
    assert!(late.read().ends_with("three"));
    assert!(late.is_ended());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.stage.connections(SERVICE), 0);
}

/// What the end of the stage cuts is recorded; what rests is not.
#[test]
fn a_stop_is_recorded() {
    let mut world = World::new(ServiceConfig {
        tcp: Some(BACKEND),
        ..service()
    });
    let (mut idle, _endpoint, _) = world.exchange(&get("/"), &ok("one"));
    idle.read();
    assert_eq!(world.record().flag, None);
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    let (mut cut, _cut, _) = world.exchange(&get("/cut"), half);
    let mut waits = world.client();
    waits.send(get("/waits"));
    let _asked = world.opened();
    let mut tunnel = world.client();
    tunnel.send("*1\r\n");
    let mut end = world.opened();
    assert_eq!(end.read(), "*1\r\n");
    world.pass(Duration::from_secs(1));
    world.stage.stop();
    for client in [&mut idle, &mut cut, &mut waits, &mut tunnel] {
        assert!(client.is_reset());
    }
    let records = std::iter::from_fn(|| world.stage.record());
    let mut seen: Vec<_> = records
        .map(|record| {
            assert_eq!(record.flag, Some(Flag::Stopped));
            assert_eq!(record.total, Duration::from_secs(1));
            (
                record.path.to_string(),
                record.status,
                record.received,
                record.sent,
            )
        })
        .collect();
    seen.sort();
    let expected = [
        (String::new(), 0, 4, 0),
        ("/cut".into(), 200, 0, 4),
        ("/waits".into(), 0, 0, 0),
    ];
    assert_eq!(seen, expected);
    assert_eq!(world.metrics().flags[Flag::Stopped as usize], 3);
    assert_eq!(world.stage.tasks(SERVICE), 0);
}
