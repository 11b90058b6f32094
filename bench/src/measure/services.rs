//! The services a node knows during a measurement: the measured one in the middle of as many
//! others as the scenario asks for, as kube-proxy's rules and as Weft's configuration.

use super::http::Asks;
use super::placement::CORES;
use super::scenario::{Node, Place, Probe};
use crate::config::{Config, Port, Service, TargetPort};
use crate::kubeproxy::Rule;
use crate::lab::{Family, Pod, pick, vips};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The UDP port the flood goes to.
pub const FLOOD_PORT: u16 = 5000;
/// UDP ports from [`FLOOD_PORT`] on that new flows go to: one port alone has too few 5-tuples.
pub const NEW_FLOW_PORTS: u16 = 4;
/// The number of the measured VIP.
pub const VIP: u8 = 10;

/// The port of the TCP echo server on `core`.
pub fn echo_port(core: usize) -> u16 {
    7100 + u16::from(core != 0)
}

/// The port of the UDP echo server on `core`.
pub fn datagram_port(core: usize) -> u16 {
    7200 + u16::from(core != 0)
}

/// The port of the TCP server of one request a connection on `core`.
pub fn once_port(core: usize) -> u16 {
    7300 + u16::from(core != 0)
}

/// The port of the TCP server of many connections at once on `core`.
pub fn crowd_port(core: usize) -> u16 {
    7400 + u16::from(core != 0)
}

/// The port of the web server on `core`, or of the one that runs on any.
pub fn web_port(core: Option<usize>) -> u16 {
    core.map_or(7602, |core| 7600 + u16::from(core != 0))
}

/// The ports of all web servers.
pub fn web_ports() -> impl Iterator<Item = u16> {
    let cores = CORES.into_iter().map(Some);
    cores.chain([None]).map(web_port)
}

/// The port of the gRPC server on `core`, or of the one that runs on any.
pub fn grpc_port(core: Option<usize>) -> u16 {
    web_port(core) + 100
}

/// The ports of all gRPC servers.
pub fn grpc_ports() -> impl Iterator<Item = u16> {
    web_ports().map(|port| port + 100)
}

/// The port of the iperf3 server on `core`.
pub fn bulk_port(core: usize) -> u16 {
    5201 + u16::from(core != 0)
}

