//! The client of transfers.

use super::order::{Kind, Order, Report};
use super::server::SHORT;
use super::stream::{
    Pause, Received, expect_end, is_reset, prepare, receive, reset, send, shrink_buffers,
};
use super::{Mode, Transfer};
use crate::pattern::Pattern;
use crate::tools::rr::summarise;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// What a run shall do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The server.
    pub to: SocketAddr,
    /// What to do.
    pub mode: Mode,
    /// Bytes of each direction that carries any.
    pub bytes: u64,
    /// Pings or connections.
    pub count: usize,
    /// How long a receiver stops.
    pub pause: Duration,
    /// How long the client waits for anything.
    pub limit: Duration,
    /// The seed of what is sent. Runs at one server at a time have other ones.
    pub seed: u64,
}

/// Runs it to the end. Whatever is not as it should be is an error.
pub fn run(plan: Plan) -> Result<Transfer> {
    match plan.mode {
        Mode::Ping => ping(plan),
        Mode::Connections => connections(plan),
        Mode::Abort => abort(plan),
        Mode::Aborted => aborted(plan),
        _ => transfer(plan),
    }
}

/// A connection with its order sent, and when it began.
struct Begun {
    stream: TcpStream,
    start: Instant,
    connected: Duration,
}

impl Plan {
    fn begin(self, kind: Kind, seed: u64, pause: Duration) -> Result<Begun> {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&self.to, self.limit)
            .with_context(|| format!("cannot connect to {}", self.to))?;
        let connected = start.elapsed();
        prepare(&stream, self.limit)?;
        let order = Order {
            kind,
            seed,
            bytes: self.bytes,
            pause,
        };
        order.send(&mut stream).context("cannot send")?;
        Ok(Begun {
            stream,
            start,
            connected,
        })
    }

    fn theirs(self) -> Pattern {
        Pattern::new(self.seed + 1)
    }

    fn ours(self) -> Pattern {
        Pattern::new(self.seed)
    }
}

fn transfer(plan: Plan) -> Result<Transfer> {
    let (kind, pause) = match plan.mode {
        Mode::Upload => (Kind::Receive, Duration::ZERO),
        Mode::Download => (Kind::Send, Duration::ZERO),
        Mode::Both => (Kind::Both, Duration::ZERO),
        Mode::HalfClose => (Kind::Answer, Duration::ZERO),
        Mode::StallUpload => (Kind::Receive, plan.pause),
        Mode::StallDownload => (Kind::Send, plan.pause),
        Mode::Ping | Mode::Connections | Mode::Abort | Mode::Aborted => bail!("no bulk transfer"),
    };
    let begun = plan.begin(kind, plan.seed, pause)?;
    let (mut stream, sends) = (&begun.stream, kind != Kind::Send);
    if !pause.is_zero() {
        shrink_buffers(stream)?;
    }
    let mut received = Received::default();
    let sent = thread::scope(|scope| {
        let sending = (kind == Kind::Both).then(|| scope.spawn(|| upload(stream, plan)));
        let mut sent = Duration::ZERO;
        if sends && sending.is_none() {
            sent = upload(stream, plan)?;
        }
        if kind != Kind::Receive {
            let pause = (plan.mode == Mode::StallDownload).then_some(Pause {
                after: plan.bytes / 4,
                length: pause,
            });
            receive(stream, plan.theirs(), plan.bytes, pause, &mut received)
                .context("receiving")?;
        }
        if let Some(sending) = sending {
            sent = sending.join().expect("sending does not panic")?;
        }
        Ok::<_, anyhow::Error>(sent)
    })?;
    let report = Report::receive(&mut stream).context("waiting for the server's report")?;
    expect_end(stream).context("after the server's report")?;
    let seconds = begun.start.elapsed();
    let expected = if sends { plan.bytes } else { 0 };
    ensure!(report.bytes == expected, "{expected} bytes: {report:?}");
    let bytes = report.bytes + received.bytes;
    Ok(Transfer {
        longest_stall: millis(report.longest_stall.max(received.longest_stall)),
        sender_stall: millis(sent.max(report.sender_stall)),
        ..outcome(plan, bytes, seconds, begun.connected)
    })
}

