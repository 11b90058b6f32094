//! Clients of the HTTP stage that mean harm: what they do costs them their connections, and others nothing.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, anyhow, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::http::Connection;
use weft_lab::lab::Family;
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// How long each attack goes on.
const ATTACK: Duration = Duration::from_millis(800);
/// Connections that send a header as slowly as they can.
const SLOW: usize = 200;

/// What is done over and over.
type Attack = fn() -> Result<()>;

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// `GET http://web/`, compressed by the static table (RFC 7541 appendix A).
const GET: &[u8] = b"\x82\x86\x84\x41\x03web";

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let header = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&header, payload].concat()
}

/// Sends pieces until the node has had enough. It has to end the connection, and before so many bytes.
fn flood(pieces: impl Iterator<Item = Vec<u8>>, most: usize) -> Result<()> {
    let mut connection = Connection::open_here(to(Family::V4))?;
    connection.send(PREFACE)?;
    let mut sent = 0;
    for piece in pieces {
        if connection.send(&piece).is_err() {
            break;
        }
        sent += piece.len();
        ensure!(sent < most, "{sent} bytes are taken");
    }
    let end = connection.rest().1.map_err(|error| error.kind());
    ensure!(
        !matches!(end, Err(std::io::ErrorKind::WouldBlock)),
        "the connection is open after {sent} bytes"
    );
    Ok(())
}

/// Requests that are given up as soon as they are made (CVE-2023-44487).
fn rapid_reset() -> Result<()> {
    let one = |stream: u32| {
        let reset = frame(3, 0, stream, &8u32.to_be_bytes());
        [frame(1, 5, stream, GET), reset].concat()
    };
    let batch = |number: u32| (0..1_000).flat_map(move |of| one(1 + 2 * (1_000 * number + of)));
    flood((0..1_000).map(|number| batch(number).collect()), 20_000_000)
}

/// A header that never ends (CVE-2024-24549 and others).
fn continuations() -> Result<()> {
    // A field of its own each: a literal name and value, not to be remembered.
    let field = [b"\0\x01x\x7f\x81\x7d".as_slice(), &[b'y'; 16_128]].concat();
    let more = std::iter::repeat_with(|| frame(9, 0, 1, &field));
    flood(std::iter::once(frame(1, 1, 1, GET)).chain(more), 50_000_000)
}

/// As that, of nothing at all.
fn empty_continuations() -> Result<()> {
    let many = frame(9, 0, 1, &[]).repeat(1_000);
    let more = std::iter::repeat(many);
    flood(std::iter::once(frame(1, 1, 1, GET)).chain(more), 50_000_000)
}

/// Headers of a byte now and then (slowloris): each is answered in time that it is too late.
fn slowloris() -> Result<()> {
    let open = (0..SLOW).map(|_| Connection::open_here(to(Family::V4)));
    let mut connections = open.collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    for connection in &mut connections {
        connection.send(b"GET / HTTP/1.1\r\nHost: web\r\nX: ")?;
    }
    while begun.elapsed() < ATTACK {
        thread::sleep(Duration::from_millis(50));
        for connection in &mut connections {
            let _ = connection.send(b"y"); // It may have ended.
        }
    }
    for connection in &mut connections {
        ensure!(connection.answer()?.status == 408);
    }
    ensure!(begun.elapsed() < 4 * ATTACK, "{:?}", begun.elapsed());
    Ok(())
}

/// Requests of a client that means none, on a connection that stays and on new ones, each timed.
fn times(done: &AtomicBool) -> Result<Vec<Duration>> {
    let (mut times, mut stays) = (Vec::new(), Connection::open_here(to(Family::V4))?);
    while !done.load(Ordering::Relaxed) {
        for fresh in [false, true] {
            let begun = Instant::now();
            let answer = match fresh {
                false => stays.get("/")?,
                true => Connection::open_here(to(Family::V4))?.get("/")?,
            };
            ensure!(answer.status == 200, "{answer:?}");
            times.push(begun.elapsed());
        }
        thread::sleep(Duration::from_millis(1));
    }
    times.sort_unstable();
    Ok(times)
}

/// Bytes that the node process has in memory.
fn resident(weft: &Weft) -> Result<u64> {
    let pages = std::fs::read_to_string(format!("/proc/{}/statm", weft.pid()?))?;
    let pages = pages.split(' ').nth(1).context("no resident pages")?;
    Ok(pages.parse::<u64>()? * 4096)
}

#[test]
fn u07_floods_of_http_end_their_connections_and_others_are_served_in_time() -> Result<()> {
    with_weft(|| {
        let mut site = Site::new()?;
        let neighbour = site.fixture.lab.pod("neighbour")?;
        let mut config = site.config("[http]\nhead_timeout = \"500ms\"\n")?;
        config.enrol(&neighbour, "client");
        let weft = Weft::start(&site.fixture.lab, &config)?;
        let client = &site.fixture.client.namespace;
        let before = resident(&weft)?;
        let attacks: [(&str, Attack); 4] = [
            ("rapid reset", rapid_reset),
            ("continuations", continuations),
            ("empty continuations", empty_continuations),
            ("slowloris", slowloris),
        ];
        for (name, attack) in attacks {
            let done = AtomicBool::new(false);
            let (rounds, times) = thread::scope(|scope| -> Result<_> {
                let timed = scope.spawn(|| neighbour.namespace.enter(|| times(&done))?);
                let attacked = client.enter(|| {
                    let (mut rounds, begun) = (0, Instant::now());
                    while begun.elapsed() < ATTACK {
                        attack()?;
                        rounds += 1;
                    }
                    anyhow::Ok(rounds)
                });
                done.store(true, Ordering::Relaxed);
                let times = timed.join().map_err(|_| anyhow!("it panicked"))?;
                let rounds: u32 = attacked?.context(name)?;
                Ok((rounds, times.with_context(|| format!("beside {name}"))?))
            })?;
            let [half, most] = [50, 99].map(|percent| times[times.len() * percent / 100]);
            eprintln!(
                "{name}: {rounds} rounds; {} requests beside it, {half:?}, {most:?}",
                times.len()
            );
            ensure!(
                times.len() > 50
                    && half < Duration::from_millis(100)
                    && most < Duration::from_millis(500),
                "beside {name}: {} requests, half within {half:?}, 99 % within {most:?}",
                times.len()
            );
        }
        let late = weft.counter("head_timeout")?;
        ensure!(late >= SLOW as u64, "{late} of {SLOW} were late");
        wait_until("all flows to be over", Duration::from_secs(5), || {
            weft.json(&["flows"]).is_ok_and(|flows| {
                let flows = flows["flows"].as_array();
                flows.is_some_and(|flows| flows.iter().all(|flow| flow["state"] == "closed"))
            })
        })?;
        let grown = resident(&weft)?.saturating_sub(before);
        ensure!(grown < 64 << 20, "{grown} bytes are left");
        weft.audit().map(drop)
    })
}
