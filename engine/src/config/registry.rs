//! Who has what, over all files of a load: names, addresses, interfaces and service ports are each
//! had once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_xdp::{MAX_PODS, MAX_RANGES, MAX_SERVICES};

use super::error::{ConfigError, Location, Reason};
use super::http::{BackendRef, PortRef};
use super::model::{Protocol, Service};
use super::reader::{Value, quoted};

/// Everything claimed so far.
#[derive(Default)]
pub(super) struct Registry {
    pod_names: HashMap<String, Location>,
    service_names: HashMap<String, Location>,
    peer_names: HashMap<String, Location>,
    pod_ranges: HashMap<IpNet, Location>,
    interfaces: HashMap<String, Location>,
    /// Each with who had it first, and as what.
    addresses: HashMap<IpAddr, (Use, Location)>,
    service_ports: HashMap<(IpAddr, u16, Protocol), Location>,
    endpoints: Vec<(IpAddr, Location)>,
    backends: Vec<(BackendRef, Location)>,
    /// Pods so far.
    pods: usize,
    /// Cluster IPs so far, each once.
    cluster_ips: usize,
    /// Whether a service has been reported that there is no room for.
    services_full: bool,
}

/// What an address is for. It is for one thing only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A node's on the underlay, the own one's or a peer's.
    Node,
    /// A pod's.
    Pod,
    /// Services', on different ports.
    ClusterIp,
    /// Services', for pods that reach themselves.
    Hairpin,
}

impl Registry {
    /// Counts a pod, and reports the first one that the hooks have no room for.
    pub(super) fn pod(&mut self, value: &Value<'_, '_>) {
        self.pods += 1;
        if self.pods == MAX_PODS + 1 {
            let (count, max) = (self.pods, MAX_PODS);
            let what = "pods";
            let _: Option<()> = value.reject(Reason::Full { what, count, max });
        }
    }

    /// Reports the first service that the hooks have no room for.
    pub(super) fn service(&mut self, value: &Value<'_, '_>) {
        let count = self.cluster_ips + self.service_ports.len();
        if count > MAX_SERVICES && !self.services_full {
            self.services_full = true;
            let (what, max) = ("cluster IPs and ports of cluster IPs", MAX_SERVICES);
            let _: Option<()> = value.reject(Reason::Full { what, count, max });
        }
    }

    pub(super) fn pod_name(&mut self, value: &Value<'_, '_>, name: &str) {
        claim(&mut self.pod_names, value, name.to_owned(), || quoted(name));
    }

    pub(super) fn service_name(&mut self, value: &Value<'_, '_>, name: &str) {
        claim(&mut self.service_names, value, name.to_owned(), || {
            quoted(name)
        });
    }

    pub(super) fn interface(&mut self, value: &Value<'_, '_>, name: &str) {
        claim(&mut self.interfaces, value, name.to_owned(), || {
            quoted(name)
        });
    }

    pub(super) fn peer_name(&mut self, value: &Value<'_, '_>, name: &str) {
        claim(&mut self.peer_names, value, name.to_owned(), || {
            quoted(name)
        });
    }

