//! HTTP/1.1 requests over many connections on one thread: as fast as they are answered, or at a given rate.
//!
//! At a given rate a request's time begins when it was due, not when a connection was free to send it, so that a
//! server that stands still is seen by all requests it should have had meanwhile (no coordinated omission).

mod connection;

use crate::machine::busy_time;
use crate::poll::Poll;
use crate::tools::percentile;
use anyhow::{Context, Result, ensure};
use connection::{Connection, Step};
use rustix::event::Timespec;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Failed requests after which a run gives up.
const MAX_FAILED: usize = 5;
/// The part of a run's time, on top, that is not measured.
const WARM_UP: f64 = 0.15;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whom.
    pub to: SocketAddr,
    /// What for: a path.
    pub path: String,
    /// Over so many connections.
    pub connections: usize,
    /// Each request over one of its own.
    pub once: bool,
    /// So many a second; as many as are answered, when `None`.
    pub rate: Option<f64>,
    /// For how long.
    pub time: Duration,
}

/// What a run came to. Times are in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Requests {
    /// Requests that were answered with 200, whole.
    pub count: usize,
    /// Requests that were not.
    pub failed: usize,
    /// How long all of them took.
    pub seconds: f64,
    /// Half were answered sooner.
    pub p50: f64,
    /// One in a hundred was answered later.
    pub p99: f64,
    /// One in a thousand was.
    pub p999: f64,
    /// Processor time of the whole machine meanwhile, in seconds.
    pub busy: f64,
}

/// Asks as planned.
pub fn run(plan: &Plan) -> Result<Requests> {
    ensure!(
        plan.connections > 0,
        "no connection at a time is none at all"
    );
    ensure!(
        plan.rate.is_none_or(|rate| rate > 0.0),
        "no request a second is none at all"
    );
    let mut load = Load::new(plan)?;
    load.run(plan.time.mul_f64(WARM_UP))?;
    load.times.clear();
    let (busy, start) = (busy_time()?, Instant::now());
    load.run(plan.time)?;
    let (seconds, busy) = (start.elapsed(), busy_time()? - busy);
    Ok(load.summarise(seconds, busy))
}

struct Load<'p> {
    plan: &'p Plan,
    request: Vec<u8>,
    poll: Poll,
    /// One place for each connection.
    places: Vec<Option<Connection>>,
    /// Places without a request.
    free: Vec<usize>,
    /// When requests were due that wait for a place.
    due: VecDeque<Instant>,
    times: Vec<Duration>,
    failed: usize,
}

impl<'p> Load<'p> {
    fn new(plan: &'p Plan) -> Result<Self> {
        let end = if plan.once {
            "Connection: close\r\n"
        } else {
            ""
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: weft-lab\r\nAccept: */*\r\n{end}\r\n",
            plan.path, plan.to
        );
        Ok(Self {
            plan,
            request: request.into_bytes(),
            poll: Poll::new()?,
            places: (0..plan.connections).map(|_| None).collect(),
            free: (0..plan.connections).rev().collect(),
            due: VecDeque::new(),
            times: Vec::new(),
            failed: 0,
        })
    }

    /// Asks for `time`, and waits for the last answer.
    fn run(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        let end = start + time;
        let mut asked = 0_u64;
        loop {
            let now = Instant::now();
            let next = match self.plan.rate {
                None => {
                    if now < end {
                        self.due.extend(self.free.iter().map(|_| now));
                    }
                    None
                }
                Some(rate) => {
                    let at = |number: u64| start + Duration::from_secs_f64(number as f64 / rate);
                    while at(asked) <= now && at(asked) < end {
                        self.due.push_back(at(asked));
                        asked += 1;
                    }
                    Some(at(asked)).filter(|next| *next < end)
                }
            };
            while let (Some(due), false) = (self.due.front().copied(), self.free.is_empty()) {
                self.due.pop_front();
                self.ask(due)?;
            }
            if self.free.len() == self.places.len() && next.is_none() && self.due.is_empty() {
                return Ok(());
            }
            self.wait(next)?;
        }
    }

    /// Sends a request at a place that is free.
    fn ask(&mut self, due: Instant) -> Result<()> {
        let Some(place) = self.free.pop() else {
            return Ok(());
        };
        if self.places[place].is_none() {
            let connection = Connection::open(self.plan.to, &self.poll, place as u64)
                .with_context(|| format!("cannot connect to {}", self.plan.to))?;
            self.places[place] = Some(connection);
        }
        if let Some(connection) = &mut self.places[place]
            && let Err(error) = connection.ask(&self.request, due)
        {
            self.fail(place, &error)?;
        }
        Ok(())
    }

    /// Takes what comes until `next`, and ends what takes too long.
    fn wait(&mut self, next: Option<Instant>) -> Result<()> {
        let wait = next.map_or(Duration::from_millis(100), |next| {
            next.saturating_duration_since(Instant::now())
        });
        let limit = Timespec {
            tv_sec: wait.as_secs().try_into()?,
            tv_nsec: wait.subsec_nanos().into(),
        };
        let events = self.poll.wait(Some(&limit))?;
        let nothing = events.is_empty() && next.is_none();
        for (place, flags) in events {
            let place = usize::try_from(place)?;
            let Some(connection) = &mut self.places[place] else {
                continue;
            };
            match connection.step(&self.request, flags) {
                Ok(Step::Waits) => {}
                Ok(Step::Answered { due, closed }) => {
                    self.times.push(due.elapsed());
                    if closed || self.plan.once {
                        self.places[place] = None;
                    }
                    self.free.push(place);
                }
                Ok(Step::Closed) => self.places[place] = None,
                Err(error) => self.fail(place, &error)?,
            }
        }
        if nothing {
            self.give_up()?;
        }
        Ok(())
    }

    fn give_up(&mut self) -> Result<()> {
        for place in 0..self.places.len() {
            let waits = self.places[place].as_ref().and_then(Connection::due);
            if waits.is_some_and(|due| due.elapsed() > ANSWER_LIMIT) {
                self.fail(place, &std::io::ErrorKind::TimedOut.into())?;
            }
        }
        Ok(())
    }

    fn fail(&mut self, place: usize, error: &std::io::Error) -> Result<()> {
        self.places[place] = None;
        self.free.push(place);
        self.failed += 1;
        ensure!(
            self.failed <= MAX_FAILED,
            "{}: {error}, after {} requests",
            self.plan.to,
            self.times.len()
        );
        Ok(())
    }

    fn summarise(mut self, seconds: Duration, busy: Duration) -> Requests {
        self.times.sort_unstable();
        let count = self.times.len();
        let at = |per_mille| percentile(&self.times, per_mille).unwrap_or(f64::NAN);
        Requests {
            count,
            failed: self.failed,
            seconds: seconds.as_secs_f64(),
            p50: at(500),
            p99: at(990),
            p999: at(999),
            busy: busy.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests;
