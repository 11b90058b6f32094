//! Many TCP connections at once, on one thread with epoll: what a proxy is asked for.
//!
//! A connection is that of [`super::crr`]: a request of 64 bytes, as many back, and the server closes.

mod client;
mod server;

pub use client::connections;
pub use server::serve;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::io::Result;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// An epoll instance whose sockets are known by numbers.
struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Watches `socket` for `flags`, until it is closed.
    fn watch(&self, socket: impl AsFd, number: u64, flags: EventFlags) -> Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(number),
            flags,
        )?)
    }

    /// What has happened; nothing after `limit`, where there is one.
    fn wait(&mut self, limit: Option<&Timespec>) -> Result<Vec<(u64, EventFlags)>> {
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, limit) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let seen = |event: &Event| (event.data.u64(), event.flags);
        Ok(self.events.iter().map(seen).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn every_connection_of_a_crowd_is_served_and_counted_once() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener));
        let found = connections(to, 32, 400, Duration::from_secs(10)).unwrap();
        assert_eq!((found.count, found.failed), (400, 0));
    }

    #[test]
    fn a_server_that_says_nothing_is_a_failure_and_not_a_hang() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        let error = connections(to, 2, 2, Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("does not serve"), "{error:#}");
    }
}