    /// An address is one node's or pod's, or that of services only.
    pub(super) fn address(&mut self, value: &Value<'_, '_>, address: IpAddr, used: Use) {
        match self.addresses.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert((used, value.location()));
                self.cluster_ips += usize::from(used == Use::ClusterIp);
            }
            Entry::Occupied(entry) => {
                let (first, by) = entry.get();
                let shared = matches!(used, Use::ClusterIp | Use::Hairpin) && *first == used;
                if !shared {
                    taken(value, address.to_string(), by);
                }
            }
        }
    }

    /// A range of pods is one peer's. One within another is the exception to it. Reports the first one that the hooks have no
    /// room for.
    pub(super) fn pod_range(&mut self, value: &Value<'_, '_>, range: IpNet) {
        let before = self.pod_ranges.len();
        claim(&mut self.pod_ranges, value, range, || range.to_string());
        let (count, max) = (self.pod_ranges.len(), MAX_RANGES);
        if count > max && before == max {
            let what = "ranges of peers' pods";
            let _: Option<()> = value.reject(Reason::Full { what, count, max });
        }
    }

    /// Ranges of pods that have a node's address in them, which no pod could reach then.
    pub(super) fn ranges_with_nodes(&self) -> Vec<ConfigError> {
        let lengths: HashSet<u8> = self.pod_ranges.keys().map(IpNet::prefix_len).collect();
        let addresses = self.addresses.iter();
        let mut nodes: Vec<_> = addresses
            .filter_map(|(address, (used, by))| (*used == Use::Node).then_some((*address, by)))
            .collect();
        nodes.sort_unstable_by_key(|(address, _)| *address);
        let around = nodes
            .iter()
            .flat_map(|node| lengths.iter().map(move |length| (*node, *length)));
        around
            .filter_map(|((address, by), length)| {
                let range = IpNet::new(address, length).ok()?.trunc(); // An error: IPv6's length.
                let at = self.pod_ranges.get(&range)?.clone();
                let (what, by) = (format!("{address} in {range}"), by.clone());
                let reason = Reason::Taken { what, by };
                Some(ConfigError { at, reason })
            })
            .collect()
    }

    /// A port of a service on all of its cluster IPs. A clash is reported once, whatever the number
    /// of addresses.
    pub(super) fn service_port(
        &mut self,
        value: &Value<'_, '_>,
        cluster_ips: &[IpAddr],
        port: u16,
        protocol: Protocol,
    ) {
        let mut clash = None;
        for &address in cluster_ips {
            match self.service_ports.entry((address, port, protocol)) {
                Entry::Occupied(entry) => clash = clash.or(Some((address, entry.get().clone()))),
                Entry::Vacant(entry) => {
                    entry.insert(value.location());
                }
            }
        }
        if let Some((address, by)) = clash {
            let what = format!("{address} port {port}/{}", protocol.name());
            taken(value, what, &by);
        }
    }

    /// An endpoint, to be compared with what is no endpoint's once all of that is known.
    pub(super) fn endpoint(&mut self, value: &Value<'_, '_>, address: IpAddr) {
        self.endpoints.push((address, value.location()));
    }

    /// A backend of a rule, to be found once all services are known.
    pub(super) fn backend(&mut self, value: &Value<'_, '_>, backend: &BackendRef) {
        self.backends.push((backend.clone(), value.location()));
    }

    /// Backends that are no port of a service. One of a service that has errors of its own is not reported.
    pub(super) fn unresolved(&mut self, services: &[Arc<Service>]) -> Vec<ConfigError> {
        if self.backends.is_empty() {
            return Vec::new();
        }
        let named = services.iter().map(|known| (known.name.as_str(), known));
        let by_name: HashMap<&str, &Arc<Service>> = named.collect();
        let backends = std::mem::take(&mut self.backends).into_iter();
        let missing = backends.filter(|(backend, _)| match by_name.get(backend.service.as_str()) {
            Some(service) => service.backend_port(backend.port.as_ref()).is_none(),
            None => !self.service_names.contains_key(&backend.service),
        });
        missing
            .map(|(backend, at)| {
                let service = quoted(&backend.service);
                let known = by_name.contains_key(backend.service.as_str());
                let reason = match &backend.port {
                    _ if !known => Reason::NoService { service },
                    None => Reason::WhichPort { service },
                    Some(PortRef::Number(number)) => Reason::NoBackend {
                        service,
                        port: number.to_string(),
                    },
                    Some(PortRef::Named(name)) => Reason::NoBackend {
                        service,
                        port: quoted(name),
                    },
                };
                ConfigError { at, reason }
            })
            .collect()
    }

    /// Endpoints that are cluster IPs, since a service behind a service would be translated twice, or
    /// hairpin addresses.
    pub(super) fn endpoint_clashes(self) -> impl Iterator<Item = ConfigError> {
        let Self {
            endpoints,
            addresses,
            ..
        } = self;
        endpoints.into_iter().filter_map(move |(address, at)| {
            let (used, by) = addresses.get(&address)?;
            let what = address.to_string();
            let by = by.clone();
            matches!(used, Use::ClusterIp | Use::Hairpin).then_some(ConfigError {
                at,
                reason: Reason::Taken { what, by },
            })
        })
    }
}

/// Notes who has `key`, or reports who had it first.
fn claim<K: Hash + Eq>(
    owners: &mut HashMap<K, Location>,
    value: &Value<'_, '_>,
    key: K,
    what: impl FnOnce() -> String,
) {
    match owners.entry(key) {
        Entry::Occupied(entry) => taken(value, what(), entry.get()),
        Entry::Vacant(entry) => {
            entry.insert(value.location());
        }
    }
}

/// Reports that `what` belongs to another.
pub(super) fn taken(value: &Value<'_, '_>, what: String, by: &Location) {
    let by = by.clone();
    let _: Option<()> = value.reject(Reason::Taken { what, by });
}
