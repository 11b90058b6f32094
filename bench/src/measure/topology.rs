//! A client pod, a server pod and a node that carries the traffic in one way, set up for one measurement after
//! another.

use super::path::PathKind;
use super::placement::{CORES, LOAD_CORE, Placement, other_core};
use super::scenario::{Node, Place, Probe};
use super::services::{
    self, ServicePort, VIP, bulk_port, crowd_port, datagram_port, echo_port, grpc_port, grpc_ports,
    once_port, web_port,
};
use super::{
    Effort, Sample, bulk, config_update, connections, flood, flows, http, idle_memory, priority,
    real_time, round_trip,
};
use crate::balancer::Balancer;
use crate::binaries;
use crate::command::run;
use crate::config::{Config, Overlay, Peer};
use crate::conntrack;
use crate::kubeproxy;
use crate::lab::{Family, Lab, Pod, UPLINK, pick, vips};
use crate::nftables;
use crate::proxy::Proxy;
use crate::servers;
use crate::two_nodes::{TwoNodes, Underlay};
use crate::wait::{START_LIMIT, wait_until};
use crate::weft::Weft;
use anyhow::{Context, Result};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// More connections and requests than any scenario makes, as every proxy has it.
const HTTP: &str = "[backend]\nconnections = 1000000\npending = 1000000\nrequests = 1000000\n";

/// A client pod, a server pod and the node between them.
#[derive(Debug)]
pub struct Topology {
    path: PathKind,
    /// What the node knows.
    knows: Node,
    effort: Effort,
    /// The ports of the measured service in the kernel's rules, where the path has any.
    installed: Vec<ServicePort>,
    /// The node process of the placement it runs in; it starts and stops with its turns.
    weft: Option<Weft>,
    /// The load balancer, likewise.
    balancer: Option<Balancer>,
    /// The proxy, likewise.
    proxy: Option<Proxy>,
    /// The node process of the server's node, where that is another one.
    far_weft: Option<Weft>,
    /// The sender.
    pub client: Pod,
    /// The receiver.
    pub server: Pod,
    /// The lab of the server's node, where that is another one.
    far: Option<Lab>,
    /// The lab of the client's node; it goes last.
    pub lab: Lab,
}

impl Topology {
    /// Makes the pods and their servers on a node that knows as much as `knows` says.
    pub fn new(path: PathKind, knows: Node, effort: Effort) -> Result<Self> {
        let (mut lab, mut far) = match knows.server {
            Place::Here => (Lab::new()?, None),
            place => {
                let (lab, far) = joined(path, place)?;
                (lab, Some(far))
            }
        };
        let client = lab.pod("client")?;
        let there = far.as_mut().unwrap_or(&mut lab);
        let server = there.pod("server")?;
        // Single packets shall leave the pod, not super-packets that the receiver would count as one.
        run(client.namespace.command("ethtool").args([
            "-K",
            "eth0",
            "tx-udp-segmentation",
            "off",
        ]))?;
        serve(there, &server)?;
        let topology = Self {
            path,
            knows,
            effort,
            installed: Vec::new(),
            weft: None,
            balancer: None,
            proxy: None,
            far_weft: None,
            client,
            server,
            far,
            lab,
        };
        topology.wait_for_servers()?;
        Ok(topology)
    }

