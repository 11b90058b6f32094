//! Their server. It answers bytes with as many, so that one byte proves a connection that then stays idle.

use crate::poll::Poll;
use crate::tools::crr::MESSAGE;
use anyhow::Result;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::{read, write};
use rustix::net::{SocketFlags, accept_with};
use std::net::TcpListener;

/// The number of the listener among the sockets that are watched.
const LISTENER: u64 = u64::MAX;
/// Connections taken in a row, so that those which are there are not kept waiting.
const ACCEPTED_AT_ONCE: usize = 64;

/// A connection, and the bytes it has been answered.
struct Connection {
    socket: OwnedFd,
    answered: usize,
}

/// Answers up to 64 bytes a connection, then closes; any number of connections at once.
pub fn serve(listener: &TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.watch(listener, LISTENER, EventFlags::IN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    loop {
        for (number, _) in poll.wait(None)? {
            if number == LISTENER {
                for _ in 0..ACCEPTED_AT_ONCE {
                    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                    let Ok(socket) = accept_with(listener, flags) else {
                        break;
                    };
                    let place = free.pop().unwrap_or(connections.len());
                    if place == connections.len() {
                        connections.push(None);
                    }
                    poll.watch(&socket, place as u64, EventFlags::IN | EventFlags::RDHUP)?;
                    connections[place] = Some(Connection {
                        socket,
                        answered: 0,
                    });
                }
                continue;
            }
            let place = usize::try_from(number)?;
            let ended = connections
                .get_mut(place)
                .and_then(Option::as_mut)
                .is_some_and(|connection| !connection.answer());
            if ended {
                connections[place] = None;
                free.push(place);
            }
        }
    }
}

impl Connection {
    /// Answers what has come; false when that was all.
    fn answer(&mut self) -> bool {
        let mut message = [0; MESSAGE];
        let Ok(length @ 1..) = read(&self.socket, &mut message) else {
            return false;
        };
        self.answered += length;
        write(&self.socket, &message[..length]).is_ok() && self.answered < MESSAGE
    }
}
