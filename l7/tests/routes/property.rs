//! The compiled table against a naive reading of the specification.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use weft_l7::route::{CompiledRule, Match, PathMatch, Route, RouteTable};

use crate::{Asked, route, rule};

/// What a naive reading of the specification says: all matches that hold, the best first.
fn naive(routes: &[Route], asked: &Asked) -> Option<(String, usize)> {
    let view = asked.view();
    let host = asked.host.to_ascii_lowercase();
    let host = host.split(':').next().unwrap_or_default();
    let mut held = Vec::new();
    for route in routes {
        let hostnames: Vec<String> = route.hostnames.iter().map(ToString::to_string).collect();
        let specific = if hostnames.is_empty() {
            Some((0, 0))
        } else {
            let fits = hostnames
                .iter()
                .filter_map(|name| match name.strip_prefix('*') {
                    Some(rest) => {
                        (host.len() > rest.len() && host.ends_with(rest)).then_some((0, name.len()))
                    }
                    None => (name == host).then_some((name.len(), name.len())),
                });
            fits.max()
        };
        let Some(specific) = specific else { continue };
        for (index, rule) in route.rules.iter().enumerate() {
            let all = [Match::default()];
            let matches = if rule.matches.is_empty() {
                &all[..]
            } else {
                &rule.matches
            };
            for (place, wanted) in matches.iter().enumerate() {
                let path = match &wanted.path {
                    PathMatch::Exact(path) => (view.path == path).then_some((true, path.len())),
                    PathMatch::Prefix(path) => {
                        let wants: Vec<&str> =
                            path.split('/').filter(|part| !part.is_empty()).collect();
                        let has: Vec<&str> = view.path[1..].split('/').collect();
                        let length: usize = wants.iter().map(|part| part.len() + 1).sum();
                        has.starts_with(&wants).then_some((false, length))
                    }
                };
                let method = wanted
                    .method
                    .as_ref()
                    .is_none_or(|method| method == view.method);
                let headers = wanted
                    .headers
                    .iter()
                    .all(|(name, value)| view.headers.get(name) == Some(value));
                let query = wanted.query.iter().all(|(name, value)| {
                    let pairs = view.query.unwrap_or_default().split('&');
                    let mut first = pairs
                        .filter_map(|pair| pair.split_once('='))
                        .filter(|(key, _)| key == name);
                    first.next().is_some_and(|(_, found)| found == value)
                });
                if let (Some(path), true, true, true) = (path, method, headers, query) {
                    let worst_first = (
                        specific,
                        path,
                        wanted.method.is_some(),
                        wanted.headers.len(),
                        wanted.query.len(),
                    );
                    let best_first = (route.created, route.name.clone(), index, place);
                    held.push((std::cmp::Reverse(worst_first), best_first));
                }
            }
        }
    }
    let (_, (_, name, index, _)) = held.into_iter().min()?;
    Some((name, index))
}

fn a_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|parts| format!("/{}", parts.join("/")))
}

fn a_match() -> impl Strategy<Value = Match> {
    let path = (a_path(), any::<bool>()).prop_map(|(path, exact)| match exact {
        true => PathMatch::Exact(path),
        false => PathMatch::Prefix(path),
    });
    let method = prop::option::of(prop::sample::select(vec![Method::GET, Method::PUT]));
    let header = prop::sample::select(vec!["x-a", "x-b"]);
    let value = prop::sample::select(vec!["1", "2"]);
    let headers = prop::collection::btree_map(header, value.clone(), 0..3);
    let query = prop::collection::btree_map(prop::sample::select(vec!["p", "q"]), value, 0..3);
    (path, method, headers, query).prop_map(|(path, method, headers, query)| Match {
        path,
        method,
        headers: headers
            .into_iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect(),
        query: query
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    })
}

fn a_route() -> impl Strategy<Value = Route> {
    let hosts = vec!["a.x", "b.a.x", "*.x", "*.a.x", "x"];
    let hosts = prop::collection::btree_set(prop::sample::select(hosts), 0..3);
    let rules = prop::collection::vec(prop::collection::vec(a_match(), 0..3), 1..4);
    (hosts, rules, 0..3u64).prop_map(|(hosts, rules, created)| {
        let hosts: Vec<&str> = hosts.into_iter().collect();
        let rules = rules.into_iter().map(|matches| rule(matches, 1)).collect();
        route("", created, &hosts, rules)
    })
}

fn a_request() -> impl Strategy<Value = Asked> {
    let host = prop::sample::select(vec!["a.x", "b.a.x", "c.b.a.x", "x", "X:80", "y", "z.y.x"]);
    let query = prop::sample::select(vec!["", "?p=1", "?p=1&q=2", "?q=1&q=2&p=2"]);
    let method = prop::sample::select(vec![Method::GET, Method::PUT]);
    let values = prop::collection::vec(prop::option::of(prop::sample::select(vec!["1", "2"])), 2);
    (host, a_path(), query, method, values).prop_map(|(host, path, query, method, values)| {
        let mut asked = Asked::get(host, &format!("{path}{query}"));
        asked.method = method;
        for (name, value) in ["x-a", "x-b"].into_iter().zip(values) {
            if let Some(value) = value {
                asked = asked.with(name, value);
            }
        }
        asked
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_compiled_table_agrees_with_a_naive_matcher(
        mut routes in prop::collection::vec(a_route(), 0..5),
        requests in prop::collection::vec(a_request(), 1..8),
    ) {
        for (index, route) in routes.iter_mut().enumerate() {
            route.name = format!("r/{}", (index * 3) % 5);
        }
        let table = RouteTable::compile(&routes).unwrap();
        for asked in requests {
            let found = table.route(&asked.view());
            let key = |rule: &Arc<CompiledRule>| (rule.route.to_string(), rule.index);
            prop_assert_eq!(found.map(key), naive(&routes, &asked), "{:?}", asked);
            let explained = table.explain(&asked.view());
            prop_assert_eq!(explained.winner(), found);
        }
    }
}
