//! Short TCP connections one after another: connect, request, response, close.

use super::percentile;
use crate::machine::busy_time;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of the request and of the response.
pub const MESSAGE: usize = 64;
/// How long one step of a connection may take before the connection counts as failed.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(1);
/// Failed connections after which a run gives up.
pub(super) const MAX_FAILED: usize = 5;

/// What a run of connections came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Connections {
    /// Connections that were served to the end.
    pub count: usize,
    /// Connections that were not.
    pub failed: usize,
    /// How long all of them took.
    pub seconds: f64,
    /// The 99th percentile of their times, in microseconds.
    pub p99: f64,
    /// Processor time of the whole machine meanwhile, in seconds.
    pub busy: f64,
}

/// Connects to `to` again and again, until `limit` has passed or `count` connections are made.
pub fn connections(to: SocketAddr, count: usize, limit: Duration) -> Result<Connections> {
    // The first ones meet cold caches.
    for _ in 0..count / 20 {
        exchange(to).with_context(|| format!("{to} does not serve"))?;
    }
    let (busy, start) = (busy_time()?, Instant::now());
    let (mut times, mut failed) = (Vec::with_capacity(count), 0);
    while times.len() + failed < count && start.elapsed() < limit {
        let begun = Instant::now();
        match exchange(to) {
            Ok(()) => times.push(begun.elapsed()),
            Err(error) => {
                failed += 1;
                ensure!(
                    failed <= MAX_FAILED,
                    "{to}: {error}, after {} connections",
                    times.len()
                );
            }
        }
    }
    let seconds = start.elapsed();
    Ok(summarise(times, failed, seconds, busy_time()? - busy))
}

/// What `times` of connections come to, made within `whole` while the processors ran for `busy`.
pub(super) fn summarise(
    mut times: Vec<Duration>,
    failed: usize,
    whole: Duration,
    busy: Duration,
) -> Connections {
    let count = times.len();
    times.sort_unstable();
    Connections {
        count,
        failed,
        seconds: whole.as_secs_f64(),
        p99: percentile(&times, 990).unwrap_or(0.0),
        busy: busy.as_secs_f64(),
    }
}

/// One connection; the server closes first, so that the client's port is free at once.
fn exchange(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, STEP_LIMIT)?;
    stream.set_read_timeout(Some(STEP_LIMIT))?;
    stream.write_all(&[1; MESSAGE])?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(std::io::Error::other("the server says too much")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn every_connection_is_counted_once() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || crate::tools::serve::answer_once(&listener));
        let found = connections(to, 40, STEP_LIMIT).unwrap();
        assert_eq!((found.count, found.failed), (40, 0));
    }
}
