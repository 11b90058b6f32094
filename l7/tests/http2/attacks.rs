//! Floods, as bytes: each ends the connection within a bound, and costs no other one.

use std::time::Duration;

use weft_l7::ServiceConfig;
use weft_l7::observe::Flag;
use weft_l7::upstream::{BackendConfig, BackendProtocol};

use crate::support::{Peer, World, backend, ok, rule, service, service_with};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:method GET`, `:scheme http`, `:path /`, and `:authority a` (RFC 7541 appendix A and section 6.2.2).
const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'a'];

fn connect(world: &mut World) -> Peer {
    let mut client = world.client();
    client.send(PREFACE);
    client.send(frame(SETTINGS, 0, 0, &[]));
    world.run();
    client
}

/// The frames among these: type, stream and payload.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u32, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<9>()?;
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], stream, payload))
    })
}

/// The error of the `GOAWAY` frame among these, if there is one.
fn goaway(bytes: &[u8]) -> Option<u32> {
    let (_, _, payload) = frames(bytes).find(|(kind, ..)| *kind == GOAWAY)?;
    payload.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
}

/// Sends frames until the connection ends, and says after how many, and with which error.
fn flood(
    world: &mut World,
    client: &mut Peer,
    mut next: impl FnMut(u32) -> Vec<u8>,
) -> (u32, Option<u32>) {
    let mut answered = Vec::new();
    for count in 0..20_000 {
        if client.0.write_now(&next(count)).is_err() {
            return (count, goaway(&answered));
        }
        world.run();
        match client.0.read_now() {
            Ok(Some(bytes)) => answered.extend(bytes),
            Ok(None) | Err(_) => return (count, goaway(&answered)),
        }
        if let Some(error) = goaway(&answered) {
            return (count, Some(error));
        }
    }
    (u32::MAX, None)
}

/// CVE-2023-44487: requests that are reset before they can be looked at.
#[test]
fn rapid_reset_ends_the_connection() {
    let mut world = World::new(service());
    let mut client = connect(&mut world);
    // A turn's worth at once, as an attacker would.
    let (count, error) = flood(&mut world, &mut client, |count| {
        let streams = (0..100).map(|n| 1 + 2 * (count * 100 + n));
        let pairs = streams.map(|stream| {
            let mut pair = frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST);
            pair.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            pair
        });
        pairs.flatten().collect()
    });
    assert!(count < 5, "it ended after {count} hundreds");
    assert_eq!(error, Some(11), "ENHANCE_YOUR_CALM");
    world.pass(Duration::from_secs(100));
    assert_eq!(world.stage.tasks(crate::support::SERVICE), 0);
}

/// CVE-2024-27316 and its kin: a header without an end.
#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let mut world = World::new(service());
    let mut client = connect(&mut world);
    client.send(frame(HEADERS, END_STREAM, 1, REQUEST));
    let mut filler = vec![0x40, 1, b'x', 100];
    filler.extend([b'y'; 100]);
    let filler = filler.repeat(40);
    let (count, _) = flood(&mut world, &mut client, |_| {
        frame(CONTINUATION, 0, 1, &filler)
    });
    assert!(count < 100, "it ended after {count}");
    let mut client = connect(&mut world);
    client.send(frame(HEADERS, END_STREAM, 1, REQUEST));
    let (count, _) = flood(&mut world, &mut client, |_| frame(CONTINUATION, 0, 1, &[]));
    assert!(count < 1_000, "empty ones: it ended after {count}");
    assert_eq!(world.network.borrow().connects, 0);
}

/// A client that asks and never reads: what is owed to it is bounded.
#[test]
fn pings_that_are_never_read_are_bounded() {
    let mut world = World::new(service());
    let mut client = connect(&mut world);
    let mut sent = 0;
    for _ in 0..2_000 {
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(100);
        sent += client.0.write_now(&pings).unwrap_or(0);
        world.run();
    }
    assert!(sent < 200_000, "{sent} bytes of pings were taken");
    world.pass(Duration::from_secs(61));
    assert!(client.is_reset());
    assert_eq!(world.metrics().stalled, 1);
}

/// A body that begins and never ends, on a connection that is alive.
#[test]
fn a_body_that_stands_still_is_given_up() {
    let mut world = World::new(service());
    let mut client = connect(&mut world);
    client.send(frame(HEADERS, END_HEADERS, 1, REQUEST));
    world.run();
    client.send(frame(DATA, 0, 1, b"a beginning"));
    for _ in 0..7 {
        world.pass(Duration::from_secs(10));
        client.send(frame(PING, 0, 0, &[7; 8]));
        let _ = client.0.read_now();
    }
    let metrics = world.metrics();
    assert_eq!(metrics.flags[Flag::ClientTimeout as usize], 1);
    assert_eq!(metrics.with_status(408), 1);
}

/// A service whose endpoint speaks HTTP/1.1.
fn http1() -> ServiceConfig {
    let backend = BackendConfig {
        protocol: BackendProtocol::Http1,
        ..backend(1)
    };
    service_with(vec![rule("/")], backend)
}

/// A client that gives streams no window to begin with (RFC 9113 section 6.9.2).
fn connect_without_windows(world: &mut World) -> Peer {
    let mut client = world.client();
    client.send(PREFACE);
    client.send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    world.run();
    client
}

/// Asks on this stream, and lets the endpoint answer.
fn ask(world: &mut World, client: &mut Peer, stream: u32, response: &str) -> Peer {
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST));
    world.run();
    let mut endpoint = world.opened();
    endpoint.send(response);
    world.run();
    endpoint
}

/// A response whose stream gets no window, on a connection that is alive.
#[test]
fn a_response_that_is_not_taken_is_given_up() {
    let mut world = World::new(http1());
    let mut client = connect_without_windows(&mut world);
    // The one has more to come, of the other all waits for the client.
    let first = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na beginning";
    let _endpoints = [
        ask(&mut world, &mut client, 1, first),
        ask(&mut world, &mut client, 3, &ok("ok")),
    ];
    let mut came = Vec::new();
    for _ in 0..7 {
        world.pass(Duration::from_secs(10));
        client.send(frame(PING, 0, 0, &[7; 8]));
        world.run();
        came.extend(client.0.read_now().unwrap().unwrap());
    }
    let resets = frames(&came).filter(|(kind, ..)| *kind == RST_STREAM);
    assert_eq!(
        resets.map(|(_, stream, _)| stream).collect::<Vec<_>>(),
        [1, 3]
    );
    assert_eq!(goaway(&came), None);
    let left = world.stage.tasks(crate::support::SERVICE);
    assert_eq!(left, 1, "the client's connection, and none to an endpoint");
    let metrics = world.metrics();
    assert_eq!(metrics.flags[Flag::ClientTimeout as usize], 2);
    assert_eq!(metrics.stalled, 0);
    while let Some(record) = world.stage.record() {
        assert_eq!((record.status, record.detail), (200, Some("response")));
        assert_eq!(record.total, Duration::from_secs(60));
    }
    world.pass(Duration::from_secs(601));
    assert_eq!(world.stage.connections(crate::support::SERVICE), 0);
}

/// A client that takes a little now and then is waited for.
#[test]
fn a_response_that_is_taken_slowly_is_not_given_up() {
    let mut world = World::new(http1());
    let mut client = connect_without_windows(&mut world);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n";
    let mut endpoint = ask(&mut world, &mut client, 1, head);
    let mut taken = Vec::new();
    for _ in 0..5 {
        endpoint.send("ten bytes.");
        world.pass(Duration::from_secs(59));
        client.send(frame(WINDOW_UPDATE, 0, 1, &10u32.to_be_bytes()));
        world.run();
        let came = client.0.read_now().unwrap().unwrap();
        for (_, _, payload) in frames(&came).filter(|(kind, ..)| *kind == DATA) {
            taken.extend_from_slice(payload);
        }
        world.pass(Duration::from_secs(59)); // Nothing is there to be taken.
    }
    assert_eq!(taken, b"ten bytes.".repeat(5));
    assert_eq!(world.record().flag, None);
}
