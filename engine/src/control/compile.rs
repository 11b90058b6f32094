//! From configuration and registry to what the workers and the hooks read.
//!
//! Each generation is compiled as a change of the one before it: services that stayed the same memory
//! ([`config::load`]) and whose pods stayed where they were are not looked at again.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use weft_datapath::{
    Address, Algorithm, Backend, BackendPath, BuildError, Protocol, ServicePortSpec, SlotRef,
    Tables, TablesBuilder,
};
use weft_xdp::ServiceKey;

use super::pods::{Moved, PodSet};
use super::registry::Registry;
use crate::config::{self, Config, PodIndex, Service};

/// Stable numbers for service ports. A flow carries the number, so it is never reused.
#[derive(Clone, Debug, Default)]
pub struct Names {
    numbers: HashMap<Arc<(String, String)>, u32>,
    names: Vec<Arc<(String, String)>>,
}

impl Names {
    fn number(&mut self, service: &str, port: &str) -> u32 {
        let key = Arc::new((service.to_string(), port.to_string()));
        *self.numbers.entry(key).or_insert_with_key(|key| {
            self.names.push(Arc::clone(key));
            self.names.len() as u32 - 1
        })
    }

    /// The service's name and the port's.
    pub fn service(&self, number: u32) -> (&str, &str) {
        let known = self.names.get(number as usize);
        known.map_or(("", ""), |name| (&name.0, &name.1))
    }
}

/// One generation of everything derived.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What it was compiled from.
    pub config: Arc<Config>,
    /// For the workers.
    pub tables: Arc<Tables>,
    /// For the hooks: enrolled pods.
    pub pods: Arc<PodSet>,
    /// Replies to these are punted like those to a pod. The workers know them from the start on, so a
    /// reload cannot change them.
    pub hairpins: Arc<[Address]>,
    /// For the hooks: VIPs and ports that the generation before did not have.
    pub appeared: Vec<ServiceKey>,
    /// For the hooks: VIPs and ports that this generation has no more.
    pub vanished: Vec<ServiceKey>,
}

impl Compiled {
    /// A node without pods and services.
    pub fn nothing(config: &Config) -> Self {
        let hairpins = config.node.hairpin_ips.iter();
        let hairpins = hairpins.map(|&address| address.into()).collect();
        let config = Config {
            node: config.node.clone(),
            workers: config.workers.clone(),
            pods: Vec::new(),
            services: Vec::new(),
        };
        Self {
            config: Arc::new(config),
            tables: Arc::default(),
            pods: Arc::default(),
            hairpins,
            appeared: Vec::new(),
            vanished: Vec::new(),
        }
    }

    /// Compiles the generation after this one. Costs time by what has changed.
    ///
    /// # Errors
    /// When the tables cannot hold what a checked configuration asks for: an interface index
    /// beyond 2^24.
    pub fn next(
        &self,
        config: Arc<Config>,
        registry: &Registry,
        names: &mut Names,
    ) -> Result<Self, BuildError> {
        let pods = Arc::new(PodSet::new(&config, registry, &self.hairpins));
        let moved = Moved::between((&self.config, &self.pods), (&config, &pods));
        let (gone, new) = changed(&self.config.services, &config.services);
        let new_ones: FxHashSet<_> = new.iter().map(|service| ptr::from_ref(*service)).collect();
        let mut stale: Vec<&Service> = Vec::new();
        if !moved.is_empty() {
            let services = config.services.iter().map(Arc::as_ref);
            stale.extend(services.filter(|&service| {
                moved.concerns(service) && !new_ones.contains(&ptr::from_ref(service))
            }));
        }

        let mut builder = TablesBuilder::editing(&self.tables);
        for service in gone.iter().chain(&stale) {
            for key in keys(service) {
                builder.remove_service_port(key);
            }
        }
        let index = PodIndex::new(&config.pods);
        for service in new.iter().chain(&stale) {
            add(&mut builder, service, &index, &pods, names);
        }
        builder.set_pods(pods.for_tables());
        builder.set_epochs(registry.epochs());
        builder.set_grace(config.node.enrolment_grace);
        let tables = Arc::new(builder.build(self.tables.generation + 1)?);

        let touched: FxHashSet<ServiceKey> =
            gone.iter().chain(&new).flat_map(|s| hook_keys(s)).collect();
        let (mut appeared, mut vanished) = (Vec::new(), Vec::new());
        for key in touched {
            match (known(&self.tables, &key), known(&tables, &key)) {
                (false, true) => appeared.push(key),
                (true, false) => vanished.push(key),
                _ => {}
            }
        }
        Ok(Self {
            config,
            tables,
            pods,
            hairpins: Arc::clone(&self.hairpins),
            appeared,
            vanished,
        })
    }

