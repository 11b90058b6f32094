//! What every scenario starts from.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use weft_lab::binaries;
use weft_lab::capture::Capture;
use weft_lab::client::Talk;
use weft_lab::config::Config;
use weft_lab::kubeproxy::{self, Rule};
use weft_lab::lab::{self, Family, Lab, Pod, PodOptions, pick, vips};
use weft_lab::load::{Load, Request, Tally};
use weft_lab::servers::{self, HTTP_PORT, PEER_PORT};
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// The web service: 10.96.0.10 and fd00:96::a; TCP 80 is nginx, TCP and UDP 7000 the peer server.
pub const WEB: u8 = 10;

/// A client and three backends that are enrolled, one pod that is not, servers running.
pub struct Fixture {
    pub client: Pod,
    pub backends: [Pod; 3],
    /// The pod that is not enrolled. It has servers too.
    pub outsider: Pod,
    pub lab: Lab,
}

impl Fixture {
    pub fn new() -> Result<Self> {
        Self::with_queues(1)
    }

    /// With as many queues on every veth.
    pub fn with_queues(queues: u32) -> Result<Self> {
        let mut lab = Lab::new()?;
        let mut pod = |name| {
            lab.pod_with(
                name,
                PodOptions {
                    queues,
                    ..PodOptions::default()
                },
            )
        };
        let client = pod("client")?;
        let backends = [pod("a")?, pod("b")?, pod("c")?];
        let outsider = pod("outsider")?;
        for pod in backends.iter().chain([&outsider]) {
            servers::nginx(&mut lab, &pod.namespace, &pod.name)?;
            servers::peer(&mut lab, &pod.namespace, &pod.name)?;
        }
        Ok(Self {
            client,
            backends,
            outsider,
            lab,
        })
    }

    /// Client and backends enrolled, the web service on the backends.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.enrol(&self.client, "client");
        for pod in &self.backends {
            config.enrol(pod, "web");
        }
        config.service("web", WEB, &WEB_PORTS).select("web");
        config
    }

    /// The web service with its backends named by address, so that enrolment does not change it.
    pub fn config_by_address(&self) -> Config {
        let mut config = self.config();
        config.services.clear();
        let addresses: Vec<IpAddr> = self.backends.iter().flat_map(|pod| pod.ips).collect();
        config.service("web", WEB, &WEB_PORTS).serve_at(addresses);
        config
    }

    /// kube-proxy's rules for the web service, behind Weft's back.
    pub fn install_shadow_rules(&self) -> Result<()> {
        let rule = |family, protocol, port, target| Rule {
            vip: web(family, port),
            protocol,
            endpoints: self
                .backends
                .iter()
                .map(|pod| pod.at(family, target))
                .collect(),
        };
        let rules: Vec<Rule> = Family::BOTH
            .into_iter()
            .flat_map(|family| {
                WEB_PORTS.map(|(protocol, port, target)| rule(family, protocol, port, target))
            })
            .collect();
        kubeproxy::install(&self.lab.node, &rules)
    }

    /// Loads of every protocol and family on the peer port of the web service.
    pub fn loads(&self, interval: Duration) -> Vec<Load> {
        Family::BOTH
            .into_iter()
            .flat_map(|family| [(Request::Tcp, family), (Request::Udp, family)])
            .map(|(request, family)| {
                let targets = vec![web(family, PEER_PORT)];
                Load::start(&self.client.namespace, request, targets, interval)
            })
            .collect()
    }

    /// Packets that have gone through the punt pair.
    pub fn punted(&self) -> Result<u64> {
        let packets = self.lab.node.packets("weft0")?;
        Ok(packets.sent + packets.received)
    }

    /// Watches what leaves the node for the outside with a service's address in it.
    pub fn watch(&self) -> Result<Capture> {
        let filter = "net 10.96.0.0/16 or net fd00:96::/32";
        let directory = self.lab.directory();
        Capture::start(&self.lab.outside, "eth0", filter, &directory, "outside")
    }

    /// The node process on [`Fixture::config`].
    pub fn weft(&self) -> Result<Weft> {
        Weft::start(&self.lab, &self.config())
    }
}

const WEB_PORTS: [(&str, u16, u16); 3] = [
    ("tcp", 80, HTTP_PORT),
    ("tcp", PEER_PORT, PEER_PORT),
    ("udp", PEER_PORT, PEER_PORT),
];

/// The web service's address and a port.
pub fn web(family: Family, port: u16) -> SocketAddr {
    (pick(&vips(WEB), family), port).into()
}

/// As many connections to the peer server, over both families.
pub fn talks(fixture: &Fixture, count: usize) -> Result<Vec<Talk>> {
    let families = Family::BOTH.into_iter().cycle().take(count);
    let open = |family| Talk::open(&fixture.client.namespace, web(family, PEER_PORT));
    families.map(open).collect()
}

/// Every connection is with the backend that it began with.
pub fn go_on(talks: &mut [Talk]) -> Result<()> {
    for talk in talks {
        let answer = talk.ask().context("a connection that was there")?;
        ensure!(
            answer == talk.greeting,
            "{answer:?}, not {:?}",
            talk.greeting
        );
    }
    Ok(())
}

/// Waits until every load has been answered `more` times from now on.
pub fn progress(loads: &[Load], more: u64) -> Result<()> {
    for load in loads {
        let goal = load.answered() + more;
        wait_until("a load to be answered", Duration::from_secs(15), || {
            load.answered() >= goal
        })?;
    }
    Ok(())
}

/// Ends the loads; every request must have been answered by the right server, in time.
pub fn flawless(loads: Vec<Load>) -> Result<Vec<Tally>> {
    let tallies = loads
        .into_iter()
        .map(Load::stop)
        .collect::<Result<Vec<_>>>()?;
    for tally in &tallies {
        ensure!(tally.answered() > 0, "nothing was answered");
        ensure!(
            tally.failures.is_empty() && tally.misrouted.is_empty() && tally.slow.is_empty(),
            "{tally:#?}"
        );
    }
    Ok(tallies)
}

/// Real-time priority for the node process: what a busy machine keeps from a worker overflows its ring, and is not
/// what the scenario is about.
pub const REAL_TIME: [&str; 3] = ["chrt", "-f", "20"];

/// Whether scenarios run at full length (`make soak`) instead of for seconds.
pub fn soak() -> bool {
    std::env::var("WEFT_LAB_SOAK").is_ok_and(|soak| soak == "true")
}

/// Runs a scenario that needs root, alone on this machine.
pub fn with_root(scenario: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(_alone) = admitted(false)? else {
        return Ok(());
    };
    scenario()
}

/// Runs a scenario that needs root and the node process, alone on this machine.
pub fn with_weft(scenario: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(_alone) = admitted(true)? else {
        return Ok(());
    };
    scenario()
}

/// The lock to hold, or `None` when the scenario has to be skipped here.
fn admitted(weft: bool) -> Result<Option<File>> {
    let missing = if !rustix::process::geteuid().is_root() {
        "it needs root: sudo make test"
    } else if weft && binaries::weft().is_none() {
        "the node process is not built: cargo build --workspace, or set WEFT_BIN"
    } else {
        return Ok(Some(lab::exclusive()?));
    };
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!("{missing} (and nothing may be skipped in CI)");
    }
    let name = std::thread::current()
        .name()
        .unwrap_or("a scenario")
        .to_owned();
    // Not print!, which the test harness swallows for a test that passes.
    writeln!(std::io::stderr(), "SKIPPED {name}: {missing}")?;
    Ok(None)
}
