//! The admin socket: one JSON request a line, one JSON answer a line, for root only.

mod client;
pub mod http;
mod latency;
mod server;
pub mod traffic;
pub mod view;

use serde::{Deserialize, Serialize};

pub use client::{ClientError, ask};
pub use latency::micros;
pub use server::{Call, Listener};

/// Longest answer that a client takes: 256 MiB, some 500,000 flows as JSON.
const LINE_MAX: u64 = 256 << 20;

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What runs, in what mode, and where the packets went.
    Status {
        /// Check the ledger too.
        #[serde(default)]
        audit: bool,
        /// Add up services' traffic, too, which means to look at every flow.
        #[serde(default)]
        traffic: bool,
    },
    /// Services and backends as the workers see them.
    LbList {
        /// Only this VIP.
        #[serde(default)]
        vip: Option<std::net::IpAddr>,
    },
    /// The flow tables.
    Flows,
    /// Routes of HTTP stages, in the order in which they are tried.
    Routes {
        /// Only of this service.
        #[serde(default)]
        service: Option<String>,
    },
    /// Which rule serves a request, and why.
    Explain {
        /// Its method.
        method: String,
        /// Its URL.
        url: String,
        /// Its header fields, as `name: value`.
        #[serde(default)]
        headers: Vec<String>,
        /// To which service; the one at the URL's address when `None`.
        #[serde(default)]
        service: Option<String>,
    },
    /// Metrics in Prometheus' format.
    Metrics,
    /// Everything that the node process owns in the kernel and the file system.
    Owned,
    /// Read the configuration files again.
    Reload,
    /// Let another program take this one's place.
    Upgrade {
        /// Where it is; where this one was started from when `None`.
        #[serde(default)]
        binary: Option<std::path::PathBuf>,
    },
}

/// What a client gets back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<view::Status>),
    /// To [`Request::LbList`].
    LbList(view::LbList),
    /// To [`Request::Flows`].
    Flows(view::Flows),
    /// To [`Request::Routes`].
    Routes(http::Routes),
    /// To [`Request::Explain`].
    Explained(http::Explained),
    /// To [`Request::Metrics`].
    Metrics(String),
    /// To [`Request::Owned`].
    Owned(Vec<view::Owned>),
    /// To [`Request::Reload`], when it was taken.
    Reloaded(view::Reloaded),
    /// To [`Request::Upgrade`], when the program is good: it takes over now, and its status says how that went.
    Upgrading(view::Upgrading),
    /// To [`Request::Upgrade`], when the program is not; nothing changed.
    NotUpgraded(view::NotUpgraded),
    /// The configuration was refused; nothing changed.
    Refused(Vec<view::Refusal>),
    /// Anything else that went wrong.
    Failed(String),
}
