//! Waiting for many sockets on one thread (epoll(7)).

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::io::Result;
use std::net::SocketAddr;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// An epoll instance whose sockets are known by numbers.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    pub fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Watches `socket` for `flags`, until it is closed.
    pub fn watch(&self, socket: impl AsFd, number: u64, flags: EventFlags) -> Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(number),
            flags,
        )?)
    }

    /// Begins to connect to `to`, and watches the connection, which does not block, for all there is to it, once each.
    pub fn connect(&self, to: SocketAddr, number: u64) -> Result<OwnedFd> {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.watch(&socket, number, interest)?;
        Ok(socket)
    }

    /// What has happened; nothing after `limit`, where there is one.
    pub fn wait(&mut self, limit: Option<&Timespec>) -> Result<Vec<(u64, EventFlags)>> {
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
