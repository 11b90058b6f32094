//! What an HTTP stage does: a service's routes, and how much its clients and endpoints may ask of it.

use std::time::Duration;

use weft_l7::route::{HeaderModifier, Hostname, Match, Redirect, Timeouts};
use weft_l7::upstream::{BackendLimits, BackendProtocol};
use weft_l7::{ServiceLimits, ServiceTimeouts};

use super::model::{Protocol, Service, ServicePort, Stage};

/// What the HTTP stage makes of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Http {
    /// Where requests go. Without any, all go to the service's own endpoints.
    pub routes: Vec<Route>,
    /// `[service.http]`.
    pub front: Front,
    /// `[service.backend]`.
    pub back: Back,
}

/// `[service.http]`: what clients may ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Front {
    /// Whether requests are logged.
    pub access_log: bool,
    /// Whether requests without a trace context get one.
    pub create_trace: bool,
    /// Whether what is no HTTP is passed on to the service's endpoints as it is.
    pub tcp: bool,
    /// Bounds.
    pub limits: ServiceLimits,
    /// Patience with clients.
    pub timeouts: ServiceTimeouts,
}

impl Default for Front {
    fn default() -> Self {
        Self {
            access_log: true,
            create_trace: false,
            tcp: false,
            limits: ServiceLimits::default(),
            timeouts: ServiceTimeouts::default(),
        }
    }
}

/// `[service.backend]`: how the service's endpoints are asked, by its own rules and by other services'.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Back {
    /// How an endpoint is chosen for a request.
    pub balance: Balance,
    /// What they speak.
    pub protocol: BackendProtocol,
    /// How much of each may be in use.
    pub limits: BackendLimits,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long they may keep a request whose rule has no timeouts without an answer.
    pub response_timeout: Duration,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
}

impl Default for Back {
    fn default() -> Self {
        let plain = weft_l7::upstream::BackendConfig::default();
        Self {
            balance: Balance::LeastRequest,
            protocol: plain.protocol,
            limits: plain.limits,
            connect_timeout: plain.connect_timeout,
            response_timeout: plain.response_timeout,
            idle_timeout: plain.idle_timeout,
        }
    }
}

/// How an endpoint is chosen for a request.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// Of two at random, the one with fewer requests under way.
    #[default]
    LeastRequest,
    /// One after another.
    RoundRobin,
    /// By a consistent hash of the client's connection, or of its address under session affinity.
    Maglev,
}

/// A route: hostnames, and rules in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its name, which logs and metrics have.
    pub name: String,
    /// Requests for which hosts; for all if empty.
    pub hostnames: Vec<Hostname>,
    /// The rules, at least one.
    pub rules: Vec<Rule>,
}

/// What to do with requests that match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// A request has to match one of these; any request does if there is none.
    pub matches: Vec<Match>,
    /// What is changed of the request's header.
    pub request_headers: HeaderModifier,
    /// Where the request goes.
    pub action: Action,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// Where a request goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// To one of these, by their weights.
    Forward(Vec<BackendRef>),
    /// Back to the client.
    Redirect(Redirect),
}

/// A service's endpoints and their share of requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendRef {
    /// The service's name.
    pub service: String,
    /// Which of its ports; `None` for its only one.
    pub port: Option<PortRef>,
    /// Its share, 0 to 1,000,000.
    pub weight: u32,
}

/// A port of a service, as a backend names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortRef {
    /// By its number.
    Number(u16),
    /// By its name.
    Named(String),
}

impl Service {
    /// The TCP port that a backend means, if there is exactly one.
    pub fn backend_port(&self, wanted: Option<&PortRef>) -> Option<&ServicePort> {
        let mut meant = self.ports.iter().filter(|port| {
            port.protocol == Protocol::Tcp
                && match wanted {
                    None => true,
                    Some(PortRef::Number(number)) => port.port == *number,
                    Some(PortRef::Named(name)) => port.name.as_ref() == Some(name),
                }
        });
        meant.next().filter(|_| meant.next().is_none())
    }

    /// Whether a port of it has an HTTP stage.
    pub fn is_http(&self) -> bool {
        let mut ports = self.ports.iter();
        ports.any(|port| matches!(port.stage, Stage::Http(_)))
    }
}
