//! What the oracle's packets meet: pods, and services drawn from a seed.

use crate::config::Config;
use crate::kubeproxy::Rule;
use crate::lab::{Family, Pod, pick, vips};
use crate::random::Random;
use std::net::IpAddr;

/// The pods by number: the client, three enrolled servers, and one that is not enrolled.
pub const PODS: [&str; 5] = ["client", "a", "b", "c", "other"];
/// The client's number.
pub const CLIENT: usize = 0;
/// The number of the pod that is not enrolled.
pub const OTHER: usize = 4;
/// What lies behind the node's default route, numbered after the pods.
pub const OUTSIDE: usize = 5;

/// Who answers at a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum To {
    /// Several enrolled pods, or one.
    Service,
    /// The pod that is not enrolled.
    NotEnrolled,
    /// The client itself and nobody else.
    Itself,
    /// Nobody.
    Empty,
    /// A service's address, a port that it does not have for this protocol.
    OtherPort,
    /// An address of the service range that no service has.
    Unassigned,
    /// No service: an enrolled pod.
    Pod,
    /// No service: the pod that is not enrolled.
    OtherPod,
}

impl To {
    /// As the list of differences says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Service => "a service",
            Self::NotEnrolled => "a service of a pod not enrolled",
            Self::Itself => "a service of the client alone",
            Self::Empty => "a service without backends",
            Self::OtherPort => "another port of a VIP",
            Self::Unassigned => "an unassigned VIP",
            Self::Pod => "a pod",
            Self::OtherPod => "a pod not enrolled",
        }
    }
}

/// A service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its kind: one of the first four.
    pub to: To,
    /// Its addresses' number.
    pub number: u8,
    /// Protocol, port, and port at the backends.
    pub ports: Vec<(&'static str, u16, u16)>,
    /// Numbers of its pods.
    pub backends: Vec<usize>,
}

/// One destination: what packets of a case are sent to.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where to.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// The port at whoever answers.
    pub target: u16,
    /// Numbers of the pods that may answer: which one is a matter of hashing.
    pub servers: Vec<usize>,
}

/// Services drawn from a seed, at least one of each kind.
pub fn services(random: &mut Random) -> Vec<Service> {
    let kinds = [
        To::Service,
        To::Service,
        To::Service,
        To::NotEnrolled,
        To::Itself,
        To::Empty,
    ];
    kinds
        .into_iter()
        .zip(1..)
        .map(|(to, number)| Service {
            to,
            number,
            ports: ports(random),
            backends: match to {
                // The second one has a single backend.
                To::Service if number == 2 => vec![1 + random.below(3)],
                To::Service => {
                    let left_out = 1 + random.below(6);
                    (1..OTHER).filter(|pod| *pod != left_out).collect()
                }
                To::NotEnrolled => vec![OTHER],
                To::Itself => vec![CLIENT],
                _ => Vec::new(),
            },
        })
        .collect()
}

/// Both protocols, each on one port or two, at times the same number for both.
fn ports(random: &mut Random) -> Vec<(&'static str, u16, u16)> {
    let mut ports: Vec<(&str, u16, u16)> = Vec::new();
    for protocol in ["tcp", "udp"] {
        for _ in 0..=random.below(2) {
            let port = match ports.first() {
                Some((_, port, _)) if random.below(3) == 0 => *port,
                _ => 1 + random.below(9999) as u16,
            };
            let target = [port, 1 + random.below(9999) as u16][random.below(2)];
            if !ports.iter().any(|(p, at, _)| (*p, *at) == (protocol, port)) {
                ports.push((protocol, port, target));
            }
        }
    }
    ports
}

/// A destination of kind `to` for `protocol` (`tcp`, `udp`, or either for what has no ports).
pub fn target(
    random: &mut Random,
    services: &[Service],
    to: To,
    protocol: &str,
    family: Family,
) -> Target {
    let pods = |number: usize| crate::lab::pod_ips(number as u8 + 1);
    let direct = |number: usize, random: &mut Random| {
        let port = 1 + random.below(9999) as u16;
        Target {
            address: pick(&pods(number), family),
            port,
            target: port,
            servers: vec![number],
        }
    };
    match to {
        To::Pod => {
            let number = 1 + random.below(3);
            direct(number, random)
        }
        To::OtherPod => direct(OTHER, random),
        To::Unassigned => Target {
            address: pick(&vips(200 + random.below(50) as u8), family),
            servers: Vec::new(),
            ..direct(1, random)
        },
        To::OtherPort => {
            let service = random.pick(services);
            let mut port = 1 + random.below(9999) as u16;
            while service.ports.iter().any(|(_, taken, _)| *taken == port) {
                port += 1;
            }
            Target {
                address: pick(&vips(service.number), family),
                port,
                target: port,
                servers: Vec::new(),
            }
        }
        _ => {
            let of_kind: Vec<&Service> = services.iter().filter(|one| one.to == to).collect();
            let service = *random.pick(&of_kind);
            let ports: Vec<_> = service.ports.iter().filter(|p| p.0 == protocol).collect();
            let (_, port, target) = **random.pick(&ports);
            Target {
                address: pick(&vips(service.number), family),
                port,
                target,
                servers: service.backends.clone(),
            }
        }
    }
}

/// The services as kube-proxy's rules.
pub fn rules(services: &[Service], pods: &[Pod]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for service in services {
        for (protocol, port, target) in &service.ports {
            for family in Family::BOTH {
                let endpoints = service.backends.iter();
                rules.push(Rule {
                    vip: (pick(&vips(service.number), family), *port).into(),
                    protocol,
                    endpoints: endpoints
                        .map(|pod| pods[*pod].at(family, *target))
                        .collect(),
                });
            }
        }
    }
    rules
}

/// The services as Weft's configuration, every pod enrolled but one.
pub fn config(services: &[Service], pods: &[Pod], fast_path: Option<&str>) -> Config {
    let mut config = Config::new();
    if let Some(fast_path) = fast_path {
        config.workers.fast_path = fast_path.into();
    }
    // No flow is older than the enrolment, and a busy machine is no dead worker.
    config.node.enrolment_grace = Some("0s".into());
    config.workers.heartbeat = Some("10s".into());
    for pod in pods.iter().take(OTHER) {
        config.enrol(pod, &pod.name);
    }
    for service in services {
        let addresses = service.backends.iter().flat_map(|pod| pods[*pod].ips);
        config
            .service(
                &format!("s{}", service.number),
                service.number,
                &service.ports,
            )
            .serve_at(addresses);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_has_a_destination_of_every_kind_and_protocol() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let services = services(&mut random);
            for to in [
                To::Service,
                To::NotEnrolled,
                To::Itself,
                To::Empty,
                To::OtherPort,
            ] {
                for protocol in ["tcp", "udp"] {
                    let found = target(&mut random, &services, to, protocol, Family::V4);
                    assert!(found.port > 0, "{found:?}");
                }
            }
        }
    }
}
