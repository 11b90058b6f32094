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
    turn: Cell<usize>,
}

impl Backend {
    pub(crate) fn new(config: &Arc<BackendConfig>) -> Self {
        let backend = Self {
            config: RefCell::new(Arc::clone(config)),
            endpoints: RefCell::default(),
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
            endpoint.configure(wanted.state, config.limits);
        }
        for endpoint in old {
            if !endpoints.iter().any(|stays| Rc::ptr_eq(stays, &endpoint)) {
                endpoint.retire();
            }
        }
        *self.endpoints.borrow_mut() = endpoints;
        *self.config.borrow_mut() = Arc::clone(config);
    }

    /// Ends all idle connections.
    pub(crate) fn retire(&self) {
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
    pub(crate) fn choose(&self, hash: u64, random: impl FnMut() -> u64) -> Option<Rc<Endpoint>> {
        let endpoints = self.endpoints.borrow();
        let in_state = |state| endpoints.iter().any(|endpoint| endpoint.state() == state);
        let state = [EndpointState::Ready, EndpointState::Draining]
            .into_iter()
            .find(|state| in_state(*state))?;
        let at = self.pick(&endpoints, state, hash, random)?;
        endpoints.get(at).map(Rc::clone)
    }

    fn pick(
        &self,
        endpoints: &[Rc<Endpoint>],
        state: EndpointState,
        hash: u64,
        mut random: impl FnMut() -> u64,
    ) -> Option<usize> {
        let count = endpoints.len();
        // The first in this state from a place on. Bound: each endpoint once.
        let from = |start: usize| {
            (0..count)
                .map(|step| (start + step) % count)
                .find(|at| endpoints[*at].state() == state)
        };
        match &self.config.borrow().algorithm {
            Algorithm::RoundRobin => {
                let at = from(self.turn.get() % count)?;
                self.turn.set(at + 1);
                Some(at)
            }
            Algorithm::Hash(picker) => from(picker.pick(hash) % count),
            Algorithm::LeastRequest => {
                let able = endpoints
                    .iter()
                    .filter(|endpoint| endpoint.state() == state);
                let able_count = able.count();
                let mut nth = |of: usize| ((u128::from(random()) * of as u128) >> 64) as usize;
                let first = nth(able_count);
                // Another one than the first, if there is one.
                let second = (first + 1 + nth(able_count.saturating_sub(1))) % able_count;
                let place = |nth: usize| {
                    let mut able = (0..count).filter(|at| endpoints[*at].state() == state);
                    able.nth(nth)
                };
                let (first, second) = (place(first)?, place(second)?);
                let fewer = endpoints[second].requests() < endpoints[first].requests();
                Some(if fewer { second } else { first })
            }
        }
    }
}

#[cfg(test)]
mod tests;
