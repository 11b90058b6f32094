//! What is passed on, and how.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Version};
use weft_l7::observe::{Flag, Protocol};
use weft_l7::upstream::{BackendConfig, BackendLimits, BackendProtocol};
use weft_l7::{Reject, ServiceConfig, Source};

use crate::driver::{Driver, body, get, read};
use crate::support::{World, backend, ok, rule, service, service_with};

/// Section 4.2, GRPCRoute and BackendProtocolH2C: trailers are preserved from end to end.
#[test]
fn grpc_passes_with_its_trailers() {
    let mut world = World::new(service());
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    let request = Request::post("http://a/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body(&["one", "two"], None))
        .unwrap();
    let answer = client.send_request(request);
    let endpoint = driver.opened(&mut world);
    driver.endpoint(endpoint, |request| async move {
        assert_eq!(
            (request.version(), request.headers()["te"].as_bytes()),
            (Version::HTTP_2, &b"trailers"[..])
        );
        assert_eq!(request.uri(), "http://a/pkg.Service/Call");
        let seen = http_body_util::BodyExt::collect(request.into_body())
            .await
            .unwrap();
        assert_eq!(seen.to_bytes(), "onetwo");
        let response = Response::builder().header("content-type", "application/grpc");
        response
            .body(body(&["three"], Some(("grpc-status", "0"))))
            .unwrap()
    });
    let response = driver.wait(&mut world, answer).unwrap().unwrap();
    assert_eq!(
        (response.status(), response.version()),
        (StatusCode::OK, Version::HTTP_2)
    );
    let (text, trailers) = driver.wait(&mut world, read(response)).unwrap();
    assert_eq!(text, "three");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    let record = world.record();
    assert_eq!(
        (record.protocol, record.status, record.flag),
        (Protocol::Http2, 200, None)
    );
    assert_eq!((record.received, record.sent), (6, 5));
}

/// Section 4.2, HTTP correctness: what frames or authorizes a message has no place behind its body, on either leg (RFC 9110 section 6.5.1).
#[test]
fn trailers_of_the_head_s_fields_do_not_pass() {
    let mut world = World::new(service());
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    let request = Request::post("http://a/")
        .header("te", "trailers")
        .body(body(&["one"], Some(("authorization", "me"))))
        .unwrap();
    let answer = client.send_request(request);
    let endpoint = driver.opened(&mut world);
    driver.endpoint(endpoint, |request| async move {
        let seen = http_body_util::BodyExt::collect(request.into_body())
            .await
            .unwrap();
        assert!(seen.trailers().is_none_or(HeaderMap::is_empty));
        assert_eq!(seen.to_bytes(), "one");
        Response::new(body(&["two"], Some(("set-cookie", "id=1"))))
    });
    let response = driver.wait(&mut world, answer).unwrap().unwrap();
    let (text, trailers) = driver.wait(&mut world, read(response)).unwrap();
    assert_eq!(text, "two");
    assert!(trailers.is_none_or(|trailers| trailers.is_empty()));
}

/// Section 4.2, HTTP correctness: what HTTP/1.1 could not say does not pass from HTTP/2, in either direction.
#[test]
fn heads_that_http1_could_not_carry_do_not_pass() {
    let name = |name: String| HeaderName::from_lowercase(name.as_bytes()).unwrap();
    let many: Vec<_> = (0..99).map(|n| name(format!("x-{n}"))).collect();
    for names in [vec![name("x-\"y".to_owned())], many] {
        let reason = if names.len() == 1 {
            Reject::FieldName
        } else {
            Reject::HeadLength
        };
        for from_client in [true, false] {
            let mut world = World::new(service());
            let driver = Driver::default();
            let mut client = driver.client(&mut world);
            let mut request = Request::get("http://a/");
            for name in names.iter().filter(|_| from_client) {
                request = request.header(name, "1");
            }
            let answer = client.send_request(request.body(body(&[], None)).unwrap());
            if !from_client {
                let names = names.clone();
                let endpoint = driver.opened(&mut world);
                driver.endpoint(endpoint, move |_| {
                    let names = names.clone();
                    async move {
                        let mut response = Response::builder();
                        for name in &names {
                            response = response.header(name, "1");
                        }
                        response.body(body(&["two"], None)).unwrap()
                    }
                });
            }
            let response = driver.wait(&mut world, answer).unwrap().unwrap();
            let record = world.record();
            let (flag, status) = match (from_client, reason) {
                (true, Reject::HeadLength) => (Flag::ClientProtocol, 431),
                (true, _) => (Flag::ClientProtocol, 400),
                (false, _) => (Flag::UpstreamProtocol, 502),
            };
            assert_eq!(response.status(), status);
            assert_eq!(
                (record.flag, record.detail),
                (Some(flag), Some(reason.name()))
            );
        }
    }
}

#[test]
fn streams_share_one_connection() {
    let mut world = World::new(service());
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    let answers: Vec<_> = (0..20)
        .map(|n| client.send_request(get(&format!("http://a/{n}"))))
        .collect();
    let endpoint = driver.opened(&mut world);
    driver.endpoint(endpoint, |request| async move {
        Response::new(body(&[request.uri().path().to_owned().leak()], None))
    });
    for (n, answer) in answers.into_iter().enumerate() {
        let response = driver.wait(&mut world, answer).unwrap().unwrap();
        let (text, _) = driver.wait(&mut world, read(response)).unwrap();
        assert_eq!(text, format!("/{n}"));
    }
    assert_eq!(world.network.borrow().connects, 1);
}

#[test]
fn streams_beyond_a_connection_get_another_or_wait() {
    let limits = BackendLimits {
        streams: 1,
        connections: 2,
        ..BackendLimits::default()
    };
    let mut world = World::new(service_with(
        vec![rule("/")],
        BackendConfig {
            limits,
            ..backend(1)
        },
    ));
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    let answers: Vec<_> = (0..5)
        .map(|_| client.send_request(get("http://a/")))
        .collect();
    for _ in 0..2 {
        driver.round(&mut world);
        driver.round(&mut world);
        let endpoint = driver.opened(&mut world);
        driver.endpoint(endpoint, |_| async { Response::new(body(&["x"], None)) });
    }
    for answer in answers {
        let response = driver.wait(&mut world, answer).unwrap().unwrap();
        driver.wait(&mut world, read(response)).unwrap();
    }
    assert_eq!(world.network.borrow().connects, 2);
}

/// A client of HTTP/2 before an endpoint of HTTP/1.1, and the other way round.
#[test]
fn protocols_are_translated() {
    let speaking = |protocol| {
        let backend = BackendConfig {
            protocol,
            ..backend(1)
        };
        World::new(service_with(vec![rule("/")], backend))
    };
    let driver = Driver::default();
    let mut world = speaking(BackendProtocol::Http1);
    let mut client = driver.client(&mut world);
    let request = Request::get("http://a/x?y")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(body(&[], None))
        .unwrap();
    let answer = client.send_request(request);
    driver.round(&mut world);
    let mut endpoint = driver.opened(&mut world);
    let seen = endpoint.read();
    assert_eq!(
        seen,
        "GET /x?y HTTP/1.1\r\ncookie: a=1; b=2\r\nhost: a\r\n\r\n"
    );
    endpoint.send(ok("one"));
    let response = driver.wait(&mut world, answer).unwrap().unwrap();
    assert_eq!(driver.wait(&mut world, read(response)).unwrap().0, "one");

    let mut world = speaking(BackendProtocol::H2c);
    let mut client = world.client();
    client.send(
        "POST /x HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    );
    let endpoint = driver.opened(&mut world);
    driver.endpoint(endpoint, |request| async move {
        assert_eq!(request.uri(), "http://a:80/x");
        assert!(!request.headers().contains_key("transfer-encoding"));
        Response::new(body(&["two"], None))
    });
    for _ in 0..20 {
        driver.round(&mut world);
    }
    let answer = client.read();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("two"),
        "{answer}"
    );
}

#[test]
fn failures_have_a_status() {
    let mut world = World::new(service_with(vec![rule("/a")], backend(0)));
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    for (path, code, flag) in [("/b", 404, Flag::NoRoute), ("/a", 503, Flag::NoEndpoint)] {
        let answer = client.send_request(get(&format!("http://h{path}")));
        let response = driver.wait(&mut world, answer).unwrap().unwrap();
        assert_eq!(response.status(), code);
        driver.wait(&mut world, read(response)).unwrap();
        assert_eq!(world.record().flag, Some(flag));
    }
}

/// Section 4.2, GRPCRoute: `grpc-status` on errors, UNAVAILABLE where there is no endpoint.
#[test]
fn grpc_failures_have_a_status_of_grpc() {
    let mut world = World::new(service_with(vec![rule("/a")], backend(0)));
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    for (path, code, flag) in [("/b", "12", Flag::NoRoute), ("/a", "14", Flag::NoEndpoint)] {
        let request = Request::post(format!("http://h{path}"))
            .header("content-type", "application/grpc+proto")
            .body(body(&["x"], None))
            .unwrap();
        let answer = client.send_request(request);
        let response = driver.wait(&mut world, answer).unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], code);
        assert_eq!(response.headers()["grpc-message"], flag.name());
        driver.wait(&mut world, read(response)).unwrap();
        assert_eq!(world.record().flag, Some(flag));
    }
}

