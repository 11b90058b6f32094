//! What scenarios of two nodes start from: a client and a server on each (the client answers questions, too), services of either server and of both.

use crate::fixture::REAL_TIME;
use anyhow::{Context, Result, ensure};
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use weft_lab::client::{ask_tcp, ask_udp, curl_answer, download, ping};
use weft_lab::config::{Config, Overlay, Peer};
use weft_lab::http::curl;
use weft_lab::lab::{Family, Pod, UPLINK, pick, vips};
use weft_lab::load::{Load, Request};
use weft_lab::servers::{self, BLOB, HTTP_PORT, PEER_PORT, WEB_PORT};
use weft_lab::two_nodes::{TwoNodes, Underlay};
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// The service that both servers are behind.
pub const EITHER: u8 = 30;
/// The service of each node's server.
pub const SERVED_AT: [u8; 2] = [31, 32];
/// The virtual network.
pub const VNI: u32 = 77;
/// How long the way to another node may take to be found.
const WAY_LIMIT: Duration = Duration::from_secs(10);

/// How packets between the nodes are wrapped.
#[derive(Debug, Clone, Copy)]
pub struct Wrapping {
    pub encap: &'static str,
    /// The family of the underlay.
    pub outer: Family,
    pub checksum: bool,
    /// Not at all: whatever else is said counts for nothing.
    pub native: bool,
}

impl Wrapping {
    pub const GENEVE: Self = Self {
        encap: "geneve",
        outer: Family::V4,
        checksum: false,
        native: false,
    };
    pub const GENEVE6: Self = Self {
        outer: Family::V6,
        ..Self::GENEVE
    };
    pub const VXLAN: Self = Self {
        encap: "vxlan",
        ..Self::GENEVE
    };
    /// Needs an underlay that [knows the pods](TwoNodes::pods_are_known).
    pub const NATIVE: Self = Self {
        native: true,
        ..Self::GENEVE
    };
    pub const ALL: [Self; 5] = [
        Self::GENEVE,
        Self::GENEVE6,
        Self {
            checksum: true,
            ..Self::GENEVE
        },
        Self::VXLAN,
        Self {
            outer: Family::V6,
            ..Self::VXLAN
        },
    ];

    /// Bytes around an inner packet without options.
    pub fn overhead(self) -> u32 {
        match self.outer {
            _ if self.native => 0,
            Family::V4 => 50,
            Family::V6 => 70,
        }
    }

    /// The destination port of what is wrapped.
    pub fn port(self) -> u16 {
        if self.encap == "vxlan" { 4789 } else { 6081 }
    }
}

impl fmt::Display for Wrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.native {
            return f.write_str("native");
        }
        let checksum = if self.checksum { ", checksum" } else { "" };
        write!(f, "{} over {:?}{checksum}", self.encap, self.outer)
    }
}

/// Two nodes with a client and a server each; fields are by node.
pub struct Cluster {
    pub clients: [Pod; 2],
    pub servers: [Pod; 2],
    pub wrapping: Wrapping,
    pub nodes: TwoNodes,
}

impl Cluster {
    pub fn new(underlay: Underlay) -> Result<Self> {
        Self::over(TwoNodes::new(underlay)?)
    }

    /// On nodes that are there already.
    pub fn over(mut nodes: TwoNodes) -> Result<Self> {
        let mut pods = |names: [&str; 2]| -> Result<[Pod; 2]> {
            let [a, b] = &mut nodes.nodes;
            Ok([a.pod(names[0])?, b.pod(names[1])?])
        };
        let clients = pods(["client-a", "client-b"])?;
        let servers = pods(["server-a", "server-b"])?;
        for (lab, pod) in nodes.nodes.iter_mut().zip(&servers) {
            servers::nginx(lab, &pod.namespace, &pod.name)?;
            servers::peer(lab, &pod.namespace, &pod.name)?;
            servers::web(lab, &pod.namespace, &pod.name)?;
        }
        for (lab, pod) in nodes.nodes.iter_mut().zip(&clients) {
            servers::peer(lab, &pod.namespace, &pod.name)?;
        }
        Ok(Self {
            clients,
            servers,
            wrapping: Wrapping::GENEVE,
            nodes,
        })
    }

    pub fn wrapped(mut self, wrapping: Wrapping) -> Self {
        self.wrapping = wrapping;
        self
    }

    /// Of the node at that place: its pods enrolled, the other node as a peer, and every service, as all nodes have them.
    pub fn config(&self, at: usize) -> Config {
        let mut config = Config::new();
        config.node.name = ["node-a", "node-b"][at].into();
        config.node.address = self.nodes.nodes[at].place().ips().into();
        config.node.uplink = vec![UPLINK.into()];
        config.overlay = Some(Overlay {
            vni: Some(VNI),
            encap: Some(self.wrapping.encap.into()),
            port: None,
            checksum: Some(self.wrapping.checksum),
            peers: vec![self.peer(1 - at)],
        });
        config.enrol(&self.clients[at], "client");
        config.enrol(&self.servers[at], "web");
        let addresses = self.servers.iter().flat_map(|pod| pod.ips);
        config.service("either", EITHER, &PORTS).serve_at(addresses);
        for (number, pod) in SERVED_AT.into_iter().zip(&self.servers) {
            config.service(&pod.name, number, &PORTS).serve_at(pod.ips);
        }
        config
    }

    /// Bytes of the longest packet of a pod's that uplinks of this MTU carry.
    pub fn inner(&self, mtu: u32) -> u32 {
        mtu - self.wrapping.overhead()
    }

