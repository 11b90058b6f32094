//! The pods of one generation, in the forms that tables and hooks want, and what moved between two.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_datapath::{Address, PodState, SlotRef};
use weft_xdp::PodEntry;

use super::peers::Peers;
use super::registry::Registry;
use crate::config::{self, Backends, Config, Service};

/// Packets that a pod may punt at once beyond its rate: the segments of one GSO packet at the kernel's
/// smallest MSS of 48 (1,366), and not so many that they fill a socket's ring (2,048) alone. At the default rate
/// a TCP stream of 2 to 3 Gbit/s lost none of 4 million packets; with 1,024 one in 3,000, with 512 one in 300.
const PUNT_BURST: u32 = 1536;

/// From so many pods that moved at once on, every service is compiled again: to look for those that
/// they concern would cost more.
const MOVED_MAX: usize = 64;

/// The pods of one generation.
#[derive(Debug, Default)]
pub struct PodSet {
    entries: Vec<PodEntry>,
    endpoints: Vec<(Address, u32)>,
    for_tables: Vec<weft_datapath::Pod>,
    reachable: FxHashMap<IpAddr, (u32, SlotRef)>,
    absent: FxHashSet<IpAddr>,
    leaving: FxHashMap<IpAddr, SlotRef>,
    /// Other nodes, and their pods.
    peers: Arc<Peers>,
}

impl PodSet {
    /// The pods of the registry, under the limits of the configuration, and those of peers.
    pub fn new(
        config: &Config,
        registry: &Registry,
        hairpins: &[Address],
        peers: Arc<Peers>,
    ) -> Self {
        let mut set = Self {
            peers,
            ..Self::default()
        };
        for pod in registry.pods() {
            if pod.draining_until.is_some() {
                let addresses = pod.config.addresses.iter();
                set.leaving
                    .extend(addresses.map(|&address| (address, pod.slot)));
            }
            let Some(ifindex) = pod.ifindex else {
                set.absent.extend(&pod.config.addresses);
                continue;
            };
            let draining = pod.draining_until.is_some();
            let addresses = pod.config.addresses.iter();
            let addresses: Vec<Address> = addresses.map(|&address| address.into()).collect();
            set.endpoints
                .extend(addresses.iter().map(|&address| (address, ifindex)));
            if !draining {
                let addresses = pod.config.addresses.iter();
                set.reachable
                    .extend(addresses.map(|&address| (address, (ifindex, pod.slot))));
            }
            set.for_tables.push(weft_datapath::Pod {
                ifindex,
                name: pod.config.name.as_str().into(),
                addresses: addresses.iter().copied().collect(),
                slot: pod.slot,
                state: if draining {
                    PodState::Draining
                } else {
                    PodState::Enrolled {
                        grace_until: pod.grace_until,
                    }
                },
                mtu: pod.mtu,
            });
            set.entries.push(PodEntry {
                ifindex,
                addresses,
                draining,
                punt_rate: pod.config.punt_rate.unwrap_or(config.workers.punt_rate),
                punt_burst: PUNT_BURST,
                grace_until: pod.grace_until,
            });
        }
        // Without a pod there is nobody to reach itself.
        if !set.entries.is_empty() {
            set.endpoints
                .extend(hairpins.iter().map(|&address| (address, 0)));
        }
        set.entries.sort_by_key(|pod| pod.ifindex);
        set.endpoints.sort_unstable();
        set
    }

    /// For the hooks: the pods that are there, by interface.
    pub fn entries(&self) -> &[PodEntry] {
        &self.entries
    }

    /// For the hooks: the pods' addresses and interfaces, and the hairpin addresses without one, in order.
    pub fn endpoints(&self) -> &[(Address, u32)] {
        &self.endpoints
    }

    /// For the workers.
    pub fn for_tables(&self) -> Vec<weft_datapath::Pod> {
        self.for_tables.clone()
    }

    /// The interface and slot of the enrolled pod with this address, unless it drains; the tunnel to a peer's.
    pub fn reachable(&self, address: &IpAddr) -> Option<(u32, SlotRef)> {
        let here = self.reachable.get(address).copied();
        let ours = self.absent.contains(address) || self.leaving.contains_key(address);
        here.or_else(|| (!ours).then(|| self.peers.reachable(*address))?)
    }

    /// Other nodes, and their pods.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Whether the pod with this address has no interface now.
    pub fn absent(&self, address: &IpAddr) -> bool {
        self.absent.contains(address)
    }

    /// The slot of the pod with this address that drains.
    pub fn leaving(&self, address: &IpAddr) -> Option<SlotRef> {
        self.leaving.get(address).copied()
    }
}

/// What services may see differently because pods came, went or changed.
#[derive(Debug)]
pub struct Moved<'c> {
    /// Addresses that are reached in another way now, or not any more.
    addresses: FxHashSet<IpAddr>,
    /// Pods behind such addresses, or with other labels, ports, addresses or conditions, as they were and as they are.
    pods: Vec<&'c config::Pod>,
    /// Both generations, where peers' pods are elsewhere: then any address may be.
    ranges: Option<[&'c PodSet; 2]>,
}

impl<'c> Moved<'c> {
    /// Compares two generations.
    pub fn between(before: (&'c Config, &'c PodSet), after: (&'c Config, &'c PodSet)) -> Self {
        let stands = |set: &PodSet, address| {
            let there = (set.reachable(address), set.leaving(address));
            (there, set.absent(address))
        };
        let sets = [before.1, after.1];
        let addresses: FxHashSet<IpAddr> = sets
            .into_iter()
            .flat_map(|set| (set.reachable.keys().chain(&set.absent)).chain(set.leaving.keys()))
            .filter(|&address| stands(before.1, address) != stands(after.1, address))
            .copied()
            .collect();
        let seen = |pod: &'c config::Pod| (&pod.addresses, &pod.labels, &pod.ports, pod.conditions);
        let by_name = |config: &'c Config| -> HashMap<&'c str, &'c config::Pod> {
            let pods = config.pods.iter();
            pods.map(|pod| (pod.name.as_str(), pod)).collect()
        };
        let known = [by_name(before.0), by_name(after.0)];
        let mut pods = Vec::new();
        for (config, others) in [(before.0, &known[1]), (after.0, &known[0])] {
            pods.extend(config.pods.iter().filter(|&pod| {
                let other = others.get(pod.name.as_str());
                other.is_none_or(|other| seen(other) != seen(pod))
                    || pod.addresses.iter().any(|ip| addresses.contains(ip))
            }));
        }
        let [one, other] = sets;
        let ranges = (!one.peers.same_pods(&other.peers)).then_some(sets);
        Self {
            addresses,
            pods,
            ranges,
        }
    }

    /// Whether nothing moved.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.pods.is_empty() && self.ranges.is_none()
    }

    /// Whether a service may have other backends now than before, or reach them in another way.
    pub fn concerns(&self, service: &Service) -> bool {
        match &service.backends {
            Backends::Endpoints(endpoints) => endpoints.iter().any(|endpoint| {
                let elsewhere = self.ranges.is_some_and(|[before, after]| {
                    before.reachable(&endpoint.address) != after.reachable(&endpoint.address)
                });
                elsewhere || self.addresses.contains(&endpoint.address)
            }),
            Backends::Selector(selector) => {
                self.pods.len() > MOVED_MAX || self.pods.iter().any(|pod| pod.has_labels(selector))
            }
        }
    }
}