    /// Measures once.
    pub fn measure(&mut self, probe: Probe, placement: &Placement) -> Result<Sample> {
        let ports = services::ports(self.knows.services, probe);
        self.install(&ports)?;
        self.forget_connections()?;
        self.steer(placement.rps_core)?;
        if let Some((cores, poll)) = placement.process {
            self.start(cores, poll, &ports)?;
        }
        if self.path == PathKind::Ebpf {
            self.balancer = Some(self.balance(&ports)?);
        }
        let sample = match probe {
            Probe::Flood(family) => flood::measure(self, family, &[LOAD_CORE]),
            Probe::FloodOneCore => flood::measure(self, Family::V4, &[LOAD_CORE]),
            Probe::FloodNode => flood::measure(self, Family::V4, &CORES),
            Probe::Connections(family) => connections::measure(self, placement, family),
            Probe::Crowd => connections::measure_crowd(self, placement),
            Probe::IdleMemory => idle_memory::measure_tcp(self, placement),
            Probe::Http(asks) => http::measure(self, placement, asks),
            Probe::FreshRoundTrip => round_trip::measure_fresh(self, placement),
            Probe::Bulk => bulk::measure(self, placement),
            Probe::NewFlows(family) => flows::measure_new(self, family, &[LOAD_CORE]),
            Probe::NewFlowsNode => flows::measure_new(self, Family::V4, &CORES),
            Probe::LiveFlows(family) => flows::measure_live(self, family, &[LOAD_CORE]),
            Probe::RoundTrip(family) => round_trip::measure(self, placement, family),
            Probe::ConfigUpdate => config_update::measure(self),
            Probe::LookupScale => anyhow::bail!("it needs no topology"),
        };
        self.balancer = None;
        if let Some(mut weft) = self.far_weft.take() {
            weft.stop()?;
        }
        if let Some(proxy) = self.proxy.take() {
            proxy.stop()?;
        }
        if let Some(mut weft) = self.weft.take() {
            let status = weft.stop()?;
            anyhow::ensure!(
                status.success(),
                "the node process ended with {status}: {}",
                weft.log()
            );
        }
        sample
    }

    /// Starts the process that carries the traffic, where the path has one: a node process or a proxy.
    fn start(&mut self, cores: &[usize], poll: &str, ports: &[ServicePort]) -> Result<()> {
        let Some(kind) = self.path.proxy() else {
            let wrapper = real_time(priority::DATAPLANE, &[]);
            if let Some(far) = &self.far {
                // Two that spin on one core would keep each other from running.
                let config = self.config(far, other_core(cores), "sleep", ports)?;
                self.far_weft = Some(Weft::start_under(far, &config, &wrapper)?);
            }
            let config = self.config(&self.lab, cores, poll, ports)?;
            self.weft = Some(Weft::start_under(&self.lab, &config, &wrapper)?);
            return Ok(());
        };
        let cores: Vec<String> = cores.iter().map(|core| core.to_string()).collect();
        let cores = cores.join(",");
        let wrapper = real_time(priority::DATAPLANE, &["taskset", "-c", &cores]);
        let rules = services::measured(ports, &self.server);
        let proxy = Proxy::start(&self.lab, kind, &self.client, &rules, &wrapper)?;
        self.proxy = Some(proxy);
        Ok(())
    }

    /// The process that [`Topology::start`] started.
    pub fn process(&self) -> Result<i32> {
        match (&self.weft, &self.proxy) {
            (Some(weft), _) => weft.pid(),
            (_, Some(proxy)) => proxy.pid(),
            (None, None) => anyhow::bail!("{} has no process", self.path.id()),
        }
    }

    /// The way it is.
    pub fn path(&self) -> PathKind {
        self.path
    }

    /// How much a measurement takes.
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// What the node knows.
    pub fn knows(&self) -> Node {
        self.knows
    }

    /// The ports of the measured service in the kernel's rules.
    pub fn installed(&self) -> &[ServicePort] {
        &self.installed
    }

    /// The node process, while it runs.
    pub fn weft(&self) -> Option<&Weft> {
        self.weft.as_ref()
    }

    /// The load balancer, while it is attached.
    pub fn balancer(&self) -> Option<&Balancer> {
        self.balancer.as_ref()
    }

    /// Where the client sends to for `port`: the VIP, or the backend itself.
    pub fn target(&self, family: Family, port: u16) -> SocketAddr {
        match self.path {
            PathKind::Direct => self.server.at(family, port),
            _ => (pick(&vips(VIP), family), port).into(),
        }
    }

