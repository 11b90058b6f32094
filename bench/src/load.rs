//! A steady stream of short requests in the background of a test, every one accounted for.

use crate::client::{Answer, Datagrams, Talk};
use crate::namespace::Namespace;
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// No load outlives this, whatever its test does.
const LOAD_LIMIT: Duration = Duration::from_secs(60);

/// From here on an answer counts as late. A lost SYN costs a second.
const SLOW: Duration = Duration::from_millis(500);

/// What kind of request the load repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Connect, read the greeting, close.
    Tcp,
    /// One datagram from a new port, one answer.
    Udp,
}

/// What became of the requests of a load.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Answers by server name.
    pub answers: BTreeMap<String, u64>,
    /// Requests that failed, with the time since the start and the error.
    pub failures: Vec<(Duration, String)>,
    /// Answers that reported another client than the one that asked.
    pub misrouted: Vec<String>,
    /// Requests that were answered late, each with its start since the load's and its time: a lost
    /// SYN or datagram, not a busy machine.
    pub slow: Vec<(Duration, Duration)>,
}

impl Tally {
    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    fn add(&mut self, outcome: Result<(Answer, SocketAddr)>, at: Duration, took: Duration) {
        if took >= SLOW && outcome.is_ok() {
            self.slow.push((at, took));
        }
        match outcome {
            Ok((answer, local)) => {
                if answer.client != local {
                    self.misrouted
                        .push(format!("{local} was seen as {}", answer.client));
                }
                *self.answers.entry(answer.name).or_default() += 1;
            }
            Err(error) => self.failures.push((at, format!("{error:#}"))),
        }
    }
}

/// A running load. Dropping it without [`Load::stop`] ends it too.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    start: Instant,
    thread: Option<JoinHandle<Result<Tally>>>,
}

impl Load {
    /// Starts requests from `namespace` to each of `targets` in turn, one every `interval`.
    pub fn start(
        namespace: &Namespace,
        request: Request,
        targets: Vec<SocketAddr>,
        interval: Duration,
    ) -> Self {
        let namespace = namespace.clone();
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            namespace.enter(|| repeat(request, &targets, interval, &stopped, &counter))
        });
        Self {
            stop,
            answered,
            start: Instant::now(),
            thread: Some(thread),
        }
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Time since its start, to set against the times in its [`Tally`].
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends it after the request under way.
    pub fn stop(mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the load has been stopped")?;
        thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A source port that no load has used lately.
///
/// The kernel picks ports at random and soon picks one again. Where its conntrack still knows the
/// earlier flow it changes the port of the later one, which is right but looks like a misrouted
/// packet here. These lie below the kernel's own range.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 22_000
}

fn repeat(
    request: Request,
    targets: &[SocketAddr],
    interval: Duration,
    stop: &AtomicBool,
    answered: &AtomicU64,
) -> Tally {
    let (mut tally, start) = (Tally::default(), Instant::now());
    for target in targets.iter().cycle() {
        if stop.load(Ordering::Relaxed) || start.elapsed() > LOAD_LIMIT {
            break;
        }
        let asked = Instant::now();
        let outcome = match request {
            Request::Tcp => Talk::open_here(*target).map(|talk| (talk.greeting, talk.local)),
            Request::Udp => Datagrams::open_from(next_port(), *target)
                .and_then(|datagrams| Ok((datagrams.ask()?, datagrams.local))),
        };
        if outcome.is_ok() {
            answered.fetch_add(1, Ordering::Relaxed);
        }
        tally.add(outcome, asked - start, asked.elapsed());
        thread::sleep(interval.saturating_sub(asked.elapsed()));
    }
    tally
}
