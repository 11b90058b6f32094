//! What is refused: nothing of it reaches an endpoint, and it is counted by name.

use std::time::Duration;

use weft_l7::observe::Flag;
use weft_l7::{HeadLimits, Reject, ServiceConfig, ServiceLimits};

use crate::support::*;

/// Sends something that must be refused. Not a byte of it may reach an endpoint.
#[track_caller]
fn refused(input: impl AsRef<[u8]>, reject: Reject) {
    for split in [usize::MAX, 1, 5] {
        let mut world = World::new(service());
        let mut client = world.client();
        client.0.faults().split(split);
        client.send(&input);
        world.run();
        let text = String::from_utf8_lossy(input.as_ref()).into_owned();
        assert_eq!(world.network.borrow().connects, 0, "forwarded: {text:?}");
        let answer = client.read();
        assert_eq!(status(&answer), reject.status().as_u16(), "{text:?}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.ends_with(&format!(": {reject}\n")), "{answer}");
        world.pass(Duration::from_secs(2));
        assert!(client.is_ended(), "{text:?}");
        assert_eq!(world.metrics().rejected[reject as usize], 1);
        assert_eq!(world.record().detail, Some(reject.name()));
        assert_eq!(world.stage.connections(SERVICE), 0);
    }
}

fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";

/// The corpus: each line is an attack on the difference between two readers of one message.
#[test]
fn request_smuggling_is_refused() {
    let both = "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n";
    refused(
        with(both) + "0\r\n\r\n" + SMUGGLED,
        Reject::LengthAndEncoding,
    );
    let both = "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n";
    refused(
        with(both) + "0\r\n\r\n" + SMUGGLED,
        Reject::LengthAndEncoding,
    );
    let two = "Content-Length: 0\r\nContent-Length: 35\r\n";
    refused(with(two) + SMUGGLED, Reject::ContentLengthRepeated);
    refused(
        with("Content-Length: 0, 35\r\n") + SMUGGLED,
        Reject::ContentLengthRepeated,
    );
    refused(
        with("Content-Length: +0\r\n") + SMUGGLED,
        Reject::ContentLength,
    );
    refused(
        with("Content-Length : 35\r\n") + SMUGGLED,
        Reject::SpaceBeforeColon,
    );
    refused(
        with("Transfer-Encoding : chunked\r\n") + "0\r\n\r\n" + SMUGGLED,
        Reject::SpaceBeforeColon,
    );
    refused(
        with("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n" + SMUGGLED,
        Reject::TransferEncoding,
    );
    refused(
        with("Transfer-Encoding: chunked, identity\r\n") + "0\r\n\r\n" + SMUGGLED,
        Reject::TransferEncoding,
    );
    refused(
        with("Transfer-Encoding:\r\n chunked\r\n") + "0\r\n\r\n" + SMUGGLED,
        Reject::TransferEncoding,
    );
    refused(
        with("X: y\r\n Transfer-Encoding: chunked\r\n") + SMUGGLED,
        Reject::ObsFold,
    );
    refused(
        with("X: y\nTransfer-Encoding: chunked\r\n") + SMUGGLED,
        Reject::BareLf,
    );
    refused(
        with("X: y\rTransfer-Encoding: chunked\r\n") + SMUGGLED,
        Reject::BareCr,
    );
    refused(
        with("Transfer-Encoding: \x0bchunked\r\n") + "0\r\n\r\n",
        Reject::Control,
    );
    refused(
        with("Transfer-Encoding: chunked\0\r\n") + "0\r\n\r\n",
        Reject::Control,
    );
    refused(
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        Reject::HostMismatch,
    );
    refused(
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        Reject::HostRepeated,
    );
    refused("GET / HTTP/1.1\r\n\r\n", Reject::HostMissing);
    refused("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Reject::HostInvalid);
    refused(
        "GET /%2e%2e/admin HTTP/1.1\r\nHost: a\r\n\r\n",
        Reject::DotSegment,
    );
    refused("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Reject::StartLine);
    refused(
        "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n",
        Reject::Connect,
    );
    refused("GET / HTTP/3.0\r\nHost: a\r\n\r\n", Reject::Version);
    refused(
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n",
        Reject::StartLine,
    );
}

/// The head is sound and has gone ahead; the endpoint must not see the end of such a body.
#[test]
fn a_body_that_turns_bad_is_never_complete() {
    for (body, reject) in [
        ("5\r\nhelloX\r\n0\r\n\r\n", Reject::ChunkEnd),
        ("5\r\nhello\r\n0x0\r\n\r\n", Reject::ChunkSize),
        (
            "5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
            Reject::Trailer,
        ),
        ("5\r\nhello\r\n0;\nX\r\n\r\n", Reject::ChunkExtension),
        ("5\r\nhello\r\n0\r\n\n", Reject::BareLf),
    ] {
        let mut world = World::new(service());
        let mut client = world.client();
        client.send(with("Transfer-Encoding: chunked\r\n") + body + SMUGGLED);
        let mut endpoint = world.opened();
        world.pass(Duration::from_secs(2));
        assert!(endpoint.is_reset(), "{body:?}");
        let answer = client.read();
        assert_eq!(status(&answer), 400, "{answer}");
        assert!(client.is_ended());
        assert_eq!(world.metrics().rejected[reject as usize], 1, "{body:?}");
        assert_eq!(world.record().detail, Some(reject.name()));
        assert_eq!(world.network.borrow().connects, 1);
    }
}

#[test]
fn what_came_before_a_bad_request_is_answered_first() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(get("/good") + "GET / HTTP/1.1\nHost: a\n\n" + SMUGGLED);
    let mut endpoint = world.opened();
    assert_eq!(endpoint.read(), "GET /good HTTP/1.1\r\nhost: a\r\n\r\n");
    endpoint.send(ok("good"));
    world.pass(Duration::from_secs(2));
    let answers = client.read();
    let second = answers.strip_prefix(&ok("good")).unwrap();
    assert_eq!(status(second), 400);
    assert!(client.is_ended());
    assert_eq!(endpoint.read(), "");
}

#[test]
fn a_client_that_ends_its_half_still_gets_the_refusal() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send("nonsense\r\n\r\n");
    client.0.shutdown_now();
    world.run();
    assert_eq!(status(&client.read()), 400);
    assert!(client.is_ended());
}

#[test]
fn heads_are_bounded() {
    let limits = ServiceLimits {
        head: HeadLimits {
            target: 100,
            bytes: 1_000,
            fields: 10,
        },
        ..ServiceLimits::default()
    };
    let config = || ServiceConfig {
        limits,
        ..service()
    };
    for (input, code) in [
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100)),
            414,
        ),
        (format!("GET /{}", "x".repeat(5_000)), 414),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
                "x".repeat(1_000)
            ),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10)),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(5_000)),
            431,
        ),
    ] {
        let mut world = World::new(config());
        let mut client = world.client();
        client.send(&input);
        world.run();
        assert_eq!(status(&client.read()), code);
        assert_eq!(world.network.borrow().connects, 0);
    }
}

