//! From configuration and registry to what the workers and the hooks read.
//!
//! Each generation is compiled as a change of the one before it: services that stayed the same memory
//! ([`config::load`]) and whose pods stayed where they were are not looked at again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ptr;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use weft_datapath::{
    Address, Algorithm, Backend, BackendPath, BackendState, BuildError, Protocol, ServiceOptions,
    ServicePortSpec, SlotRef, Tables, TablesBuilder,
};
use weft_xdp::ServiceKey;

use super::peers::{Peers, TunnelNumbers, Ways};
use super::pods::{Moved, PodSet};
use super::registry::Registry;
use super::slots::{Member, Slots};
use super::sources::{Place, Sources};
use crate::config::{self, Conditions, Config, PodIndex, Service};
use crate::layer7::Layer7;

/// Stable numbers for service ports. A flow carries the number, so it is never reused.
#[derive(Clone, Debug, Default)]
pub struct Names {
    numbers: HashMap<Arc<(String, String)>, u32>,
    names: Vec<Arc<(String, String)>>,
}

impl Names {
    pub(crate) fn number(&mut self, service: &str, port: &str) -> u32 {
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

/// What the machine around the node says, as it was asked last.
#[derive(Debug, Default)]
pub struct Around {
    /// Interfaces that lead to other nodes.
    pub uplinks: Vec<u32>,
    /// Which address the node has for a pod.
    pub sources: Sources,
    /// Which way leads to a peer.
    pub ways: Ways,
    /// Numbers of peers' tunnels.
    pub tunnels: TunnelNumbers,
}

/// One generation of everything derived.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What it was compiled from.
    pub config: Arc<Config>,
    /// For the workers.
    pub tables: Arc<Tables>,
    /// For the workers: HTTP stages.
    pub layer7: Arc<Layer7>,
    /// For the hooks: enrolled pods.
    pub pods: Arc<PodSet>,
    /// For the hooks: interfaces that lead to other nodes.
    pub uplinks: Arc<[u32]>,
    /// Replies to these are punted like those to a pod. The workers know them from the start on, so a
    /// reload cannot change them.
    pub hairpins: Arc<[Address]>,
    /// For the hooks: VIPs and ports that the generation before did not have.
    pub appeared: Vec<ServiceKey>,
    /// For the hooks: VIPs and ports that this generation has no more.
    pub vanished: Vec<ServiceKey>,
    /// Ports that are not what they were: those that came, went, or have other backends.
    pub changed: Vec<ServiceKey>,
}

impl Compiled {
    /// A node without pods and services.
    pub fn nothing(config: &Config) -> Self {
        let hairpins = config.node.hairpin_ips.iter();
        let hairpins = hairpins.map(|&address| address.into()).collect();
        let config = Config {
            node: config.node.clone(),
            workers: config.workers.clone(),
            overlay: None,
            pods: Vec::new(),
            services: Vec::new(),
        };
        Self {
            config: Arc::new(config),
            tables: Arc::default(),
            layer7: Arc::default(),
            pods: Arc::default(),
            uplinks: Arc::default(),
            hairpins,
            appeared: Vec::new(),
            vanished: Vec::new(),
            changed: Vec::new(),
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
        (names, places): (&mut Names, &mut Slots),
        around: &mut Around,
    ) -> Result<Self, BuildError> {
        let Around {
            uplinks,
            sources,
            ways,
            tunnels,
        } = around;
        let before = self.pods.peers();
        let peers = Peers::new(&config, uplinks, ways, tunnels, (names, places), before);
        let peers = Arc::new(peers);
        let pods = PodSet::new(&config, registry, &self.hairpins, Arc::clone(&peers));
        let pods = Arc::new(pods);
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
            add(&mut builder, service, &index, &pods, (names, places));
        }
        let again = new
            .iter()
            .chain(&stale)
            .flat_map(|service| ids(service, names));
        let again: FxHashSet<u32> = again.collect();
        for id in gone.iter().flat_map(|service| ids(service, names)) {
            if !again.contains(&id) {
                places.assign(id, []);
            }
        }
        builder.set_pods(pods.for_tables());
        builder.set_epochs(registry.epochs());
        builder.set_members(places.epochs());
        builder.set_grace(config.node.enrolment_grace);
        builder.set_vip_echo(config.node.vip_echo);
        for place in present(registry) {
            let node = sources.of(place).copied().flatten();
            if let Some(node) = node.filter(usable) {
                builder.set_node_address(place.1, node.into());
            }
        }
        builder.set_overlay(peers.spec.clone());
        for peer in &peers.spec.peers {
            for &address in &peers.nodes {
                builder.set_node_address(peer.port, address);
            }
        }
        let tables = Arc::new(builder.build(self.tables.generation + 1)?);
        let layer7 = Arc::new(self.layer7.next(&config, &tables, names));

        let touched: FxHashSet<ServiceKey> =
            gone.iter().chain(&new).flat_map(|s| hook_keys(s)).collect();
        let stale_keys = stale.iter().flat_map(|service| hook_keys(service));
        let changed = touched.iter().copied().chain(stale_keys);
        let changed = changed.filter(|key| key.port.is_some()).collect();
        let (mut appeared, mut vanished) = (Vec::new(), Vec::new());
        for key in touched {
            match (knows(&self.tables, key), knows(&tables, key)) {
                (false, true) => appeared.push(key),
                (true, false) => vanished.push(key),
                _ => {}
            }
        }
        Ok(Self {
            config,
            tables,
            layer7,
            pods,
            uplinks: uplinks.as_slice().into(),
            hairpins: Arc::clone(&self.hairpins),
            appeared,
            vanished,
            changed,
        })
    }