/// What would be an attack in HTTP/1.1 is not made one by translation.
#[test]
fn what_cannot_be_passed_on_is_refused() {
    let mut world = World::new(ServiceConfig {
        source: Source::Node,
        ..service()
    });
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    let with = |url: &str, name: &'static str, value: &'static str| {
        Request::get(url)
            .header(name, value)
            .body(body(&[], None))
            .unwrap()
    };
    for (request, reject) in [
        (get("http://a/x/../y"), Reject::DotSegment),
        (get("http://a/%2e%2e/y"), Reject::DotSegment),
        (with("http://a/", "host", "b"), Reject::HostMismatch),
    ] {
        let answer = client.send_request(request);
        let response = driver.wait(&mut world, answer).unwrap().unwrap();
        assert_eq!(response.status(), 400, "{reject}");
        driver.wait(&mut world, read(response)).unwrap();
        assert_eq!(world.record().detail, Some(reject.name()));
    }
    assert_eq!(world.metrics().rejected[Reject::DotSegment as usize], 2);
    assert_eq!(world.network.borrow().connects, 0);
}

#[test]
fn a_response_that_breaks_off_resets_its_stream_only() {
    let mut world = World::new(service_with(
        vec![rule("/")],
        BackendConfig {
            protocol: BackendProtocol::Http1,
            ..backend(1)
        },
    ));
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    let answer = client.send_request(get("http://a/cut"));
    driver.round(&mut world);
    let mut endpoint = driver.opened(&mut world);
    endpoint.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    let response = driver.wait(&mut world, answer).unwrap().unwrap();
    drop(endpoint);
    let collected = http_body_util::BodyExt::collect(response.into_body());
    assert!(driver.wait(&mut world, collected).unwrap().is_err());
    assert_eq!(world.record().flag, Some(Flag::UpstreamCut));
    let answer = client.send_request(get("http://a/next"));
    driver.round(&mut world);
    let mut endpoint = driver.opened(&mut world);
    endpoint.send(ok("next"));
    let response = driver.wait(&mut world, answer).unwrap().unwrap();
    assert_eq!(response.status(), 200);
}

