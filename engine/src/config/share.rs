//! Keeping what a reload did not change.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::model::{Config, Service};

impl Config {
    /// Takes each service that is the same in `before` from there, so that what did not change is the
    /// same memory, and can be told by its address. Returns what was replaced, for the caller to free
    /// when there is time.
    pub fn share(&mut self, before: &Self) -> Vec<Arc<Service>> {
        let mut replaced = Vec::new();
        let mut take = |service: &mut Arc<Service>, known: &Arc<Service>| {
            let same = **service == **known;
            if same {
                replaced.push(std::mem::replace(service, Arc::clone(known)));
            }
            same
        };
        let mut moved = Vec::new();
        for (index, service) in self.services.iter_mut().enumerate() {
            // Most stand where they stood.
            match before.services.get(index) {
                Some(known) if take(service, known) => {}
                _ => moved.push(service),
            }
        }
        if moved.is_empty() {
            return replaced;
        }
        let known: HashMap<&str, &Arc<Service>> = before
            .services
            .iter()
            .map(|service| (service.name.as_str(), service))
            .collect();
        for service in moved {
            if let Some(known) = known.get(service.name.as_str()) {
                take(service, known);
            }
        }
        replaced
    }

    /// The cluster IPs of all services.
    pub fn vips(&self) -> HashSet<IpAddr> {
        let services = self.services.iter();
        services
            .flat_map(|service| service.cluster_ips.iter().copied())
            .collect()
    }
}
