//! Keeping what a reload did not change.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::model::{Config, Service};

/// The services of the configuration in force, for those of the next one to stay the same memory where
/// they are the same. So what changed can be told by its address, and nothing is held twice.
pub(crate) struct Earlier<'c> {
    services: &'c [Arc<Service>],
    by_name: OnceCell<HashMap<&'c str, usize>>,
    /// Behind the last one found: most stand where they stood, in front of the same ones.
    next: usize,
}

impl<'c> Earlier<'c> {
    /// None before the first configuration.
    pub(crate) fn new(config: Option<&'c Config>) -> Self {
        Self {
            services: config.map_or(&[], |config| &config.services),
            by_name: OnceCell::new(),
            next: 0,
        }
    }

    /// The earlier service if `service` is the same, else `service`.
    pub(crate) fn keep(&mut self, service: Service) -> Arc<Service> {
        let named = |index: &usize| {
            let known = self.services.get(*index)?;
            (known.name == service.name).then_some(*index)
        };
        let index = named(&self.next).or_else(|| {
            let by_name = self.by_name.get_or_init(|| {
                let names = self.services.iter().enumerate();
                names
                    .map(|(index, known)| (known.name.as_str(), index))
                    .collect()
            });
            by_name.get(service.name.as_str()).copied()
        });
        let Some(index) = index else {
            return Arc::new(service);
        };
        self.next = index + 1;
        let known = &self.services[index];
        if **known == service {
            Arc::clone(known)
        } else {
            Arc::new(service)
        }
    }
}

impl Config {
    /// The same configuration in memory of the calling thread's own: all that is not shared with an
    /// earlier one is copied.
    ///
    /// Reading leaves ten times the configuration's size behind as small free pieces. On a thread of
    /// its own it leaves them in that thread's part of the heap (glibc gives each its own), for the
    /// next reading, and does not make the control thread search them in the middle of a switch.
    #[must_use]
    pub fn rehomed(&self) -> Self {
        let own = |service: &Arc<Service>| match Arc::strong_count(service) {
            1 => Arc::new((**service).clone()),
            _ => Arc::clone(service),
        };
        Self {
            services: self.services.iter().map(own).collect(),
            node: self.node.clone(),
            workers: self.workers.clone(),
            overlay: self.overlay.clone(),
            pods: self.pods.clone(),
        }
    }

    /// The cluster IPs of all services.
    pub fn vips(&self) -> HashSet<IpAddr> {
        let services = self.services.iter();
        services
            .flat_map(|service| service.cluster_ips.iter().copied())
            .collect()
    }
}
