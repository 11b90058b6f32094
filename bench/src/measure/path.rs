//! The ways a packet can take from a client pod to a server pod, each in a topology of its own.

use super::scenario::Probe;
use super::{Sample, flood, priority, real_time, round_trip};
use crate::binaries;
use crate::command::run;
use crate::config::Config;
use crate::kubeproxy::{self, Rule};
use crate::lab::{Family, Lab, Pod, pick, vips};
use crate::wait::{START_LIMIT, wait_until};
use crate::weft::Weft;
use anyhow::{Context, Result};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// The UDP port the flood goes to.
pub const FLOOD_PORT: u16 = 5000;
/// The echo server's port, plus the core it runs on.
pub const ECHO_BASE: u16 = 7100;
/// The cores of a measurement.
pub const CORES: [usize; 2] = [0, 1];
/// The core the generator and the clients run on.
pub const LOAD_CORE: usize = 1;
/// The number of the measured VIP.
const VIP: u8 = 10;

/// A way through the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathKind {
    /// Weft with `fast_path = "off"`: every packet through user space.
    WeftUser,
    /// kube-proxy-shaped iptables-legacy rules with conntrack.
    Iptables,
    /// No translation: the backend's own address, no rule loaded.
    Direct,
}

/// Who runs where.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    /// For the report.
    pub name: &'static str,
    /// The core of the server's process, where there is one.
    pub server_core: usize,
    /// The core that receive packet steering moves the kernel's forwarding to.
    pub rps_core: Option<usize>,
    /// The worker's core and poll mode, for Weft.
    pub worker: Option<(usize, &'static str)>,
}

impl PathKind {
    /// Every path.
    pub const ALL: [Self; 3] = [Self::WeftUser, Self::Iptables, Self::Direct];

    /// Its name in the report.
    pub fn id(self) -> &'static str {
        match self {
            Self::WeftUser => "weft-user",
            Self::Iptables => "iptables",
            Self::Direct => "direct",
        }
    }

    /// The path called `id`.
    pub fn find(id: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::id).join(", ");
        Self::ALL
            .into_iter()
            .find(|path| path.id() == id)
            .with_context(|| format!("no path {id}; there are {known}"))
    }

    /// The placements to try; the best one counts.
    ///
    /// A worker that shares its core with real-time load must sleep when idle: spinning there at
    /// a real-time priority would keep the load, and the machine, from running at all.
    pub fn placements(self, probe: Probe) -> Vec<Placement> {
        let kernel = Placement {
            name: "forwarding on the sender's core",
            server_core: LOAD_CORE,
            rps_core: None,
            worker: None,
        };
        let weft = |name, worker| Placement {
            name,
            worker: Some(worker),
            ..kernel
        };
        match (self, probe) {
            (Self::WeftUser, Probe::Flood) => {
                vec![weft("worker on the other core", (0, "adaptive"))]
            }
            (Self::WeftUser, Probe::FloodOneCore) => {
                vec![weft("worker on the same core", (LOAD_CORE, "sleep"))]
            }
            (Self::WeftUser, Probe::RoundTrip) => vec![
                weft("worker on the pods' core", (LOAD_CORE, "sleep")),
                weft("worker on the other core", (0, "adaptive")),
            ],
            (_, Probe::Flood) => vec![
                kernel,
                Placement {
                    name: "forwarding on the other core",
                    rps_core: Some(0),
                    ..kernel
                },
            ],
            (_, Probe::FloodOneCore) => vec![kernel],
            (_, Probe::RoundTrip) => vec![
                Placement {
                    name: "both pods on one core",
                    ..kernel
                },
                Placement {
                    name: "a core for each pod",
                    server_core: 0,
                    ..kernel
                },
            ],
        }
    }
}

/// A client pod, a server pod and the node between them.
#[derive(Debug)]
pub struct Topology {
    path: PathKind,
    /// The node process of the placement it runs in; it starts and stops with its turns.
    weft: Option<Weft>,
    /// The sender.
    pub client: Pod,
    /// The receiver.
    pub server: Pod,
    /// The lab; it goes last.
    pub lab: Lab,
}

