//! Two connections joined: what one receives the other sends, with one copy, each half closed by itself.

use crate::connection::{Connection, End, Phase};
use crate::core::Core;

impl Core {
    /// Joins two connections. From now on they are nobody's but the stack's.
    pub(crate) fn splice(&mut self, a: u32, b: u32) {
        for (id, other) in [(a, b), (b, a)] {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.spliced = Some(other);
                connection.joined = true;
                connection.reader = None;
                connection.writer = None;
            }
        }
        // Whatever has happened to one before.
        for id in [a, b] {
            let found = self.connections.get(id);
            let (end, key) = (found.map(|found| found.phase), found.map(|found| found.key));
            self.pump(id);
            if let Some(Phase::Over(end)) = end {
                self.finished.extend(key);
                self.sever(id, end);
            }
            self.forget(id);
        }
    }

    /// Moves what can be moved between a connection and the one it is joined to, both ways.
    pub(crate) fn pump(&mut self, id: u32) {
        let other = self
            .connections
            .get(id)
            .and_then(|connection| connection.spliced);
        if let Some(other) = other {
            self.carry(id, other);
            self.carry(other, id);
            self.finish(id);
            self.finish(other);
        }
    }

    fn carry(&mut self, from: u32, to: u32) {
        let Some((source, sink)) = self.connections.pair_mut(from, to) else {
            return;
        };
        let waits = source.readable() > 0 || source.fin && sink.sending();
        if !waits || sink.phase != Phase::Open || sink.reset_due || self.grow(to) {
            return;
        }
        let Some(sink) = self.connections.get(to) else {
            return;
        };
        if sink.live.is_none() && self.wake(to).is_err() {
            return self.starve(to);
        }
        let Some((source, sink)) = self.connections.pair_mut(from, to) else {
            return;
        };
        let moved = copy(source, sink);
        let ended = source.fin && source.readable() == 0;
        let closes = ended && sink.sending();
        if closes {
            sink.close();
        }
        if moved > 0 {
            source.moved_at = self.now;
            sink.moved_at = self.now;
        }
        if moved > 0 || closes {
            self.enqueue(from);
            self.enqueue(to);
            self.note_moved(from, to, moved);
        }
    }

    /// A connection that is over is let go once the other takes nothing more of it: it knows of the end, which comes
    /// after all data, or has ended itself.
    fn finish(&mut self, id: u32) {
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        let told = connection
            .spliced
            .and_then(|other| self.connections.get(other))
            .is_none_or(|other| other.phase != Phase::Opening && !other.sending());
        if connection.phase == Phase::Over(End::Closed) && told {
            self.release(id);
        }
    }

    /// One of two joined connections is over: without an orderly end, the other must not look as if it had one.
    pub(crate) fn sever(&mut self, id: u32, end: End) {
        let other = self
            .connections
            .get(id)
            .and_then(|connection| connection.spliced);
        let Some(other) = other else {
            return;
        };
        if end != End::Closed {
            self.release(id);
            self.abort(other);
        }
    }

    /// Ends the splice on the side of `id`, and on the other if that has no more to give or to take.
    fn release(&mut self, id: u32) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let other = connection.spliced.take();
        connection.held = false;
        connection.orphaned_at = now;
        let over = matches!(connection.phase, Phase::Over(_));
        if let Some(other) = other.filter(|_| over) {
            self.release(other);
        }
        self.forget(id);
    }
}

/// Copies what fits from one's receive buffer into the other's send buffer.
fn copy(source: &mut Connection, sink: &mut Connection) -> usize {
    let (Some(from), Some(to)) = (&mut source.live, &mut sink.live) else {
        return 0;
    };
    let mut moved = 0;
    // Bound: a ring's content lies in at most two pieces.
    for _ in 0..2 {
        let sent = from.socket_mut().recv(|data| {
            let taken = to.socket_mut().send_slice(data).unwrap_or(0);
            (taken, taken)
        });
        match sent {
            Ok(0) | Err(_) => break,
            Ok(taken) => moved += taken,
        }
    }
    source.wire.base = source.wire.base + moved as u32;
    moved
}
