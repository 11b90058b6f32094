//! The ways a packet can take from a client pod to a server pod.

use crate::binaries;
use crate::proxy::Kind;
use anyhow::{Result, bail};

/// A way through the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathKind {
    /// Weft with `fast_path = "off"`: every packet through user space.
    WeftUser,
    /// The same, on a node that has a service with `stage = "http"` besides, which nobody asks.
    WeftUserL7,
    /// kube-proxy-shaped iptables-legacy rules with conntrack.
    Iptables,
    /// kube-proxy-shaped nftables rules (verdict maps) with conntrack.
    Nftables,
    /// A load balancer in eBPF at the pods' tcx hooks, as good as they come.
    Ebpf,
    /// Weft with `fast_path = "full"`: the kernel executes what user space has compiled.
    Weft,
    /// Weft with `stage = "tcp"`: connections are terminated and proxied in user space.
    WeftTcp,
    /// HAProxy in TCP mode behind a REDIRECT of the kernel.
    Haproxy,
    /// The same with splicing.
    HaproxySplice,
    /// Envoy's tcp_proxy behind a REDIRECT of the kernel.
    Envoy,
    /// Weft with `stage = "http"`; endpoints see the client.
    WeftHttp,
    /// The same with `source = "node"`.
    WeftHttpNode,
    /// HAProxy in HTTP mode behind a REDIRECT of the kernel.
    HaproxyHttp,
    /// nginx as a proxy behind a REDIRECT of the kernel.
    NginxHttp,
    /// Envoy's HTTP connection manager behind a REDIRECT of the kernel.
    EnvoyHttp,
    /// No translation: the backend's own address, no rule loaded.
    Direct,
}

impl PathKind {
    /// Every path.
    pub const ALL: [Self; 16] = [
        Self::Weft,
        Self::WeftTcp,
        Self::WeftUser,
        Self::WeftUserL7,
        Self::Iptables,
        Self::Nftables,
        Self::Ebpf,
        Self::Haproxy,
        Self::HaproxySplice,
        Self::Envoy,
        Self::WeftHttp,
        Self::WeftHttpNode,
        Self::HaproxyHttp,
        Self::NginxHttp,
        Self::EnvoyHttp,
        Self::Direct,
    ];

    /// Its name in the report.
    pub fn id(self) -> &'static str {
        match self {
            Self::WeftUser => "weft-user",
            Self::WeftUserL7 => "weft-user-l7",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Ebpf => "ebpf",
            Self::Weft | Self::WeftTcp | Self::WeftHttp => "weft",
            Self::WeftHttpNode => "weft-node",
            Self::Haproxy | Self::HaproxyHttp => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::NginxHttp => "nginx",
            Self::Envoy | Self::EnvoyHttp => "envoy",
            Self::Direct => "direct",
        }
    }

    /// The paths called `id`: Weft, and each proxy, is another one at each layer.
    pub fn find(id: &str) -> Result<Vec<Self>> {
        let found: Vec<Self> = Self::ALL
            .into_iter()
            .filter(|path| path.id() == id)
            .collect();
        if found.is_empty() {
            let mut known = Self::ALL.map(Self::id).to_vec();
            known.sort_unstable();
            known.dedup();
            bail!("no path {id}; there are {}", known.join(", "));
        }
        Ok(found)
    }

    /// Whether it is a node process of Weft's.
    pub fn is_weft(self) -> bool {
        matches!(
            self,
            Self::Weft
                | Self::WeftTcp
                | Self::WeftUser
                | Self::WeftUserL7
                | Self::WeftHttp
                | Self::WeftHttpNode
        )
    }

    /// The proxy that it leads through.
    pub fn proxy(self) -> Option<Kind> {
        match self {
            Self::Haproxy => Some(Kind::Haproxy),
            Self::HaproxySplice => Some(Kind::HaproxySplice),
            Self::Envoy => Some(Kind::Envoy),
            Self::HaproxyHttp => Some(Kind::HaproxyHttp),
            Self::NginxHttp => Some(Kind::NginxHttp),
            Self::EnvoyHttp => Some(Kind::EnvoyHttp),
            _ => None,
        }
    }

    /// True where the kernel tracks its connections.
    pub fn is_tracked(self) -> bool {
        matches!(self, Self::Iptables | Self::Nftables) || self.proxy().is_some()
    }

    /// What it lacks on this machine, and what to do about it; `None` when it can run.
    pub fn lacks(self) -> Option<&'static str> {
        let (program, hint) = match self {
            path if path.is_weft() => (
                binaries::weft(),
                "the node process is not built: cargo build --release -p weft",
            ),
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyHttp => (
                binaries::haproxy(),
                "haproxy is not installed: .ci/setup installs it",
            ),
            Self::NginxHttp => (
                binaries::nginx(),
                "nginx is not installed: .ci/setup installs it",
            ),
            Self::Envoy | Self::EnvoyHttp => (
                binaries::envoy(),
                "Envoy is not installed: .ci/setup bench installs it under target",
            ),
            _ => return None,
        };
        program.is_none().then_some(hint)
    }
}
