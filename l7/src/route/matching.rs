//! Whether a request matches.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Match, PathMatch, Refusal};

/// What routes see of a request.
#[derive(Copy, Clone, Debug)]
pub struct RequestView<'r> {
    /// What `Host` or `:authority` says.
    pub authority: &'r str,
    /// The method.
    pub method: &'r Method,
    /// The path, without the query.
    pub path: &'r str,
    /// What follows `?`, if anything.
    pub query: Option<&'r str>,
    /// The header.
    pub headers: &'r HeaderMap,
}

/// A path to match, ready to be compared.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(super) enum Path {
    Exact(Box<str>),
    /// Without a slash at the end: empty for all paths.
    Prefix(Box<str>),
}

impl Path {
    /// `None` for what no request can match, or what hides something.
    pub(super) fn new(path: &PathMatch) -> Option<Self> {
        let (PathMatch::Exact(text) | PathMatch::Prefix(text)) = path;
        let clean = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#']);
        let elements = text.strip_prefix('/').filter(|_| clean)?;
        let exact = matches!(path, PathMatch::Exact(_));
        let body = elements.strip_suffix('/').unwrap_or(elements);
        let hidden = |element: &str| matches!(element, "" | "." | "..");
        if !elements.is_empty() && body.split('/').any(hidden) {
            return None;
        }
        Some(if exact {
            Self::Exact(text.as_str().into())
        } else {
            Self::Prefix(text.strip_suffix('/').unwrap_or(text).into())
        })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(&**prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// All of a match but its path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conditions {
    pub(super) method: Option<Method>,
    pub(super) headers: Box<[(HeaderName, HeaderValue)]>,
    pub(super) query: Box<[(String, String)]>,
}

impl Conditions {
    pub(super) fn new(wanted: &Match) -> Self {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in &wanted.headers {
            if headers.iter().all(|(other, _)| other != name) {
                headers.push((name.clone(), value.clone()));
            }
        }
        let mut query: Vec<(String, String)> = Vec::new();
        for (name, value) in &wanted.query {
            if query.iter().all(|(other, _)| other != name) {
                query.push((name.clone(), value.clone()));
            }
        }
        Self {
            method: wanted.method.clone(),
            headers: headers.into(),
            query: query.into(),
        }
    }

    /// The first condition that is not met.
    pub(super) fn refusal(&self, request: &RequestView<'_>) -> Option<Refusal> {
        if self
            .method
            .as_ref()
            .is_some_and(|wanted| wanted != request.method)
        {
            return Some(Refusal::Method);
        }
        let header = self.headers.iter().find(|(name, value)| {
            let mut lines = request.headers.get_all(name).iter();
            !lines.any(|line| line == value)
        });
        if let Some((name, _)) = header {
            return Some(Refusal::Header(name.clone()));
        }
        let parameter = self.query.iter().find(|(name, value)| {
            parameter(request.query.unwrap_or_default(), name).as_deref() != Some(value)
        });
        parameter.map(|(name, _)| Refusal::Query(name.clone()))
    }
}

/// The value of the first parameter of this name.
fn parameter<'q>(query: &'q str, wanted: &str) -> Option<Cow<'q, str>> {
    // Bound: the query's length, which the request's limits bound.
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name) == wanted).then(|| decoded(value))
    })
}

/// Percent-decoded (RFC 3986 section 2.1). What is no UTF-8 then stays as it was sent.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = (*byte == b'%').then(|| bytes.get(at + 1).zip(bytes.get(at + 2)));
        match pair
            .flatten()
            .and_then(|(high, low)| hex(*high).zip(hex(*low)))
        {
            Some((high, low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The value of a hexadecimal digit.
pub(crate) fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
