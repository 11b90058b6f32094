//! The ways a packet can take from a client pod to a server pod.

use crate::binaries;
use crate::proxy::Kind;
use anyhow::{Result, bail};

/// A way through the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathKind {
    /// Weft with `fast_path = "off"`: every packet through user space.
    WeftUser,
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
    /// No translation: the backend's own address, no rule loaded.
    Direct,
}

impl PathKind {
    /// Every path.
    pub const ALL: [Self; 10] = [
        Self::Weft,
        Self::WeftTcp,
        Self::WeftUser,
        Self::Iptables,
        Self::Nftables,
        Self::Ebpf,
        Self::Haproxy,
        Self::HaproxySplice,
        Self::Envoy,
        Self::Direct,
    ];

    /// Its name in the report.
    pub fn id(self) -> &'static str {
        match self {
            Self::WeftUser => "weft-user",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Ebpf => "ebpf",
            Self::Weft | Self::WeftTcp => "weft",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Envoy => "envoy",
            Self::Direct => "direct",
        }
    }

    /// The paths called `id`: Weft is another one where connections end.
    pub fn find(id: &str) -> Result<Vec<Self>> {
        let found: Vec<Self> = Self::ALL
            .into_iter()
            .filter(|path| path.id() == id)
            .collect();
        if found.is_empty() {
            let mut known = Self::ALL.map(Self::id).to_vec();
            known.dedup();
            bail!("no path {id}; there are {}", known.join(", "));
        }
        Ok(found)
    }

    /// Whether it is a node process of Weft's.
    pub fn is_weft(self) -> bool {
        matches!(self, Self::Weft | Self::WeftTcp | Self::WeftUser)
    }

    /// The proxy that it leads through.
    pub fn proxy(self) -> Option<Kind> {
        match self {
            Self::Haproxy => Some(Kind::Haproxy),
            Self::HaproxySplice => Some(Kind::HaproxySplice),
            Self::Envoy => Some(Kind::Envoy),
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
            Self::WeftUser | Self::Weft | Self::WeftTcp => (
                binaries::weft(),
                "the node process is not built: cargo build --release -p weft",
            ),
            Self::Haproxy | Self::HaproxySplice => (
                binaries::haproxy(),
                "haproxy is not installed: .ci/setup installs it",
            ),
            Self::Envoy => (
                binaries::envoy(),
                "Envoy is not installed: .ci/setup bench installs it under target",
            ),
            _ => return None,
        };
        program.is_none().then_some(hint)
    }
}