    /// Every measurement starts with an empty connection table, as Weft starts with an empty flow
    /// table; so no path pays for the flows of the one before.
    fn forget_connections(&self) -> Result<()> {
        for lab in self.labs().filter(|_| self.path.is_tracked()) {
            conntrack::flush(&lab.node)?;
        }
        Ok(())
    }

    /// The client's node, and the server's where that is another one.
    fn labs(&self) -> impl Iterator<Item = &Lab> {
        [Some(&self.lab), self.far.as_ref()].into_iter().flatten()
    }

    /// Flows that the path has entered since the measurement began, where it can say so.
    pub fn tracked(&self) -> Result<Option<u64>> {
        if self.path.is_tracked() {
            return conntrack::count(&self.lab.node).map(Some);
        }
        self.balancer.as_ref().map(Balancer::opened).transpose()
    }

    /// Loads the kernel's rules, unless they are there already.
    fn install(&mut self, ports: &[ServicePort]) -> Result<()> {
        if self.installed == ports {
            return Ok(());
        }
        let measured = services::measured(ports, &self.server);
        let (before, after) = services::others(self.knows);
        let others = [before.clone(), after.clone()].concat();
        for lab in self.labs() {
            match self.path {
                PathKind::Iptables => {
                    let all = [&before[..], &measured, &after].concat();
                    kubeproxy::install(&lab.node, &all)?;
                }
                PathKind::Nftables => nftables::install(&lab.node, &measured, &others)?,
                // Weft, the balancer and the proxies learn theirs when they start.
                _ => {}
            }
        }
        self.installed = ports.to_vec();
        Ok(())
    }

    fn balance(&self, ports: &[ServicePort]) -> Result<Balancer> {
        let (before, after) = services::others(self.knows);
        let rules = [before, services::measured(ports, &self.server), after].concat();
        Balancer::start(&self.lab.node, &[&self.client, &self.server], &rules)
    }

    /// Of the node process in `lab`.
    fn config(
        &self,
        lab: &Lab,
        cores: &[usize],
        poll: &str,
        ports: &[ServicePort],
    ) -> Result<Config> {
        let mut config = Config::new();
        config.workers.cores = cores.to_vec();
        config.workers.poll = poll.into();
        // What this path is, whatever the default may be.
        config.workers.fast_path = match self.path {
            PathKind::Weft => "full",
            _ => "off",
        }
        .into();
        // The generator's whole rate may come: the limit is not what is measured.
        config.workers.punt_rate = Some(100_000_000);
        let near = lab.id() == self.lab.id();
        match &self.far {
            None => {
                _ = config
                    .enrol(&self.client, "client")
                    .enrol(&self.server, "server")
            }
            Some(_) if near => _ = config.enrol(&self.client, "client"),
            Some(_) => _ = config.enrol(&self.server, "server"),
        }
        if let Some(far) = &self.far {
            join(&mut config, lab, if near { far } else { &self.lab });
        }
        services::configure(&mut config, self.knows, ports, self.server.ips);
        let stage = match self.path {
            PathKind::WeftUserL7 => {
                let unused = config.service("unused", VIP + 1, &[("tcp", 80, 80)]);
                unused.select("server").http(HTTP)?;
                return Ok(config);
            }
            PathKind::WeftTcp => "tcp",
            PathKind::WeftHttp | PathKind::WeftHttpNode => "http",
            _ => return Ok(config),
        };
        for service in &mut config.services {
            service.stage(Some(stage));
            if stage == "http" {
                let calls = ports
                    .iter()
                    .any(|port| grpc_ports().any(|grpc| grpc == port.1));
                let protocol = if calls { "protocol = \"h2c\"\n" } else { "" };
                service.http(&[HTTP, protocol].concat())?;
            }
            if self.path == PathKind::WeftHttpNode {
                service.source("node");
            }
        }
        Ok(config)
    }

