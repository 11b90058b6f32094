//! From configuration and registry to what the workers and the hooks read.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_datapath::{
    Address, Algorithm, Backend, BackendPath, BackendState, BuildError, PodState, Protocol,
    ServiceOptions, ServicePortSpec, SlotRef, Tables, TablesBuilder,
};
use weft_xdp::{PodEntry, ServiceKey};

use super::registry::Registry;
use super::slots::{Member, Slots};
use crate::config::{self, Conditions, Config};

/// Packets that a pod may punt at once beyond its rate: the segments of one GSO packet at the kernel's
/// smallest MSS of 48 (1,366), and not so many that they fill a socket's ring (2,048) alone.
const PUNT_BURST: u32 = 1536;

/// Stable numbers for service ports. A flow carries the number, so it is never reused.
#[derive(Clone, Debug, Default)]
pub struct Names {
    numbers: HashMap<(String, String), u32>,
    names: Vec<(String, String)>,
}

impl Names {
    fn number(&mut self, service: &str, port: &str) -> u32 {
        let key = (service.to_string(), port.to_string());
        *self.numbers.entry(key).or_insert_with_key(|key| {
            self.names.push(key.clone());
            self.names.len() as u32 - 1
        })
    }

    /// The service's name and the port's.
    pub fn service(&self, number: u32) -> (&str, &str) {
        let known = self.names.get(number as usize);
        known.map_or(("", ""), |(service, port)| (service, port))
    }
}

/// One generation of everything derived.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// For the workers.
    pub tables: Arc<Tables>,
    /// For the hooks: enrolled pods, by interface.
    pub pods: Vec<PodEntry>,
    /// For the hooks: VIPs and their ports.
    pub services: Vec<ServiceKey>,
    /// For the hooks: addresses of enrolled pods, and the hairpin addresses without an interface.
    pub endpoints: Vec<(Address, u32)>,
}

impl Compiled {
    /// Compiles one generation. Backend sets that did not change keep their Maglev tables. `source_towards` says
    /// which address the node has for a pod.
    ///
    /// # Errors
    /// When the tables cannot hold what a checked configuration asks for: an interface index
    /// beyond 2^24.
    pub fn new(
        config: &Config,
        registry: &Registry,
        names: &mut Names,
        places: &mut Slots,
        source_towards: impl Fn(IpAddr) -> Option<IpAddr>,
        previous: Option<&Tables>,
        generation: u64,
    ) -> Result<Self, BuildError> {
        let mut builder = previous.map_or_else(TablesBuilder::new, TablesBuilder::following);
        let mut pods = Vec::new();
        let mut endpoints = Vec::new();
        let mut slots = HashMap::new();
        for pod in registry.pods() {
            let Some(ifindex) = pod.ifindex else { continue };
            let draining = pod.draining_until.is_some();
            let addresses: Vec<Address> = pod
                .config
                .addresses
                .iter()
                .map(|&address| address.into())
                .collect();
            endpoints.extend(addresses.iter().map(|&address| (address, ifindex)));
            for node in pod
                .config
                .addresses
                .iter()
                .filter_map(|&pod| source_towards(pod))
            {
                if usable(node, config) {
                    builder.set_node_address(ifindex, node.into());
                }
            }
            if !draining {
                slots.extend(
                    pod.config
                        .addresses
                        .iter()
                        .map(|&address| (address, (ifindex, pod.slot))),
                );
            }
            builder.add_pod(weft_datapath::Pod {
                ifindex,
                addresses: addresses.iter().copied().collect(),
                slot: pod.slot,
                state: if draining {
                    PodState::Draining
                } else {
                    PodState::Enrolled {
                        grace_until: pod.grace_until,
                    }
                },
            });
            pods.push(PodEntry {
                ifindex,
                addresses,
                draining,
                punt_rate: pod.config.punt_rate.unwrap_or(config.workers.punt_rate),
                punt_burst: PUNT_BURST,
            });
        }
        let leaving = registry
            .pods()
            .iter()
            .filter(|pod| pod.draining_until.is_some());
        let leaving: HashMap<IpAddr, SlotRef> = leaving
            .flat_map(|pod| pod.config.addresses.iter().map(|ip| (*ip, pod.slot)))
            .collect();
        let mut services = Vec::new();
        let mut ids = HashSet::new();
        for service in &config.services {
            for &vip in &service.cluster_ips {
                services.push(ServiceKey::wildcard(vip.into()));
            }
            for port in &service.ports {
                let id = names.number(&service.name, port.name.as_deref().unwrap_or_default());
                let mut backends = backends(service, port, config, registry, &slots);
                // Flows to a pod that drains go on while it is an endpoint by its address, as they were.
                let drained = backends.iter().filter_map(|backend| {
                    let slot = leaving.get(&IpAddr::from(backend.address))?;
                    Some((backend.address, backend.port, *slot))
                });
                places.assign(id, backends.iter().map(member).chain(drained));
                ids.insert(id);
                for backend in &mut backends {
                    backend.member = places.of(id, &member(backend));
                }
                for &vip in &service.cluster_ips {
                    let proto = protocol(port.protocol);
                    let key = ServiceKey::port(vip.into(), port.port, proto);
                    services.push(key.with_affinity(service.session_affinity.is_some()));
                    let same_family = |backend: &&Backend| backend.address.is_v4() == vip.is_ipv4();
                    builder.add_service_port(ServicePortSpec {
                        id,
                        address: vip.into(),
                        port: port.port,
                        proto,
                        algorithm: algorithm(service.algorithm),
                        backends: backends.iter().filter(same_family).copied().collect(),
                        options: ServiceOptions {
                            affinity: service.session_affinity,
                            max_flows: service.max_flows,
                            reset_on_removal: service.rst_on_removal,
                        },
                    });
                }
            }
        }
        services.sort_unstable();
        services.dedup(); // Services may share a VIP, and so its wildcard.
        pods.sort_by_key(|pod| pod.ifindex);
        endpoints.sort_unstable();
        places.retain(|id| ids.contains(&id));
        builder.set_epochs(registry.epochs());
        builder.set_members(places.epochs());
        builder.set_grace(config.node.enrolment_grace);
        builder.set_vip_echo(config.node.vip_echo);
        let tables = Arc::new(builder.build(generation)?);
        Ok(Self {
            tables,
            pods,
            services,
            endpoints,
        })
    }
}

/// Whether an address can stand for the node in what a pod is told: one that means the same everywhere,
/// and no service's, which kube-proxy in IPVS mode has on an interface of the node.
fn usable(node: IpAddr, config: &Config) -> bool {
    let narrow = match node {
        IpAddr::V4(node) => node.is_link_local(),
        IpAddr::V6(node) => node.is_unicast_link_local(),
    };
    let mut services = config.services.iter();
    !narrow
        && !node.is_loopback()
        && !node.is_unspecified()
        && !services.any(|service| service.cluster_ips.contains(&node))
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
    service: &config::Service,
    port: &config::ServicePort,
    config: &Config,
    registry: &Registry,
    slots: &HashMap<IpAddr, (u32, SlotRef)>,
) -> Vec<Backend> {
    let absent = |address: IpAddr| {
        let mut pods = registry.pods().iter();
        pods.any(|pod| !pod.is_present() && pod.config.addresses.contains(&address))
    };
    let endpoints = service.endpoints_for(port, &config.pods).into_iter();
    endpoints
        .filter(|endpoint| !absent(endpoint.address))
        .map(|endpoint| {
            let (path, slot) = match slots.get(&endpoint.address) {
                Some(&(ifindex, slot)) => (BackendPath::Pod { ifindex }, slot),
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
