//! A far client, a near server and a far one, and two ways between them: the kernel's, and Weft's.

use crate::config::Config;
use crate::far::FarPod;
use crate::impairment::Impairment;
use crate::kubeproxy::{self, Rule};
use crate::lab::{Family, Lab, Pod, pick, vips};
use crate::namespace::Namespace;
use crate::servers::{self, TRANSFER_PORT};
use crate::tools::transfer::{Mode, Plan, Transfer, fresh_seed, run};
use crate::weft::Weft;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::Duration;

/// The service of the server that is a pod as any other.
pub const NEAR: u8 = 40;
/// The service of the server behind a link.
pub const FAR: u8 = 41;
/// How long a client waits for anything.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Pods, servers, and the links.
#[derive(Debug)]
pub struct World {
    /// The client, behind a link.
    pub client: FarPod,
    /// A server in a pod as any other.
    pub near: Pod,
    /// A server behind a link.
    pub far: FarPod,
    /// Everything; it goes last.
    pub lab: Lab,
}

impl World {
    /// Makes them, with perfect links.
    pub fn new() -> Result<Self> {
        Self::under(&[])
    }

    /// As [`World::new`], its servers under a wrapper.
    pub fn under(wrapper: &[&str]) -> Result<Self> {
        let mut lab = Lab::new()?;
        let perfect = Impairment::default();
        let client = lab.far_pod("client", perfect, perfect)?;
        let near = lab.pod("near")?;
        let far = lab.far_pod("far", perfect, perfect)?;
        for pod in [&client.pod, &near, &far.pod] {
            settle(&pod.namespace)?;
        }
        for pod in [&near, &far.pod] {
            servers::transfer(&mut lab, pod, wrapper)?;
        }
        Ok(Self {
            client,
            near,
            far,
            lab,
        })
    }

    /// From now on both links do this.
    pub fn impair(&mut self, both: Impairment) -> Result<()> {
        self.client.impair(both)?;
        self.far.impair(both)?;
        Ok(())
    }

    /// Everything enrolled, and the two services at `stage`: `tcp`, or `None` for what it is without one.
    pub fn config(&self, stage: Option<&str>) -> Config {
        let mut config = Config::new();
        // Nobody's rate is measured here, and a machine that does much else is no dead worker: the kernel would reset
        // what ends in it.
        config.workers.punt_rate = Some(100_000_000);
        config.workers.heartbeat = Some("5s".into());
        config
            .enrol(&self.client.pod, "client")
            .enrol(&self.near, "near")
            .enrol(&self.far.pod, "far");
        for (name, number) in [("near", NEAR), ("far", FAR)] {
            config
                .service(name, number, &[("tcp", TRANSFER_PORT, TRANSFER_PORT)])
                .select(name)
                .stage(stage);
        }
        config
    }

    /// Starts the node process with [`World::config`].
    pub fn weft(&self, stage: Option<&str>) -> Result<Weft> {
        self.weft_under(stage, &[])
    }

    /// As [`World::weft`], under a wrapper.
    pub fn weft_under(&self, stage: Option<&str>, wrapper: &[&str]) -> Result<Weft> {
        Weft::start_under(&self.lab, &self.config(stage), wrapper)
    }

    /// Lets the kernel serve the services, by kube-proxy's rules.
    pub fn kube_proxy(&self) -> Result<()> {
        let rules: Vec<Rule> = [(NEAR, &self.near), (FAR, &self.far.pod)]
            .into_iter()
            .flat_map(|(number, pod)| {
                Family::BOTH.map(|family| Rule {
                    vip: service(number, family),
                    protocol: "tcp",
                    endpoints: vec![pod.at(family, TRANSFER_PORT)],
                })
            })
            .collect();
        kubeproxy::install(&self.lab.node, &rules)
    }

    /// One run of the client against a service.
    pub fn transfer(&self, number: u8, family: Family, wish: Wish) -> Result<Transfer> {
        transfer(&self.client.pod.namespace, service(number, family), wish)
    }
}

/// Where the service is.
pub fn service(number: u8, family: Family) -> SocketAddr {
    (pick(&vips(number), family), TRANSFER_PORT).into()
}

/// What a client shall do.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// What.
    pub mode: Mode,
    /// Bytes in each direction that carries any.
    pub bytes: u64,
    /// Pings or connections.
    pub count: usize,
    /// How long a receiver stops.
    pub pause: Duration,
}

impl Wish {
    /// A transfer of so many bytes.
    pub fn bytes(mode: Mode, bytes: u64) -> Self {
        Self {
            mode,
            bytes,
            count: 0,
            pause: Duration::ZERO,
        }
    }
}

/// One run of a client inside `namespace`.
pub fn transfer(namespace: &Namespace, to: SocketAddr, wish: Wish) -> Result<Transfer> {
    let plan = Plan {
        to,
        mode: wish.mode,
        bytes: wish.bytes,
        count: wish.count,
        pause: wish.pause,
        limit: LIMIT,
        seed: fresh_seed(),
    };
    namespace
        .enter(|| run(plan))?
        .with_context(|| format!("{} {to}", wish.mode.id()))
}

/// Linux as it comes, in the pods, and nothing remembered of the connections before.
fn settle(namespace: &Namespace) -> Result<()> {
    namespace.sysctl(&[
        "net.ipv4.tcp_no_metrics_save=1",
        "net.ipv4.tcp_rmem=4096 131072 6291456",
        "net.ipv4.tcp_wmem=4096 16384 4194304",
    ])
}
