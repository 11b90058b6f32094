//! The stack's handle: what a worker drives.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use weft_datapath::{Address, Now, Packet, Protocol, Tuple};

use crate::config::{Listeners, Route, ServiceId, ServiceOptions, StackConfig};
use crate::connection::{Connection, Phase};
use crate::core::Core;
use crate::device::Transmit;
use crate::ingest::Arrival;
use crate::key::Key;
use crate::reason::{Counters, DropReason, Event, Fate};
use crate::segment::unicast;
use crate::seq::Seq;
use crate::stream::Stream;
use crate::wire::Wire;

/// All connections of one worker.
///
/// The worker gives it frames with [`Self::ingest`], takes new connections with [`Self::accept`], lets its own
/// tasks read and write [`Stream`]s, and then calls [`Self::poll`] once. What is sent goes by the time of that poll.
pub struct Stack {
    core: Rc<RefCell<Core>>,
}

/// A connection to be opened.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Connect {
    /// Our end.
    pub local: (Address, u16),
    /// The peer's.
    pub remote: (Address, u16),
    /// Where to send to, and where the peer's packets come from.
    pub route: Route,
    /// The service on whose behalf.
    pub service: ServiceId,
    /// The tag whose share of the sockets it takes from: that of the connection it is opened for, or its own.
    pub payer: u32,
}

/// Why a connection could not be opened.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The ends are of two families, or one is no unicast address, or has port 0.
    #[error("no connection can have these ends: see RFC 9293 section 3.9.1.1")]
    Unaddressable,
    /// There is one: take another port.
    #[error("a connection with these ends exists")]
    InUse,
    /// No port of the range is free.
    #[error("every port of the range is in use towards this peer")]
    NoPort,
    /// As many connections or sockets as may be.
    #[error("beyond a limit: {0}")]
    Limit(DropReason),
}

/// A connection that a peer has opened.
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// Which service it is to.
    pub service: ServiceId,
    /// Its ends as the peer sends them: the source is the peer.
    pub tuple: Tuple,
    /// Where it came from.
    pub route: Route,
}

/// A connection, for people to look at.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// Its ends as the peer sends them: the source is the peer.
    pub tuple: Tuple,
    /// Where it comes from and goes to.
    pub route: Route,
    /// Its service.
    pub service: ServiceId,
    /// Its state by RFC 9293 section 3.3.2.
    pub state: &'static str,
    /// Whether it has a socket and buffers: it is not idle.
    pub socket: bool,
    /// Smoothed round trip, if one was measured.
    pub round_trip: Option<Duration>,
    /// How much faster than time its clock runs.
    pub clock_scale: u32,
    /// When data last moved.
    pub moved_at: Now,
}

/// What a stack holds at a moment.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Holdings {
    /// Connections that are opening, open or closing, and those that are over and still held by a stream.
    pub connections: usize,
    /// Those of them with a socket and buffers.
    pub sockets: usize,
    /// Half-open connections that are remembered.
    pub half_open: usize,
    /// Connections in TIME-WAIT.
    pub time_wait: usize,
    /// Bytes of the table of those in TIME-WAIT.
    pub time_wait_bytes: usize,
}

impl Stack {
    /// A stack without connections.
    pub fn new(config: &StackConfig) -> Self {
        Self {
            core: Rc::new(RefCell::new(Core::new(config))),
        }
    }

    /// Takes a frame that [`weft_datapath::parse`] has found to hold a whole TCP packet. The frame's bytes are
    /// overwritten.
    pub fn ingest(
        &self,
        frame: &mut [u8],
        packet: &Packet,
        arrival: Arrival,
        listeners: &impl Listeners,
        now: Now,
    ) -> Fate {
        let fate = {
            let mut core = self.core.borrow_mut();
            core.now = core.now.max(now);
            core.ingest(frame, packet, arrival, listeners)
        };
        self.wake_all();
        fate
    }

    /// Fires what is due and sends what there is to send, as long as there are frames.
    pub fn poll(&self, out: &mut impl Transmit, now: Now) {
        {
            let mut core = self.core.borrow_mut();
            core.now = core.now.max(now);
            core.poll(out);
        }
        self.wake_all();
    }

    /// When to poll again if no frame comes: the first timer, or at once if something waits for frames.
    pub fn next(&self) -> Option<Now> {
        self.core.borrow().next()
    }

