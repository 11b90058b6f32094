//! From a service's backends to addresses and ports.

use std::collections::HashMap;
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

impl Service {
    /// The backends of `port`, in the order of the configuration.
    ///
    /// An address stands here only when the service has a cluster IP of its family (SVC-30), so a
    /// pod of a dual-stack service stands here twice; the backends of one cluster IP are those of
    /// its family. A backend that lacks a named target port is left out (SVC-02).
    pub fn endpoints_for(&self, port: &ServicePort, pods: &[Pod]) -> Vec<ResolvedEndpoint> {
        match &self.backends {
            Backends::Selector(selector) => pods
                .iter()
                .enumerate()
                .filter(|(_, pod)| {
                    selector
                        .iter()
                        .all(|(key, value)| pod.labels.get(key) == Some(value))
                })
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
            Backends::Endpoints(endpoints) => {
                let owner: HashMap<IpAddr, usize> = pods
                    .iter()
                    .enumerate()
                    .flat_map(|(index, pod)| pod.addresses.iter().map(move |ip| (*ip, index)))
                    .collect();
                endpoints
                    .iter()
                    .filter(|endpoint| self.serves_family(&endpoint.address))
                    .filter_map(|endpoint| {
                        Some(ResolvedEndpoint {
                            address: endpoint.address,
                            port: target(port, |name| endpoint.ports.get(name).copied())?,
                            weight: endpoint.weight,
                            conditions: self.published(endpoint.conditions),
                            pod: owner.get(&endpoint.address).copied(),
                        })
                    })
                    .collect()
            }
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
