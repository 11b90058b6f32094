//! Valid configurations for property tests, and their text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use toml::Value;

use super::super::{
    AccessLog, Algorithm, Backends, Conditions, Config, Endpoint, FastPath, Location, Node, Pod,
    Poll, Protocol, Service, ServicePort, Stage, TargetPort, UpstreamSource, Workers,
};

/// Any valid configuration; the places in it are empty.
pub(crate) fn config() -> impl Strategy<Value = Config> {
    (node(), workers(), vec(pod(), 0..6), vec(service(), 0..5)).prop_map(
        |(node, workers, mut pods, mut services)| {
            // What can be had once only is made of the index.
            for (index, pod) in pods.iter_mut().enumerate() {
                write!(pod.name, "-{index}").unwrap();
                pod.interface = format!("veth{index}");
                renumber(&mut pod.addresses, 1, index);
            }
            for (index, service) in services.iter_mut().enumerate() {
                write!(service.name, "-{index}").unwrap();
                renumber(&mut service.cluster_ips, 2, index);
                let several = service.ports.len() > 1;
                for (index, port) in service.ports.iter_mut().enumerate() {
                    port.port = port.port % 1_000 + 1_000 * index as u16 + 1;
                    if several || port.name.is_some() {
                        port.name = Some(format!("p{index}"));
                    }
                }
                if let Backends::Endpoints(endpoints) = &mut service.backends {
                    for (index, endpoint) in endpoints.iter_mut().enumerate() {
                        renumber(std::slice::from_mut(&mut endpoint.address), 3, index);
                    }
                }
            }
            Config {
                node,
                workers,
                overlay: None,
                pods,
                services: services.into_iter().map(Arc::new).collect(),
            }
        },
    )
}

/// The configuration without its places, which depend on how it was written.
pub(crate) fn without_places(mut config: Config) -> Config {
    config.workers.cores_at = nowhere();
    for pod in &mut config.pods {
        (pod.at, pod.interface_at) = (nowhere(), nowhere());
    }
    config
}

fn nowhere() -> Location {
    Location {
        file: Arc::from(Path::new("")),
        line: 0,
        key: String::new(),
    }
}

/// Distinct addresses of the same families.
fn renumber(addresses: &mut [IpAddr], net: u8, index: usize) {
    let host = u8::try_from(index).unwrap() + 1;
    for address in addresses {
        *address = match address {
            IpAddr::V4(_) => Ipv4Addr::new(10, net, 0, host).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
        };
    }
}

fn families() -> impl Strategy<Value = Vec<IpAddr>> {
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    prop_oneof![
        Just(vec![v4]),
        Just(vec![v6]),
        Just(vec![v4, v6]),
        Just(vec![v6, v4]),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._/-]{1,20}"
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[a-z./\" é]{1,8}", "\\PC{0,8}", 0..4)
}

fn named_ports() -> impl Strategy<Value = BTreeMap<String, u16>> {
    btree_map("[a-z0-9]{1,8}", 1..=u16::MAX, 0..3)
}

fn node() -> impl Strategy<Value = Node> {
    let times = (0..=3_600_000_u64, 0..=86_400_000_u64);
    (name(), times, any::<bool>()).prop_map(|(name, (drain, grace), vip_echo)| Node {
        name,
        addresses: Vec::new(),
        uplinks: Vec::new(),
        hairpin_ips: vec![
            "192.0.0.8".parse().expect("an address"),
            "fd77:6566:74::1".parse().expect("an address"),
        ],
        drain: Duration::from_millis(drain),
        enrolment_grace: Duration::from_millis(grace),
        vip_echo,
        access_log: AccessLog::Off,
        metrics: None,
    })
}

fn workers() -> impl Strategy<Value = Workers> {
    let poll = prop_oneof![Just(Poll::Adaptive), Just(Poll::Spin), Just(Poll::Sleep)];
    let cores = proptest::sample::subsequence((0..8_usize).collect::<Vec<_>>(), 1..=8);
    let sizes = (16..=16_777_216_usize, 64..=16_384_u32);
    (cores, poll, sizes, 10..=10_000_u64, 0..=1_000_000_000_u64).prop_map(
        |(cores, poll, (max_flows, frames), heartbeat, punt_rate)| Workers {
            cores,
            cores_at: nowhere(),
            poll,
            fast_path: FastPath::Off,
            max_flows,
            frames,
            heartbeat: Duration::from_millis(heartbeat),
            punt_rate,
        },
    )
}

