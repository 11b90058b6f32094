//! What a stack holds, and the ways in which a connection begins, gets and loses a socket, and ends.

use std::collections::VecDeque;
use std::task::Waker;

use hashbrown::HashTable;
use smoltcp::socket::tcp::State;
use weft_datapath::{Now, RateLimit};

use crate::clock;
use crate::config::{Limits, ServiceId, ServiceOptions, StackConfig, Timeouts};
use crate::connection::{Connection, End, Phase};
use crate::device::Scratch;
use crate::half_open::HalfOpenTable;
use crate::header::{self, Header};
use crate::key::{Key, Secret};
use crate::live::{Interfaces, Live};
use crate::reason::{Counters, DropReason, Event};
use crate::slab::Slab;
use crate::sockets::Sockets;
use crate::spent::SpentCookies;
use crate::time_wait::{Entered, Remembered, TimeWaitTable};
use crate::wheel::Wheel;

/// Buffers outside of this are cut to it: a socket needs room for a segment, and windows are shifted by
/// [`crate::wire::SHIFT`].
const BUFFER: std::ops::RangeInclusive<usize> = 4 << 10..=4 << 20;

/// A packet without data that waits for a frame.
pub(crate) struct Reply {
    pub(crate) tag: u32,
    pub(crate) packet: Scratch,
}

/// A service as the stack knows it.
#[derive(Clone, Default)]
pub(crate) struct Service {
    pub(crate) options: ServiceOptions,
    pub(crate) connections: u32,
    pub(crate) half_open: u32,
}

/// All of a stack but its handle.
pub(crate) struct Core {
    pub(crate) secret: Secret,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) now: Now,
    pub(crate) connections: Slab<Connection>,
    pub(crate) index: HashTable<u32>,
    pub(crate) half_open: HalfOpenTable,
    pub(crate) time_wait: TimeWaitTable,
    pub(crate) wheel: Wheel,
    pub(crate) interfaces: Interfaces,
    /// Connections that may have something to send, in the order in which they get to.
    pub(crate) queue: VecDeque<u32>,
    pub(crate) replies: VecDeque<Reply>,
    /// Connections that nobody has taken yet.
    pub(crate) accepted: VecDeque<u32>,
    /// Writers that wait for a socket to become free.
    pub(crate) starved: VecDeque<u32>,
    /// To be woken when the stack is no longer borrowed.
    pub(crate) wakes: Vec<Waker>,
    /// Joined connections that are over, by what their peer's packets are known by.
    pub(crate) finished: VecDeque<Key>,
    pub(crate) services: Vec<Service>,
    pub(crate) sockets: Sockets,
    /// Connections whose buffers have grown.
    pub(crate) grown: u32,
    pub(crate) resets: RateLimit,
    /// When a cookie was last sent: ACKs of cookies are looked for as long as one may come.
    pub(crate) cookie_at: Option<Now>,
    pub(crate) spent: SpentCookies,
    pub(crate) next_port: u32,
    pub(crate) counters: Counters,
}

impl Core {
    pub(crate) fn new(config: &StackConfig) -> Self {
        let secret = Secret::new(&config.secret);
        let limits = config.limits;
        let size = |limit: u32| limit as usize;
        Self {
            interfaces: Interfaces::new(secret.seed()),
            connections: Slab::new(size(limits.connections)),
            index: HashTable::with_capacity(size(limits.connections)),
            half_open: HalfOpenTable::new(size(limits.half_open)),
            time_wait: TimeWaitTable::new(size(limits.time_wait), config.timeouts.time_wait),
            wheel: Wheel::new(size(limits.connections)),
            queue: VecDeque::with_capacity(size(limits.connections)),
            replies: VecDeque::with_capacity(size(limits.replies)),
            accepted: VecDeque::new(),
            starved: VecDeque::new(),
            wakes: Vec::new(),
            finished: VecDeque::new(),
            services: Vec::new(),
            sockets: Sockets::new(limits.sockets),
            grown: 0,
            resets: RateLimit::new(limits.resets.max(1), limits.resets.max(1)),
            cookie_at: None,
            spent: SpentCookies::new(),
            next_port: 0,
            counters: Counters::default(),
            now: Now::default(),
            timeouts: config.timeouts,
            secret,
            limits,
        }
    }

    /// The service, with the options it has now.
    pub(crate) fn service(&mut self, id: ServiceId, options: &ServiceOptions) -> &mut Service {
        let at = usize::from(id.0);
        if at >= self.services.len() {
            self.services.resize(at + 1, Service::default());
        }
        let service = &mut self.services[at];
        service.options = *options;
        service.options.receive_buffer =
            options.receive_buffer.clamp(*BUFFER.start(), *BUFFER.end());
        service.options.send_buffer = options.send_buffer.clamp(*BUFFER.start(), *BUFFER.end());
        service.options.first_buffer = options.first_buffer.max(*BUFFER.start());
        service
    }

