//! Features by their ids: features.md 4.2, rows marked core.

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weft_l7::route::{
    Action, BackendId, HeaderModifier, Match, Pick, Redirect, Refusal, RouteError, RouteTable,
    Rule, Scheme, WeightedBackend,
};

use crate::{Asked, exact, prefix, route, rule};

fn backend(table: &RouteTable, host: &str, target: &str) -> Option<u32> {
    Asked::get(host, target).backend(table)
}

/// Section 4.2, host match: exact, wildcard, most specific; the port in `Host` is ignored.
#[test]
fn httproute_host_match() {
    let table = RouteTable::compile(&[
        route("r/any", 0, &[], vec![rule(vec![], 1)]),
        route("r/wild", 0, &["*.example.com"], vec![rule(vec![], 2)]),
        route("r/deep", 0, &["*.b.example.com"], vec![rule(vec![], 3)]),
        route(
            "r/exact",
            0,
            &["a.b.example.com"],
            vec![rule(vec![exact("/only")], 4)],
        ),
    ])
    .unwrap();
    assert_eq!(backend(&table, "example.com", "/"), Some(1));
    assert_eq!(backend(&table, "x.example.com", "/"), Some(2));
    assert_eq!(backend(&table, "x.y.example.com:8080", "/"), Some(2));
    assert_eq!(backend(&table, "X.B.Example.Com", "/"), Some(3));
    assert_eq!(backend(&table, "a.b.example.com", "/only"), Some(4));
    // Precedence, not isolation: what the most specific host does not serve, the next one may.
    assert_eq!(backend(&table, "a.b.example.com", "/"), Some(3));
    assert_eq!(backend(&table, ".example.com", "/"), Some(1));
    assert_eq!(backend(&table, "[::1]:80", "/"), Some(1));
}

/// Section 4.2, path Exact and PathPrefix, by elements.
#[test]
fn httproute_path_match() {
    let rules = vec![
        rule(vec![prefix("/")], 1),
        rule(vec![prefix("/foo")], 2),
        rule(vec![prefix("/foo/bar/")], 3),
        rule(vec![exact("/foo/bar")], 4),
    ];
    let table = RouteTable::compile(&[route("r/r", 0, &[], rules)]).unwrap();
    for (path, expected) in [
        ("/", 1),
        ("/foobar", 1),
        ("/FOO", 1),
        ("/foo", 2),
        ("/foo/", 2),
        ("/foo/x?y=/foo/bar", 2),
        ("/foo/bar", 4),
        ("/foo/bar/", 3),
        ("/foo/bar/x", 3),
        ("/foo/barx", 2),
    ] {
        assert_eq!(backend(&table, "h", path), Some(expected), "{path}");
    }
    let table = RouteTable::compile(&[route("r/r", 0, &[], vec![rule(vec![prefix("/a")], 1)])]);
    assert_eq!(backend(&table.unwrap(), "h", "/b"), None, "404");
}

/// Section 4.2, headers match (all of them), and the method.
#[test]
fn httproute_header_and_method_match() {
    let header = |name, value| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    let wanted = Match {
        headers: vec![
            header("version", "two"),
            header("color", "blue"),
            header("version", "x"),
        ],
        ..Match::default()
    };
    let post = Match {
        method: Some(Method::POST),
        ..Match::default()
    };
    let rules = vec![rule(vec![wanted], 1), rule(vec![post], 2)];
    let table = RouteTable::compile(&[route("r/r", 0, &[], rules)]).unwrap();
    let asked = Asked::get("h", "/").with("version", "two");
    assert_eq!(asked.backend(&table), None);
    let mut both = asked.with("color", "red").with("color", "blue");
    assert_eq!(both.backend(&table), Some(1));
    both.method = Method::POST; // A method weighs more than any number of headers.
    assert_eq!(both.backend(&table), Some(2));
}

/// Section 4.2, HTTPRouteQueryParamMatching.
#[test]
fn httproute_query_match() {
    let wanted = Match {
        query: vec![("animal".into(), "white whale".into())],
        ..Match::default()
    };
    let table = RouteTable::compile(&[route("r/r", 0, &[], vec![rule(vec![wanted], 1)])]).unwrap();
    for (target, found) in [
        ("/?animal=white%20whale", true),
        ("/?b&anim%61l=white%20whale&animal=dog", true),
        ("/?animal=dog&animal=white%20whale", false),
        ("/?animal=white%2", false),
        ("/?Animal=white%20whale", false),
        ("/", false),
    ] {
        assert_eq!(backend(&table, "h", target).is_some(), found, "{target}");
    }
}

/// Section 4.2, precedence between routes: age, then name, then the rule's and the match's place.
#[test]
fn httproute_precedence_on_ties() {
    let table = RouteTable::compile(&[
        route("a/young", 9, &[], vec![rule(vec![], 1)]),
        route("b/old", 1, &[], vec![rule(vec![], 2), rule(vec![], 3)]),
        route("a/old", 1, &[], vec![rule(vec![], 4), rule(vec![], 5)]),
    ])
    .unwrap();
    assert_eq!(backend(&table, "h", "/"), Some(4));
}

