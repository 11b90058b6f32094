//! A service at work, and what all services of a stage share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{ConnectRequest, ServiceConfig, Upstreams};
use crate::observe::{AccessRecord, Flag, Log, ServiceMetrics, Sink};
use crate::route::BackendId;
use crate::run::{Executor, GroupId, Timers};
use crate::stage::ServiceId;
use crate::upstream::{Backend, BackendProtocol};
use crate::{Now, Reject};

/// What all services of a stage share.
pub(crate) struct Shared<S> {
    pub(crate) timers: Timers,
    pub(crate) executor: Executor,
    upstreams: RefCell<Box<dyn Upstreams<S>>>,
    random: Cell<u64>,
    /// Connections end as soon as they have no request under way.
    pub(crate) draining: Cell<bool>,
    /// What ends now does so because the stage does.
    pub(crate) stopped: Cell<bool>,
    pub(crate) log: RefCell<Log>,
}

impl<S> Shared<S> {
    pub(crate) fn new(upstreams: Box<dyn Upstreams<S>>, seed: u64) -> Self {
        Self {
            timers: Timers::default(),
            executor: Executor::default(),
            upstreams: RefCell::new(upstreams),
            random: Cell::new(seed),
            draining: Cell::new(false),
            stopped: Cell::new(false),
            log: RefCell::default(),
        }
    }

    /// The next number of a sequence that the seed decides (SplitMix64).
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn connect(&self, request: &ConnectRequest) -> io::Result<S> {
        self.upstreams.borrow_mut().connect(request)
    }
}

/// A service: its configuration, its backends' pools and its counters. A panic in one of its tasks ends all of them, and
/// with them all that is reachable from here but the counters.
pub(crate) struct Service<S> {
    pub(crate) id: ServiceId,
    pub(crate) group: GroupId,
    pub(crate) shared: Rc<Shared<S>>,
    config: RefCell<Arc<ServiceConfig>>,
    backends: RefCell<BTreeMap<BackendId, Rc<Backend>>>,
    pub(crate) connections: Cell<usize>,
    /// Whether endpoints speak what clients of HTTP/1.1 speak, so that their messages need not be taken apart.
    relays: Cell<bool>,
    pub(crate) metrics: Rc<RefCell<ServiceMetrics>>,
}

impl<S> Service<S> {
    pub(crate) fn new(
        id: ServiceId,
        shared: &Rc<Shared<S>>,
        config: Arc<ServiceConfig>,
        metrics: Rc<RefCell<ServiceMetrics>>,
    ) -> Self {
        let service = Self {
            id,
            group: GroupId(id.0),
            shared: Rc::clone(shared),
            config: RefCell::new(Arc::clone(&config)),
            backends: RefCell::default(),
            connections: Cell::new(0),
            relays: Cell::new(false),
            metrics,
        };
        service.configure(config);
        service
    }

    pub(crate) fn config(&self) -> Arc<ServiceConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Takes another configuration: for what is accepted from now on, and for requests that come from now on.
    pub(crate) fn configure(&self, config: Arc<ServiceConfig>) {
        let mut backends = self.backends.borrow_mut();
        let mut old = std::mem::take(&mut *backends);
        for (id, wanted) in &config.backends {
            let backend = match old.remove(id) {
                Some(backend) => {
                    backend.configure(wanted);
                    backend
                }
                None => Rc::new(Backend::new(wanted)),
            };
            backends.insert(*id, backend);
        }
        drop(backends);
        for backend in old.into_values() {
            backend.retire();
        }
        let mut protocols = config.backends.values().map(|backend| backend.protocol);
        self.relays
            .set(protocols.all(|protocol| protocol != BackendProtocol::H2c));
        *self.config.borrow_mut() = config;
    }

    /// Whether requests of HTTP/1.1 can be relayed as they are.
    pub(super) fn relays(&self) -> bool {
        self.relays.get()
    }

    pub(crate) fn backend(&self, id: BackendId) -> Option<Rc<Backend>> {
        self.backends.borrow().get(&id).map(Rc::clone)
    }

    /// Ends what is idle of a client's own connections to endpoints.
    pub(crate) fn forget(&self, client: SocketAddr) {
        for backend in self.backends.borrow().values() {
            backend.forget(client);
        }
    }

    /// Counts a request that was refused.
    pub(crate) fn reject(&self, reject: Reject) {
        self.metrics.borrow_mut().rejected[reject as usize] += 1;
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.shared.executor.spawn(self.group, future);
    }
}

impl<S> Sink for Service<S> {
    fn now(&self) -> Now {
        self.shared.timers.now()
    }

    fn record(&self, mut record: AccessRecord) {
        let stopped = self.shared.stopped.get();
        if stopped {
            record.flag = Some(Flag::Stopped);
        }
        self.metrics.borrow_mut().record(&record);
        if self.config.borrow().access_log {
            let mut log = self.shared.log.borrow_mut();
            match stopped {
                true => log.push_last(record),
                false => log.push(record),
            }
        }
    }
}

/// Lets hyper start tasks in a service's group.
#[derive(Clone)]
pub(crate) struct Exec {
    executor: Executor,
    group: GroupId,
}

impl Exec {
    pub(crate) fn of<S>(service: &Service<S>) -> Self {
        Self {
            executor: service.shared.executor.clone(),
            group: service.group,
        }
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Exec {
    fn execute(&self, future: F) {
        self.executor.spawn(self.group, future);
    }
}