    /// The options of a service that the stack was told of before.
    pub(crate) fn options(&self, id: ServiceId) -> &ServiceOptions {
        &self.services[usize::from(id.0)].options
    }

    /// Whether there is room for another connection of the service.
    pub(crate) fn room(&self, service: ServiceId) -> Result<(), DropReason> {
        let service = &self.services[usize::from(service.0)];
        if self.connections.is_full() {
            Err(DropReason::ConnectionLimit)
        } else if service.connections >= service.options.connections {
            Err(DropReason::ServiceConnectionLimit)
        } else {
            Ok(())
        }
    }

    pub(crate) fn find(&self, hash: u64, key: &Key) -> Option<u32> {
        let same = |id: &u32| {
            self.connections
                .get(*id)
                .is_some_and(|found| found.key == *key)
        };
        self.index.find(hash, same).copied()
    }

    /// Takes a connection in, after [`Self::room`] said that it may be.
    pub(crate) fn add(&mut self, hash: u64, mut connection: Connection) -> Option<u32> {
        let service = usize::from(connection.service.0);
        let options = &self.services[service].options;
        if options.first_buffer < options.send_buffer {
            connection.growth.send = options.first_buffer;
        }
        let id = self.connections.insert(connection)?;
        let (connections, secret) = (&self.connections, &self.secret);
        let rehash = |id: &u32| {
            connections
                .get(*id)
                .map_or(0, |found| secret.demux(&found.key))
        };
        self.index.insert_unique(hash, id, rehash);
        self.services[service].connections += 1;
        Some(id)
    }

    /// Gives the connection a socket if it has none.
    pub(crate) fn wake(&mut self, id: u32) -> Result<(), DropReason> {
        let Some(connection) = self.connections.get_mut(id) else {
            return Ok(());
        };
        if connection.live.is_some() || matches!(connection.phase, Phase::Over(_)) {
            return Ok(());
        }
        if !self.sockets.room(connection.payer) {
            return Err(DropReason::SocketLimit);
        }
        let options = &self.services[usize::from(connection.service.0)].options;
        let buffers = connection.buffers(options.send_buffer);
        let at = connection.clock.at(self.now);
        let tuple = &connection.key.tuple;
        let mut live = if connection.phase == Phase::Opening {
            Live::opening(&mut self.interfaces, tuple, buffers)
        } else {
            let (next, peer) = (connection.next(), connection.wire.peer());
            let (live, first) =
                Live::established(&mut self.interfaces, tuple, next, peer, buffers, at);
            connection.wire.align(first);
            self.counters.count(Event::Woken);
            live
        };
        let delay = connection.clock.stretch(ACK_DELAY);
        live.socket_mut().set_ack_delay(Some(delay));
        connection.live = Some(live);
        self.sockets.take(connection.payer);
        Ok(())
    }

    /// Takes the connection's socket away.
    pub(crate) fn drop_socket(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if connection.live.take().is_none() {
            return;
        }
        self.sockets.give_back(connection.payer);
        // One socket became free, so one writer tries again, of those that may have it.
        for _ in 0..self.starved.len().min(STARVED_A_SOCKET) {
            let Some(starved) = self.starved.pop_front() else {
                return;
            };
            let Some(waiting) = self.connections.get_mut(starved) else {
                continue;
            };
            if !self.sockets.room(waiting.payer) {
                self.starved.push_back(starved);
                continue;
            }
            waiting.starving = false;
            if waiting.spliced.is_some() {
                self.enqueue(starved); // Its turn ends with another look at what there is for it.
                break;
            }
            if let Some(waker) = waiting.writer.take() {
                self.wakes.push(waker);
                break;
            }
        }
    }

    /// Lets the connection try again when a socket becomes free.
    pub(crate) fn starve(&mut self, id: u32) {
        if let Some(connection) = self.connections.get_mut(id)
            && !std::mem::replace(&mut connection.starving, true)
        {
            self.starved.push_back(id);
        }
    }

