//! Buffers that grow: a connection that is joined to another, or looked after by a task, begins with small ones, and gets
//! large ones once it has moved some data.
//!
//! A socket's buffers have the size that it was made with, so a larger one takes another socket. That costs nothing but
//! its memory where a connection is idle for a moment: nothing in flight, nothing in a buffer. Where data comes from, that
//! is so after every acknowledgement; where it goes to, whoever writes waits once until all that was sent has arrived.

use crate::core::Core;

/// How often a buffer's size has to have passed through it before it grows.
const TURNS: u64 = 4;

/// Of so many sockets that there may be, one may have grown buffers: what grows bounds the memory of a stack no less than
/// the number of sockets does.
const GROWN_SHARE: u32 = 8;

/// What of a connection's buffers is to grow.
#[derive(Copy, Clone, Default, Debug)]
pub(crate) struct Growth {
    /// Bytes of its send buffer now; 0: as its service has them.
    pub(crate) send: usize,
    /// Bytes received and sent with the buffers there are.
    moved: [u64; 2],
    /// It is one of those that have grown.
    pub(crate) grown: bool,
}

impl Growth {
    /// Counts what was taken out of the receive buffer.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.moved[0] += bytes as u64;
    }

    /// Counts what was put into the send buffer.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.moved[1] += bytes as u64;
    }
}

impl Core {
    /// Counts what was moved from one connection to another.
    pub(crate) fn note_moved(&mut self, from: u32, to: u32, bytes: usize) {
        if let Some(connection) = self.connections.get_mut(from) {
            connection.growth.received(bytes);
        }
        if let Some(connection) = self.connections.get_mut(to) {
            connection.growth.sent(bytes);
        }
    }

    /// Gives the connection larger buffers if it has earned them and can take them; whether the splice is to wait until
    /// it can, because what it sends would keep it from ever being idle.
    pub(crate) fn grow(&mut self, id: u32) -> bool {
        let Some(connection) = self.connections.get_mut(id) else {
            return false;
        };
        let options = &self.services[usize::from(connection.service.0)].options;
        let growth = connection.growth;
        let earned =
            |size: usize, most: usize, moved: u64| size < most && moved >= TURNS * size as u64;
        let receive = connection.wire.capacity as usize;
        let receives = earned(receive, options.receive_buffer, growth.moved[0]);
        let sends = growth.send != 0 && earned(growth.send, options.send_buffer, growth.moved[1]);
        if connection.live.is_none() || !receives && !sends {
            return false;
        }
        if !growth.grown && self.grown >= self.sockets.limit() / GROWN_SHARE {
            connection.growth.moved = [0; 2]; // Another time, perhaps.
            return false;
        }
        if !connection.idle() {
            let arrived = !connection.owed();
            if sends && arrived {
                connection.growth.moved[1] = 0; // Its peer sends, too: another time.
            }
            return sends && !arrived;
        }
        if receives {
            connection.wire.capacity = options.receive_buffer as u32;
        }
        if sends {
            connection.growth.send = 0;
        }
        connection.growth.moved = [0; 2];
        if !std::mem::replace(&mut connection.growth.grown, true) {
            self.grown += 1;
        }
        self.drop_socket(id);
        false
    }
}