    /// All VIPs and ports, for the hooks.
    pub fn services(&self) -> Vec<ServiceKey> {
        let ports = self.tables.service_keys();
        let vips = self.tables.vips().map(ServiceKey::wildcard);
        let mut keys: Vec<ServiceKey> = ports
            .map(|(vip, port, proto)| ServiceKey::port(vip, port, proto))
            .chain(vips)
            .collect();
        keys.sort_unstable();
        keys
    }
}

/// The services of `before` that are not in `after`, and the other way round. A service is the same
/// if it is the same memory.
fn changed<'c>(
    before: &'c [Arc<Service>],
    after: &'c [Arc<Service>],
) -> (Vec<&'c Service>, Vec<&'c Service>) {
    let same = |(a, b): &(&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(a, b);
    let head = before.iter().zip(after).take_while(same).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev());
    let tail = tail.take_while(same).count();
    let (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);
    let not_in = |these: &'c [Arc<Service>], others: &[Arc<Service>]| {
        let others: FxHashSet<_> = others.iter().map(Arc::as_ptr).collect();
        let these = these.iter().map(Arc::as_ref);
        these
            .filter(|&service| !others.contains(&ptr::from_ref(service)))
            .collect()
    };
    (not_in(before, after), not_in(after, before))
}

/// The keys of a service's ports in the tables.
fn keys(service: &Service) -> impl Iterator<Item = (Address, u16, Protocol)> {
    service.cluster_ips.iter().flat_map(|&vip| {
        let ports = service.ports.iter();
        ports.map(move |port| (vip.into(), port.port, protocol(port.protocol)))
    })
}

/// What the hooks know a service by.
fn hook_keys(service: &Service) -> impl Iterator<Item = ServiceKey> {
    let ports = keys(service).map(|(vip, port, proto)| ServiceKey::port(vip, port, proto));
    let vips = service.cluster_ips.iter();
    ports.chain(vips.map(|&vip| ServiceKey::wildcard(vip.into())))
}

/// Whether the tables have a VIP or a port.
fn known(tables: &Tables, key: &ServiceKey) -> bool {
    match key.port {
        Some((port, proto)) => tables.service(&key.address, port, proto).is_some(),
        None => tables.vip(&key.address),
    }
}

/// Adds all ports of a service.
fn add(
    builder: &mut TablesBuilder,
    service: &Service,
    index: &PodIndex<'_>,
    pods: &PodSet,
    names: &mut Names,
) {
    for port in &service.ports {
        let id = names.number(&service.name, port.name.as_deref().unwrap_or_default());
        let ready = ready_backends(service, port, index, pods);
        for &vip in &service.cluster_ips {
            let same_family = |backend: &&Backend| backend.address.is_v4() == vip.is_ipv4();
            builder.add_service_port(ServicePortSpec {
                id,
                address: vip.into(),
                port: port.port,
                proto: protocol(port.protocol),
                algorithm: algorithm(service.algorithm),
                backends: ready.iter().filter(same_family).copied().collect(),
            });
        }
    }
}

/// The backends that take new flows, of both families.
fn ready_backends(
    service: &Service,
    port: &config::ServicePort,
    index: &PodIndex<'_>,
    pods: &PodSet,
) -> Vec<Backend> {
    let endpoints = service.endpoints_for(port, index).into_iter();
    endpoints
        .filter(|endpoint| endpoint.ready && !pods.absent(&endpoint.address))
        .map(|endpoint| {
            let (path, slot) = match pods.reachable(&endpoint.address) {
                Some((ifindex, slot)) => (BackendPath::Pod { ifindex }, slot),
                None => (BackendPath::Kernel, SlotRef::FIXED),
            };
            Backend {
                address: endpoint.address.into(),
                port: endpoint.port,
                path,
                slot,
                weight: endpoint.weight,
                name: None,
            }
        })
        .collect()
}

fn protocol(protocol: config::Protocol) -> Protocol {
    match protocol {
        config::Protocol::Tcp => Protocol::Tcp,
        config::Protocol::Udp => Protocol::Udp,
    }
}

fn algorithm(algorithm: config::Algorithm) -> Algorithm {
    match algorithm {
        config::Algorithm::Maglev => Algorithm::Maglev,
        config::Algorithm::RoundRobin => Algorithm::RoundRobin,
        config::Algorithm::Random => Algorithm::Random,
    }
}
