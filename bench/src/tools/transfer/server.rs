//! The server of transfers.

use super::order::{Kind, Order, Report};
use super::stream::{
    Pause, Received, expect_end, is_reset, prepare, receive, reset, send, shrink_buffers,
};
use crate::pattern::Pattern;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of the answer of a short connection.
pub(super) const SHORT: usize = 64;
/// Fates remembered.
const FATES_MAX: usize = 1024;

/// What became of connections that were to be reset, by seed.
#[derive(Debug, Default)]
pub(super) struct Fates {
    known: Mutex<HashMap<u64, Fate>>,
    news: Condvar,
}

#[derive(Debug, Clone, Copy)]
struct Fate {
    report: Report,
    reset_at: Option<Instant>,
}

impl Fates {
    fn tell(&self, seed: u64, fate: Fate) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FATES_MAX {
            known.clear();
        }
        known.insert(seed, fate);
        self.news.notify_all();
    }

    /// Waits for the fate of `seed`, at most `limit`.
    fn of(&self, seed: u64, limit: Duration) -> Option<Report> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, _) = self
            .news
            .wait_timeout_while(known, limit, |known| !known.contains_key(&seed))
            .unwrap_or_else(PoisonError::into_inner);
        let fate = known.get(&seed)?;
        Some(Report {
            reset: fate.reset_at.map(|at| at.elapsed()),
            ..fate.report
        })
    }
}

/// Serves on `port`, a thread a connection; no wait of a connection is longer than `limit`.
pub fn serve(port: u16, limit: Duration) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .with_context(|| format!("cannot listen on TCP port {port}"))?;
    accept(&listener, limit)
}

/// As [`serve`], on a listener that is there.
pub(super) fn accept(listener: &TcpListener, limit: Duration) -> ! {
    let fates = Fates::default();
    thread::scope(|scope| {
        loop {
            let Ok((stream, from)) = listener.accept() else {
                continue;
            };
            let fates = &fates;
            scope.spawn(move || {
                if let Err(error) = answer(stream, limit, fates) {
                    eprintln!("{from}: {error}");
                }
            });
        }
    })
}

fn answer(mut stream: TcpStream, limit: Duration, fates: &Fates) -> std::io::Result<()> {
    prepare(&stream, limit)?;
    let Some(order) = Order::receive(&mut stream)? else {
        return Ok(());
    };
    let (theirs, ours) = (Pattern::new(order.seed), Pattern::new(order.seed + 1));
    let mut received = Received::default();
    let pause = (!order.pause.is_zero()).then_some(Pause {
        after: order.bytes / 4,
        length: order.pause,
    });
    let sender_stall = match order.kind {
        Kind::Receive => {
            if pause.is_some() {
                shrink_buffers(&stream)?;
            }
            receive(&stream, theirs, order.bytes, pause, &mut received)?;
            expect_end(&stream)?;
            Duration::ZERO
        }
        Kind::Send => {
            // The client's receiver may stop; a pause only says that it will.
            if pause.is_some() {
                shrink_buffers(&stream)?;
            }
            send(&stream, ours, order.bytes)?
        }
        Kind::Both => {
            let (sending, receiving) = both(&stream, order, &mut received);
            receiving?;
            expect_end(&stream)?;
            sending?
        }
        Kind::Answer => {
            receive(&stream, theirs, order.bytes, None, &mut received)?;
            expect_end(&stream)?;
            send(&stream, ours, order.bytes)?
        }
        Kind::Echo => return echo(&stream),
        Kind::Once => return once(&stream, ours, pause.is_some()),
        Kind::BeReset => {
            be_reset(&stream, order, fates);
            return Ok(());
        }
        Kind::Reset => {
            // Half of what the client waits for, so that it knows: this is not all.
            let half = Order {
                bytes: order.bytes / 2,
                ..order
            };
            let (sending, receiving) = both(&stream, half, &mut received);
            receiving?;
            sending?;
            return reset(stream);
        }
        Kind::Fate => {
            let fate = fates.of(order.seed, limit).unwrap_or_default();
            fate.send(&mut stream)?;
            return Ok(());
        }
    };
    let report = Report {
        bytes: received.bytes,
        longest_stall: received.longest_stall,
        sender_stall,
        reset: None,
    };
    report.send(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// How sending ended, with the longest time in which nothing could be sent, and how receiving did.
type Ends = (std::io::Result<Duration>, std::io::Result<()>);

/// Sends and receives at once.
fn both(stream: &TcpStream, order: Order, received: &mut Received) -> Ends {
    let (theirs, ours) = (Pattern::new(order.seed), Pattern::new(order.seed + 1));
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(stream, ours, order.bytes));
        let receiving = receive(stream, theirs, order.bytes, None, received);
        (sending.join().expect("sending does not panic"), receiving)
    })
}

fn be_reset(stream: &TcpStream, order: Order, fates: &Fates) {
    let mut received = Received::default();
    let (sending, receiving) = both(stream, order, &mut received);
    // The first of the two calls to meet the reset takes its error, the other sees an end.
    let errors = [sending.err(), receiving.err()];
    let reset = errors.iter().flatten().any(is_reset);
    if !reset {
        eprintln!("to be reset, but {errors:?}");
    }
    let report = Report {
        bytes: received.bytes,
        longest_stall: received.longest_stall,
        ..Report::default()
    };
    let reset_at = reset.then(Instant::now);
    fates.tell(order.seed, Fate { report, reset_at });
}

fn echo(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while let length @ 1.. = stream.read(&mut buffer)? {
        stream.write_all(&buffer[..length])?;
    }
    Ok(())
}

/// The answer of a short connection. Who closes first is left in TIME-WAIT.
fn once(mut stream: &TcpStream, mut ours: Pattern, client_first: bool) -> std::io::Result<()> {
    let mut bytes = [0; SHORT];
    ours.fill(&mut bytes);
    stream.write_all(&bytes)?;
    if client_first {
        expect_end(stream)?;
    }
    Ok(())
}
