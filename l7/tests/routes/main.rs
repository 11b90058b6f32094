//! Routes: Gateway API's core behaviour, and the compiled table against a naive matcher.

mod core;
mod property;

use http::{HeaderMap, HeaderValue, Method};
use weft_l7::route::{
    Action, BackendId, HeaderModifier, Match, PathMatch, Pick, RequestView, Route, RouteTable,
    Rule, Timeouts, WeightedBackend,
};

fn to(backend: u32) -> Action {
    Action::Forward(vec![WeightedBackend {
        backend: Some(BackendId(backend)),
        weight: 1,
    }])
}

fn rule(matches: Vec<Match>, backend: u32) -> Rule {
    Rule {
        name: None,
        matches,
        request_headers: HeaderModifier::default(),
        action: to(backend),
        timeouts: Timeouts::default(),
    }
}

fn route(name: &str, created: u64, hosts: &[&str], rules: Vec<Rule>) -> Route {
    Route {
        name: name.into(),
        created,
        hostnames: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        rules,
    }
}

fn exact(path: &str) -> Match {
    Match {
        path: PathMatch::Exact(path.into()),
        ..Match::default()
    }
}

fn prefix(path: &str) -> Match {
    Match {
        path: PathMatch::Prefix(path.into()),
        ..Match::default()
    }
}

/// A request, owned.
#[derive(Clone, Debug)]
struct Asked {
    host: String,
    method: Method,
    target: String,
    headers: HeaderMap,
}

impl Asked {
    fn get(host: &str, target: &str) -> Self {
        Self {
            host: host.into(),
            method: Method::GET,
            target: target.into(),
            headers: HeaderMap::new(),
        }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn view(&self) -> RequestView<'_> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        RequestView {
            authority: &self.host,
            method: &self.method,
            path,
            query,
            headers: &self.headers,
        }
    }

    /// The backend that the request goes to.
    fn backend(&self, table: &RouteTable) -> Option<u32> {
        let rule = table.route(&self.view());
        assert_eq!(rule, table.explain(&self.view()).winner());
        match rule?.pick(0) {
            Pick::Backend(BackendId(backend)) => Some(backend),
            Pick::Invalid => None,
        }
    }
}
