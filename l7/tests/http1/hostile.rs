//! Clients and endpoints that mean harm, where the relay and hyper meet, and where one message could become part of another.

use std::io::ErrorKind;
use std::time::Duration;

use weft_l7::observe::Flag;
use weft_l7::upstream::{BackendConfig, BackendLimits};
use weft_l7::{Reject, ServiceConfig, Source};

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

/// The paths of the requests that have come as a whole.
fn whole(seen: &str) -> impl Iterator<Item = &str> {
    let mut rest = seen;
    std::iter::from_fn(move || {
        let (head, body) = rest.split_once("\r\n\r\n")?;
        let length = head
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
        rest = match head.contains("chunked") {
            true => body.split_once("0\r\n\r\n")?.1,
            false => body.get(length..)?,
        };
        head.split(' ').nth(1)
    })
}

/// Answers what has come to each endpoint, as often as something comes; what each connection was sent.
struct Answering {
    endpoints: Vec<(Peer, String, usize)>,
}

impl Answering {
    fn new() -> Self {
        Self {
            endpoints: Vec::new(),
        }
    }

    /// Lets all happen that can, with this answer to each head.
    fn settle(&mut self, world: &mut World, answer: impl Fn(&str) -> String) {
        loop {
            world.run();
            while let Some((_, stream)) = world.network.borrow_mut().opened.pop_front() {
                self.endpoints.push((Peer(stream), String::new(), 0));
            }
            let mut moved = false;
            for (peer, seen, answered) in &mut self.endpoints {
                let Ok(Some(more)) = peer.0.read_now() else {
                    continue;
                };
                seen.push_str(&String::from_utf8_lossy(&more));
                for path in whole(seen).skip(*answered) {
                    let _ = peer.0.write_now(answer(path).as_bytes());
                    *answered += 1;
                    moved = true;
                }
                moved |= !more.is_empty();
            }
            if !moved {
                return;
            }
        }
    }

    fn seen(&self) -> Vec<&str> {
        self.endpoints.iter().map(|(_, seen, _)| &**seen).collect()
    }
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

#[test]
fn a_204_says_no_length() {
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut world = World::new(service());
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{expect}\r\n");
        let answer = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX: y\r\n\r\n";
        let (mut client, _, _) = world.exchange(&request, answer);
        assert_eq!(
            client.read(),
            "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
            "{expect}"
        );
    }
}

#[test]
fn amb_08_a_clients_own_connections_go_with_it_where_others_are_everybodys() {
    let mut own = backend(1);
    own.endpoints[0].sees_client = true;
    let mut world = World::new(node(own));
    let (client, mut endpoint, _) = world.exchange(&get("/"), &ok("x"));
    drop(client);
    world.run();
    assert!(endpoint.is_ended());
    assert_eq!(world.stage.tasks(SERVICE), 0);
}

#[test]
fn one_who_waits_for_an_endpoint_that_goes_gets_another() {
    let limits = BackendLimits {
        connections: 1,
        ..BackendLimits::default()
    };
    let with = |from: usize, to: usize| {
        let mut backend = backend(2);
        backend.limits = limits;
        backend.endpoints = backend.endpoints[from..to].to_vec();
        node(backend)
    };
    let mut world = World::new(with(0, 1));
    let (mut first, mut second) = (world.client(), world.client());
    first.send(get("/1"));
    let mut endpoint = world.opened();
    second.send(get("/2"));
    world.run();
    world.stage.configure(SERVICE, with(1, 2).into());
    endpoint.send(ok("one"));
    world.run();
    assert_eq!(first.read(), ok("one"));
    let (request, stream) = world.network.borrow_mut().opened.pop_front().unwrap();
    assert_eq!(request.endpoint, address(2));
    let mut endpoint = Peer(stream);
    endpoint.send(ok("two"));
    world.run();
    assert_eq!(second.read(), ok("two"));
}