#[test]
fn idle_connections_end_on_both_sides() {
    let mut world = World::new(service());
    let driver = Driver::default();
    let mut client = driver.client(&mut world);
    let answer = client.send_request(get("http://a/"));
    let endpoint = driver.opened(&mut world);
    driver.endpoint(endpoint, |_| async { Response::new(body(&["x"], None)) });
    let response = driver.wait(&mut world, answer).unwrap().unwrap();
    driver.wait(&mut world, read(response)).unwrap();
    let before = world.stage.tasks(super::support::SERVICE);
    world.pass(Duration::from_secs(61));
    for _ in 0..10 {
        driver.round(&mut world);
    }
    let between = world.stage.tasks(super::support::SERVICE);
    assert!(
        between < before,
        "the endpoint's connection was idle: {before} to {between} tasks"
    );
    assert!(!client.is_closed());
    world.pass(Duration::from_secs(300));
    for _ in 0..10 {
        driver.round(&mut world);
    }
    assert!(client.is_closed());
    assert_eq!(world.stage.connections(super::support::SERVICE), 0);
}

#[test]
fn an_endpoint_that_speaks_http1_only_is_told_by_name() {
    for answer in [
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "<html>",
    ] {
        let mut world = World::new(service());
        let driver = Driver::default();
        let mut client = driver.client(&mut world);
        let asked = client.send_request(get("http://a/"));
        driver.round(&mut world);
        let mut endpoint = driver.opened(&mut world);
        endpoint.send(answer);
        drop(endpoint);
        let response = driver.wait(&mut world, asked).unwrap().unwrap();
        assert_eq!(response.status(), 502);
        let (text, _) = driver.wait(&mut world, read(response)).unwrap();
        assert!(text.contains("does not speak it without TLS"), "{text}");
        let record = world.record();
        assert_eq!(record.flag, Some(Flag::UpstreamProtocol));
        assert_eq!(record.detail, Some("no_http2"));
    }
}
