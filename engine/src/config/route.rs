//! `[[service.routes]]`, with Gateway API's names.

use std::collections::HashMap;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weft_l7::route::{HeaderModifier, Hostname, Match, PathMatch, Redirect, Scheme, Timeouts};

use super::error::{Location, Reason};
use super::http::{Action, BackendRef, PortRef, Route, Rule};
use super::reader::{Kind, Table, Value, quoted};
use super::registry::Registry;
use super::scalar::{DurationRange, NAME, PORT_NAME};

pub(super) const ROUTE_KEYS: &[&str] = &["name", "hostnames", "rules"];
pub(super) const RULE_KEYS: &[&str] = &[
    "name",
    "matches",
    "request_headers",
    "redirect",
    "backends",
    "timeouts",
];
pub(super) const MATCH_KEYS: &[&str] = &["path", "method", "headers", "query"];
const PATH_KEYS: &[&str] = &["exact", "prefix"];
pub(super) const MODIFIER_KEYS: &[&str] = &["set", "add", "remove"];
pub(super) const REDIRECT_KEYS: &[&str] = &["scheme", "hostname", "port", "status"];
pub(super) const BACKEND_KEYS: &[&str] = &["service", "port", "weight"];
pub(super) const TIMEOUT_KEYS: &[&str] = &["request", "backend_request"];

/// Of a request, and of one try: up to a day, for long polls and uploads.
const TIMEOUT: DurationRange = DurationRange {
    min: "1ms",
    max: "24h",
};

/// Gateway API's bound of `backendRefs[].weight`.
const WEIGHT_MAX: u64 = 1_000_000;

/// Gateway API's methods, but for CONNECT, and that of RFC 5789.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH",
];

/// Routes of a service, and rules of a route: a table has room for a million.
const MOST: usize = 1_000;

/// The routes of a service.
pub(super) fn read(value: &Value<'_, '_>, registry: &mut Registry) -> Option<Vec<Route>> {
    let mut names = HashMap::new();
    all(value, |item| read_route(item, registry, &mut names))
}

/// Every element of an array of tables, none without an error.
fn all<T>(
    value: &Value<'_, '_>,
    mut read: impl FnMut(&Value<'_, '_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = value.items("an array of tables")?;
    let count = items.len();
    if count > MOST {
        let max = MOST as u64;
        return value.reject(Reason::TooMany { count, max });
    }
    let read: Vec<T> = items.filter_map(|item| read(&item)).collect();
    (read.len() == count).then_some(read)
}

/// Where what may stand only once was seen first.
type Seen<T> = HashMap<T, Location>;

/// Notes a text that may stand only once, and reports another.
fn once(value: &Value<'_, '_>, text: &str, seen: &mut Seen<String>) -> Option<()> {
    if let Some(by) = seen.get(text) {
        let (what, by) = (quoted(text), by.clone());
        return value.reject(Reason::Taken { what, by });
    }
    seen.insert(text.to_owned(), value.location());
    Some(())
}

fn read_route(
    value: &Value<'_, '_>,
    registry: &mut Registry,
    names: &mut Seen<String>,
) -> Option<Route> {
    let table = value.table(ROUTE_KEYS)?;
    let name = table.require("name").and_then(|value| {
        let name = value.name(&NAME)?;
        once(&value, &name, names)?;
        Some(name)
    });
    let hostnames = table.optional("hostnames", Vec::new(), |value| {
        let items = value.items("an array of hostnames")?;
        let count = items.len();
        let mut seen = HashMap::new();
        let read: Vec<Hostname> = items
            .filter_map(|item| {
                let hostname = read_hostname(&item)?;
                let text = item.string("a hostname")?.to_ascii_lowercase();
                once(&item, &text, &mut seen)?;
                Some(hostname)
            })
            .collect();
        (read.len() == count).then_some(read)
    });
    let rules = table.require("rules").and_then(|value| {
        let mut seen = HashMap::new();
        let rules = all(&value, |item| read_rule(item, registry, &mut seen))?;
        if rules.is_empty() {
            return value.reject(Reason::Empty);
        }
        Some(rules)
    });
    Some(Route {
        name: name?,
        hostnames: hostnames?,
        rules: rules?,
    })
}

fn read_hostname(value: &Value<'_, '_>) -> Option<Hostname> {
    let text = value.string("a hostname")?;
    text.parse().ok().or_else(|| {
        bad(
            value,
            text,
            "a hostname: labels of a-z, 0-9 and -, with *. in front for a wildcard",
        )
    })
}

/// What a match asks for, however it is written.
#[derive(PartialEq, Eq, Hash)]
struct Asked {
    exact: bool,
    path: String,
    method: Option<Method>,
    headers: Vec<(String, HeaderValue)>,
    query: Vec<(String, String)>,
}

impl Asked {
    fn of(found: &Match) -> Self {
        let (exact, path) = match &found.path {
            PathMatch::Exact(path) => (true, path.as_str()),
            PathMatch::Prefix(prefix) => (false, prefix.trim_end_matches('/')),
        };
        let headers = found.headers.iter();
        let mut headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str().to_owned(), value.clone()))
            .collect();
        headers.sort();
        let mut query = found.query.clone();
        query.sort();
        Self {
            exact,
            path: path.to_owned(),
            method: found.method.clone(),
            headers,
            query,
        }
    }
}

