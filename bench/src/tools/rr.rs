//! Ping-pong of one byte: round-trip times as an application sees them.

use super::flood::any;
use super::percentile;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long one answer may take before it counts as lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Source ports of [`Transport::FreshUdp`], each used once.
const FRESH_PORTS: Range<u16> = 10_000..60_000;
/// Lost answers after which a run gives up.
const MAX_LOST: usize = 5;

/// Round-trip times of a run, in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RoundTrips {
    /// Answers that came.
    pub count: usize,
    /// Answers that did not.
    pub lost: usize,
    /// Half were faster.
    pub p50: f64,
    /// One in a hundred was slower.
    pub p99: f64,
    /// Arithmetic mean.
    pub mean: f64,
}

/// The transport to ping over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// One TCP connection.
    Tcp,
    /// One UDP socket.
    Udp,
    /// A UDP socket an exchange, each on a source port that none has had before.
    FreshUdp,
}

/// Sends one byte and waits for one, `count` times after a tenth as many to warm up.
pub fn round_trips(to: SocketAddr, transport: Transport, count: usize) -> Result<RoundTrips> {
    if transport == Transport::FreshUdp {
        return fresh_round_trips(to, count);
    }
    let mut exchange = connect(to, transport)?;
    let (mut times, mut lost) = (Vec::with_capacity(count), 0);
    for _ in 0..count / 10 {
        exchange()?;
    }
    while times.len() < count {
        let start = Instant::now();
        if exchange().is_ok() {
            times.push(start.elapsed());
        } else {
            lost += 1;
            ensure!(
                lost <= MAX_LOST,
                "{to} does not answer: {lost} of {} lost",
                times.len() + lost
            );
        }
    }
    summarise(times, lost).context("no round trip was asked for")
}

/// As [`round_trips`] over [`Transport::FreshUdp`]: what counts is the exchange, not the making of
/// the socket.
fn fresh_round_trips(to: SocketAddr, count: usize) -> Result<RoundTrips> {
    let warm_up = count / 10;
    ensure!(
        count + warm_up <= FRESH_PORTS.len(),
        "there are only {} ports",
        FRESH_PORTS.len()
    );
    let (mut times, mut lost, mut byte) = (Vec::with_capacity(count), 0, [0]);
    for (number, port) in FRESH_PORTS.enumerate() {
        if times.len() == count {
            break;
        }
        // Another program may have the port.
        let Ok(socket) = UdpSocket::bind((any(to), port)) else {
            continue;
        };
        socket.connect(to)?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        let start = Instant::now();
        let answered = socket.send(&[1]).and_then(|_| socket.recv(&mut byte));
        let time = start.elapsed();
        if answered.is_err() {
            lost += 1;
            ensure!(
                lost <= MAX_LOST,
                "{to} does not answer: {lost} of {} lost",
                times.len() + lost
            );
        } else if number >= warm_up {
            times.push(time);
        }
    }
    summarise(times, lost).context("no round trip was asked for")
}

/// One exchange as a closure; TCP cannot lose an answer and go on, UDP can.
fn connect(
    to: SocketAddr,
    transport: Transport,
) -> Result<Box<dyn FnMut() -> std::io::Result<()>>> {
    let mut byte = [0];
    match transport {
        Transport::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER_LIMIT)
                .with_context(|| format!("cannot connect to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            Ok(Box::new(move || {
                stream.write_all(&[1])?;
                stream.read_exact(&mut byte)
            }))
        }
        Transport::Udp | Transport::FreshUdp => {
            let socket = UdpSocket::bind((any(to), 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            Ok(Box::new(move || {
                socket.send(&[1])?;
                socket.recv(&mut byte).map(drop)
            }))
        }
    }
}

pub(super) fn summarise(mut times: Vec<Duration>, lost: usize) -> Option<RoundTrips> {
    times.sort_unstable();
    let micros = |time: &Duration| time.as_nanos() as f64 / 1000.0;
    let count = times.len();
    Some(RoundTrips {
        count,
        lost,
        p50: percentile(&times, 500)?,
        p99: percentile(&times, 990)?,
        mean: times.iter().map(micros).sum::<f64>() / count as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_sockets_never_share_a_source_port() {
        let server = UdpSocket::bind("[::1]:0").unwrap();
        let to = server.local_addr().unwrap();
        let ports = std::thread::spawn(move || {
            let mut byte = [0];
            let mut answer = || {
                let (_, from) = server.recv_from(&mut byte).unwrap();
                server.send_to(&byte, from).unwrap();
                from.port()
            };
            (0..33)
                .map(|_| answer())
                .collect::<std::collections::BTreeSet<_>>()
        });
        let found = round_trips(to, Transport::FreshUdp, 30).unwrap();
        assert_eq!((found.count, found.lost), (30, 0));
        assert_eq!(ports.join().unwrap().len(), 33);
    }

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = (1..=100).rev().map(Duration::from_micros).collect();
        let summary = summarise(times, 0).unwrap();
        assert_eq!(
            (summary.p50, summary.p99, summary.count),
            (51.0, 100.0, 100)
        );
        assert!(summarise(Vec::new(), 3).is_none());
    }
}