fn pod() -> impl Strategy<Value = Pod> {
    let punt_rate = option::of(0..=1_000_000_000_u64);
    let of_endpoint = (named_ports(), conditions());
    (name(), families(), labels(), of_endpoint, punt_rate).prop_map(
        |(name, addresses, labels, (ports, conditions), punt_rate)| Pod {
            name,
            addresses,
            interface: String::new(),
            labels,
            ports,
            conditions,
            punt_rate,
            at: nowhere(),
            interface_at: nowhere(),
        },
    )
}

fn conditions() -> impl Strategy<Value = Conditions> {
    any::<[bool; 3]>().prop_map(|[ready, serving, terminating]| Conditions {
        ready,
        serving,
        terminating,
    })
}

fn service() -> impl Strategy<Value = Service> {
    let algorithm = prop_oneof![
        Just(Algorithm::Maglev),
        Just(Algorithm::RoundRobin),
        Just(Algorithm::Random),
        Just(Algorithm::LeastConnections),
    ];
    let backends = prop_oneof![
        labels()
            .prop_filter("would select every pod", |labels| !labels.is_empty())
            .prop_map(Backends::Selector),
        vec(endpoint(), 0..5).prop_map(Backends::Endpoints),
    ];
    let flags = any::<[bool; 2]>();
    let limits = (option::of(1..=86_400_u64), option::of(1..=16_777_216_u32));
    let rest = (flags, limits);
    (
        name(),
        families(),
        algorithm,
        vec(port(), 1..4),
        backends,
        rest,
    )
        .prop_map(
            |(
                name,
                cluster_ips,
                algorithm,
                ports,
                backends,
                ([publish, rst], (affinity, max_flows)),
            )| Service {
                name,
                cluster_ips,
                algorithm,
                ports,
                backends,
                publish_not_ready_addresses: publish,
                rst_on_removal: rst,
                session_affinity: affinity.map(Duration::from_secs),
                max_flows,
                http: None,
            },
        )
}

fn port() -> impl Strategy<Value = ServicePort> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let target_port = prop_oneof![
        (1..=u16::MAX).prop_map(TargetPort::Number),
        "[a-z0-9]{1,8}".prop_map(TargetPort::Named),
    ];
    (
        option::of(Just(String::new())),
        protocol,
        any::<u16>(),
        target_port,
        prop_oneof![
            Just(Stage::L4),
            Just(Stage::Tcp(UpstreamSource::Client)),
            Just(Stage::Tcp(UpstreamSource::Node)),
            Just(Stage::Http(UpstreamSource::Client)),
            Just(Stage::Http(UpstreamSource::Node)),
        ],
    )
        .prop_map(|(name, protocol, port, target_port, stage)| ServicePort {
            name,
            protocol,
            port,
            target_port,
            stage: match protocol {
                Protocol::Tcp => stage,
                Protocol::Udp => Stage::L4,
            },
        })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (families(), conditions(), 0..=1_000_u16, named_ports()).prop_map(
        |(addresses, conditions, weight, ports)| Endpoint {
            address: addresses[0],
            conditions,
            weight,
            ports,
        },
    )
}

/// The configuration as TOML.
pub(crate) fn render(config: &Config) -> String {
    let mut text = String::new();
    section(
        &mut text,
        "[node]",
        &[
            ("name", string(&config.node.name)),
            ("drain", duration(config.node.drain)),
            ("enrolment_grace", duration(config.node.enrolment_grace)),
            ("vip_echo", config.node.vip_echo.to_string()),
        ],
    );
    let workers = &config.workers;
    let poll = match workers.poll {
        Poll::Adaptive => "adaptive",
        Poll::Spin => "spin",
        Poll::Sleep => "sleep",
    };
    section(
        &mut text,
        "[workers]",
        &[
            ("cores", format!("{:?}", workers.cores)),
            ("poll", string(poll)),
            ("fast_path", string("off")),
            ("max_flows", workers.max_flows.to_string()),
            ("frames", workers.frames.to_string()),
            ("heartbeat", duration(workers.heartbeat)),
            ("punt_rate", workers.punt_rate.to_string()),
        ],
    );
    for pod in &config.pods {
        let mut keys = vec![
            ("name", string(&pod.name)),
            addresses(["ip", "ips"], &pod.addresses),
            ("interface", string(&pod.interface)),
            ("labels", strings(&pod.labels)),
            ("ports", numbers(&pod.ports)),
        ];
        keys.extend(render_conditions(pod.conditions));
        keys.extend(pod.punt_rate.map(|rate| ("punt_rate", rate.to_string())));
        section(&mut text, "[[pod]]", &keys);
    }
    for service in &config.services {
        let algorithm = match service.algorithm {
            Algorithm::Maglev => "maglev",
            Algorithm::RoundRobin => "round_robin",
            Algorithm::Random => "random",
            Algorithm::LeastConnections => "least_connections",
        };
        let backends = match &service.backends {
            Backends::Selector(selector) => ("selector", strings(selector)),
            Backends::Endpoints(endpoints) => ("endpoints", list(endpoints, render_endpoint)),
        };
        let mut keys = vec![
            ("name", string(&service.name)),
            addresses(["cluster_ip", "cluster_ips"], &service.cluster_ips),
            ("algorithm", string(algorithm)),
            ("ports", list(&service.ports, render_port)),
            backends,
            (
                "publish_not_ready_addresses",
                service.publish_not_ready_addresses.to_string(),
            ),
            ("rst_on_removal", service.rst_on_removal.to_string()),
        ];
        match service.session_affinity {
            Some(timeout) => keys.extend([
                ("session_affinity", string("client_ip")),
                ("session_affinity_timeout", duration(timeout)),
            ]),
            None => keys.push(("session_affinity", string("none"))),
        }
        keys.extend((service.max_flows).map(|flows| ("max_flows", flows.to_string())));
        section(&mut text, "[[service]]", &keys);
    }
    text
}