impl Topology {
    /// Makes the pods, their servers, and the rules where the path has any.
    pub fn new(path: PathKind) -> Result<Self> {
        let mut lab = Lab::new()?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        // Single packets shall leave the pod, not super-packets that the receiver would count as one.
        run(client.namespace.command("ethtool").args([
            "-K",
            "eth0",
            "tx-udp-segmentation",
            "off",
        ]))?;
        let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
        let program = program.to_string_lossy();
        for core in CORES {
            let (port, core) = (echo_port(core).to_string(), core.to_string());
            let words = [
                &*program, "serve", "tcp-echo", "--port", &port, "--core", &core,
            ];
            let words = real_time(priority::LOAD, &words);
            let mut command = server.namespace.command(words[0]);
            lab.spawn(&format!("echo-{core}"), command.args(&words[1..]))?;
        }
        let topology = Self {
            path,
            weft: None,
            client,
            server,
            lab,
        };
        topology.wait_for_servers()?;
        if path == PathKind::Iptables {
            kubeproxy::install(&topology.lab.node, &topology.rules())?;
        }
        Ok(topology)
    }

    /// Measures once.
    pub fn measure(&mut self, probe: Probe, placement: &Placement) -> Result<Sample> {
        self.steer(placement.rps_core)?;
        if let Some((core, poll)) = placement.worker {
            let wrapper = real_time(priority::DATAPLANE, &[]);
            self.weft = Some(Weft::start_under(
                &self.lab,
                &self.config(core, poll),
                &wrapper,
            )?);
        }
        let sample = match probe {
            Probe::Flood | Probe::FloodOneCore => flood::measure(self),
            Probe::RoundTrip => round_trip::measure(self, placement),
        };
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

    /// Where the client sends to for `port`: the VIP, or the backend itself.
    pub fn target(&self, port: u16) -> SocketAddr {
        match self.path {
            PathKind::Direct => self.server.at(Family::V4, port),
            PathKind::WeftUser | PathKind::Iptables => (pick(&vips(VIP), Family::V4), port).into(),
        }
    }

    fn ports() -> Vec<(&'static str, u16)> {
        let echoes = CORES.map(|core| ("tcp", echo_port(core)));
        [("udp", FLOOD_PORT)].into_iter().chain(echoes).collect()
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |(protocol, port)| Rule {
            vip: (pick(&vips(VIP), Family::V4), port).into(),
            protocol,
            endpoints: vec![self.server.at(Family::V4, port)],
        };
        Self::ports().into_iter().map(rule).collect()
    }

    fn config(&self, core: usize, poll: &str) -> Config {
        let mut config = Config::new();
        config.workers.cores = vec![core];
        config.workers.poll = poll.into();
        // The generator's whole rate may come: the limit is not what is measured.
        config.workers.punt_rate = Some(100_000_000);
        config
            .enrol(&self.client, "client")
            .enrol(&self.server, "server");
        let ports: Vec<_> = Self::ports()
            .into_iter()
            .map(|(p, port)| (p, port, port))
            .collect();
        config.service("measured", VIP, &ports).select("server");
        config
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
        for core in CORES {
            let to = self.server.at(Family::V4, echo_port(core));
            self.client.namespace.enter(|| {
                wait_until("the echo servers", START_LIMIT, || {
                    TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok()
                })
            })??;
        }
        Ok(())
    }
}

/// The port of the echo server on `core`.
pub fn echo_port(core: usize) -> u16 {
    ECHO_BASE + if core == 0 { 0 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_on_the_load_core_never_spins() {
        for probe in [Probe::Flood, Probe::FloodOneCore, Probe::RoundTrip] {
            for path in PathKind::ALL {
                for placement in path.placements(probe) {
                    if let Some((core, poll)) = placement.worker {
                        assert!(core != LOAD_CORE || poll == "sleep", "{placement:?}");
                        assert_ne!(poll, "spin", "{placement:?}");
                    }
                }
            }
        }
    }
}
