//! The control side of a simulation: configurations as text, through the same parser, registry and compiler as a
//! node's own.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use weft_datapath::{Address, Now, Tables};

use super::super::testing::Coin;
use super::wire::v4;
use crate::config::{self, Config, Source};
use crate::control::{Around, Compiled, Link, Names, Patience, Registry, Slots};

pub const PODS: u32 = 100;
/// The first pods serve; the others ask, and those whose label a service selects serve too.
pub const SERVERS: u32 = 40;
pub const SERVICES: u32 = 12;
pub const SERVED: u16 = 80;
pub const UNSERVED: u16 = 81;
pub const TARGET: u16 = 8080;

/// Pods that go with a change, and changes until they are back.
const GO: usize = 4;
const AWAY: usize = 3;

pub fn ifindex(pod: u32) -> u32 {
    1000 + pod
}

/// The address of the pod behind an interface.
pub fn address(ifindex: u32) -> Address {
    v4(Ipv4Addr::new(10, 244, 1, (ifindex - 1000) as u8 + 1))
}

pub fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, service as u8 + 1)
}

/// A node's configuration over time.
pub struct Configured {
    config: Config,
    compiled: Compiled,
    registry: Registry,
    names: Names,
    slots: Slots,
    gone: VecDeque<u32>,
}

impl Configured {
    pub fn new() -> Self {
        let config = parse("[node]\nname = \"empty\"\n");
        Self {
            compiled: Compiled::nothing(&config),
            config,
            registry: Registry::default(),
            names: Names::default(),
            slots: Slots::default(),
            gone: VecDeque::new(),
        }
    }

    /// The next configuration: some pods go and some come back, endpoints become ready and not.
    pub fn change(&mut self, coin: &mut Coin, now: Now) -> Arc<Tables> {
        if self.gone.len() == GO * AWAY {
            self.gone.drain(..GO);
        }
        for _ in 0..GO {
            self.gone.push_back(coin.below(PODS.into()) as u32);
        }
        self.config = parse(&self.text(coin));
        let patience = Patience {
            grace: self.config.node.enrolment_grace,
            drain: self.config.node.drain,
        };
        let link = |name: &str| {
            let ifindex = name.strip_prefix("veth")?.parse().ok().map(ifindex)?;
            Some(Link { ifindex, mtu: 1500 })
        };
        let is_vip = |address: &IpAddr| (0..SERVICES).any(|service| vip(service) == *address);
        self.registry = self
            .registry
            .with_pods(&self.config.pods, is_vip, link, patience, now);
        self.compile()
    }

    /// The node without the pods whose draining is over; `None` if there are none.
    pub fn end_drained(&mut self, now: Now) -> Option<Arc<Tables>> {
        self.registry = self.registry.without_drained(now)?;
        Some(self.compile())
    }

    fn compile(&mut self) -> Arc<Tables> {
        let config = Arc::new(self.config.clone());
        let (names, slots) = (&mut self.names, &mut self.slots);
        let next = self
            .compiled
            .next(
                config,
                &self.registry,
                (names, slots),
                &mut Around::default(),
            )
            .expect("XDS-04: an accepted configuration compiles");
        slots.keep();
        self.compiled = next;
        Arc::clone(&self.compiled.tables)
    }

    fn text(&self, coin: &mut Coin) -> String {
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap();
        line(format_args!("[node]\nname = \"node-a\""));
        line(format_args!("drain = \"2s\"\nenrolment_grace = \"1s\""));
        for pod in (0..PODS).filter(|pod| !self.gone.contains(pod)) {
            let ip = IpAddr::from(address(ifindex(pod)));
            line(format_args!("[[pod]]\nname = \"p{pod}\"\nip = \"{ip}\""));
            line(format_args!("interface = \"veth{pod}\""));
            line(format_args!("labels = {{ s = \"{}\" }}", pod % SERVICES));
        }
        for service in 0..SERVICES {
            let algorithm = ["maglev", "round_robin", "random"][service as usize % 3];
            let ip = vip(service);
            line(format_args!("[[service]]\nname = \"s{service}\""));
            line(format_args!(
                "cluster_ip = \"{ip}\"\nalgorithm = \"{algorithm}\""
            ));
            if service % 4 == 3 {
                line(format_args!("session_affinity = \"client_ip\"")); // One of each algorithm.
            }
            line(format_args!("ports = ["));
            for (name, protocol) in [("t", "tcp"), ("u", "udp")] {
                line(format_args!(
                    "{{ name = \"{name}\", protocol = \"{protocol}\", port = {SERVED}, target_port = {TARGET} }},"
                ));
            }
            line(format_args!("]"));
            if service % 2 == 1 {
                line(format_args!("selector = {{ s = \"{service}\" }}"));
                continue;
            }
            // Enrolled or not, ready most of the time.
            line(format_args!("endpoints = ["));
            for server in (0..SERVERS).filter(|server| server % 5 == service % 5) {
                let ip = IpAddr::from(address(ifindex(server)));
                let (ready, weight) = (!coin.one_in(6), coin.below(4));
                line(format_args!(
                    "{{ address = \"{ip}\", ready = {ready}, weight = {weight} }},"
                ));
            }
            line(format_args!("]"));
        }
        text
    }
}

fn parse(text: &str) -> Config {
    let source = Source {
        path: "node.toml".into(),
        text: text.to_owned(),
    };
    config::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"))
}
