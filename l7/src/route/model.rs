//! Routes as they are configured.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::{HeaderModifier, Hostname, Redirect};

/// A route: hostnames, and rules in order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Route {
    /// `namespace/name`; the second tie-breaker.
    pub name: String,
    /// When it was created, in any unit; of two rules that are equal otherwise, the one of the older route wins.
    pub created: u64,
    /// Requests for which hosts; for all if empty.
    pub hostnames: Vec<Hostname>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What to do with requests that match.
#[derive(Clone, PartialEq, Debug)]
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
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// To one of these, in proportion to their weights. Without any of a weight above 0 the answer is 500.
    Forward(Vec<WeightedBackend>),
    /// Back to the client.
    Redirect(Redirect),
}

/// The number of a backend service in a stage.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BackendId(pub u32);

/// A backend and its share.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct WeightedBackend {
    /// Which; `None` for a reference that leads nowhere, whose share of requests is answered with 500.
    pub backend: Option<BackendId>,
    /// Its share.
    pub weight: u32,
}

/// What a request has to be like: all of this.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Match {
    /// Its path.
    pub path: PathMatch,
    /// Its method, if that matters.
    pub method: Option<Method>,
    /// Header fields that have exactly this value. Of several with one name only the first counts.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters, percent-decoded, whose first occurrence has exactly this value. Of several with one name only the
    /// first counts.
    pub query: Vec<(String, String)>,
}

/// What a path has to be like. Paths are compared as they are sent: case matters, and nothing is decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathMatch {
    /// Exactly this.
    Exact(String),
    /// These elements, then any or none: `/foo` and `/foo/` both stand for `/foo`, `/foo/` and `/foo/bar`, not `/foobar`.
    Prefix(String),
}

impl PathMatch {
    /// Whether a request can match it, and it hides nothing.
    pub fn is_sound(&self) -> bool {
        super::matching::Path::new(self).is_some()
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// How long a request may take. No bound, where there is none.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Timeouts {
    /// From the request's header to the end of the response (`timeouts.request`); then 504, or a reset if the response
    /// has begun.
    pub request: Option<Duration>,
    /// For one try of one backend until the response's header (`timeouts.backendRequest`); then 504.
    pub backend_request: Option<Duration>,
}

/// The scheme of a URL.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL need not name.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What is wrong with a route.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    /// Not a hostname.
    #[error(
        "{0:?} is no hostname: use labels of a-z, 0-9 and '-' (RFC 1123), with '*.' in front for a wildcard"
    )]
    Hostname(String),
    /// Not a path.
    #[error(
        "route {route}, rule {rule}: {path:?} is no path to match: it must begin with '/' and hold no query, fragment, empty or dot element"
    )]
    Path {
        /// Of which route.
        route: String,
        /// Of which of its rules, from 0.
        rule: usize,
        /// The path.
        path: String,
    },
    /// A header field that says how a message is framed or whom it is for.
    #[error(
        "route {route}, rule {rule}: a filter may not change {header}, which frames or routes the message"
    )]
    Reserved {
        /// Of which route.
        route: String,
        /// Of which of its rules, from 0.
        rule: usize,
        /// The field.
        header: HeaderName,
    },
    /// A status that is no redirect.
    #[error("route {route}, rule {rule}: status {status} is none of 301, 302, 303, 307 and 308")]
    RedirectStatus {
        /// Of which route.
        route: String,
        /// Of which of its rules, from 0.
        rule: usize,
        /// The status.
        status: u16,
    },
    /// More than a table can number.
    #[error("more than {0} rules")]
    TooMany(usize),
}
