//! What the admin socket says of HTTP stages.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::view::{Bucket, Counts};

/// `weft routes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routes {
    /// One for each port of a VIP that is served at layer 7.
    pub services: Vec<ServiceRoutes>,
}

/// The routes of one port of a VIP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceRoutes {
    /// `namespace/name:port`.
    pub service: String,
    /// Where clients connect to.
    pub vip: SocketAddr,
    /// Whom endpoints see: `client` or `node`.
    pub source: String,
    /// Endpoints that see the client though `source` is `node`: pods towards which the node has no address.
    #[serde(default)]
    pub see_client: Vec<SocketAddr>,
    /// Every match, and where it leads, in the order in which they are tried.
    pub routes: Vec<Match>,
    /// The backends that rules name, and the service's own.
    pub backends: Vec<Backend>,
}

/// A match, and where it leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Match {
    /// Of which host requests are, with `*` in front for one or more labels; of any where it is none.
    pub hostname: Option<String>,
    /// `exact` or `prefix`.
    pub path_type: String,
    /// The path, or that under which it has to be: `/` for any.
    pub path: String,
    /// The method, if it matters.
    pub method: Option<String>,
    /// Header fields that have to be there.
    pub headers: Vec<NameValue>,
    /// Query parameters that have to be there.
    pub query: Vec<NameValue>,
    /// The route's name.
    pub route: String,
    /// The rule's place in it, from 0.
    pub rule: usize,
    /// The rule's name, if it has one.
    pub rule_name: Option<String>,
    /// Where requests go; none for a redirect.
    pub backends: Vec<Share>,
    /// Status of the redirect, if it is one.
    pub redirect: Option<u16>,
    /// Where it leads: a URL, with HOST and PATH for what stays as it was in the request.
    #[serde(default)]
    pub location: Option<String>,
    /// All of it in a line, for people.
    pub text: String,
}

/// A header field or a query parameter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NameValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A backend of a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// `namespace/name:port`; none if there is none such.
    pub backend: Option<String>,
    /// Its share of requests, against the others'.
    pub weight: u32,
}

/// A backend and its endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// `namespace/name:port`.
    pub backend: String,
    /// Those that take requests.
    pub ready: usize,
    /// All of them.
    pub endpoints: usize,
}

/// `weft route explain`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The service that was asked.
    pub service: String,
    /// Where clients connect to.
    pub vip: SocketAddr,
    /// Why the request does not get as far as the routes, if it does not: a name of docs/l7.md.
    #[serde(default)]
    pub refused: Option<String>,
    /// Every match that was looked at, in order, up to the one that wins.
    pub steps: Vec<Step>,
    /// What becomes of the request.
    pub outcome: String,
}

/// One match that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The match, and its route and rule.
    pub route: String,
    /// Why it was not met; none for the one that wins.
    pub refusal: Option<String>,
}

/// A service of `weft status` that is served at layer 7, summed over workers and VIPs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HttpService {
    /// `namespace/name:port`.
    pub service: String,
    /// Clients' connections there are.
    pub open: u64,
    /// Clients' connections there have been.
    pub connections: u64,
    /// Requests that have ended, by the class of their status: `2xx`; `none` for those without.
    pub requests: Counts,
    /// How long they took, from the request's header to the end of the response.
    #[serde(default)]
    pub durations: Vec<Bucket>,
    /// Bytes of their bodies.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes of the responses' bodies.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Why requests were answered by the node, or cut short.
    pub flags: Counts,
    /// Requests that were refused for their form.
    pub rejected: Counts,
    /// What else happened: connections refused, lost and stalled, panics, tunnels, retries, connections to endpoints.
    pub events: Counts,
}