    /// The next connection that a peer has opened. Those that ended before they were taken are left out.
    pub fn accept(&self) -> Option<Accepted> {
        loop {
            let mut core = self.core.borrow_mut();
            let id = core.accepted.pop_front()?;
            let connection = core.connections.get_mut(id)?;
            if matches!(connection.phase, Phase::Over(_)) && !connection.fin {
                connection.held = false;
                core.forget(id);
                continue;
            }
            let (service, tuple) = (connection.service, connection.key.tuple);
            let route = connection.route();
            let stream = Stream::new(&self.core, id);
            return Some(Accepted {
                stream,
                service,
                tuple,
                route,
            });
        }
    }

    /// Opens a connection. The stream can be written to once the peer has answered.
    pub fn connect(
        &self,
        connect: &Connect,
        options: &ServiceOptions,
        now: Now,
    ) -> Result<Stream, ConnectError> {
        let mut core = self.core.borrow_mut();
        core.now = core.now.max(now);
        let id = core.connect(connect, options)?;
        Ok(Stream::new(&self.core, id))
    }

    /// As [`Self::connect`], with a free local port of `ports` in place of that of `connect.local`: the search begins at
    /// a secret place and moves on with every connection, so that ports come back late (RFC 6056 section 3.3.3).
    pub fn connect_from(
        &self,
        connect: &Connect,
        ports: std::ops::RangeInclusive<u16>,
        options: &ServiceOptions,
        now: Now,
    ) -> Result<Stream, ConnectError> {
        let count = u32::from(*ports.end()).saturating_sub(u32::from(*ports.start())) + 1;
        let start = {
            let mut core = self.core.borrow_mut();
            let mut key = key_of(connect);
            key.tuple.dport = 0;
            core.next_port = core.next_port.wrapping_add(1);
            core.secret.port_offset(&key).wrapping_add(core.next_port)
        };
        // Bound: each port of the range once.
        for step in 0..count {
            let port = ports.start() + (start.wrapping_add(step) % count) as u16;
            let local = (connect.local.0, port);
            match self.connect(&Connect { local, ..*connect }, options, now) {
                Err(ConnectError::InUse) => {}
                other => return other,
            }
        }
        Err(ConnectError::NoPort)
    }

    /// Joins two connections: what comes in on one goes out on the other, byte for byte, with one copy; the end of one
    /// half is passed on as such, and a reset as a reset. One may still be opening.
    pub fn splice(&self, a: Stream, b: Stream) {
        let (a, b) = (a.into_id(), b.into_id());
        self.core.borrow_mut().splice(a, b);
        self.wake_all();
    }

    /// The next connection that is over of those that were spliced or are looked after ([`Stream::look_after`]): its ends as
    /// its peer sends them, and where it came from. Whoever has such connections asks until there is none.
    pub fn finished(&self) -> Option<(Tuple, u32)> {
        let key = self.core.borrow_mut().finished.pop_front()?;
        Some((key.tuple, key.tag))
    }

    /// Whether a packet with these ends and from there is of a connection that the stack knows, be it half open or in
    /// TIME-WAIT.
    pub fn knows(&self, tuple: &Tuple, tag: u32) -> bool {
        let core = self.core.borrow();
        let key = Key { tuple: *tuple, tag };
        let hash = core.secret.demux(&key);
        core.find(hash, &key).is_some()
            || core.half_open.find(hash, &key).is_some()
            || core.time_wait.find(hash, &key).is_some()
    }

    /// Whether the connection with these ends, from there, is half open.
    pub fn is_half_open(&self, tuple: &Tuple, tag: u32) -> bool {
        let core = self.core.borrow();
        let key = Key { tuple: *tuple, tag };
        core.half_open.find(core.secret.demux(&key), &key).is_some()
    }

    /// A router says that a packet which the connection with these ends sent was too long: its path carries packets of
    /// `mtu` bytes. `sequence` is that of the packet; it is believed only if it is in flight.
    pub fn too_long(&self, tuple: &Tuple, tag: u32, mtu: u16, sequence: u32) {
        let mut core = self.core.borrow_mut();
        if let Some(id) = core.with_ends(tuple, tag) {
            core.too_long(id, mtu, Seq(sequence));
        }
    }

    /// Resets the connection with these ends, if there is one.
    pub fn abort(&self, tuple: &Tuple, tag: u32) {
        let mut core = self.core.borrow_mut();
        if let Some(id) = core.with_ends(tuple, tag) {
            core.abandon(id);
        }
    }

    /// Resets every connection at the polls to come: what a process does that ends.
    pub fn abort_all(&self) {
        let mut core = self.core.borrow_mut();
        for id in 0..core.connections.end() {
            core.abandon(id);
        }
    }

    /// What became of everything so far.
    pub fn counters(&self) -> Counters {
        self.core.borrow().counters.clone()
    }

