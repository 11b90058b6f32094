//! The clients.

use crate::machine::busy_time;
use crate::poll::Poll;
use crate::tools::crr::{Connections, MAX_FAILED, MESSAGE, STEP_LIMIT, summarise};
use anyhow::{Context, Result, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read, write};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often connections that have come to a halt are looked for.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Connects to `to` again and again, `at_once` connections at a time, until `limit` has passed or `count`
/// connections are made.
pub fn connections(
    to: SocketAddr,
    at_once: usize,
    count: usize,
    limit: Duration,
) -> Result<Connections> {
    ensure!(at_once > 0, "no connection at a time is none at all");
    // The first ones meet cold caches.
    let warm_up = Crowd::new(to, at_once)?.run(count.div_ceil(20), limit)?;
    ensure!(warm_up.failed == 0, "{to} does not serve");
    let mut crowd = Crowd::new(to, at_once)?;
    crowd.times.reserve(count);
    let (busy, start) = (busy_time()?, Instant::now());
    let crowd = crowd.run(count, limit)?;
    let seconds = start.elapsed();
    let busy = busy_time()? - busy;
    Ok(summarise(crowd.times, crowd.failed, seconds, busy))
}

/// A connection under way.
struct Connection {
    socket: OwnedFd,
    begun: Instant,
    sent: bool,
    received: usize,
}

struct Crowd {
    to: SocketAddr,
    poll: Poll,
    /// One place for each connection at a time.
    places: Vec<Option<Connection>>,
    begun: usize,
    times: Vec<Duration>,
    failed: usize,
}

impl Crowd {
    fn new(to: SocketAddr, at_once: usize) -> Result<Self> {
        Ok(Self {
            to,
            poll: Poll::new()?,
            places: (0..at_once).map(|_| None).collect(),
            begun: 0,
            times: Vec::new(),
            failed: 0,
        })
    }

    /// Makes connections until `count` are begun or `limit` has passed, and waits for the last of them.
    fn run(mut self, count: usize, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        for place in 0..self.places.len().min(count) {
            self.begin(place)?;
        }
        // Ends, because each connection ends or is given up.
        while self.places.iter().any(Option::is_some) {
            let events = self.poll.wait(Some(&LOOK))?;
            let idle = events.is_empty();
            for (place, flags) in events {
                let place = usize::try_from(place)?;
                self.advance(place, flags)?;
                if self.places[place].is_none() && self.begun < count && Instant::now() < deadline {
                    self.begin(place)?;
                }
            }
            if idle {
                self.give_up()?;
            }
        }
        Ok(self)
    }

    fn begin(&mut self, place: usize) -> Result<()> {
        let begun = Instant::now();
        let socket = self.poll.connect(self.to, place as u64);
        let socket = socket.with_context(|| format!("cannot connect to {}", self.to))?;
        self.begun += 1;
        self.places[place] = Some(Connection {
            socket,
            begun,
            sent: false,
            received: 0,
        });
        Ok(())
    }

    /// Takes a connection as far as it gets; its place is free when it has ended.
    fn advance(&mut self, place: usize, flags: EventFlags) -> Result<()> {
        let Some(connection) = &mut self.places[place] else {
            return Ok(());
        };
        match connection.step(flags) {
            Ok(false) => return Ok(()),
            Ok(true) => self.times.push(connection.begun.elapsed()),
            Err(error) => self.fail(&error)?,
        }
        self.places[place] = None;
        Ok(())
    }

    /// Ends the connections in which nothing has happened for too long.
    fn give_up(&mut self) -> Result<()> {
        for place in 0..self.places.len() {
            let late = |connection: &Connection| connection.begun.elapsed() > STEP_LIMIT;
            if self.places[place].as_ref().is_some_and(late) {
                self.places[place] = None;
                self.fail(&ErrorKind::TimedOut.into())?;
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) -> Result<()> {
        self.failed += 1;
        ensure!(
            self.failed <= MAX_FAILED,
            "{}: {error}, after {} connections",
            self.to,
            self.times.len()
        );
        Ok(())
    }
}

impl Connection {
    /// True once it has been served and closed by the server.
    fn step(&mut self, flags: EventFlags) -> io::Result<bool> {
        if !self.sent && flags.contains(EventFlags::OUT) {
            self.sent = write(&self.socket, &[1; MESSAGE])? == MESSAGE;
        }
        if flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP) {
            // One byte more than is due, so that this reads all there is.
            let mut answer = [0; MESSAGE + 1];
            match read(&self.socket, &mut answer) {
                Ok(length) => self.received += length,
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.received > MESSAGE {
            return Err(io::Error::other("the server says too much"));
        }
        if !flags.intersects(EventFlags::RDHUP | EventFlags::HUP) {
            return Ok(false);
        }
        if self.received < MESSAGE {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(true)
    }
}
