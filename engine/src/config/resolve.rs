//! From a service's backends to addresses and ports.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::model::{Backends, Conditions, Pod, Service, ServicePort, TargetPort};

/// A backend of one service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// Its share against the other endpoints.
    pub weight: u16,
    /// Where it stands.
    pub conditions: Conditions,
    /// Its index in the pods that were asked, when it is one of them.
    pub pod: Option<usize>,
}

/// Pods by what services know them by.
#[derive(Debug)]
pub struct PodIndex<'c> {
    pods: &'c [Pod],
    by_address: HashMap<IpAddr, usize>,
    /// Made for the first selector: the pods with a label, by its key and value, in order.
    by_label: OnceCell<HashMap<&'c str, HashMap<&'c str, Vec<usize>>>>,
}

impl<'c> PodIndex<'c> {
    /// An index of these pods.
    pub fn new(pods: &'c [Pod]) -> Self {
        let addresses = pods.iter().enumerate();
        let addresses = addresses
            .flat_map(|(index, pod)| pod.addresses.iter().map(move |address| (*address, index)));
        Self {
            pods,
            by_address: addresses.collect(),
            by_label: OnceCell::new(),
        }
    }

    /// The pods that have all of these labels, in order, with their index.
    fn selected(
        &self,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = (usize, &'c Pod)> {
        let by_label = self.by_label.get_or_init(|| {
            let mut by_label: HashMap<_, HashMap<_, Vec<usize>>> = HashMap::new();
            for (index, pod) in self.pods.iter().enumerate() {
                for (key, value) in &pod.labels {
                    let pods = by_label.entry(key.as_str()).or_default();
                    pods.entry(value.as_str()).or_default().push(index);
                }
            }
            by_label
        });
        let with = |(key, value): (&String, &String)| {
            let values = by_label.get(key.as_str());
            let pods = values.and_then(|values| values.get(value.as_str()));
            pods.map_or(&[][..], Vec::as_slice)
        };
        let fewest = selector.iter().map(with).min_by_key(|pods| pods.len());
        let candidates = fewest.unwrap_or_default().iter();
        candidates
            .map(|&index| (index, &self.pods[index]))
            .filter(|(_, pod)| pod.has_labels(selector))
    }
}

impl Pod {
    /// Whether the pod has all of these labels.
    pub fn has_labels(&self, selector: &BTreeMap<String, String>) -> bool {
        let mut labels = selector.iter();
        labels.all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

impl Service {
    /// The backends of `port`, in the order of the configuration.
    ///
    /// An address stands here only when the service has a cluster IP of its family (SVC-30), so a
    /// pod of a dual-stack service stands here twice; the backends of one cluster IP are those of
    /// its family. A backend that lacks a named target port is left out (SVC-02).
    pub fn endpoints_for(&self, port: &ServicePort, pods: &PodIndex<'_>) -> Vec<ResolvedEndpoint> {
        match &self.backends {
            Backends::Selector(selector) => pods
                .selected(selector)
                .filter_map(|(index, pod)| {
                    Some((
                        index,
                        pod,
                        target(port, |name| pod.ports.get(name).copied())?,
                    ))
                })
                .flat_map(|(index, pod, port)| {
                    let served = pod.addresses.iter().filter(|ip| self.serves_family(ip));
                    let conditions = self.published(pod.conditions);
                    served.map(move |&address| ResolvedEndpoint {
                        address,
                        port,
                        weight: 1,
                        conditions,
                        pod: Some(index),
                    })
                })
                .collect(),
            Backends::Endpoints(endpoints) => endpoints
                .iter()
                .filter(|endpoint| self.serves_family(&endpoint.address))
                .filter_map(|endpoint| {
                    Some(ResolvedEndpoint {
                        address: endpoint.address,
                        port: target(port, |name| endpoint.ports.get(name).copied())?,
                        weight: endpoint.weight,
                        conditions: self.published(endpoint.conditions),
                        pod: pods.by_address.get(&endpoint.address).copied(),
                    })
                })
                .collect(),
        }
    }

    /// What the service makes of an endpoint's conditions (SVC-21).
    fn published(&self, conditions: Conditions) -> Conditions {
        let anyway = self.publish_not_ready_addresses;
        Conditions {
            ready: conditions.ready || anyway,
            serving: conditions.serving || anyway,
            ..conditions
        }
    }

    fn serves_family(&self, address: &IpAddr) -> bool {
        self.cluster_ips
            .iter()
            .any(|ip| ip.is_ipv4() == address.is_ipv4())
    }
}

fn target(port: &ServicePort, named: impl FnOnce(&str) -> Option<u16>) -> Option<u16> {
    match &port.target_port {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => named(name),
    }
}