/// Sends everything, then the end.
fn upload(stream: &TcpStream, plan: Plan) -> Result<Duration> {
    let sent = send(stream, plan.ours(), plan.bytes).context("sending")?;
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

fn ping(plan: Plan) -> Result<Transfer> {
    let begun = plan.begin(Kind::Echo, plan.seed, Duration::ZERO)?;
    let mut stream = &begun.stream;
    let (mut ours, mut times) = (plan.ours(), Vec::with_capacity(plan.count));
    let mut sent = [0];
    for number in 0..plan.count {
        ours.fill(&mut sent);
        let (start, mut came) = (Instant::now(), [0]);
        stream.write_all(&sent)?;
        stream
            .read_exact(&mut came)
            .with_context(|| format!("ping {number}"))?;
        times.push(start.elapsed());
        ensure!(
            came == sent,
            "ping {number}: {sent:?} came back as {came:?}"
        );
    }
    stream.shutdown(Shutdown::Write)?;
    expect_end(stream)?;
    let seconds = begun.start.elapsed();
    let longest = times.iter().max().copied().unwrap_or_default();
    Ok(Transfer {
        longest_stall: millis(longest),
        round_trips: summarise(times, 0),
        ..outcome(plan, plan.count as u64, seconds, begun.connected)
    })
}

fn connections(plan: Plan) -> Result<Transfer> {
    let (start, mut times) = (Instant::now(), Vec::with_capacity(plan.count));
    let mut connected = Duration::ZERO;
    for number in 0..plan.count {
        let client_first = number % 2 == 1;
        let begun = short(plan, plan.seed + number as u64, client_first)
            .with_context(|| format!("connection {number}"))?;
        times.push(begun.start.elapsed());
        connected = connected.max(begun.connected);
    }
    let bytes = (times.len() * SHORT) as u64;
    let longest = times.iter().max().copied().unwrap_or_default();
    Ok(Transfer {
        longest_stall: millis(longest),
        round_trips: summarise(times, 0),
        ..outcome(plan, bytes, start.elapsed(), connected)
    })
}

/// One short connection; a pause in its order says that the client closes first.
fn short(plan: Plan, seed: u64, client_first: bool) -> Result<Begun> {
    let pause = Duration::from_micros(client_first.into());
    let begun = plan.begin(Kind::Once, seed, pause)?;
    let (mut stream, mut bytes) = (&begun.stream, [0; SHORT]);
    stream.read_exact(&mut bytes).context("no answer")?;
    if let Err(mismatch) = Pattern::new(seed + 1).check(&bytes) {
        bail!("a wrong answer: {mismatch:?}");
    }
    if client_first {
        stream.shutdown(Shutdown::Write)?;
    }
    expect_end(stream).context("no end")?;
    Ok(begun)
}

/// Both ends send; this one resets in the middle, and asks on another connection what the server saw.
fn abort(plan: Plan) -> Result<Transfer> {
    let begun = plan.begin(Kind::BeReset, plan.seed, Duration::ZERO)?;
    let (half, mut received) = (plan.bytes / 2, Received::default());
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&begun.stream, plan.ours(), half));
        receive(&begun.stream, plan.theirs(), half, None, &mut received)?;
        sending.join().expect("sending does not panic")
    })
    .context("before the reset")?;
    let reset_at = Instant::now();
    reset(begun.stream)?;
    let mut asked = plan.begin(Kind::Fate, plan.seed, Duration::ZERO)?;
    let fate = Report::receive(&mut asked.stream).context("asking for the fate")?;
    let since = reset_at.elapsed();
    let age = fate.reset.with_context(|| {
        format!("the server saw no reset, but an end or nothing after {fate:?}")
    })?;
    ensure!(fate.bytes < plan.bytes, "all of it arrived: {fate:?}");
    Ok(Transfer {
        longest_stall: millis(fate.longest_stall.max(received.longest_stall)),
        notice: Some(millis(since.saturating_sub(age))),
        ..outcome(
            plan,
            fate.bytes + received.bytes,
            begun.start.elapsed(),
            begun.connected,
        )
    })
}

/// Both ends send; the server resets in the middle, which this end has to notice.
fn aborted(plan: Plan) -> Result<Transfer> {
    let begun = plan.begin(Kind::Reset, plan.seed, Duration::ZERO)?;
    let (stream, mut received) = (&begun.stream, Received::default());
    let ends = thread::scope(|scope| {
        let sending = scope.spawn(|| send(stream, plan.ours(), plan.bytes));
        let receiving = receive(stream, plan.theirs(), plan.bytes, None, &mut received);
        [
            receiving,
            sending.join().expect("sending does not panic").map(drop),
        ]
    });
    // The first of the two calls to meet the reset takes its error, the other sees an end.
    let reset = ends.iter().any(|end| end.as_ref().is_err_and(is_reset));
    ensure!(reset, "no reset, but {ends:?}");
    ensure!(received.bytes < plan.bytes, "all of it arrived");
    let last = received.last.unwrap_or(begun.start);
    Ok(Transfer {
        longest_stall: millis(received.longest_stall),
        notice: Some(millis(last.elapsed())),
        ..outcome(plan, received.bytes, begun.start.elapsed(), begun.connected)
    })
}

fn outcome(plan: Plan, bytes: u64, time: Duration, connected: Duration) -> Transfer {
    let seconds = time.as_secs_f64();
    Transfer {
        mode: plan.mode,
        bytes,
        seconds,
        goodput: bytes as f64 * 8.0 / seconds / 1e6,
        connect: millis(connected),
        longest_stall: 0.0,
        sender_stall: 0.0,
        notice: None,
        round_trips: None,
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
