//! The node process's configuration as the lab writes it.

use crate::lab::{Pod, vips};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A whole configuration file.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// `[node]`.
    pub node: NodeSection,
    /// `[workers]`.
    pub workers: Workers,
    /// `[overlay]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// `[[pod]]`: the enrolled pods.
    #[serde(rename = "pod", skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodEntry>,
    /// `[[service]]`.
    #[serde(rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// `[node]`.
#[derive(Debug, Clone, Serialize)]
pub struct NodeSection {
    /// The node's name.
    pub name: String,
    /// Its addresses on the underlay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpAddr>,
    /// Its interfaces towards other nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uplink: Vec<String>,
    /// How long a pod that left may finish its flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
    /// How long after an enrolment unknown flows count as older than it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolment_grace: Option<String>,
    /// Whether services' addresses answer pings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_echo: Option<bool>,
    /// Where requests to HTTP stages are logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<String>,
    /// Where metrics are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// `[workers]`.
#[derive(Debug, Clone, Serialize)]
pub struct Workers {
    /// The core of each worker.
    pub cores: Vec<usize>,
    /// `adaptive`, `spin` or `sleep`.
    pub poll: String,
    /// `off`: every packet of a flow passes user space.
    pub fast_path: String,
    /// Flows that one worker can hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_flows: Option<u64>,
    /// How long a worker may be silent before packets go to the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<String>,
    /// Packets a second that one pod may send into user space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub punt_rate: Option<u64>,
}

/// `[overlay]`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Overlay {
    /// The virtual network; the default when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// `geneve` or `vxlan`; the default when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap: Option<String>,
    /// The destination port of what is wrapped; the encapsulation's when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether the outer checksum over IPv4 is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<bool>,
    /// The other nodes.
    #[serde(rename = "peer", skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
}

/// `[[overlay.peer]]`.
#[derive(Debug, Clone, Serialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// The ranges that its pods' addresses are in.
    pub pods: Vec<String>,
    /// Whether packets to and from its pods travel as they are.
    pub native: bool,
}

/// `[[pod]]`.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct PodEntry {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The host side of its veth.
    pub interface: String,
    /// What selectors select by.
    pub labels: BTreeMap<String, String>,
}

/// `[[service]]`.
#[derive(Debug, Clone, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its cluster addresses, at most one a family.
    pub cluster_ips: Vec<IpAddr>,
    /// `maglev`, `round_robin`, `random` or `least_connections`; the default when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// `none` or `client_ip`; the default when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// Whether TCP flows to an endpoint that leaves are reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rst_on_removal: Option<bool>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Labels of the pods that serve it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<BTreeMap<String, String>>,
    /// The endpoints that serve it, when there is no selector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// What an HTTP stage makes of it: `routes`, `http` and `backend`.
    #[serde(flatten)]
    pub http: toml::Table,
}

/// A port of a service.
#[derive(Debug, Clone, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The port at the cluster address.
    pub port: u16,
    /// The port at the endpoint.
    pub target_port: TargetPort,
    /// How far up its connections are taken: `l4`, `tcp` or `http`; the default when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Whose address the endpoint sees at stage `tcp`: `client` or `node`; the default when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A port at an endpoint: a number, or a name that each endpoint maps.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// The same port at every endpoint.
    Number(u16),
    /// A named port.
    Name(String),
}

/// An endpoint named by its address.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Whether it terminates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
    /// Its named ports.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
}

impl Endpoint {
    /// A ready one without named ports.
    pub fn at(address: IpAddr) -> Self {
        Self {
            address,
            ready: None,
            serving: None,
            terminating: None,
            ports: BTreeMap::new(),
        }
    }
}

impl Config {
    /// One worker on core 0, nothing enrolled.
    pub fn new() -> Self {
        Self {
            node: NodeSection {
                name: "lab".into(),
                address: Vec::new(),
                uplink: Vec::new(),
                drain: None,
                enrolment_grace: None,
                vip_echo: None,
                access_log: None,
                metrics: None,
            },
            workers: Workers {
                cores: vec![0],
                poll: "adaptive".into(),
                fast_path: fast_path(),
                max_flows: None,
                heartbeat: None,
                punt_rate: None,
            },
            overlay: None,
            pods: Vec::new(),
            services: Vec::new(),
        }
    }

