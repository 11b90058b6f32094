//! Bounds of the HTTP stage: what one client, or one service, can keep from others.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, ensure};
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use weft_lab::http::Connection;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::servers::WEB_PORT;
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// Bytes that the node process has in memory.
fn resident(weft: &Weft) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", weft.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.context("no VmRSS")?.parse::<u64>()? << 10)
}

#[test]
fn u07_a_client_that_takes_nothing_is_reset_and_costs_others_nothing() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config("[http]\nstall_timeout = \"1s\"\n")?;
        let ports = [("tcp", 80, WEB_PORT)];
        config.service("other", 30, &ports).select("web").http("")?;
        let other = std::net::SocketAddr::new(pick(&vips(30), Family::V4), 80);
        let weft = Weft::start(&site.fixture.lab, &config)?;
        let client = &site.fixture.client.namespace;
        let mut neighbour = Connection::open(client, other)?;
        neighbour.get("/")?;
        let before = resident(&weft)?;
        let mut greedy = Vec::new();
        for _ in 0..20 {
            let mut connection = Connection::open(client, to(Family::V4))?;
            // 20 GB in all.
            connection.send(b"GET /bytes/1000000000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
            greedy.push(connection);
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let started = Instant::now();
            neighbour.get("/")?;
            slowest = slowest.max(started.elapsed());
        }
        ensure!(slowest < Duration::from_millis(300), "{slowest:?}");
        // Each may have its buffers full: two of 256 KiB on either side, and the stage's.
        let grown = resident(&weft)?.saturating_sub(before);
        ensure!(grown < 20 * (2 << 20), "{grown} bytes");
        wait_until(
            "the greedy ones to be given up",
            Duration::from_secs(5),
            || weft.counter("stalled").is_ok_and(|stalled| stalled == 20),
        )?;
        for connection in &mut greedy {
            let end = connection.rest().1.map_err(|error| error.kind());
            assert_eq!(end, Err(ErrorKind::ConnectionReset));
        }
        neighbour.get("/")?;
        weft.audit().map(drop)
    })
}

#[test]
fn amb12_a_service_has_as_many_connections_and_as_much_patience_as_it_is_given() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let limits = "[http]\nconnections = 3\nhead_timeout = \"300ms\"\nhead_bytes = 1000\ntarget_bytes = 100\n";
        let weft = Weft::start(&site.fixture.lab, &site.config(limits)?)?;
        let client = &site.fixture.client.namespace;
        let open = || Connection::open(client, to(Family::V4));
        let mut three = [open()?, open()?, open()?];
        for connection in &mut three {
            assert_eq!(connection.get("/")?.status, 200);
        }
        // The reset may come before the client has seen that its connection was there.
        let end = match open() {
            Ok(mut fourth) => fourth.rest().1.map_err(|error| error.kind()),
            Err(error) => Err(error
                .downcast::<std::io::Error>()
                .context("the fourth connection failed otherwise")?
                .kind()),
        };
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        assert_eq!(weft.counter("connections_refused")?, 1);
        let [slow, long, large] = &mut three;
        slow.send(b"GET / HTTP/1.1\r\nHost:")?;
        assert_eq!(slow.answer()?.status, 408);
        assert_eq!(long.get(&format!("/{}", "x".repeat(100)))?.status, 414);
        large.send(
            format!(
                "GET / HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n",
                "x".repeat(1_000)
            )
            .as_bytes(),
        )?;
        assert_eq!(large.answer()?.status, 431);
        weft.audit().map(drop)
    })
}