    /// The node at that place, as a peer of the other.
    pub fn peer(&self, at: usize) -> Peer {
        Peer {
            name: ["node-a", "node-b"][at].into(),
            address: self.nodes.address(at, self.wrapping.outer),
            pods: self.nodes.nodes[at].place().pod_ranges().into(),
            native: self.wrapping.native,
        }
    }

    /// A node process on each node, and the ways between them found.
    pub fn start(&self) -> Result<[Weft; 2]> {
        self.start_with(|_| Ok(()))
    }

    /// As [`Self::start`], with the configurations changed.
    pub fn start_with(&self, change: impl Fn(&mut Config) -> Result<()>) -> Result<[Weft; 2]> {
        let start = |at: usize| {
            let mut config = self.config(at);
            change(&mut config)?;
            Weft::start_under(&self.nodes.nodes[at], &config, &REAL_TIME)
        };
        let wefts = [start(0)?, start(1)?];
        self.joined(&wefts)?;
        Ok(wefts)
    }

    /// Waits until pods of the nodes reach each other: a first packet may be lost while a neighbour is looked for.
    pub fn joined(&self, wefts: &[Weft; 2]) -> Result<()> {
        for at in 0..2 {
            for family in Family::BOTH {
                let (from, to) = (&self.clients[at].namespace, self.servers[1 - at].ip(family));
                wait_until("the other node's pods", WAY_LIMIT, || {
                    ping(from, to, 56).is_ok()
                })
                .with_context(|| format!("from {at} to {to}"))
                .with_context(|| said(wefts))?;
            }
        }
        Ok(())
    }

    /// Requests of both protocols and families from each client to the other one, and to the service of the other node's
    /// server. Pods of their own: where a service's server is asked directly, too, two connections from one port could
    /// clash.
    pub fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for at in 0..2 {
            for family in Family::BOTH {
                let targets = vec![
                    self.clients[1 - at].at(family, PEER_PORT),
                    (pick(&vips(SERVED_AT[1 - at]), family), PEER_PORT).into(),
                ];
                for request in [Request::Tcp, Request::Udp] {
                    let from = &self.clients[at].namespace;
                    let interval = Duration::from_millis(20);
                    loads.push(Load::start(from, request, targets.clone(), interval));
                }
            }
        }
        loads
    }

    /// Pods of each node with the other node's server, by what real kernels and programs speak: each sees the other as it
    /// is.
    pub fn pods_reach_pods(&self) -> Result<()> {
        for at in 0..2 {
            for family in Family::BOTH {
                let server = &self.servers[1 - at];
                self.speaks(at, server, server.ip(family), [HTTP_PORT, PEER_PORT])
                    .with_context(|| format!("from node {at}, {family:?}"))?;
                for size in [0, 56, 1200] {
                    ping(&self.clients[at].namespace, server.ip(family), size)?;
                }
            }
        }
        Ok(())
    }

    /// The client of a node with `server` at an address of its or of a service's.
    pub fn speaks(&self, at: usize, server: &Pod, to: IpAddr, ports: [u16; 2]) -> Result<()> {
        let client = &self.clients[at];
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let http = curl_answer(&client.namespace, (to, ports[0]).into())?;
        let tcp = ask_tcp(&client.namespace, (to, ports[1]).into())?;
        let udp = ask_udp(&client.namespace, (to, ports[1]).into())?;
        for answer in [http, tcp, udp] {
            ensure!(
                answer.name == server.name && answer.client.ip() == client.ip(family),
                "{to}: {answer:?}, and not {} to {}",
                server.name,
                client.ip(family)
            );
        }
        Ok(())
    }

    /// 4 MiB from the client of a node to the web server.
    pub fn upload(&self, at: usize, to: IpAddr, port: u16) -> Result<()> {
        const BODY: usize = 4 << 20;
        let file = self.nodes.nodes[at].directory().join("body");
        if !file.exists() {
            fs::write(&file, vec![7; BODY])?;
        }
        let url = format!("http://{}/", SocketAddr::new(to, port));
        let body = format!("@{}", file.display());
        // Else curl waits a second for a word to go on.
        let words = ["-H", "Expect:", "--data-binary", &body];
        let answer = curl(&self.clients[at].namespace, &words, &url)?;
        let whole = answer.word(8).starts_with(&format!("body={BODY}:"));
        ensure!(answer.status == 200 && whole, "{url}: {}", answer.text());
        Ok(())
    }

    /// 16 MiB to the client of a node.
    pub fn bulk(&self, at: usize, to: IpAddr, port: u16) -> Result<()> {
        let url = format!("http://{}/blob", SocketAddr::new(to, port));
        let bytes = download(&self.clients[at].namespace, &url, 30)?;
        ensure!(bytes == BLOB, "{bytes} bytes of {url}");
        Ok(())
    }
}

/// nginx, the peer server, and the web server.
pub const PORTS: [(&str, u16, u16); 4] = [
    ("tcp", 80, HTTP_PORT),
    ("tcp", 81, WEB_PORT),
    ("tcp", PEER_PORT, PEER_PORT),
    ("udp", PEER_PORT, PEER_PORT),
];

/// The ledgers of both nodes.
pub fn audit(wefts: &[Weft; 2]) -> Result<()> {
    for (weft, name) in wefts.iter().zip(["node a", "node b"]) {
        weft.audit().context(name)?;
    }
    Ok(())
}

/// What both nodes have to say for themselves, for an error.
pub fn said(wefts: &[Weft; 2]) -> String {
    wefts
        .iter()
        .map(|weft| {
            weft.text(&["status"])
                .unwrap_or_else(|error| error.to_string())
        })
        .collect::<Vec<_>>()
        .join("\n")
}