fn render_port(port: &ServicePort) -> String {
    let name = port.name.as_ref();
    let name = name.map_or(String::new(), |name| format!("name = {}, ", string(name)));
    let target_port = match &port.target_port {
        TargetPort::Number(number) => number.to_string(),
        TargetPort::Named(name) => string(name),
    };
    let protocol = string(port.protocol.name());
    let stage = match port.stage {
        Stage::L4 => "stage = \"l4\"",
        Stage::Tcp(UpstreamSource::Client) => "stage = \"tcp\"",
        Stage::Tcp(UpstreamSource::Node) => "stage = \"tcp\", source = \"node\"",
        Stage::Http(UpstreamSource::Client) => "stage = \"http\"",
        Stage::Http(UpstreamSource::Node) => "stage = \"http\", source = \"node\"",
    };
    let port = port.port;
    format!(
        "{{ {name}protocol = {protocol}, port = {port}, target_port = {target_port}, {stage} }}"
    )
}

fn render_endpoint(endpoint: &Endpoint) -> String {
    let Endpoint {
        address,
        conditions,
        weight,
        ports,
    } = endpoint;
    let ports = numbers(ports);
    let [ready, serving, terminating] =
        render_conditions(*conditions).map(|(key, value)| format!("{key} = {value}"));
    format!(
        "{{ address = \"{address}\", {ready}, {serving}, {terminating}, weight = {weight}, ports = {ports} }}"
    )
}

fn render_conditions(conditions: Conditions) -> [(&'static str, String); 3] {
    [
        ("ready", conditions.ready.to_string()),
        ("serving", conditions.serving.to_string()),
        ("terminating", conditions.terminating.to_string()),
    ]
}

fn section(text: &mut String, header: &str, keys: &[(&str, String)]) {
    writeln!(text, "{header}").unwrap();
    for (key, value) in keys {
        writeln!(text, "{key} = {value}").unwrap();
    }
}

fn list<T>(items: &[T], render: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(render).collect();
    format!("[\n  {}\n]", items.join(",\n  "))
}

fn string(text: &str) -> String {
    Value::from(text).to_string()
}

/// In the largest unit that it is a whole number of.
fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let whole = units
        .iter()
        .find(|(unit, _)| milliseconds.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap();
    format!("\"{}{name}\"", milliseconds / unit)
}

fn addresses(keys: [&'static str; 2], addresses: &[IpAddr]) -> (&'static str, String) {
    match addresses {
        [one] => (keys[0], format!("\"{one}\"")),
        several => (keys[1], list(several, |address| format!("\"{address}\""))),
    }
}

fn strings(map: &BTreeMap<String, String>) -> String {
    inline(map.iter().map(|(key, value)| (key, string(value))))
}

fn numbers(map: &BTreeMap<String, u16>) -> String {
    inline(map.iter().map(|(key, value)| (key, value.to_string())))
}

fn inline<'a>(entries: impl Iterator<Item = (&'a String, String)>) -> String {
    let entries: Vec<String> = entries
        .map(|(key, value)| format!("{} = {value}", string(key)))
        .collect();
    format!("{{ {} }}", entries.join(", "))
}
