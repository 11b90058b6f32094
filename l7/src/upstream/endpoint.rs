//! One endpoint at work: its connections, those that are idle, and who waits for one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;

use super::connection::{Codec, Connection, Sender};
use super::{BackendLimits, EndpointConfig, EndpointState};

/// Whose a connection is. With `source = "client"` it is one client's connection's; else everybody's.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) client: Option<SocketAddr>,
    pub(crate) codec: Codec,
}

/// Connections that can take a request.
#[derive(Default)]
struct Pool {
    /// Of HTTP/1.1, each without a request; the one used last is at the end.
    idle: Vec<(Rc<Connection>, Sender)>,
    /// Of HTTP/2, all that are open.
    shared: Vec<(Rc<Connection>, Sender)>,
    /// Connections that open.
    opening: usize,
    /// Connections of HTTP/1.1 that will be idle in a moment, once their task has had its turn.
    returning: usize,
    /// Connections that are open or opening: the pool goes with the last one.
    live: usize,
    /// Its client is gone: what comes back is closed.
    forgotten: bool,
}

impl Pool {
    /// What can take a request is taken out.
    fn empty(&mut self) -> Vec<(Rc<Connection>, Sender)> {
        let mut all = std::mem::take(&mut self.idle);
        all.append(&mut self.shared);
        all
    }
}

/// Who waits, in order.
#[derive(Default)]
struct Waiters {
    queue: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

/// An endpoint.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    state: Cell<EndpointState>,
    sees_client: Cell<bool>,
    retired: Cell<bool>,
    limits: Cell<BackendLimits>,
    requests: Cell<usize>,
    connections: Cell<usize>,
    /// In order: which of them makes room for another is not left to chance (U-05).
    pools: RefCell<BTreeMap<Key, Pool>>,
    waiters: RefCell<Waiters>,
}

/// What [`Endpoint::take`] has to offer.
pub(crate) enum Offer {
    /// A connection that is there.
    Connection(Rc<Connection>, Sender),
    /// The right to open one.
    Open(Opening),
    /// To wait.
    Wait,
    /// Nothing any more.
    Gone,
}

/// The right to open a connection; given back when this is dropped.
pub(crate) struct Opening {
    endpoint: Rc<Endpoint>,
    key: Key,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let endpoint = &self.endpoint;
        if let Some(pool) = endpoint.pools.borrow_mut().get_mut(&self.key) {
            pool.opening = pool.opening.saturating_sub(1);
        }
        endpoint.closed(&self.key);
    }
}

