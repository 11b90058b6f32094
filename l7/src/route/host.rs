//! Hostnames: those that routes have, and the one of a request.

use std::fmt;
use std::str::FromStr;

use super::RouteError;

/// Longest hostname in bytes (RFC 1035 section 2.3.4, as text).
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A hostname of a route, in lower case: exact, or with a wildcard for one or more labels in front.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Hostname(Kind);

#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
enum Kind {
    Exact(String),
    /// With the dot in front: `.example.com`.
    Wildcard(String),
}

impl Hostname {
    /// The name, if it stands for itself.
    pub(super) fn exact(&self) -> Option<&str> {
        match &self.0 {
            Kind::Exact(name) => Some(name),
            Kind::Wildcard(_) => None,
        }
    }

    /// The end of all names it stands for, from the dot on, if it is a wildcard.
    pub(super) fn suffix(&self) -> Option<&str> {
        match &self.0 {
            Kind::Exact(_) => None,
            Kind::Wildcard(suffix) => Some(suffix),
        }
    }
}

impl FromStr for Hostname {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let error = || RouteError::Hostname(text.into());
        let lower = text.to_ascii_lowercase();
        let (name, wildcard) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        let label = |label: &str| {
            let bytes = label.as_bytes();
            (1..=LONGEST_LABEL).contains(&bytes.len())
                && bytes
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
                && bytes[0] != b'-'
                && bytes[bytes.len() - 1] != b'-'
        };
        if lower.len() > LONGEST || !name.split('.').all(label) {
            return Err(error());
        }
        Ok(Self(if wildcard {
            Kind::Wildcard(format!(".{name}"))
        } else {
            Kind::Exact(lower)
        }))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exact(name) => f.write_str(name),
            Kind::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// The host that a request is for: in lower case, without port or a dot at the end.
#[derive(Clone)]
pub struct RequestHost {
    bytes: [u8; LONGEST],
    len: u8,
}

impl RequestHost {
    /// Takes what `Host` or `:authority` says. What is longer than a hostname can be matches only routes without
    /// hostnames, as does an empty one.
    pub fn new(authority: &str) -> Self {
        let mut host = Self {
            bytes: [0; LONGEST],
            len: 0,
        };
        let name = strip_port(authority);
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Some(place) = host.bytes.get_mut(..name.len()) {
            place.copy_from_slice(name.as_bytes());
            place.make_ascii_lowercase();
            host.len = name.len() as u8; // At most 253.
        }
        host
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Lower case of a whole `str` is one.
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The ends of the name that a wildcard can have, the longest first: from each dot on that has a label before it.
    pub(super) fn suffixes(&self) -> impl Iterator<Item = &str> {
        let name = self.as_str();
        // Bound: a name has at most 127 labels.
        name.match_indices('.')
            .filter(|(at, _)| *at > 0)
            .map(|(at, _)| &name[at..])
    }
}

impl fmt::Debug for RequestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestHost({:?})", self.as_str())
    }
}

/// `uri-host` of `uri-host [ ":" port ]` (RFC 9110 section 7.2).
pub(super) fn strip_port(authority: &str) -> &str {
    // A colon within brackets is of an IPv6 address.
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostname_is_labels_with_an_optional_wildcard() {
        for good in ["example.com", "*.example.com", "a", "A-1.b", "*.a"] {
            let name: Hostname = good.parse().unwrap();
            assert_eq!(name.to_string(), good.to_ascii_lowercase());
        }
        let long = "a".repeat(64);
        for bad in [
            "", "*", "*.", "a.*.b", "*a.b", "a..b", ".a", "a.", "-a", "a_b", "a:80", &long,
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_of_a_request_has_neither_port_nor_case() {
        for (authority, host) in [
            ("Example.COM:8080", "example.com"),
            ("example.com.", "example.com"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(RequestHost::new(authority).as_str(), host);
        }
        assert_eq!(RequestHost::new(&"a".repeat(254)).as_str(), "");
        let host = RequestHost::new("a.b.c");
        assert_eq!(host.suffixes().collect::<Vec<_>>(), [".b.c", ".c"]);
    }
}