    /// Puts the connection into the queue of those that may have something to send.
    pub(crate) fn enqueue(&mut self, id: u32) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.queued
        {
            connection.queued = true;
            self.queue.push_back(id);
        }
    }

    /// Queues a packet of headers alone. Whoever calls has made sure of room, or can do without the packet.
    pub(crate) fn reply(&mut self, tag: u32, tuple: &weft_datapath::Tuple, header: &Header<'_>) {
        if self.replies.len() >= self.limits.replies as usize {
            return;
        }
        let mut packet = Scratch::of(tuple, header);
        header::seal(packet.bytes_mut(), tuple, false);
        self.replies.push_back(Reply { tag, packet });
    }

    /// Looks at what became of a connection after its socket has done something, tells whoever waits for it, and
    /// sets its timer.
    pub(crate) fn settle(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if matches!(connection.phase, Phase::Over(_)) {
            return;
        }
        let state = connection.state();
        connection.fin |= matches!(
            state,
            State::CloseWait | State::Closing | State::LastAck | State::TimeWait
        );
        match connection.wire.ended() {
            Some(true) => return self.end(id, End::Closed),
            Some(false) => {
                connection.wire.end_by_socket();
                connection.close();
            }
            None => {}
        }
        connection.owed_since = match connection.owed_since {
            since if connection.owed() => since.or(Some(self.now)),
            _ => None,
        };
        match (connection.phase, state) {
            (Phase::Opening, State::SynSent | State::SynReceived) => {}
            (Phase::Opening, State::Closed) => {
                self.counters.count(Event::Refused);
                return self.end(id, End::Refused);
            }
            (Phase::Opening, _) => {
                connection.phase = Phase::Open;
                self.counters.count(Event::Connected);
                self.adapt_clock(id);
            }
            (_, State::TimeWait) => {
                self.enter_time_wait(id);
                return self.end(id, End::Closed);
            }
            (_, State::Closed) => return self.end(id, End::Closed),
            _ => {}
        }
        let orphan = |found: &Connection| !found.held && found.readable() > 0;
        if self.connections.get(id).is_some_and(orphan) {
            self.abort(id); // Data for nobody (RFC 1122 section 4.2.2.13).
            return;
        }
        self.pump(id);
        if self.joined(id) {
            self.grow(id);
        }
        self.notify(id);
        self.arm(id);
    }

    /// Wakes whoever waits for what there is now.
    pub(crate) fn notify(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if connection.reader.is_some() && connection.read_ready() {
            self.wakes.extend(connection.reader.take());
        }
        if connection.writer.is_some() && connection.write_ready() {
            self.wakes.extend(connection.writer.take());
        }
    }

    /// Lets the connection's clock run as fast as its round trip allows.
    pub(crate) fn adapt_clock(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let Some(round_trip) = connection.wire.least_round_trip() else {
            return;
        };
        let most = self.services[usize::from(connection.service.0)]
            .options
            .clock_scale;
        let scale = clock::scale_for(round_trip, most);
        if scale != connection.clock.scale() {
            connection.clock.set_scale(scale, self.now);
            let delay = connection.clock.stretch(ACK_DELAY);
            if let Some(live) = &mut connection.live {
                live.socket_mut().set_ack_delay(Some(delay));
            }
        }
    }

    fn enter_time_wait(&mut self, id: u32) {
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        let numbers = Remembered {
            nxt: connection.wire.nxt,
            rcv_nxt: connection.next(),
        };
        let (service, key) = (connection.service, connection.key);
        // The socket would only do so at its next turn.
        if connection.wire.acked != numbers.rcv_nxt {
            self.bare_ack(id, false);
        }
        let limit = self.options(service).time_wait;
        let entered =
            self.time_wait
                .insert(&self.secret, &key, numbers, (service, limit), self.now);
        self.counters.count(match entered {
            Entered::Skipped => Event::TimeWaitSkipped,
            Entered::Room | Entered::Evicted => Event::TimeWaitEntered,
        });
        if entered == Entered::Evicted {
            self.counters.count(Event::TimeWaitEvicted);
        }
    }

    /// The connection is over: it is found no more, and goes when nobody holds it.
    pub(crate) fn end(&mut self, id: u32, end: End) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if matches!(connection.phase, Phase::Over(_)) {
            return;
        }
        connection.phase = Phase::Over(end);
        if connection.joined {
            self.finished.push_back(connection.key);
        }
        let (hash, service) = (self.secret.demux(&connection.key), connection.service);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        self.wheel.clear(id);
        self.services[usize::from(service.0)].connections -= 1;
        if end == End::Closed {
            self.counters.count(Event::Closed);
            self.pump(id);
        }
        let unread = self
            .connections
            .get(id)
            .is_some_and(|found| found.readable() > 0);
        if end != End::Closed || !unread {
            self.drop_socket(id);
        }
        self.sever(id, end);
        self.notify(id);
        self.forget(id);
    }

    /// Removes a connection that is over and that nobody holds.
    pub(crate) fn forget(&mut self, id: u32) {
        let over = self.connections.get(id).is_some_and(|found| {
            matches!(found.phase, Phase::Over(_)) && !found.held && !found.queued
        });
        if over {
            self.drop_socket(id);
            if let Some(connection) = self.connections.remove(id) {
                self.grown -= u32::from(connection.growth.grown);
            }
        }
    }
}

/// Writers that a socket which became free is offered to.
const STARVED_A_SOCKET: usize = 64;

/// An ACK waits for so long for data to go with, or for a second segment (RFC 9293 section 3.8.6.3: under 500 ms). A
/// quarter of what Linux takes, so that its timeouts are far away.
const ACK_DELAY: std::time::Duration = std::time::Duration::from_millis(10);