/// A protocol and a port.
pub type ServicePort = (&'static str, u16);

/// The ports of the measured service.
///
/// A node of one service gets only those that `probe` needs: with iptables each port is a rule
/// that a new flow is matched against. Among many services a few more change nothing, and loading
/// the rules anew for each probe would take long.
pub fn ports(services: usize, probe: Probe) -> Vec<ServicePort> {
    let servers = |protocol, port: fn(usize) -> u16| {
        CORES
            .into_iter()
            .map(move |core| (protocol, port(core)))
            .collect::<Vec<_>>()
    };
    let new_flows: Vec<_> = (FLOOD_PORT..FLOOD_PORT + NEW_FLOW_PORTS)
        .map(|port| ("udp", port))
        .collect();
    if services > 1 {
        return [
            new_flows,
            servers("tcp", echo_port),
            servers("udp", datagram_port),
            servers("tcp", once_port),
            servers("tcp", crowd_port),
            servers("tcp", bulk_port),
            web_ports()
                .chain(grpc_ports())
                .map(|port| ("tcp", port))
                .collect(),
        ]
        .concat();
    }
    match probe {
        Probe::Flood(_) | Probe::FloodOneCore | Probe::FloodNode => vec![("udp", FLOOD_PORT)],
        Probe::NewFlows(_) | Probe::NewFlowsNode => new_flows,
        Probe::RoundTrip(_) => servers("tcp", echo_port),
        Probe::FreshRoundTrip | Probe::LiveFlows(_) => servers("udp", datagram_port),
        Probe::Connections(_) => servers("tcp", once_port),
        Probe::Crowd | Probe::IdleMemory => servers("tcp", crowd_port),
        Probe::Bulk => servers("tcp", bulk_port),
        Probe::Http(Asks::Grpc) => grpc_ports().map(|port| ("tcp", port)).collect(),
        Probe::Http(_) => web_ports().map(|port| ("tcp", port)).collect(),
        Probe::ConfigUpdate | Probe::LookupScale => Vec::new(),
    }
}

/// Cluster address and endpoints of one of the others.
fn filler(number: usize, endpoints: usize) -> (Ipv4Addr, Vec<Ipv4Addr>) {
    // At most 30,000 services and 100,000 endpoints: none leaves its range.
    let numbered = |base: [u8; 4], number: usize| {
        let offset = (number / 250 * 256 + number % 250 + 1) as u32;
        Ipv4Addr::from(u32::from_be_bytes(base) + offset)
    };
    let endpoint = |index| numbered([10, 248, 0, 0], number * endpoints + index);
    (
        numbered([10, 97, 0, 0], number),
        (0..endpoints).map(endpoint).collect(),
    )
}

/// Before and after the measured one.
fn fillers(services: usize) -> (Vec<usize>, Vec<usize>) {
    let middle = services / 2;
    ((0..middle).collect(), (middle + 1..services).collect())
}

/// kube-proxy's view of the measured service, one rule a port and family.
pub fn measured(ports: &[ServicePort], server: &Pod) -> Vec<Rule> {
    let of = |family| {
        ports.iter().map(move |(protocol, port)| Rule {
            vip: SocketAddr::new(pick(&vips(VIP), family), *port),
            protocol,
            endpoints: vec![server.at(family, *port)],
        })
    };
    Family::BOTH.into_iter().flat_map(of).collect()
}

/// kube-proxy's view of the others: those before the measured one, and those after it.
pub fn others(node: Node) -> (Vec<Rule>, Vec<Rule>) {
    let rule = |number| other(number, node.endpoints);
    let (before, after) = fillers(node.services);
    (
        before.into_iter().map(rule).collect(),
        after.into_iter().map(rule).collect(),
    )
}

/// A service that gets another endpoint in place of its first.
#[derive(Debug)]
pub struct Change {
    /// Its number among the others.
    pub number: usize,
    /// What it was.
    pub before: Rule,
    /// What it becomes.
    pub after: Rule,
}

/// The change that is measured: of the last service in front of the measured one.
pub fn change(node: Node) -> Change {
    let number = (node.services / 2).saturating_sub(1);
    let before = other(number, node.endpoints);
    let mut after = before.clone();
    after.endpoints[0].set_ip(IpAddr::V4(Ipv4Addr::new(10, 252, 0, 1)));
    Change {
        number,
        before,
        after,
    }
}

/// kube-proxy's view of one of the others.
fn other(number: usize, endpoints: usize) -> Rule {
    let (vip, endpoints) = filler(number, endpoints);
    Rule {
        vip: (vip, 80).into(),
        protocol: "tcp",
        endpoints: endpoints.into_iter().map(|ip| (ip, 8080).into()).collect(),
    }
}

/// Weft's view: adds the services of `node` to `config`, the measured one served by pods with the label
/// `server`, or by the addresses of the server where that is on another node.
pub fn configure(config: &mut Config, node: Node, ports: &[ServicePort], server: [IpAddr; 2]) {
    let other = |number: &usize| {
        let (vip, endpoints) = filler(*number, node.endpoints);
        let mut service = Service {
            name: format!("lab/other-{number}"),
            cluster_ips: vec![vip.into()],
            algorithm: None,
            session_affinity: None,
            rst_on_removal: None,
            ports: vec![Port {
                name: "http".into(),
                protocol: "tcp".into(),
                port: 80,
                target_port: TargetPort::Number(8080),
                stage: None,
                source: None,
            }],
            selector: None,
            endpoints: None,
            http: Default::default(),
        };
        service.serve_at(endpoints.into_iter().map(IpAddr::from));
        service
    };
    let ports: Vec<_> = ports.iter().map(|(p, port)| (*p, *port, *port)).collect();
    let (before, after) = fillers(node.services);
    config.services.extend(before.iter().map(other));
    let measured = config.service("measured", VIP, &ports);
    match node.server {
        Place::Here => measured.select("server"),
        Place::There | Place::ThereInSegments => measured.serve_at(server),
    };
    config.services.extend(after.iter().map(other));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::scenario::Place;
    use std::collections::BTreeSet;

    #[test]
    fn the_measured_service_stands_in_the_middle_of_as_many_as_asked_for() {
        for (services, endpoints) in [(1, 1), (2, 1), (10_000, 10), (30_000, 1)] {
            let mut config = Config::new();
            let node = Node {
                services,
                endpoints,
                server: Place::Here,
            };
            let nowhere = vips(VIP);
            configure(&mut config, node, &[("udp", FLOOD_PORT)], nowhere);
            let addresses: BTreeSet<_> = config
                .services
                .iter()
                .flat_map(|service| service.endpoints.iter().flatten())
                .map(|endpoint| endpoint.address)
                .collect();
            assert_eq!(addresses.len(), (services - 1) * endpoints);
            assert_eq!(config.services.len(), services);
            assert_eq!(config.services[services / 2].name, "lab/measured");
            let vips: BTreeSet<_> = config
                .services
                .iter()
                .flat_map(|service| service.cluster_ips.clone())
                .collect();
            // One address a service, and the measured one's second family.
            assert_eq!(vips.len(), services + 1);
        }
    }

    #[test]
    fn a_node_of_one_service_has_only_the_ports_that_are_measured() {
        assert_eq!(
            ports(1, Probe::FloodOneCore),
            [("udp", FLOOD_PORT)],
            "each more is a rule to match"
        );
        let all = ports(1000, Probe::FloodOneCore);
        for probe in crate::measure::SCENARIOS.iter().map(|s| s.workload.probe) {
            for port in ports(1, probe) {
                assert!(all.contains(&port), "{port:?}");
            }
        }
    }
}