    /// Receive packet steering of what the client sends, on the node's side of its veth.
    fn steer(&self, core: Option<usize>) -> Result<()> {
        let mask = core.map_or(0, |core| 1_u32 << core);
        let file = format!(
            "/sys/class/net/{}/queues/rx-0/rps_cpus",
            self.client.interface
        );
        // `ip netns exec` mounts the /sys of the namespace, which is what this needs.
        run(Command::new("ip")
            .args(["netns", "exec", self.lab.node.name(), "sh", "-c"])
            .arg(format!("echo {mask:x} > {file}")))
        .map(drop)
    }

    fn wait_for_servers(&self) -> Result<()> {
        for port in CORES
            .into_iter()
            .flat_map(|core| [echo_port, once_port, crowd_port, bulk_port].map(|port| port(core)))
        {
            let to = self.server.at(Family::V4, port);
            // From there, since the way between nodes may be that of a process that does not run yet.
            self.server.namespace.enter(|| {
                wait_until("the servers", START_LIMIT, || {
                    TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok()
                })
            })??;
        }
        Ok(())
    }
}

/// Two nodes on a cable, joined by the kernel's VXLAN where the path is the kernel's.
fn joined(path: PathKind, place: Place) -> Result<(Lab, Lab)> {
    let nodes = TwoNodes::new(Underlay::Cable)?;
    if !path.is_weft() {
        nodes.kernel_vxlan(Family::V4)?;
    }
    let [near, far] = nodes.nodes;
    if place == Place::ThereInSegments {
        for lab in [&near, &far] {
            run(lab.node.command("ethtool").args([
                "-K",
                UPLINK,
                "tso",
                "off",
                "gso",
                "off",
                "tx-udp_tnl-segmentation",
                "off",
                "tx-udp_tnl-csum-segmentation",
                "off",
            ]))?;
        }
    }
    Ok((near, far))
}

/// Makes the node of `other` a peer of the one that `config` is for.
fn join(config: &mut Config, own: &Lab, other: &Lab) {
    config.node.address = vec![pick(&own.place().ips(), Family::V4)];
    config.node.uplink = vec![UPLINK.into()];
    config.overlay = Some(Overlay {
        peers: vec![Peer {
            name: "other".into(),
            address: pick(&other.place().ips(), Family::V4),
            pods: other.place().pod_ranges().into(),
            native: false,
        }],
        ..Overlay::default()
    });
}

/// Starts every server on every core; those that nobody asks only sleep.
fn serve(lab: &mut Lab, server: &Pod) -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    let program = program.to_string_lossy();
    for core in CORES {
        let number = core.to_string();
        let servers = [
            ("tcp-echo", echo_port(core)),
            ("udp-echo", datagram_port(core)),
            ("tcp-once", once_port(core)),
            ("tcp-crowd", crowd_port(core)),
            ("grpc", grpc_port(Some(core))),
        ];
        for (kind, port) in servers {
            let port = port.to_string();
            let words = [&*program, "serve", kind, "--port", &port, "--core", &number];
            let words = real_time(priority::LOAD, &words);
            let mut command = server.namespace.command(words[0]);
            lab.spawn(&format!("{kind}-{core}"), command.args(&words[1..]))?;
        }
        let wrapper = real_time(priority::LOAD, &["taskset", "-c", &number]);
        servers::origin(lab, server, web_port(Some(core)), &wrapper)?;
        let port = bulk_port(core).to_string();
        // Not in real time: a stream fills its core, and would keep ksoftirqd from it.
        let mut command = server.namespace.command("iperf3");
        command.args(["--server", "--port", &port, "--affinity", &number]);
        lab.spawn(&format!("iperf3-{core}"), &mut command)?;
    }
    let port = grpc_port(None).to_string();
    let words = [&*program, "serve", "grpc", "--port", &port];
    let words = real_time(priority::LOAD, &words);
    let mut command = server.namespace.command(words[0]);
    lab.spawn("grpc", command.args(&words[1..]))?;
    servers::origin(lab, server, web_port(None), &real_time(priority::LOAD, &[]))
}
