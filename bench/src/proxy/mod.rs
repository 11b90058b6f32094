//! The proxies that Weft's TCP and HTTP stages are measured against: processes of the node, which the kernel redirects
//! services' connections to. In lab namespaces only.
//!
//! Each runs on one core with one thread for traffic, without logs, and is told nothing but where to connect to.
//! The backend sees the node's address in place of the client's.

mod envoy;
mod haproxy;
mod nginx;
mod redirect;

use crate::binaries;
use crate::kubeproxy::Rule;
use crate::lab::{Lab, Pod};
use crate::measure::services::grpc_ports;
use crate::process::Process;
use crate::wait::{START_LIMIT, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The port of the first connection's end at the proxy; each service port has one of its own from there on.
const FIRST_PORT: u16 = 20_000;
/// How long a proxy may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A proxy, and how it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HAProxy in TCP mode, copying.
    Haproxy,
    /// The same with the kernel moving the bytes from socket to socket.
    HaproxySplice,
    /// Envoy's tcp_proxy.
    Envoy,
    /// HAProxy in HTTP mode.
    HaproxyHttp,
    /// nginx's HTTP proxy.
    NginxHttp,
    /// Envoy's HTTP connection manager.
    EnvoyHttp,
}

impl Kind {
    /// Its program, where there is one.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyHttp => binaries::haproxy(),
            Self::NginxHttp => binaries::nginx(),
            Self::Envoy | Self::EnvoyHttp => binaries::envoy(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyHttp => "haproxy",
            Self::NginxHttp => "nginx",
            Self::Envoy | Self::EnvoyHttp => "envoy",
        }
    }
}

/// What a proxy takes connections on, and where it takes them to.
#[derive(Debug, Clone, Copy)]
struct Leg {
    port: u16,
    service: SocketAddr,
    backend: SocketAddr,
    /// Both ends speak HTTP/2 without TLS.
    h2c: bool,
}

/// A proxy at work in a lab's node. Dropping it stops it; the redirection stays.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
}

impl Proxy {
    /// Takes the connections of `client` to the IPv4 TCP services of `rules`. The process starts under a
    /// `wrapper` such as `chrt -f 20`.
    pub fn start(
        lab: &Lab,
        kind: Kind,
        client: &Pod,
        rules: &[Rule],
        wrapper: &[&str],
    ) -> Result<Self> {
        let program = kind
            .program()
            .with_context(|| format!("{} is not installed", kind.name()))?;
        let legs: Vec<Leg> = rules
            .iter()
            .filter(|rule| rule.vip.is_ipv4() && rule.protocol == "tcp")
            .zip(FIRST_PORT..)
            .filter_map(|(rule, port)| {
                let backend = *rule.endpoints.first()?;
                Some(Leg {
                    port,
                    service: rule.vip,
                    backend,
                    h2c: grpc_ports().any(|port| port == rule.vip.port()),
                })
            })
            .collect();
        ensure!(!legs.is_empty(), "no TCP service to stand in for");
        redirect::install(&lab.node, client, &legs)?;
        let name = kind.name();
        let directory = lab.directory();
        let (text, arguments) = match kind {
            Kind::Haproxy | Kind::HaproxySplice | Kind::HaproxyHttp => {
                (haproxy::render(&legs, kind), haproxy::RUN)
            }
            Kind::NginxHttp => (nginx::render(&legs, &directory)?, nginx::RUN),
            Kind::Envoy => (envoy::render(&legs, envoy::TCP)?, envoy::RUN),
            Kind::EnvoyHttp => (envoy::render(&legs, envoy::HTTP)?, envoy::RUN),
        };
        // Envoy takes a file for what its name ends in; JSON is YAML.
        let file = directory.join(format!("{name}.yaml"));
        fs::write(&file, text)?;
        let program = program.to_string_lossy();
        let words = [wrapper, &[&*program], arguments].concat();
        let mut command = lab.node.command(words[0]);
        command.args(&words[1..]).arg(&file);
        let mut proxy = Self {
            process: Process::start(name, &mut command, &lab.directory())?,
        };
        proxy.wait_ready(lab, &legs).with_context(|| name)?;
        Ok(proxy)
    }

    /// Its process id.
    pub fn pid(&self) -> Result<i32> {
        let pid = self.process.pid().context("the proxy was left alone")?;
        Ok(pid.as_raw_nonzero().get())
    }

    /// Stops it; an error when it had ended by itself.
    pub fn stop(mut self) -> Result<()> {
        ensure!(
            self.process.is_running(),
            "the proxy ended by itself:\n{}",
            self.process.log()
        );
        self.process.terminate(STOP_LIMIT).map(drop)
    }

    fn wait_ready(&mut self, lab: &Lab, legs: &[Leg]) -> Result<()> {
        let process = &mut self.process;
        let ready = wait_for("the proxy to listen", START_LIMIT, || {
            // No connection to see whether it is there: it would go on to the server.
            let listening = lab.node.enter(listening).ok()?;
            if legs.iter().all(|leg| listening.contains(&leg.port)) {
                return Some(true);
            }
            (!process.is_running()).then_some(false)
        });
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => bail!("it ended:\n{}", process.log()),
            Err(error) => Err(error.context(process.log())),
        }
    }
}

/// The IPv4 TCP ports that are listened on in the network namespace of this thread.
fn listening() -> BTreeSet<u16> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    ports(&table)
}

/// Out of the kernel's table of sockets (proc_net_tcp).
fn ports(table: &str) -> BTreeSet<u16> {
    /// The state that listeners are in.
    const LISTEN: &str = "0A";
    let port = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (_, port) = fields.next()?.split_once(':')?;
        (fields.nth(1)? == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let table = "  sl  local_address rem_address   st tx_queue\n   0: 00000000:4E20 00000000:0000 0A 00\n   \
                     1: 0100007F:1F90 0100007F:C001 01 00\n";
        assert_eq!(ports(table), BTreeSet::from([20_000]));
    }
}
