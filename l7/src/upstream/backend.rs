//! A backend at work: the choice of an endpoint.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::{Algorithm, BackendConfig, Endpoint, EndpointState};

/// A backend's endpoints, with their pools.
pub(crate) struct Backend {
    config: RefCell<Arc<BackendConfig>>,
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// Those that take requests: the ready ones, or while there is none, those that drain. By their place in `endpoints`.
    able: RefCell<Vec<usize>>,
    turn: Cell<usize>,
}

impl Backend {
    pub(crate) fn new(config: &Arc<BackendConfig>) -> Self {
        let backend = Self {
            config: RefCell::new(Arc::clone(config)),
            endpoints: RefCell::default(),
            able: RefCell::default(),
            turn: Cell::new(0),
        };
        backend.configure(config);
        backend
    }

    pub(crate) fn config(&self) -> Arc<BackendConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Takes another configuration: endpoints that stay keep their connections, the others' idle ones are closed.
    pub(crate) fn configure(&self, config: &Arc<BackendConfig>) {
        let old = self.endpoints.take();
        let known = |address: SocketAddr| old.iter().find(|endpoint| endpoint.address == address);
        let endpoints: Vec<Rc<Endpoint>> = config
            .endpoints
            .iter()
            .map(|wanted| match known(wanted.address) {
                Some(endpoint) => Rc::clone(endpoint),
                None => Rc::new(Endpoint::new(wanted.address)),
            })
            .collect();
        for (endpoint, wanted) in endpoints.iter().zip(&config.endpoints) {
            endpoint.configure(wanted, config.limits);
        }
        for endpoint in old {
            if !endpoints.iter().any(|stays| Rc::ptr_eq(stays, &endpoint)) {
                endpoint.retire();
            }
        }
        let in_state = |state| -> Vec<usize> {
            let states = endpoints.iter().map(|endpoint| endpoint.state());
            let able = states.enumerate().filter(|(_, is)| *is == state);
            able.map(|(at, _)| at).collect()
        };
        let mut able = in_state(EndpointState::Ready);
        if able.is_empty() {
            able = in_state(EndpointState::Draining);
        }
        *self.able.borrow_mut() = able;
        *self.endpoints.borrow_mut() = endpoints;
        *self.config.borrow_mut() = Arc::clone(config);
    }

    /// Ends all idle connections; nothing takes requests any more.
    pub(crate) fn retire(&self) {
        self.able.borrow_mut().clear();
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.retire();
        }
    }

    /// Ends the idle connections that are one client's.
    pub(crate) fn forget(&self, client: SocketAddr) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.forget(client);
        }
    }

    /// Chooses an endpoint for a request: a ready one, or while there is none, one that drains.
    pub(crate) fn choose(
        &self,
        hash: u64,
        mut random: impl FnMut() -> u64,
    ) -> Option<Rc<Endpoint>> {
        let (endpoints, able) = (self.endpoints.borrow(), self.able.borrow());
        let count = able.len();
        if count == 0 {
            return None;
        }
        let at = match &self.config.borrow().algorithm {
            Algorithm::RoundRobin => {
                let turn = self.turn.get() % count;
                self.turn.set(turn + 1);
                able[turn]
            }
            // The first that is able from the place on that the hash falls on.
            Algorithm::Hash(picker) => {
                let place = picker.pick(hash) % endpoints.len();
                able[able.partition_point(|at| *at < place) % count]
            }
            Algorithm::LeastRequest => {
                let mut below =
                    |bound: usize| ((u128::from(random()) * bound as u128) >> 64) as usize;
                let first = below(count);
                // Another one than the first, if there is one.
                let second = (first + 1 + below(count - 1)) % count;
                let (first, second) = (able[first], able[second]);
                match endpoints[second].requests() < endpoints[first].requests() {
                    true => second,
                    false => first,
                }
            }
        };
        endpoints.get(at).map(Rc::clone)
    }
}

#[cfg(test)]
mod tests;
