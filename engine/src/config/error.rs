//! What is wrong with a configuration, and where.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A place in a configuration file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The file, as it was named on the command line.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: usize,
    /// The full path of the key, such as `service[1].ports[0].port`; indices count within the file.
    pub key: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.key)
    }
}

/// One fault of a configuration, shown as `file:line: key: reason`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Where.
    pub at: Location,
    /// What, and what to write instead.
    pub reason: Reason,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

impl std::error::Error for ConfigError {}

/// An object of four members: `file`, `line`, `key` and `reason`.
impl Serialize for ConfigError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("ConfigError", 4)?;
        object.serialize_field("file", &self.at.file.to_string_lossy())?;
        object.serialize_field("line", &self.at.line)?;
        object.serialize_field("key", &self.at.key)?;
        object.serialize_field("reason", &self.reason.to_string())?;
        object.end()
    }
}

/// Every fault of one load, sorted by file and line. Never empty.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Errors(Vec<ConfigError>);

impl Errors {
    /// Sorts what was found, which is not nothing.
    pub(super) fn of(mut found: Vec<ConfigError>) -> Self {
        debug_assert!(!found.is_empty());
        found.sort_by(|a, b| a.at.cmp(&b.at));
        Self(found)
    }

    /// `Ok` when nothing was found, otherwise everything that was, sorted.
    pub fn check(found: Vec<ConfigError>) -> Result<(), Self> {
        if found.is_empty() {
            Ok(())
        } else {
            Err(Self::of(found))
        }
    }

    /// The faults of several checks as one result.
    pub fn all(results: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        Self::check(
            results
                .into_iter()
                .filter_map(Result::err)
                .flat_map(|errors| errors.0)
                .collect(),
        )
    }

