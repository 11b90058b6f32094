//! `[[service]]`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::error::{Location, Reason};
use super::front::{read_back, read_front};
use super::http::{Back, Front, Http};
use super::model::{
    Algorithm, Backends, Endpoint, Protocol, Service, ServicePort, Stage, TargetPort,
    UpstreamSource,
};
use super::pod::{read_addresses, read_conditions, read_labels, read_named_ports};
use super::reader::{Kind, Table, Value, quoted};
use super::registry::{Registry, Use, taken};
use super::route;
use super::scalar::{DurationRange, NAME, PORT_NAME};

pub(super) const KEYS: &[&str] = &[
    "name",
    "cluster_ip",
    "cluster_ips",
    "algorithm",
    "ports",
    "selector",
    "endpoints",
    "publish_not_ready_addresses",
    "rst_on_removal",
    "session_affinity",
    "session_affinity_timeout",
    "max_flows",
    "routes",
    "http",
    "backend",
];

/// Kubernetes' `ClientIPConfig.timeoutSeconds`: its range, and its default of 3 hours.
const AFFINITY_TIMEOUT: DurationRange = DurationRange {
    min: "1s",
    max: "24h",
};
const AFFINITY_DEFAULT: Duration = Duration::from_hours(3);
pub(super) const PORT_KEYS: &[&str] =
    &["name", "protocol", "port", "target_port", "stage", "source"];
pub(super) const ENDPOINT_KEYS: &[&str] = &[
    "address",
    "ready",
    "serving",
    "terminating",
    "weight",
    "ports",
];

/// Endpoints of one service: what the tables can number.
const ENDPOINTS_MAX: u64 = u16::MAX as u64;

pub(super) fn read(value: &Value<'_, '_>, registry: &mut Registry) -> Option<Service> {
    let table = value.table(KEYS)?;
    let name = table.require("name").and_then(|value| {
        let name = value.name(&NAME)?;
        registry.service_name(&value, &name);
        Some(name)
    });
    let cluster_ips = read_addresses(&table, "cluster_ip", "cluster_ips", |value, address| {
        registry.address(value, address, Use::ClusterIp);
    });
    let algorithm = table.optional("algorithm", Algorithm::default(), |value| {
        let words = [
            ("maglev", Algorithm::Maglev),
            ("round_robin", Algorithm::RoundRobin),
            ("random", Algorithm::Random),
            ("least_connections", Algorithm::LeastConnections),
        ];
        value.word(&words, &[])
    });
    let ports = table
        .require("ports")
        .and_then(|value| read_ports(&value, cluster_ips.as_deref().unwrap_or_default(), registry));
    let backends = read_backends(&table, registry);
    let flag = |key| table.optional(key, false, |value| value.boolean());
    let publish_not_ready_addresses = flag("publish_not_ready_addresses");
    let rst_on_removal = flag("rst_on_removal");
    let session_affinity = read_affinity(&table);
    let max_flows = table.optional("max_flows", None, |value| {
        let flows = value.integer(1..=16_777_216)?;
        u32::try_from(flows).ok().map(Some)
    });
    let http = read_http(&table, ports.as_deref(), registry);
    registry.service(value);
    Some(Service {
        name: name?,
        cluster_ips: cluster_ips?,
        algorithm: algorithm?,
        ports: ports?,
        backends: backends?,
        publish_not_ready_addresses: publish_not_ready_addresses?,
        rst_on_removal: rst_on_removal?,
        session_affinity: session_affinity?,
        max_flows: max_flows?,
        http: http?,
    })
}

/// What an HTTP stage makes of the service. `backend` is for the stages of other services, too.
fn read_http(
    table: &Table<'_, '_>,
    ports: Option<&[ServicePort]>,
    registry: &mut Registry,
) -> Option<Option<Arc<Http>>> {
    let stages = ports.map(|ports| {
        let mut stages = ports.iter().map(|port| port.stage);
        stages.any(|stage| matches!(stage, Stage::Http(_)))
    });
    let only_here = |value: &Value<'_, '_>| match stages {
        Some(false) => value.reject(Reason::NotHttp),
        _ => Some(()),
    };
    let routes = table.optional("routes", Vec::new(), |value| {
        let routes = route::read(value, registry);
        only_here(value)?;
        routes
    });
    let front = table.optional("http", Front::default(), |value| {
        let front = read_front(value);
        only_here(value)?;
        front
    });
    let back = table.optional("backend", Back::default(), read_back);
    let http = Http {
        routes: routes?,
        front: front?,
        back: back?,
    };
    Some((http != Http::default()).then(|| Arc::new(http)))
}

/// The timeout of the affinity, if there is one. A timeout alone is checked and has no effect, as in Kubernetes.
fn read_affinity(table: &Table<'_, '_>) -> Option<Option<Duration>> {
    let by_client = table.optional("session_affinity", false, |value| {
        value.word(&[("none", false), ("client_ip", true)], &[])
    });
    let timeout = table.optional("session_affinity_timeout", AFFINITY_DEFAULT, |value| {
        value.duration(&AFFINITY_TIMEOUT)
    });
    Some(by_client?.then_some(timeout?))
}