#[test]
fn one_who_waits_for_a_backend_that_goes_is_told() {
    let limits = BackendLimits {
        connections: 1,
        ..BackendLimits::default()
    };
    let one = BackendConfig {
        limits,
        ..backend(1)
    };
    let mut world = World::new(node(one));
    let (mut first, mut second) = (world.client(), world.client());
    first.send(get("/1"));
    let mut endpoint = world.opened();
    second.send(get("/2"));
    world.run();
    let nothing = ServiceConfig {
        backends: Default::default(),
        ..service()
    };
    world.stage.configure(SERVICE, nothing.into());
    world.run();
    assert_eq!(status(&second.read()), 503);
    endpoint.send(ok("one"));
    world.run();
    assert_eq!(first.read(), ok("one"));
}

/// Requests for the relay and for hyper, one behind another, cut at every byte: all see the same.
#[test]
fn requests_are_the_same_wherever_they_are_cut() {
    let upgrade = "GET /6 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let last = "POST /8 HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let expect =
        "PUT /4 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nyes";
    let chunked = "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n003;x=y\r\nabc\r\n0\r\n\r\n";
    for tail in [
        expect.to_owned() + &get("/5") + upgrade + &get("/7") + last,
        upgrade.to_owned() + &post("/5", "b") + last,
        last.to_owned(),
        get("/5") + "GET /bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        let sent = get("/1") + &post("/2", "body") + chunked + &tail + &get("/smuggled");
        let mut whole = None;
        for cut in 0..sent.len() {
            let mut world = World::new(service());
            let (mut client, mut endpoints) = (world.client(), Answering::new());
            let answer = |path: &str| ok(path);
            client.send(&sent[..cut]);
            endpoints.settle(&mut world, answer);
            let mut got = client.read();
            client.send(&sent[cut..]);
            endpoints.settle(&mut world, answer);
            world.pass(Duration::from_secs(2));
            got += &String::from_utf8_lossy(
                &client.0.read_now().unwrap_or_default().unwrap_or_default(),
            );
            assert!(
                endpoints
                    .seen()
                    .iter()
                    .all(|seen| !seen.contains("smuggled"))
            );
            // How much of a chunk came at once is not the message's.
            let normal = |text: &str| {
                text.replace("1\r\na\r\n2\r\nbc", "3\r\nabc")
                    .replace("2\r\nab\r\n1\r\nc", "3\r\nabc")
            };
            let seen: Vec<String> = endpoints.seen().into_iter().map(normal).collect();
            // The node may have said "continue" or not, as the body was there or not.
            let got = got.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
            let (seen_before, got_before) = whole.get_or_insert((seen.clone(), got.clone()));
            assert_eq!(
                (&*seen_before, &*got_before),
                (&seen, &got),
                "cut at {cut}: {:?}",
                &sent[..cut]
            );
            drop(client);
            world.run();
            assert_eq!(
                (world.stage.connections(SERVICE), world.stage.tasks(SERVICE)),
                (0, 0)
            );
        }
    }
}

#[test]
fn responses_are_the_same_wherever_they_are_cut() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    for (method, sent, next) in [
        ("GET", early.to_owned() + &ok("body"), true),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n003;x=y\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n".to_owned(), true),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_owned(), true),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(), true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\npoison".to_owned(), false),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_owned(), false),
        ("GET", ok("body") + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", false),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nxpoison".to_owned(), false),
    ] {
        let mut whole = None;
        for cut in 0..sent.len() {
            let mut world = World::new(node(backend(1)));
            let mut client = world.client();
            client.send(format!("{method} /1 HTTP/1.1\r\nHost: a\r\n\r\n"));
            let mut endpoint = world.opened();
            endpoint.read();
            endpoint.send(&sent[..cut]);
            world.run();
            // What was whole with the first part may have been the last that was wanted.
            let _ = endpoint.0.write_now(&sent.as_bytes()[cut..]);
            world.run();
            let got = client.read().replace("1\r\na\r\n2\r\nbc", "3\r\nabc").replace("2\r\nab\r\n1\r\nc", "3\r\nabc");
            assert!(!got.contains("poison"), "cut at {cut}: {got:?}");
            let before = whole.get_or_insert(got.clone());
            assert_eq!(*before, got, "cut at {cut}");
            let mut second = world.client();
            second.send(get("/2"));
            world.run();
            let reused = world.network.borrow().connects == 1;
            assert_eq!(reused, next, "cut at {cut} of {sent:?}");
            let mut endpoint = if reused { endpoint } else { world.opened() };
            endpoint.send(ok("two"));
            world.run();
            assert_eq!(second.read(), ok("two"), "cut at {cut} of {sent:?}");
        }
    }
}

