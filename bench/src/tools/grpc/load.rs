//! The client: a closed loop of unary calls.

use crate::grpc::{Calls, ECHO, echo_request, runtime};
use crate::machine::busy_time;
use crate::tools::percentile;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long a stream waits after a call that failed: a server that is not there fails at once.
const AFTER_AN_ERROR: Duration = Duration::from_millis(10);

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Where to.
    pub to: SocketAddr,
    /// Over how many connections.
    pub connections: usize,
    /// Calls at once on each.
    pub streams: usize,
    /// For how long, after a tenth of it to warm up.
    pub time: Duration,
    /// Bytes of a request, at least four.
    pub bytes: usize,
    /// Bytes of an answer.
    pub answer: u32,
}

/// What a load came to. Times are in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Found {
    /// Calls that were answered, whole.
    pub calls: usize,
    /// Calls that were not.
    pub errors: usize,
    /// From the first call to the end of the last.
    pub seconds: f64,
    /// Calls a second.
    pub rate: f64,
    /// Half were faster.
    pub p50: f64,
    /// One in a hundred was slower.
    pub p99: f64,
    /// Processor time of the whole machine meanwhile, in seconds.
    pub busy: f64,
}

/// What one stream of calls came to.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    errors: usize,
}

impl Load {
    /// Calls, on this thread alone. Calls that fail are counted; a server that does not even take the first is an error.
    pub fn run(self) -> Result<Found> {
        ensure!(
            self.connections > 0 && self.streams > 0,
            "no call at a time is none at all"
        );
        runtime()?.block_on(self.calls())
    }

    async fn calls(self) -> Result<Found> {
        let request = echo_request(self.bytes, self.answer);
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let mut calls = Calls::open(self.to).await?;
            let answer = calls.unary(ECHO, request.clone()).await;
            answer.with_context(|| format!("{} does not serve", self.to))?;
            connections.push(calls);
        }
        // The first ones meet cold caches.
        self.all(&connections, &request, self.time / 10).await?;
        let (busy, start) = (busy_time()?, Instant::now());
        let seen = self.all(&connections, &request, self.time).await?;
        let (seconds, busy) = (start.elapsed().as_secs_f64(), busy_time()? - busy);
        Ok(summarise(seen, seconds, busy))
    }

    /// All streams of all connections, until the time is over.
    async fn all(&self, connections: &[Calls], request: &Bytes, time: Duration) -> Result<Seen> {
        let (answer, until) = (self.answer as usize, Instant::now() + time);
        let mut streams = JoinSet::new();
        for calls in connections {
            for _ in 0..self.streams {
                streams.spawn(one_after_another(
                    calls.clone(),
                    request.clone(),
                    answer,
                    until,
                ));
            }
        }
        let mut all = Seen::default();
        while let Some(seen) = streams.join_next().await {
            let seen = seen?;
            all.times.extend(seen.times);
            all.errors += seen.errors;
        }
        Ok(all)
    }
}

async fn one_after_another(
    mut calls: Calls,
    request: Bytes,
    answer: usize,
    until: Instant,
) -> Seen {
    let mut seen = Seen::default();
    loop {
        let begun = Instant::now();
        if begun >= until {
            return seen;
        }
        match calls.unary(ECHO, request.clone()).await {
            Ok(said) if said.len() == answer => seen.times.push(begun.elapsed()),
            _ => {
                seen.errors += 1;
                tokio::time::sleep(AFTER_AN_ERROR).await;
            }
        }
    }
}

fn summarise(mut seen: Seen, seconds: f64, busy: Duration) -> Found {
    seen.times.sort_unstable();
    let calls = seen.times.len();
    let at = |per_mille| percentile(&seen.times, per_mille).unwrap_or(0.0);
    Found {
        calls,
        errors: seen.errors,
        seconds,
        rate: calls as f64 / seconds,
        p50: at(500),
        p99: at(990),
        busy: busy.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::serve::serve_on;
    use super::*;
    use crate::grpc::{FAIL, Order};
    use bytes::BytesMut;
    use std::net::TcpListener;
    use tonic::Code;

    fn server() -> SocketAddr {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || serve_on(listener, "a"));
        to
    }

    #[test]
    fn calls_are_answered_and_counted_once() {
        let load = Load {
            to: server(),
            connections: 2,
            streams: 3,
            time: Duration::from_millis(100),
            bytes: 1000,
            answer: 100_000,
        };
        let found = load.run().unwrap();
        assert_eq!(found.errors, 0);
        assert!(
            found.calls >= 6 && found.p50 <= found.p99 && found.p50 > 0.0,
            "{found:?}"
        );
    }

    #[test]
    fn every_method_does_what_it_is_asked_for() {
        let to = server();
        let calls = async {
            let mut calls = Calls::open(to).await.unwrap();
            assert!(calls.who().await.unwrap().starts_with("a ::1 "));
            let order = Order {
                messages: 3,
                bytes: 70_000,
                code: Code::DataLoss as i32,
            };
            let failed = calls.unary(FAIL, order.encode()).await.unwrap_err();
            assert_eq!(failed.code(), Code::DataLoss);
            let mut messages = calls.stream(order).await.unwrap();
            for _ in 0..3 {
                assert_eq!(messages.message().await.unwrap().unwrap().len(), 70_000);
            }
            let failed = messages.message().await.unwrap_err();
            assert_eq!(failed.code(), Code::DataLoss);
            let said = ["a", "bc"].map(|text| BytesMut::from(text).freeze());
            let mut heard = calls.talk(tokio_stream::iter(said)).await.unwrap();
            assert_eq!(heard.message().await.unwrap().unwrap(), "a");
            assert_eq!(heard.message().await.unwrap().unwrap(), "bc");
            assert!(heard.message().await.unwrap().is_none());
            let unknown = calls.unary("/weft.Lab/None", Bytes::new()).await;
            assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
        };
        runtime().unwrap().block_on(calls);
    }
}