fn read_ports(
    value: &Value<'_, '_>,
    cluster_ips: &[IpAddr],
    registry: &mut Registry,
) -> Option<Vec<ServicePort>> {
    let items = value.items("an array of tables")?;
    let count = items.len();
    if count == 0 {
        return value.reject(Reason::Empty);
    }
    let mut names = HashMap::new();
    let ports: Vec<ServicePort> = items
        .filter_map(|item| read_port(&item, count > 1, &mut names, cluster_ips, registry))
        .collect();
    (ports.len() == count).then_some(ports)
}

fn read_port(
    value: &Value<'_, '_>,
    named: bool,
    names: &mut HashMap<String, Location>,
    cluster_ips: &[IpAddr],
    registry: &mut Registry,
) -> Option<ServicePort> {
    let table = value.table(PORT_KEYS)?;
    if named && table.get("name").is_none() {
        table.report_at("name", Reason::PortName);
    }
    let name = table.optional("name", None, |value| {
        let name = value.name(&PORT_NAME)?;
        match names.get(&name) {
            Some(by) => taken(value, quoted(&name), by),
            None => _ = names.insert(name.clone(), value.location()),
        }
        Some(Some(name))
    });
    let protocol = table.optional("protocol", Protocol::default(), |value| {
        value.word(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], &[])
    });
    let port = table.require("port").and_then(|value| {
        let port = value.port()?;
        if let Some(protocol) = protocol {
            registry.service_port(&value, cluster_ips, port, protocol);
        }
        Some(port)
    });
    let target_port = match table.get("target_port") {
        Some(value) => read_target_port(&value),
        None => port.map(TargetPort::Number),
    };
    let stage = read_stage(&table, protocol);
    Some(ServicePort {
        name: name?,
        protocol: protocol?,
        port: port?,
        target_port: target_port?,
        stage: stage?,
    })
}

/// How far up the port is served, and from where its backends are spoken to.
fn read_stage(table: &Table<'_, '_>, protocol: Option<Protocol>) -> Option<Stage> {
    let stage = table.optional("stage", Stage::default(), |value| {
        let words = [
            ("l4", Stage::L4),
            ("tcp", Stage::Tcp(UpstreamSource::default())),
            ("http", Stage::Http(UpstreamSource::default())),
        ];
        let stage = value.word(&words, &["tls"])?;
        if stage != Stage::L4 && protocol == Some(Protocol::Udp) {
            return value.reject(Reason::StageProtocol);
        }
        Some(stage)
    });
    let source = table.optional("source", None, |value| {
        let words = [
            ("client", UpstreamSource::Client),
            ("node", UpstreamSource::Node),
        ];
        let source = value.word(&words, &[])?;
        if stage == Some(Stage::L4) {
            return value.reject(Reason::SourceStage);
        }
        Some(Some(source))
    });
    Some(match (stage?, source?) {
        (Stage::Tcp(_), Some(source)) => Stage::Tcp(source),
        (Stage::Http(_), Some(source)) => Stage::Http(source),
        (stage, _) => stage,
    })
}

fn read_target_port(value: &Value<'_, '_>) -> Option<TargetPort> {
    match value.kind() {
        Kind::String => value.name(&PORT_NAME).map(TargetPort::Named),
        Kind::Integer => value.port().map(TargetPort::Number),
        Kind::Other => value.wrong_type("a port number, or the name of a port"),
    }
}

fn read_backends(table: &Table<'_, '_>, registry: &mut Registry) -> Option<Backends> {
    match (table.get("selector"), table.get("endpoints")) {
        (Some(value), None) => {
            let selector = read_labels(&value)?;
            if selector.is_empty() {
                return value.reject(Reason::Empty); // It would select every pod.
            }
            Some(Backends::Selector(selector))
        }
        (None, Some(value)) => read_endpoints(&value, registry).map(Backends::Endpoints),
        (Some(_), Some(value)) => value.reject(Reason::Both("selector", "endpoints")),
        (None, None) => {
            table.report(Reason::Neither("selector", "endpoints"));
            None
        }
    }
}

fn read_endpoints(value: &Value<'_, '_>, registry: &mut Registry) -> Option<Vec<Endpoint>> {
    let items = value.items("an array of tables")?;
    let count = items.len();
    if count as u64 > ENDPOINTS_MAX {
        return value.reject(Reason::TooMany {
            count,
            max: ENDPOINTS_MAX,
        });
    }
    let mut addresses = HashMap::new();
    let endpoints: Vec<Endpoint> = items
        .filter_map(|item| read_endpoint(&item, &mut addresses, registry))
        .collect();
    (endpoints.len() == count).then_some(endpoints)
}

fn read_endpoint(
    value: &Value<'_, '_>,
    addresses: &mut HashMap<IpAddr, Location>,
    registry: &mut Registry,
) -> Option<Endpoint> {
    let table = value.table(ENDPOINT_KEYS)?;
    let address = table.require("address").and_then(|value| {
        let address = value.address()?;
        match addresses.get(&address) {
            Some(by) => taken(&value, address.to_string(), by),
            None => _ = addresses.insert(address, value.location()),
        }
        registry.endpoint(&value, address);
        Some(address)
    });
    let conditions = read_conditions(&table);
    let weight = table.optional("weight", 1, |value| {
        value.integer(0..=1_000)?.try_into().ok()
    });
    let ports = table.optional("ports", BTreeMap::new(), read_named_ports);
    Some(Endpoint {
        address: address?,
        conditions: conditions?,
        weight: weight?,
        ports: ports?,
    })
}