/// Wherever a client breaks off, or an endpoint's answer does, the connection to the endpoint is nobody else's.
#[test]
fn what_is_broken_off_leaves_no_connection_to_others() {
    let request = post("/1", "some body");
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n\r\n";
    for sent in 0..request.len() {
        for answered in [0, 20, response.len() - 8, response.len()] {
            let mut world = World::new(node(backend(1)));
            let mut client = world.client();
            client.send(&request[..sent]);
            world.run();
            let opened = world.network.borrow_mut().opened.pop_front();
            let Some((_, stream)) = opened else {
                continue;
            };
            let mut endpoint = Peer(stream);
            endpoint.send(&response[..answered]);
            world.run();
            client.0.faults().fail(ErrorKind::ConnectionReset);
            world.run();
            assert!(
                endpoint.is_reset() || endpoint.is_ended(),
                "{sent}, {answered}"
            );
            let mut second = world.client();
            second.send(get("/2"));
            let mut other = world.opened();
            assert!(other.read().starts_with("GET /2 "));
            other.send(ok("two"));
            world.run();
            assert_eq!(second.read(), ok("two"));
        }
    }
}

/// RFC 9110 section 6.5.1, and who a client says that it is.
#[test]
fn trailers_say_nothing_that_belongs_into_a_head() {
    for name in [
        "Forwarded",
        "X-Forwarded-For",
        "Proxy-Authorization",
        "Expect",
        "Content-Range",
        "Keep-Alive",
        "Proxy-Connection",
    ] {
        let mut world = World::new(node(backend(1)));
        let mut client = world.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{name}: 1\r\n\r\n"
        ));
        world.run();
        assert_eq!(status(&client.read()), 400, "{name}");
        assert_eq!(world.metrics().rejected[Reject::Trailer as usize], 1);
        assert_eq!(world.record().flag, Some(Flag::ClientProtocol));
    }
}

/// U-07: what a client sends at once is not all served before another has its turn.
#[test]
fn u_07_many_requests_at_once_take_turns_with_others() {
    let mut world = World::new(service_with(vec![rule("/x")], backend(1)));
    let (mut many, mut one) = (world.client(), world.client());
    many.send(get("/many").repeat(100));
    one.send(get("/one"));
    world.run();
    let records = std::iter::from_fn(|| world.stage.record());
    let paths: Vec<Box<str>> = records.map(|record| record.path).collect();
    let before = paths.iter().position(|path| **path == *"/one").unwrap();
    assert!(paths.len() == 101 && before < 20, "{before} came first");
    assert_eq!(many.read().matches(" 404 ").count(), 100);
}

/// U-07: nor are interim responses of an endpoint, which are nobody's.
#[test]
fn u_07_many_interim_responses_at_once_take_turns_with_others() {
    let mut world = World::new(service());
    let (mut many, mut one) = (world.client(), world.client());
    many.send(get("/many"));
    let mut storm = world.opened();
    storm.send("HTTP/1.1 102 \r\n\r\n".repeat(100) + &ok("x"));
    one.send(get("/no\\..\\where"));
    world.run();
    let records = std::iter::from_fn(|| world.stage.record());
    let codes: Vec<u16> = records.map(|record| record.status).collect();
    assert_eq!(codes, [400, 200]);
    assert_eq!(many.read(), ok("x"));
}

/// U-07: a list of names costs more to go through than all else about a request, so it has a bound.
#[test]
fn u_07_names_in_connection_are_bounded() {
    let names = |names: usize| format!("Connection: {}\r\n", vec!["x"; names].join(","));
    for (fields, refused) in [
        (names(100), false),
        (names(101), true),
        (names(60) + &names(60), true),
        (names(5_000), true),
    ] {
        let mut world = World::new(service());
        let mut client = world.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        world.run();
        let answer = client.read();
        assert_eq!(answer.is_empty(), !refused);
        assert_eq!(
            world.metrics().rejected[Reject::HeadLength as usize],
            u64::from(refused)
        );
        if refused {
            assert_eq!(status(&answer), 431);
        }
    }
}