/// Section 4.2, weights and invalid backends: 500 for their share, and for a rule without any.
#[test]
fn httproute_weights_and_invalid_backends() {
    let weighted = |backend: Option<u32>, weight| WeightedBackend {
        backend: backend.map(BackendId),
        weight,
    };
    let action = Action::Forward(vec![
        weighted(Some(1), 3),
        weighted(Some(2), 0),
        weighted(None, 1),
    ]);
    let one = Rule {
        action,
        ..rule(vec![exact("/split")], 0)
    };
    let none = Rule {
        action: Action::Forward(vec![weighted(Some(1), 0)]),
        ..rule(vec![exact("/none")], 0)
    };
    let table = RouteTable::compile(&[route("r/r", 0, &[], vec![one, none])]).unwrap();
    let split = table.route(&Asked::get("h", "/split").view()).unwrap();
    let mut shares = [0; 3];
    for step in 0..4_000u64 {
        match split.pick(step << 52 | step.wrapping_mul(0x9e37_79b9)) {
            Pick::Backend(backend) => shares[backend.0 as usize] += 1,
            Pick::Invalid => shares[0] += 1,
        }
    }
    let of = shares[0] + shares[1];
    assert_eq!(shares[2], 0);
    assert!((73..=77).contains(&(shares[1] * 100 / of)), "{shares:?}");
    let none = table.route(&Asked::get("h", "/none").view()).unwrap();
    assert_eq!(none.pick(u64::MAX), Pick::Invalid);
    assert_eq!(split.pick(u64::MAX), Pick::Invalid);
}

/// Section 4.2, RequestHeaderModifier: set, add, remove, in this order.
#[test]
fn httproute_request_header_modifier() {
    let pair = |name, value| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    let filter = HeaderModifier {
        set: vec![pair("x-set", "1"), pair("x-gone", "1")],
        add: vec![pair("x-add", "2"), pair("x-set", "2")],
        remove: vec![HeaderName::from_static("x-gone")],
    };
    let mut headers = Asked::get("h", "/")
        .with("x-set", "old")
        .with("x-set", "older")
        .with("x-add", "1")
        .headers;
    filter.apply(&mut headers);
    let values = |name| {
        let all = headers.get_all(name).iter();
        all.map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(values("x-set"), ["1", "2"]);
    assert_eq!(values("x-add"), ["1", "2"]);
    assert!(values("x-gone").is_empty());
    let reserved = Rule {
        request_headers: HeaderModifier {
            remove: vec![http::header::TRANSFER_ENCODING],
            ..HeaderModifier::default()
        },
        ..rule(vec![], 1)
    };
    let error = RouteTable::compile(&[route("r/r", 0, &[], vec![reserved])]).unwrap_err();
    assert!(matches!(error, RouteError::Reserved { .. }), "{error}");
}

/// Section 4.2, RequestRedirect: host, status, scheme and port.
#[test]
fn httproute_redirect() {
    let redirect = Redirect {
        scheme: None,
        hostname: None,
        port: None,
        status: StatusCode::FOUND,
    };
    let location = |redirect: &Redirect, port| {
        let value = redirect.location("a.example:8080", port, "/x?y").unwrap();
        value.to_str().unwrap().to_owned()
    };
    assert_eq!(location(&redirect, 80), "http://a.example/x?y");
    assert_eq!(location(&redirect, 8080), "http://a.example:8080/x?y");
    let host = Redirect {
        hostname: Some("b.example".into()),
        port: Some(81),
        ..redirect.clone()
    };
    assert_eq!(location(&host, 80), "http://b.example:81/x?y");
    let scheme = Redirect {
        scheme: Some(Scheme::Https),
        ..redirect.clone()
    };
    assert_eq!(location(&scheme, 8080), "https://a.example/x?y");
    let wrong = Rule {
        action: Action::Redirect(Redirect {
            status: StatusCode::OK,
            ..redirect
        }),
        ..rule(vec![], 0)
    };
    assert!(RouteTable::compile(&[route("r/r", 0, &[], vec![wrong])]).is_err());
}

#[test]
fn paths_that_hide_something_are_refused() {
    for path in [
        "", "foo", "/a//b", "/a/../b", "/./a", "/a?b", "/a#b", "/ä", "//",
    ] {
        let table = RouteTable::compile(&[route("r/r", 0, &[], vec![rule(vec![exact(path)], 1)])]);
        assert!(matches!(table, Err(RouteError::Path { .. })), "{path}");
    }
}

/// ING-03: routes in the order in which they are tried; and why a rule wins.
#[test]
fn ing_03_listing_and_explanation() {
    let post = Match {
        method: Some(Method::POST),
        ..prefix("/a")
    };
    let rules = vec![
        rule(vec![prefix("/")], 1),
        rule(vec![post], 2),
        rule(vec![prefix("/a")], 3),
    ];
    let table = RouteTable::compile(&[route("r/r", 0, &["*.x"], rules)]).unwrap();
    let listing = table.listing();
    let lines: Vec<String> = listing.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "*.x, path under /a, method POST -> r/r rule 1",
            "*.x, path under /a -> r/r rule 2",
            "*.x, any path -> r/r rule 0",
        ]
    );
    let explained = table.explain(&Asked::get("b.x", "/a/b").view());
    assert_eq!(explained.steps[0].refusal, Some(Refusal::Method));
    assert_eq!(
        explained.to_string(),
        "  no   *.x, path under /a, method POST -> r/r rule 1: the method differs\n  \
         wins *.x, path under /a -> r/r rule 2\n"
    );
    let nowhere = table.explain(&Asked::get("y", "/").view());
    assert_eq!(nowhere.to_string(), "  no rule is left: 404\n");
}
