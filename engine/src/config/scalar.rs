//! Values with a meaning: addresses, durations, names, ports and words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use weft_datapath::is_name_byte;

use super::error::Reason;
use super::reader::{Value, quoted};

/// A range of durations, as the documentation and the errors write it.
pub(super) struct DurationRange {
    pub(super) min: &'static str,
    pub(super) max: &'static str,
}

/// A kind of name and its rule.
pub(super) struct NameRule {
    rule: &'static str,
    accepts: fn(&str) -> bool,
}

/// The name of a node, pod or service: what Kubernetes allows, namespace included.
pub(super) const NAME: NameRule = NameRule {
    rule: "a name: at most 317 letters, digits and . _ - /",
    accepts: |name| name.len() <= 317 && name.bytes().all(is_name_byte),
};

/// The name of a port: a DNS label, as in Kubernetes.
pub(super) const PORT_NAME: NameRule = NameRule {
    rule: "a port name: at most 63 lower-case letters, digits and -, no - at either end",
    accepts: |name| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        name.len() <= 63
            && name.chars().all(plain)
            && !name.starts_with('-')
            && !name.ends_with('-')
    },
};

/// The name of a network interface: what the kernel's `dev_valid_name` allows.
pub(super) const INTERFACE: NameRule = NameRule {
    rule: "an interface name: at most 15 characters, no spaces, / or :",
    accepts: |name| {
        let refused = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
        name.len() <= 15 && name != "." && name != ".." && !name.contains(refused)
    },
};

impl NameRule {
    /// What is wrong with `name`.
    pub(super) fn fault(&self, name: &str) -> Option<Reason> {
        if name.is_empty() {
            Some(Reason::Empty)
        } else if (self.accepts)(name) {
            None
        } else {
            Some(Reason::BadName {
                value: quoted(name),
                rule: self.rule,
            })
        }
    }
}

impl Value<'_, '_> {
    /// A name of some kind.
    pub(super) fn name(&self, rule: &NameRule) -> Option<String> {
        let name = self.string("a string")?;
        match rule.fault(name) {
            Some(reason) => self.reject(reason),
            None => Some(name.to_owned()),
        }
    }

    /// A port number.
    pub(super) fn port(&self) -> Option<u16> {
        let port = self.integer(1..=u64::from(u16::MAX))?;
        u16::try_from(port).ok()
    }

    /// One of a few words. Those of `later` come with a later version.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)], later: &[&str]) -> Option<T> {
        let word = self.string("a string")?;
        if let Some((_, meaning)) = words.iter().find(|(known, _)| *known == word) {
            return Some(*meaning);
        }
        let value = quoted(word);
        if later.contains(&word) {
            return self.reject(Reason::NotYet { value });
        }
        let allowed: Vec<String> = words.iter().map(|(known, _)| quoted(known)).collect();
        self.reject(Reason::NotOneOf {
            value,
            allowed: allowed.join(", "),
        })
    }

    /// A duration such as `"30s"`.
    pub(super) fn duration(&self, range: &DurationRange) -> Option<Duration> {
        let text = self.string("a duration such as \"30s\"")?;
        let value = quoted(text);
        let bound = |text| parse_duration(text).unwrap_or_default();
        match parse_duration(text) {
            None => self.reject(Reason::BadDuration { value }),
            Some(found) if found < bound(range.min) || found > bound(range.max) => {
                self.reject(Reason::DurationRange {
                    value,
                    min: range.min,
                    max: range.max,
                })
            }
            found => found,
        }
    }

    /// A range of addresses.
    pub(super) fn range(&self) -> Option<IpNet> {
        let text = self.string("a range of addresses as a string")?;
        match parse_range(text) {
            Ok(range) => Some(range),
            Err(reason) => self.reject(reason),
        }
    }

    /// The address of a pod, a service or an endpoint.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let text = self.string("an address as a string")?;
        match parse_address(text) {
            Ok(address) => Some(address),
            Err(reason) => self.reject(reason),
        }
    }
}

/// A range of addresses, written with its first one.
fn parse_range(text: &str) -> Result<IpNet, Reason> {
    let value = || quoted(text);
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if has_leading_zeros(text) {
        return Err(Reason::LeadingZeros { value: value() });
    }
    let range: IpNet = (text.parse()).map_err(|_| Reason::BadRange { value: value() })?;
    if range.trunc() != range {
        let (value, range) = (value(), range.trunc());
        return Err(Reason::HostBits { value, range });
    }
    // The first address says what all are, but for a range that has nearly everything, or all of IPv4 by another spelling.
    let mapped = IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()));
    if range.contains(&mapped) {
        return Err(Reason::BadRange { value: value() });
    }
    match parse_address(&range.addr().to_string()) {
        Err(reason) if range.prefix_len() > 0 => Err(reason),
        _ if range.prefix_len() == 0 => Err(Reason::BadRange { value: value() }),
        _ => Ok(range),
    }
}

/// A whole number and its unit. Too large a number of a known unit is the longest duration, so that
/// the range check speaks.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    if digits.is_empty() {
        return None;
    }
    let number: u64 = digits.parse().unwrap_or(u64::MAX);
    Some(Duration::from_millis(number.saturating_mul(milliseconds)))
}

fn parse_address(text: &str) -> Result<IpAddr, Reason> {
    let value = || quoted(text);
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    let address: IpAddr = text.parse().map_err(|_| {
        if has_leading_zeros(text) {
            Reason::LeadingZeros { value: value() }
        } else if text.parse::<IpNet>().is_ok() {
            Reason::AddressRange { value: value() }
        } else {
            Reason::BadAddress { value: value() }
        }
    })?;
    let kind = match address {
        IpAddr::V4(address) => v4_kind(address),
        IpAddr::V6(address) => {
            if let Some(inner) = address.to_ipv4_mapped() {
                return Err(Reason::MappedAddress {
                    address: address.into(),
                    inner: inner.into(),
                });
            }
            v6_kind(address)
        }
    };
    match kind {
        Some(kind) => Err(Reason::AddressKind { address, kind }),
        None => Ok(address),
    }
}

/// Whether a dotted quad, alone, with a prefix length or at the end of an IPv6 address, would be an
/// address if some of its numbers had no leading zeros (SVC-40, KEP-4858).
fn has_leading_zeros(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default();
    let quad = address.rsplit(':').next().unwrap_or_default();
    let numbers: Vec<&str> = quad.split('.').collect();
    numbers.len() == 4
        && numbers
            .iter()
            .all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        && numbers
            .iter()
            .any(|number| number.len() > 1 && number.starts_with('0'))
}

fn v4_kind(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        _ if address.is_unspecified() => Some("an unspecified"),
        [0, ..] => Some("a \"this network\""), // RFC 791 section 3.2, RFC 1122 section 3.2.1.3
        _ if address.is_loopback() => Some("a loopback"),
        _ if address.is_link_local() => Some("a link-local"),
        _ if address.is_multicast() => Some("a multicast"),
        _ if address.is_broadcast() => Some("a broadcast"),
        _ => None,
    }
}

fn v6_kind(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("an unspecified")
    } else if address.is_loopback() {
        Some("a loopback")
    } else if address.is_unicast_link_local() {
        Some("a link-local")
    } else if address.is_multicast() {
        Some("a multicast")
    } else {
        None
    }
}