    /// All VIPs and ports, for the hooks.
    pub fn services(&self) -> Vec<ServiceKey> {
        let ports = self.tables.service_keys();
        let ports = ports.map(|(vip, port, proto)| ServiceKey::port(vip, port, proto));
        let vips = self.tables.vips().map(ServiceKey::wildcard);
        let mut keys: Vec<ServiceKey> = ports.chain(vips).collect();
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

/// Whether the tables have that VIP or port.
fn knows(tables: &Tables, key: ServiceKey) -> bool {
    match key.port {
        Some((port, proto)) => tables.service(&key.address, port, proto).is_some(),
        None => tables.vip(&key.address),
    }
}

/// The numbers of a service's ports.
fn ids(service: &Service, names: &mut Names) -> Vec<u32> {
    let ports = service.ports.iter();
    ports
        .map(|port| names.number(&service.name, port.name.as_deref().unwrap_or_default()))
        .collect()
}

/// Adds all ports of a service.
fn add(
    builder: &mut TablesBuilder,
    service: &Service,
    index: &PodIndex<'_>,
    pods: &PodSet,
    (names, places): (&mut Names, &mut Slots),
) {
    for (port, id) in service.ports.iter().zip(ids(service, names)) {
        let mut backends = backends(service, port, index, pods);
        // Flows to a pod that drains go on while it is an endpoint by its address, as they were.
        let drained = backends.iter().filter_map(|backend| {
            let slot = pods.leaving(&backend.address.into())?;
            Some((backend.address, backend.port, slot))
        });
        places.assign(id, backends.iter().map(member).chain(drained));
        for backend in &mut backends {
            backend.member = places.of(id, &member(backend));
        }
        for &vip in &service.cluster_ips {
            let same_family = |backend: &&Backend| backend.address.is_v4() == vip.is_ipv4();
            builder.add_service_port(ServicePortSpec {
                id,
                address: vip.into(),
                port: port.port,
                proto: protocol(port.protocol),
                algorithm: algorithm(service.algorithm),
                backends: backends.iter().filter(same_family).copied().collect(),
                options: ServiceOptions {
                    affinity: service.session_affinity,
                    max_flows: service.max_flows,
                    reset_on_removal: service.rst_on_removal,
                    stage: port.stage,
                },
            });
        }
    }
}

/// The addresses of pods whose interface is there, with it.
pub(super) fn present(registry: &Registry) -> impl Iterator<Item = Place> {
    registry.pods().iter().flat_map(|pod| {
        let addresses = pod.config.addresses.iter();
        addresses.filter_map(move |&address| Some((address, pod.ifindex?)))
    })
}

/// Whether an address can stand for the node in what a pod is told: one that means the same everywhere.
fn usable(node: &IpAddr) -> bool {
    let narrow = match node {
        IpAddr::V4(node) => node.is_link_local(),
        IpAddr::V6(node) => node.is_unicast_link_local(),
    };
    !narrow && !node.is_loopback() && !node.is_unspecified()
}

fn member(backend: &Backend) -> Member {
    (backend.address, backend.port, backend.slot)
}

/// Which new flows an endpoint gets (KEP-1669).
fn state(conditions: Conditions) -> BackendState {
    match conditions {
        Conditions {
            ready: true,
            terminating: false,
            ..
        } => BackendState::Ready,
        Conditions {
            serving: true,
            terminating: true,
            ..
        } => BackendState::Terminating,
        _ => BackendState::Unready,
    }
}

/// The backends of both families, whatever their state. One whose pod is enrolled and has no interface is none.
fn backends(
    service: &Service,
    port: &config::ServicePort,
    index: &PodIndex<'_>,
    pods: &PodSet,
) -> Vec<Backend> {
    let endpoints = service.endpoints_for(port, index).into_iter();
    endpoints
        .filter(|endpoint| !pods.absent(&endpoint.address))
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
                member: SlotRef::FIXED, // Until it has its place.
                state: state(endpoint.conditions),
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
        config::Algorithm::LeastConnections => Algorithm::LeastConnections,
    }
}