/// Slowloris: a head has a deadline from its first byte, however steadily it trickles.
#[test]
fn a_slow_head_is_answered_408() {
    let mut world = World::new(service());
    let mut client = world.client();
    for byte in get("/").bytes().take(20) {
        client.send([byte]);
        world.pass(Duration::from_millis(450));
        assert_eq!(client.read(), "");
    }
    world.pass(Duration::from_secs(2));
    let answer = client.read();
    assert_eq!(status(&answer), 408);
    assert!(client.is_ended());
    let record = world.record();
    assert_eq!(record.flag, Some(Flag::ClientTimeout));
    assert_eq!(record.total, Duration::from_secs(10));
    assert_eq!(world.stage.tasks(SERVICE), 0);
}

#[test]
fn an_idle_client_is_closed() {
    let mut world = World::new(service());
    let mut silent = world.client();
    let (mut client, _endpoint, _) = world.exchange(&get("/"), &ok(""));
    client.read();
    world.pass(Duration::from_secs(299));
    assert!(!silent.is_ended() && !client.is_ended());
    world.pass(Duration::from_secs(4));
    assert!(silent.is_ended() && client.is_ended());
    assert_eq!(world.stage.connections(SERVICE), 0);
}

#[test]
fn a_client_that_sends_no_more_of_its_body_is_reset() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(with("Content-Length: 10\r\n") + "half");
    let mut endpoint = world.opened();
    world.pass(Duration::from_secs(59));
    assert!(!client.is_reset());
    world.pass(Duration::from_secs(2));
    assert!(client.is_reset() && endpoint.is_reset());
    assert_eq!(world.metrics().stalled, 1);
    assert_eq!(world.record().flag, Some(Flag::ClientGone));
}

#[test]
fn connections_are_bounded() {
    let limits = ServiceLimits {
        connections: 2,
        ..ServiceLimits::default()
    };
    let mut world = World::new(ServiceConfig {
        limits,
        ..service()
    });
    let (first, mut second) = (world.client(), world.client());
    world.run();
    assert!(world.client().is_reset());
    assert!(!second.is_reset());
    assert_eq!(world.metrics().connections_refused, 1);
    drop(first);
    world.run();
    assert!(!world.client().is_reset());
}

#[test]
fn the_log_says_what_is_safely_known_of_a_refused_request() {
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(10_000));
    let cases = [
        (
            "POST /a/../b?q HTTP/1.1\r\nHost: a\r\n\r\n",
            Some("POST"),
            "/a/../b?q",
        ),
        (
            "GET /\u{1b}[2J HTTP/1.1\r\nHost: a\r\n\r\n",
            Some("GET"),
            "/\\x1b[2J",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            Some("GET"),
            "/",
        ),
        (long.as_str(), Some("GET"), &long[4..1_028]),
        ("G\u{1}T / HTTP/1.1\r\nHost: a\r\n\r\n", None, ""),
    ];
    for (input, method, path) in cases {
        let mut world = World::new(service());
        let mut client = world.client();
        client.send(input);
        world.run();
        world.pass(Duration::from_secs(2));
        let record = world.record();
        assert_eq!(record.flag, Some(Flag::ClientProtocol), "{input:?}");
        assert_eq!(record.method.as_ref().map(|method| method.as_str()), method);
        assert_eq!(&*record.path, path, "{input:?}");
        assert_eq!(&*record.authority, "");
    }
}