/// Reports a match that an earlier rule of the route has: between equals the first one wins. Those of the rule itself are
/// noted once all are read.
fn reached(value: &Value<'_, '_>, found: &Match, seen: &Seen<Asked>) -> Option<(Asked, Location)> {
    let asked = Asked::of(found);
    match seen.get(&asked) {
        Some(by) => value.reject(Reason::NeverReached { by: by.clone() }),
        None => Some((asked, value.location())),
    }
}

fn read_rule(
    value: &Value<'_, '_>,
    registry: &mut Registry,
    seen: &mut Seen<Asked>,
) -> Option<Rule> {
    let table = value.table(RULE_KEYS)?;
    let name = table.optional("name", None, |value| value.name(&NAME).map(Some));
    let mut own = Vec::new();
    let matches = table.optional("matches", Vec::new(), |value| {
        all(value, |item| {
            let found = read_match(item)?;
            own.push(reached(item, &found, seen)?);
            Some(found)
        })
    });
    if matches.as_ref().is_some_and(Vec::is_empty) {
        own.extend(reached(value, &Match::default(), seen));
    }
    for (asked, at) in own {
        seen.entry(asked).or_insert(at);
    }
    let request_headers =
        table.optional("request_headers", HeaderModifier::default(), read_modifier);
    let timeouts = table.optional("timeouts", Timeouts::default(), |value| {
        let table = value.table(TIMEOUT_KEYS)?;
        let limit = |key| table.optional(key, None, |value| value.duration(&TIMEOUT).map(Some));
        let (request, backend_request) = (limit("request"), limit("backend_request"));
        let (request, backend_request) = (request?, backend_request?);
        if let (Some(request), Some(backend)) = (request, backend_request)
            && backend > request
            && let Some(value) = table.get("backend_request")
        {
            return value.reject(Reason::LongerThan("request"));
        }
        Some(Timeouts {
            request,
            backend_request,
        })
    });
    let action = match (table.get("backends"), table.get("redirect")) {
        (Some(value), None) => {
            all(&value, |item| read_backend(item, registry)).map(Action::Forward)
        }
        (None, Some(value)) => read_redirect(&value).map(Action::Redirect),
        (Some(_), Some(value)) => value.reject(Reason::Both("backends", "redirect")),
        (None, None) => {
            table.report(Reason::Neither("backends", "redirect"));
            None
        }
    };
    if table.get("redirect").is_some() {
        for key in ["request_headers", "timeouts"] {
            if let Some(value) = table.get(key) {
                return value.reject(Reason::Both(key, "redirect"));
            }
        }
    }
    Some(Rule {
        name: name?,
        matches: matches?,
        request_headers: request_headers?,
        action: action?,
        timeouts: timeouts?,
    })
}

fn read_match(value: &Value<'_, '_>) -> Option<Match> {
    let table = value.table(MATCH_KEYS)?;
    let path = table.optional("path", PathMatch::default(), read_path);
    let method = table.optional("method", None, |value| {
        let text = value.string("a method")?;
        let method = Method::from_bytes(text.as_bytes()).ok();
        let method = method.or_else(|| bad(value, text, "a method, such as GET"))?;
        // RFC 9110 section 9.1. It would never match what people mean by it.
        let capitals = text.to_ascii_uppercase();
        if capitals != text && METHODS.contains(&capitals.as_str()) {
            return bad(
                value,
                text,
                "a method: they are case-sensitive, and known ones have capitals, such as GET",
            );
        }
        Some(Some(method))
    });
    let headers = table.optional("headers", Vec::new(), read_fields);
    let query = table.optional("query", Vec::new(), |value| {
        let table = value.any_table("a table of query parameters")?;
        let entries = table.entries().map(|(name, value)| {
            if name.is_empty() {
                return bad(&value, name, "the name of a query parameter");
            }
            Some((name.to_owned(), value.string("a string")?.to_owned()))
        });
        entries.collect()
    });
    Some(Match {
        path: path?,
        method: method?,
        headers: headers?,
        query: query?,
    })
}

fn read_path(value: &Value<'_, '_>) -> Option<PathMatch> {
    let table = value.table(PATH_KEYS)?;
    let (value, make): (_, fn(String) -> PathMatch) =
        match (table.get("exact"), table.get("prefix")) {
            (Some(value), None) => (value, PathMatch::Exact),
            (None, Some(value)) => (value, PathMatch::Prefix),
            (Some(_), Some(value)) => return value.reject(Reason::Both("exact", "prefix")),
            (None, None) => {
                table.report(Reason::Neither("exact", "prefix"));
                return None;
            }
        };
    let text = value.string("a path")?;
    let path = make(text.to_owned());
    if path.is_sound() {
        Some(path)
    } else {
        bad(
            &value,
            text,
            "a path: it begins with / and has no query, fragment, empty or dot element",
        )
    }
}