    /// What the stack holds now.
    pub fn holdings(&self) -> Holdings {
        let core = self.core.borrow();
        Holdings {
            connections: core.connections.len(),
            sockets: core.sockets.used() as usize,
            half_open: core.half_open.len(),
            time_wait: core.time_wait.len(),
            time_wait_bytes: core.time_wait.memory(),
        }
    }

    /// Describes the connections in the `found.capacity()` places from `start` on, for people to look at, and says where
    /// to go on; `None` after the last. `found` is cleared, and does not grow.
    pub fn slice(&self, start: u32, found: &mut Vec<Described>) -> Option<u32> {
        let core = self.core.borrow();
        found.clear();
        let end = start.saturating_add(u32::try_from(found.capacity()).unwrap_or(u32::MAX));
        let places = start..end.min(core.connections.end());
        found.extend(places.filter_map(|id| {
            let connection = core.connections.get(id)?;
            Some(Described {
                tuple: connection.key.tuple,
                route: connection.route(),
                service: connection.service,
                state: connection.state_name(),
                socket: connection.live.is_some(),
                round_trip: connection.wire.round_trip(),
                clock_scale: connection.clock.scale(),
                moved_at: connection.moved_at,
            })
        }));
        (end < core.connections.end()).then_some(end)
    }

    /// Connections of a service that are open, opening or closing.
    pub fn service_connections(&self, service: ServiceId) -> u32 {
        let core = self.core.borrow();
        core.services
            .get(usize::from(service.0))
            .map_or(0, |service| service.connections)
    }

    fn wake_all(&self) {
        // A waker may use a stream at once, so the stack is not borrowed meanwhile. Bound: as many as were registered.
        loop {
            let Some(waker) = self.core.borrow_mut().wakes.pop() else {
                break;
            };
            waker.wake();
        }
    }
}

fn key_of(connect: &Connect) -> Key {
    let (local, remote) = (connect.local, connect.remote);
    let tuple = Tuple {
        src: remote.0,
        dst: local.0,
        sport: remote.1,
        dport: local.1,
        proto: Protocol::Tcp,
    };
    Key {
        tuple,
        tag: connect.route.tag,
    }
}

/// How far the first number of a connection lies at least beyond the last one of the same tuple's: more than a window
/// that is not scaled, as Linux does it.
const TIME_WAIT_GAP: u32 = 65_537;

impl Core {
    /// The connection with these ends from there.
    fn with_ends(&self, tuple: &Tuple, tag: u32) -> Option<u32> {
        let key = Key { tuple: *tuple, tag };
        self.find(self.secret.demux(&key), &key)
    }

    fn connect(
        &mut self,
        connect: &Connect,
        options: &ServiceOptions,
    ) -> Result<u32, ConnectError> {
        let key = key_of(connect);
        let tuple = &key.tuple;
        let sound =
            unicast(&tuple.src) && unicast(&tuple.dst) && tuple.sport != 0 && tuple.dport != 0;
        if !sound || tuple.src.is_v4() != tuple.dst.is_v4() {
            return Err(ConnectError::Unaddressable);
        }
        let hash = self.secret.demux(&key);
        if self.find(hash, &key).is_some() || self.half_open.find(hash, &key).is_some() {
            return Err(ConnectError::InUse);
        }
        self.service(connect.service, options);
        self.room(connect.service).map_err(ConnectError::Limit)?;
        if !self.sockets.room(connect.payer) {
            return Err(ConnectError::Limit(DropReason::SocketLimit));
        }
        let mut iss = self.secret.isn(&key, self.now);
        if let Some(old) = self.time_wait.find(hash, &key) {
            // The peer has closed in order, and knows nothing of the old connection any more. Numbers beyond its own keep
            // old duplicates out (RFC 1122 section 4.2.2.13).
            if !iss.after(old.nxt + TIME_WAIT_GAP) {
                iss = old.nxt + TIME_WAIT_GAP;
            }
            self.time_wait.forget(hash, &key);
            self.counters.count(Event::TimeWaitReused);
        }
        let capacity = self.options(connect.service).first_receive();
        let wire = Wire::new(tuple, iss, connect.route.mtu, capacity);
        let mut connection =
            Connection::new(key, connect.route.mtu, connect.service, wire, self.now);
        connection.payer = connect.payer;
        let limit = ConnectError::Limit(DropReason::ConnectionLimit);
        let id = self.add(hash, connection).ok_or(limit)?;
        self.wake(id).map_err(ConnectError::Limit)?;
        self.enqueue(id);
        self.arm(id);
        Ok(id)
    }
}
