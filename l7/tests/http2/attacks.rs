//! Floods, as bytes: each ends the connection within a bound, and costs no other one.

use std::time::Duration;

use weft_l7::observe::Flag;

use crate::support::{Peer, World, service};

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

/// The error of the `GOAWAY` frame among these, if there is one.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = rest.get(..length)?;
        if head[3] == GOAWAY {
            return payload.get(4..8)?.try_into().ok().map(u32::from_be_bytes);
        }
        bytes = &rest[length..];
    }
    None
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