/// Header fields and their values.
fn read_fields(value: &Value<'_, '_>) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let table = value.any_table("a table of header fields")?;
    let mut seen = HashMap::new();
    let entries: Vec<_> = table
        .entries()
        .map(|(name, value)| {
            let text = value.string("a string")?;
            let content = HeaderValue::from_str(text).ok();
            let content = content.or_else(|| bad(&value, text, "a header field's value"));
            let field = field_name(&value, name)?;
            // Names of fields are the same in capitals (RFC 9110 section 5.1), those of TOML are not.
            once(&value, field.as_str(), &mut seen)?;
            Some((field, content?))
        })
        .collect();
    entries.into_iter().collect()
}

fn field_name(value: &Value<'_, '_>, name: &str) -> Option<HeaderName> {
    let field = HeaderName::from_bytes(name.as_bytes()).ok();
    field.or_else(|| bad(value, name, "a header field's name"))
}

fn read_modifier(value: &Value<'_, '_>) -> Option<HeaderModifier> {
    let table = value.table(MODIFIER_KEYS)?;
    let set = table.optional("set", Vec::new(), read_fields);
    let add = table.optional("add", Vec::new(), read_fields);
    let remove = table.optional("remove", Vec::new(), |value| {
        let items = value.items("an array of header fields' names")?;
        let names: Vec<_> = items
            .map(|item| field_name(&item, item.string("a string")?))
            .collect();
        names.into_iter().collect()
    });
    let modifier = HeaderModifier {
        set: set?,
        add: add?,
        remove: remove?,
    };
    match modifier.reserved() {
        Some(name) => bad(
            value,
            name.as_str(),
            "a field that may be changed: it frames or routes the message",
        ),
        None => Some(modifier),
    }
}

fn read_redirect(value: &Value<'_, '_>) -> Option<Redirect> {
    let table = value.table(REDIRECT_KEYS)?;
    let scheme = table.optional("scheme", None, |value| {
        let words = [("http", Scheme::Http), ("https", Scheme::Https)];
        value.word(&words, &[]).map(Some)
    });
    let hostname = table.optional("hostname", None, |value| {
        read_hostname(value)?;
        let text = value.string("a hostname")?;
        if text.starts_with('*') {
            return bad(value, text, "a hostname without a wildcard");
        }
        Some(Some(text.to_owned()))
    });
    let port = table.optional("port", None, |value| value.port().map(Some));
    let status = table.optional("status", StatusCode::FOUND, |value| {
        let status = value.integer(300..=399)?;
        let status = u16::try_from(status).ok()?;
        match status {
            301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(status).ok(),
            _ => value.reject(Reason::NotOneOf {
                value: status.to_string(),
                allowed: "301, 302, 303, 307, 308".into(),
            }),
        }
    });
    let redirect = Redirect {
        scheme: scheme?,
        hostname: hostname?,
        port: port?,
        status: status?,
    };
    let goes = redirect.scheme.is_some() || redirect.hostname.is_some() || redirect.port.is_some();
    if !goes {
        return value.reject(Reason::ToItself);
    }
    Some(redirect)
}

fn read_backend(value: &Value<'_, '_>, registry: &mut Registry) -> Option<BackendRef> {
    let table = value.table(BACKEND_KEYS)?;
    let service = table.require("service").and_then(|value| value.name(&NAME));
    let port = table.optional("port", None, |value| read_port(value).map(Some));
    let weight = table.optional("weight", 1, |value| {
        u32::try_from(value.integer(0..=WEIGHT_MAX)?).ok()
    });
    let backend = BackendRef {
        service: service?,
        port: port?,
        weight: weight?,
    };
    registry.backend(value, &backend);
    Some(backend)
}

fn read_port(value: &Value<'_, '_>) -> Option<PortRef> {
    match value.kind() {
        Kind::String => value.name(&PORT_NAME).map(PortRef::Named),
        Kind::Integer => value.port().map(PortRef::Number),
        Kind::Other => value.wrong_type("a port number, or the name of a port"),
    }
}

/// Reports a text that is not what it has to be.
fn bad<T>(value: &Value<'_, '_>, text: &str, rule: &'static str) -> Option<T> {
    let value_text = quoted(text);
    value.reject(Reason::BadName {
        value: value_text,
        rule,
    })
}

/// A bound of `[service.http]` or `[service.backend]`.
pub(super) fn bound(table: &Table<'_, '_>, key: &'static str, plain: usize) -> Option<usize> {
    table.optional(key, plain, |value| {
        usize::try_from(value.integer(1..=1_000_000)?).ok()
    })
}