    /// Enrols a pod, labelled `app = <app>`.
    pub fn enrol(&mut self, pod: &Pod, app: &str) -> &mut Self {
        self.pods.push(PodEntry {
            name: format!("lab/{}", pod.name),
            ips: pod.ips.to_vec(),
            interface: pod.interface.clone(),
            labels: BTreeMap::from([("app".into(), app.into())]),
        });
        self
    }

    /// Takes a pod out again.
    pub fn unenrol(&mut self, pod: &Pod) -> &mut Self {
        self.pods.retain(|entry| entry.interface != pod.interface);
        self
    }

    /// Adds a dual-stack service on the addresses `vips(number)`, without endpoints yet.
    pub fn service(&mut self, name: &str, number: u8, ports: &[(&str, u16, u16)]) -> &mut Service {
        let ports = ports
            .iter()
            .map(|(protocol, port, target)| Port {
                name: format!("{protocol}-{port}"),
                protocol: (*protocol).to_owned(),
                port: *port,
                target_port: TargetPort::Number(*target),
                stage: None,
                source: None,
            })
            .collect();
        let service = Service {
            name: format!("lab/{name}"),
            cluster_ips: vips(number).to_vec(),
            algorithm: None,
            session_affinity: None,
            rst_on_removal: None,
            ports,
            selector: None,
            endpoints: Some(Vec::new()),
            http: toml::Table::new(),
        };
        let at = self.services.len();
        self.services.push(service);
        &mut self.services[at]
    }

    /// The file's text.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// Serves it by the pods labelled `app = <app>`.
    pub fn select(&mut self, app: &str) -> &mut Self {
        self.endpoints = None;
        self.selector = Some(BTreeMap::from([("app".into(), app.into())]));
        self
    }

    /// Serves it by these addresses.
    pub fn serve_at(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> &mut Self {
        self.selector = None;
        self.endpoints = Some(addresses.into_iter().map(Endpoint::at).collect());
        self
    }

    /// Sets how far up the connections of all its TCP ports are taken.
    pub fn stage(&mut self, stage: Option<&str>) -> &mut Self {
        for port in self.ports.iter_mut().filter(|port| port.protocol == "tcp") {
            port.stage = stage.map(str::to_owned);
        }
        self
    }

    /// Sets whose address the endpoints of all its TCP ports see at stage `tcp`.
    pub fn source(&mut self, source: &str) -> &mut Self {
        for port in self.ports.iter_mut().filter(|port| port.protocol == "tcp") {
            port.source = Some(source.to_owned());
        }
        self
    }

    /// Serves its TCP ports at stage `http`, with more of it as TOML: `routes`, `http` and `backend`.
    pub fn http(&mut self, more: &str) -> Result<&mut Self> {
        self.stage(Some("http"));
        self.http = more.parse()?;
        Ok(self)
    }

    /// Sets how a backend is chosen.
    pub fn algorithm(&mut self, name: &str) -> &mut Self {
        self.algorithm = Some(name.into());
        self
    }
}

/// How much the kernel forwards in labs that do not say: `WEFT_LAB_FAST_PATH`, or all that it can.
fn fast_path() -> String {
    std::env::var("WEFT_LAB_FAST_PATH").unwrap_or_else(|_| "full".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_tables_that_the_node_process_reads() {
        let mut config = Config::new();
        config
            .service("web", 10, &[("tcp", 80, 8080)])
            .select("web");
        config.service("none", 11, &[("udp", 53, 53)]);
        let text = config.to_toml().unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        let services = parsed["service"].as_array().unwrap();
        assert_eq!(
            services[0]["selector"]["app"].as_str(),
            Some("web"),
            "{text}"
        );
        assert_eq!(
            services[0]["cluster_ips"][0].as_str(),
            Some("10.96.0.10"),
            "{text}"
        );
        assert_eq!(
            services[1]["endpoints"].as_array().map(Vec::len),
            Some(0),
            "{text}"
        );
    }
}