impl Opening {
    /// The connection is open: what was a right is one of the endpoint's connections, until [`Endpoint::closed`].
    pub(crate) fn opened(self) {
        let endpoint = &self.endpoint;
        // The drop that follows takes away what is one too many now.
        endpoint.connections.set(endpoint.connections.get() + 1);
        if let Some(pool) = endpoint.pools.borrow_mut().get_mut(&self.key) {
            pool.live += 1;
        }
    }
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            state: Cell::new(EndpointState::Unready),
            sees_client: Cell::new(false),
            retired: Cell::new(false),
            limits: Cell::default(),
            requests: Cell::new(0),
            connections: Cell::new(0),
            pools: RefCell::default(),
            waiters: RefCell::default(),
        }
    }

    pub(crate) fn configure(&self, wanted: &EndpointConfig, limits: BackendLimits) {
        self.state.set(wanted.state);
        self.sees_client.set(wanted.sees_client);
        self.limits.set(limits);
        self.wake();
    }

    pub(crate) fn state(&self) -> EndpointState {
        self.state.get()
    }

    /// Whether a connection to it is one client's only.
    pub(crate) fn sees_client(&self) -> bool {
        self.sees_client.get()
    }

    /// Requests under way.
    pub(crate) fn requests(&self) -> usize {
        self.requests.get()
    }

    /// A request is to be made, if there may be one more.
    pub(crate) fn begin(self: &Rc<Self>) -> Option<Underway> {
        let requests = self.requests.get();
        (requests < self.limits.get().requests).then(|| {
            self.requests.set(requests + 1);
            Underway(Rc::clone(self))
        })
    }

    /// The endpoint is no more: idle connections are closed, others when they become idle.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.state.set(EndpointState::Unready);
        let idle: Vec<_> = {
            let mut pools = self.pools.borrow_mut();
            pools.values_mut().flat_map(Pool::empty).collect()
        };
        drop(idle); // Outside of the borrow: who learns of it may look here.
        self.wake();
    }

    /// A client is gone: its connections are closed, now or when they become idle.
    pub(crate) fn forget(&self, client: SocketAddr) {
        for codec in [Codec::Relay, Codec::Http1, Codec::Http2] {
            let key = Key {
                client: Some(client),
                codec,
            };
            let idle = self.pools.borrow_mut().get_mut(&key).map(|pool| {
                pool.forgotten = true;
                pool.empty()
            });
            drop(idle);
        }
    }

    /// A connection for a request, or how to come by one.
    pub(crate) fn take(self: &Rc<Self>, key: Key) -> Offer {
        if self.retired.get() {
            return Offer::Gone;
        }
        let limits = self.limits.get();
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(key).or_default();
        if key.codec == Codec::Http2 {
            pool.shared
                .retain(|(connection, sender)| connection.is_usable(sender));
            let free = pool
                .shared
                .iter()
                .find(|(connection, _)| connection.streams() < limits.streams);
            if let Some((connection, sender)) = free {
                return Offer::Connection(Rc::clone(connection), sender.share());
            }
            if pool.opening > 0 {
                return Offer::Wait;
            }
        } else {
            // Bound: each is looked at once, and leaves.
            while let Some((connection, sender)) = pool.idle.pop() {
                if connection.is_usable(&sender) {
                    return Offer::Connection(connection, sender);
                }
            }
            if pool.returning > 0 {
                return Offer::Wait;
            }
        }
        if self.connections.get() >= limits.connections && !Self::spare(&mut pools, &key) {
            if pools.get(&key).is_some_and(|pool| pool.live == 0) {
                pools.remove(&key);
            }
            return Offer::Wait;
        }
        // One that was spared is closing, and counts until then.
        self.connections.set(self.connections.get() + 1);
        let pool = pools.entry(key).or_default();
        pool.opening += 1;
        pool.live += 1;
        Offer::Open(Opening {
            endpoint: Rc::clone(self),
            key,
        })
    }

    /// Closes an idle connection that is not of this key, to make room for one that is.
    fn spare(pools: &mut BTreeMap<Key, Pool>, key: &Key) -> bool {
        let mut others = pools.iter_mut().filter(|(other, _)| *other != key);
        others.any(|(_, pool)| pool.idle.pop().is_some())
    }

    /// Takes back a connection of HTTP/1.1 that is ready for another request, or one of HTTP/2 that is open. False if it is
    /// not wanted.
    pub(crate) fn put(&self, key: Key, connection: &Rc<Connection>, sender: Sender) -> bool {
        if self.retired.get() {
            return false;
        }
        {
            let mut pools = self.pools.borrow_mut();
            let Some(pool) = pools.get_mut(&key).filter(|pool| !pool.forgotten) else {
                return false;
            };
            match key.codec {
                Codec::Http2 => pool.shared.push((Rc::clone(connection), sender)),
                _ => pool.idle.push((Rc::clone(connection), sender)),
            }
        }
        self.wake();
        true
    }

    /// A connection is about to be put back.
    pub(crate) fn returns(&self, key: Key) {
        if let Some(pool) = self.pools.borrow_mut().get_mut(&key) {
            pool.returning += 1;
        }
    }

    /// It was, or is lost.
    pub(crate) fn settled(&self, key: &Key) {
        if let Some(pool) = self.pools.borrow_mut().get_mut(key) {
            pool.returning = pool.returning.saturating_sub(1);
        }
        self.wake();
    }

    /// Takes an idle connection out of its pool, and its sender with it.
    pub(crate) fn evict(&self, key: &Key, connection: &Rc<Connection>) {
        let taken = {
            let mut pools = self.pools.borrow_mut();
            let Some(pool) = pools.get_mut(key) else {
                return;
            };
            let list = match key.codec {
                Codec::Http2 => &mut pool.shared,
                _ => &mut pool.idle,
            };
            let at = list
                .iter()
                .position(|(other, _)| Rc::ptr_eq(other, connection));
            at.map(|at| list.remove(at))
        };
        drop(taken);
    }

    /// A connection is no more.
    pub(crate) fn closed(&self, key: &Key) {
        self.connections
            .set(self.connections.get().saturating_sub(1));
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get_mut(key) {
            pool.live = pool.live.saturating_sub(1);
            if pool.live == 0 {
                pools.remove(key);
            }
        }
        drop(pools);
        self.wake();
    }

    /// A place in the queue, if there is room: `None` is an overflow.
    pub(crate) fn queue(self: &Rc<Self>) -> Option<Place> {
        let mut waiters = self.waiters.borrow_mut();
        if waiters.queue.len() >= self.limits.get().pending {
            return None;
        }
        let number = waiters.next;
        waiters.next += 1;
        waiters.queue.push_back((number, None));
        Some(Place {
            endpoint: Rc::clone(self),
            number,
        })
    }

    /// Whether somebody waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiters.borrow().queue.is_empty()
    }

    /// Something may be to be had: lets the first who waits try.
    pub(crate) fn wake(&self) {
        let mut waiters = self.waiters.borrow_mut();
        let first = waiters.queue.front_mut();
        if let Some(waker) = first.and_then(|(_, waker)| waker.take()) {
            drop(waiters);
            waker.wake();
        }
    }
}

/// A request that is under way at an endpoint, or waits to be.
pub(crate) struct Underway(Rc<Endpoint>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get().saturating_sub(1));
    }
}

/// A place in the queue of an endpoint.
pub(crate) struct Place {
    endpoint: Rc<Endpoint>,
    number: u64,
}

impl Place {
    /// Whether it is this one's turn to try; else it is woken when it is.
    pub(crate) fn is_first(&self, waker: &Waker) -> bool {
        let mut waiters = self.endpoint.waiters.borrow_mut();
        let found = waiters
            .queue
            .iter()
            .position(|(number, _)| *number == self.number);
        if let Some(place) = found.and_then(|at| waiters.queue.get_mut(at)) {
            place.1 = Some(waker.clone());
        }
        found == Some(0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiters = self.endpoint.waiters.borrow_mut();
        waiters.queue.retain(|(number, _)| *number != self.number);
        drop(waiters);
        self.endpoint.wake(); // The next one may be as lucky.
    }
}
