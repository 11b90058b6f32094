//! The stage's handle: what a worker drives.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{ConnectionMeta, ServiceConfig, Upstreams};
use crate::observe::{AccessRecord, ServiceMetrics};
use crate::run::GroupId;
use crate::serve::{Service, Shared, serve};
use crate::{Now, Stream};

/// The number of a service in a stage: a port of a VIP. Small, for it is an index.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// How much is done in one turn. A poll of a task moves at most some buffers' worth of bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Polls of tasks in all.
    pub polls: usize,
    /// Polls of one service's tasks before another's.
    pub share: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            polls: 1_024,
            share: 32,
        }
    }
}

/// All HTTP of one worker.
///
/// The worker gives it connections with [`Self::accept`] and calls [`Self::turn`] whenever a stream may have woken a task, or
/// the time that the last turn named has come. Everything happens within a turn.
pub struct Stage<S: Stream> {
    shared: Rc<Shared<S>>,
    services: BTreeMap<ServiceId, Entry<S>>,
    budget: Budget,
}

struct Entry<S> {
    service: Rc<Service<S>>,
    metrics: Rc<RefCell<ServiceMetrics>>,
}

impl<S: Stream> Stage<S> {
    /// A stage without services. `seed` decides all that is chosen at random.
    pub fn new(upstreams: impl Upstreams<S> + 'static, seed: u64, budget: Budget) -> Self {
        Self {
            shared: Rc::new(Shared::new(Box::new(upstreams), seed)),
            services: BTreeMap::new(),
            budget,
        }
    }

    /// Adds a service, or changes one: for connections and requests that come from now on.
    pub fn configure(&mut self, id: ServiceId, config: Arc<ServiceConfig>) {
        if let Some(entry) = self.services.get(&id) {
            return entry.service.configure(config);
        }
        let metrics = Rc::default();
        let service = Service::new(id, &self.shared, config, Rc::clone(&metrics));
        let service = Rc::new(service);
        self.services.insert(id, Entry { service, metrics });
    }

    /// Takes a service away, and resets its connections.
    pub fn remove(&mut self, id: ServiceId) {
        if self.services.remove(&id).is_some() {
            self.shared.executor.clear(GroupId(id.0));
        }
    }

    /// Serves a client's connection. One to a service that is not there, or beyond its limit, is reset.
    pub fn accept(&self, id: ServiceId, mut stream: S, meta: ConnectionMeta) {
        let Some(Entry { service, metrics }) = self.services.get(&id) else {
            return stream.abort();
        };
        let mut metrics = metrics.borrow_mut();
        if service.connections.get() >= service.config().limits.connections {
            metrics.connections_refused += 1;
            return stream.abort();
        }
        metrics.connections += 1;
        service.spawn(serve(Rc::clone(service), stream, meta));
    }

    /// Ends clients' connections in order: those without a request now, others with their last response. What comes from now on is
    /// served one request. Tunnels, and connections that have said nothing, go on.
    pub fn drain(&self) {
        self.shared.draining.set(true);
        self.shared.executor.wake_all();
    }

    /// Ends everything: connections are reset, and what was under way is recorded as stopped. The last that is asked of the stage, but
    /// for records.
    pub fn stop(&mut self) {
        self.shared.stopped.set(true);
        for id in self.services.keys() {
            self.shared.executor.clear(GroupId(id.0));
        }
    }

    /// Does what there is to do, within the budget, and says when to do so next if no stream wakes a task before: at `now` if
    /// something is left.
    pub fn turn(&mut self, now: Now) -> Option<Now> {
        self.shared.timers.advance(now);
        let ran = self
            .shared
            .executor
            .run(self.budget.polls, self.budget.share);
        for group in ran.panicked {
            self.contain(ServiceId(group.0));
        }
        if ran.more {
            return Some(now);
        }
        self.shared.timers.next()
    }

    /// Whether a stream has woken a task since the last turn, or something was left then: another is due at once.
    pub fn is_woken(&self) -> bool {
        self.shared.executor.is_woken()
    }

    /// A panic has ended all tasks of a service: begins anew with its configuration. Nothing of what it left half done is used
    /// again.
    fn contain(&mut self, id: ServiceId) {
        let Some(entry) = self.services.get_mut(&id) else {
            return;
        };
        let config = entry.service.config();
        let metrics = Rc::clone(&entry.metrics);
        entry.service = Rc::new(Service::new(id, &self.shared, config, metrics));
        entry.metrics.borrow_mut().panics += 1;
    }

    /// The next record of the access log.
    pub fn record(&self) -> Option<AccessRecord> {
        self.shared.log.borrow_mut().pop()
    }

    /// Records that were lost because nobody fetched them.
    pub fn records_lost(&self) -> u64 {
        self.shared.log.borrow().lost()
    }

    /// The counters of a service.
    pub fn metrics(&self, id: ServiceId) -> Option<ServiceMetrics> {
        let entry = self.services.get(&id)?;
        Some(entry.metrics.borrow().clone())
    }

    /// Connections of clients that a service has now.
    pub fn connections(&self, id: ServiceId) -> usize {
        let entry = self.services.get(&id);
        entry.map_or(0, |entry| entry.service.connections.get())
    }

    /// Tasks of a service: its clients' connections, those to its endpoints, and requests of HTTP/2.
    pub fn tasks(&self, id: ServiceId) -> usize {
        self.shared.executor.tasks(GroupId(id.0))
    }
}