    /// The faults, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One line each, without a newline at the end.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// What is wrong with a key. Texts taken from a file are quoted and cut before they get here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// The file could not be read; the text is the operating system's.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file holds bytes that are not UTF-8.
    #[error("not UTF-8 text")]
    NotUtf8,
    /// The text is not TOML; the text is the TOML parser's.
    #[error("{0}")]
    Syntax(String),
    /// The text is not TOML, because a value is missing or lacks quotes.
    #[error("missing or unquoted value: names, addresses and durations stand in quotes")]
    Unquoted,
    /// No such key in this table.
    #[error("unknown key{}", .suggestion.map(|key| format!(", did you mean `{key}`?")).unwrap_or_default())]
    UnknownKey {
        /// An accepted key that is spelled nearly the same.
        suggestion: Option<&'static str>,
    },
    /// A value of the wrong TOML type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What the key takes.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// A key or table without which there is no configuration.
    #[error("required, but missing")]
    Missing,
    /// A table that only one file may hold stands in two.
    #[error("may stand in one file only, and stands at {}:{} already", .0.file.display(), .0.line)]
    SecondTable(Location),
    /// A stage above layer 4 for what is no TCP.
    #[error("only TCP ports have a stage other than \"l4\"")]
    StageProtocol,
    /// A source where the client's own packets go on.
    #[error("with stage = \"l4\" backends see the client: `source` is for \"tcp\" and \"http\"")]
    SourceStage,
    /// Routes or limits of a stage that no port has.
    #[error("no port of the service has stage = \"http\", which this is for")]
    NotHttp,
    /// A backend that is no service.
    #[error("there is no service {service}")]
    NoService {
        /// The service, quoted.
        service: String,
    },
    /// A backend without a port, of a service that has not one TCP port.
    #[error("service {service} has several TCP ports or none: `port` has to name one")]
    WhichPort {
        /// The service, quoted.
        service: String,
    },
    /// A backend that is no port of its service.
    #[error("service {service} has no TCP port {port}")]
    NoBackend {
        /// The service, quoted.
        service: String,
        /// The port, as it is named.
        port: String,
    },
    /// A text, list or table that must hold something.
    #[error("must not be empty")]
    Empty,
    /// A table without a key of another one that it builds on.
    #[error("needs `{0}`")]
    Needs(&'static str),
    /// A peer that the node has no address to speak to from.
    #[error("{address} is of a family that `node.address` has no address of")]
    NoNodeAddress {
        /// The peer's address.
        address: IpAddr,
    },
    /// Not a range of addresses.
    #[error("{value} is not a range of addresses such as \"10.244.2.0/24\"")]
    BadRange {
        /// The text, quoted.
        value: String,
    },
    /// A range with bits behind its prefix.
    #[error("{value} has bits behind its prefix: write {range}")]
    HostBits {
        /// The text, quoted.
        value: String,
        /// The range that it is in.
        range: ipnet::IpNet,
    },
    /// More elements than there is room for.
    #[error("{count} elements, and there may be {max}")]
    TooMany {
        /// How many stand.
        count: usize,
        /// How many may.
        max: u64,
    },
    /// More pods or services, over all files, than there is room for.
    #[error("up to here there are {count} {what}, and there may be {max}")]
    Full {
        /// What is counted.
        what: &'static str,
        /// How many there are with this one.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A number out of range.
    #[error("{value} is not in {min}..={max}")]
    OutOfRange {
        /// The number as written.
        value: String,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A word that is not one of the key's words.
    #[error("{value} is not one of {allowed}")]
    NotOneOf {
        /// The word, quoted.
        value: String,
        /// The allowed words, quoted.
        allowed: String,
    },
    /// A word that a later version of Weft will take.
    #[error("{value} is not available yet in this version")]
    NotYet {
        /// The word, quoted.
        value: String,
    },
    /// A name with characters or a length that it may not have.
    #[error("{value} is not {rule}")]
    BadName {
        /// The name, quoted.
        value: String,
        /// What it has to be.
        rule: &'static str,
    },
    /// Not a duration at all.
    #[error(
        "{value} is not a duration: write a whole number and its unit, ms, s, m or h, such as \"30s\""
    )]
    BadDuration {
        /// The text, quoted.
        value: String,
    },
    /// A duration out of range.
    #[error("{value} is not in {min}..={max}")]
    DurationRange {
        /// The text, quoted.
        value: String,
        /// Shortest allowed.
        min: &'static str,
        /// Longest allowed.
        max: &'static str,
    },
    /// Not an IP address.
    #[error("{value} is not an IP address")]
    BadAddress {
        /// The text, quoted.
        value: String,
    },
    /// A decimal number of an IPv4 address starts with a zero.
    #[error(
        "{value} has leading zeros, which are refused because they are ambiguous: some programs read them as octal"
    )]
    LeadingZeros {
        /// The text, quoted.
        value: String,
    },
    /// A range where one address is expected.
    #[error("{value} is a range of addresses, and one address is expected")]
    AddressRange {
        /// The text, quoted.
        value: String,
    },
    /// An address that no pod, service or endpoint can have.
    #[error("{address} is {kind} address, which cannot be used here")]
    AddressKind {
        /// The address.
        address: IpAddr,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// An IPv6 address of the form `::ffff:a.b.c.d`.
    #[error("{address} is an IPv4-mapped IPv6 address: write {inner}")]
    MappedAddress {
        /// The address as written.
        address: IpAddr,
        /// The IPv4 address inside.
        inner: IpAddr,
    },
    /// Two addresses of one family where there may be one of each.
    #[error("{address} is a second {family} address, and there may be one of each family")]
    SecondOfFamily {
        /// The later address.
        address: IpAddr,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Something that can be had once only is taken.
    #[error("{what} is already taken by {} at {}:{}", .by.key, .by.file.display(), .by.line)]
    Taken {
        /// The name, address, interface or port.
        what: String,
        /// Who has it.
        by: Location,
    },
    /// A match that an earlier rule has.
    #[error("is never reached: {} at {}:{} matches the same, and comes first", .by.key, .by.file.display(), .by.line)]
    NeverReached {
        /// The earlier one.
        by: Location,
    },
    /// A redirect that changes nothing of the URL.
    #[error("leads back to the URL that was asked for: needs `scheme`, `hostname` or `port`")]
    ToItself,
    /// A duration within another one, which is over before.
    #[error("is longer than `{0}`, which it is part of")]
    LongerThan(&'static str),
    /// Two keys of which only one may stand.
    #[error("`{0}` and `{1}` exclude each other")]
    Both(&'static str, &'static str),
    /// Two keys of which one must stand.
    #[error("needs either `{0}` or `{1}`")]
    Neither(&'static str, &'static str),
    /// A port without a name beside other ports.
    #[error("required, because the service has more than one port")]
    PortName,
    /// A core that this machine does not have, or may not use.
    #[error("core {core} is not available on this machine, which has {available}")]
    NoSuchCore {
        /// The core.
        core: usize,
        /// The cores that can be used.
        available: String,
    },
    /// An interface that does not exist.
    #[error("there is no interface {name}")]
    NoInterface {
        /// The interface, quoted.
        name: String,
    },
    /// A veth that leads into no pod.
    #[error(
        "interface {name} is a veth whose other end is in this network namespace, not in a pod"
    )]
    PeerHere {
        /// The interface, quoted.
        name: String,
    },
    /// An interface that is not a veth.
    #[error("interface {name} is not a veth")]
    NotVeth {
        /// The interface, quoted.
        name: String,
    },
    /// An interface with larger packets than a frame holds.
    #[error("interface {name} has MTU {mtu}, and at most {max} fits a frame")]
    MtuTooLarge {
        /// The interface, quoted.
        name: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest MTU in bytes.
        max: u32,
    },
}
