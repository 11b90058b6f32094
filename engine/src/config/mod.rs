//! The configuration: TOML files in, a validated model or every error out.
//!
//! [`load`] reads files and [`parse`] does the rest without touching the machine; what a
//! configuration asks of the machine is checked by [`check_interfaces`] and [`check_cores`] against
//! a snapshot of it. Every error names file, line and key. `docs/config.md` describes each key.

mod document;
mod error;
mod front;
pub mod http;
mod model;
mod node;
mod overlay;
mod pod;
mod reader;
mod registry;
mod reload;
mod resolve;
mod route;
mod scalar;
mod service;
mod share;
mod system;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{ConfigError, Errors, Location, Reason};
pub use model::{
    AccessLog, Algorithm, Backends, Conditions, Config, Encapsulation, Endpoint, Node, Overlay,
    Peer, Pod, Poll, Protocol, Service, ServicePort, Stage, TargetPort, UpstreamSource, Workers,
};
pub use reload::{RESTART_KEYS, restart_keys};
pub use resolve::{PodIndex, ResolvedEndpoint};
pub(crate) use scalar::parse_duration;
pub(crate) use share::Earlier;
pub use system::{InterfaceInfo, check_cores, check_interfaces};
pub use weft_xdp::FastPath;

use document::Document;
use registry::Registry;

const FILE_KEYS: &[&str] = &["node", "workers", "overlay", "pod", "service"];

/// Every table and the keys that it takes.
#[cfg(test)]
const ACCEPTED: &[(&str, &[&str])] = &[
    ("", FILE_KEYS),
    ("node", node::NODE_KEYS),
    ("workers", node::WORKERS_KEYS),
    ("overlay", overlay::KEYS),
    ("overlay.peer", overlay::PEER_KEYS),
    ("pod", pod::KEYS),
    ("service", service::KEYS),
    ("service.ports", service::PORT_KEYS),
    ("service.endpoints", service::ENDPOINT_KEYS),
    ("service.routes", route::ROUTE_KEYS),
    ("route.rules", route::RULE_KEYS),
    ("rule.matches", route::MATCH_KEYS),
    ("rule.request_headers", route::MODIFIER_KEYS),
    ("rule.redirect", route::REDIRECT_KEYS),
    ("rule.backends", route::BACKEND_KEYS),
    ("rule.timeouts", route::TIMEOUT_KEYS),
    ("service.http", front::FRONT_KEYS),
    ("service.backend", front::BACK_KEYS),
];

/// One configuration file, read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path, for errors.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Reads the files and parses them as one configuration, which shares its services with `earlier`, the
/// one in force, where they are the same.
///
/// # Errors
/// Everything that is wrong with them; also every file that cannot be read.
pub fn load(paths: &[PathBuf], earlier: Option<&Config>) -> Result<Config, Errors> {
    let mut sources = Vec::new();
    let mut unread = Vec::new();
    for path in paths {
        match read(path) {
            Ok(text) => sources.push(Source {
                path: path.clone(),
                text,
            }),
            Err(error) => unread.push(error),
        }
    }
    if unread.is_empty() {
        return parse_after(&sources, earlier);
    }
    // The files that can be read are checked too, but nothing is missed in them: it may stand in
    // a file that could not be read.
    let (_, mut found) = parse_some(&sources, None, true);
    found.append(&mut unread);
    Err(Errors::of(found))
}

/// Parses files as one configuration: pods and services add up, `[node]`, `[workers]` and `[overlay]` may stand
/// in one of them.
///
/// # Errors
/// Everything that is wrong with them, sorted by file and line.
pub fn parse(sources: &[Source]) -> Result<Config, Errors> {
    parse_after(sources, None)
}

/// As [`parse`], sharing services with `earlier` where they are the same.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_after(sources: &[Source], earlier: Option<&Config>) -> Result<Config, Errors> {
    match parse_some(sources, earlier, false) {
        (Some(config), found) if found.is_empty() => Ok(config),
        (_, found) => Err(Errors::of(found)),
    }
}

/// What could be made of the sources, and every error. `incomplete`: there are more sources, so
/// that a missing table is no error.
fn parse_some(
    sources: &[Source],
    earlier: Option<&Config>,
    mut incomplete: bool,
) -> (Option<Config>, Vec<ConfigError>) {
    let mut earlier = Earlier::new(earlier);
    let mut registry = Registry::default();
    let mut node = Section::default();
    let mut workers = Section::default();
    let mut overlay = Section::default();
    let mut pods = Vec::new();
    let mut services = Vec::new();
    let mut found = Vec::new();
    for source in sources {
        let document = Document::parse(&source.path, &source.text);
        incomplete |= document.damaged();
        if let Some(root) = document.root(FILE_KEYS) {
            node.read(&root, "node", |value| node::read_node(value, &mut registry));
            workers.read(&root, "workers", node::read_workers);
            overlay.read(&root, "overlay", |value| {
                overlay::read(value, &mut registry)
            });
            for_each(&root, "pod", |value| {
                pods.extend(pod::read(value, &mut registry));
            });
            for_each(&root, "service", |value| {
                let service = service::read(value, &mut registry);
                services.extend(service.map(|service| earlier.keep(service)));
            });
        }
        found.append(&mut document.into_errors());
    }
    if !incomplete {
        found.extend(registry.unresolved(&services));
    }
    found.extend(registry.ranges_with_nodes());
    found.extend(registry.endpoint_clashes());
    let start = |key: &str| Location {
        file: Arc::from(
            sources
                .first()
                .map_or(Path::new("(no file)"), |s| s.path.as_path()),
        ),
        line: 1,
        key: key.to_owned(),
    };
    if node.at.is_none() && !incomplete {
        found.push(ConfigError {
            at: start("node"),
            reason: Reason::Missing,
        });
    }
    if workers.at.is_none() {
        workers.value = Some(Workers::unconfigured(start("workers.cores")));
    }
    if let (Some(node), Some(overlay)) = (&node.value, &overlay.value) {
        found.extend(overlay::unreachable(node, overlay));
    }
    let config = node.value.zip(workers.value).map(|(node, workers)| Config {
        node,
        workers,
        overlay: overlay.value.map(Arc::new),
        pods,
        services,
    });
    (config, found)
}

/// A table that only one file may hold.
struct Section<T> {
    value: Option<T>,
    at: Option<Location>,
}

impl<T> Default for Section<T> {
    fn default() -> Self {
        Self {
            value: None,
            at: None,
        }
    }
}

impl<T> Section<T> {
    fn read(
        &mut self,
        root: &reader::Table<'_, '_>,
        key: &'static str,
        read: impl FnOnce(&reader::Value<'_, '_>) -> Option<T>,
    ) {
        let Some(value) = root.get(key) else {
            return;
        };
        let read = read(&value); // Errors inside a second table show too.
        match &self.at {
            Some(first) => {
                let _: Option<()> = value.reject(Reason::SecondTable(first.clone()));
            }
            None => {
                self.at = Some(value.location());
                self.value = read;
            }
        }
    }
}

/// Hands every `[[key]]` to `read`.
fn for_each(
    root: &reader::Table<'_, '_>,
    key: &'static str,
    mut read: impl FnMut(&reader::Value<'_, '_>),
) {
    let Some(value) = root.get(key) else {
        return;
    };
    let expected = if key == "pod" {
        "an array of tables, written [[pod]]"
    } else {
        "an array of tables, written [[service]]"
    };
    if let Some(items) = value.items(expected) {
        items.for_each(|item| read(&item));
    }
}

/// Most that is read of a file: a dozen times what 300,000 endpoints take. A device has no end.
const FILE_MAX: u64 = 256 << 20;

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other("longer than 256 MiB"));
    }
    Ok(bytes)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let error = |line, reason| ConfigError {
        at: Location {
            file: Arc::from(path),
            line,
            key: "file".to_owned(),
        },
        reason,
    };
    let bytes = bytes(path).map_err(|e| error(1, Reason::Unreadable(e.to_string())))?;
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let newlines = valid.iter().filter(|&&byte| byte == b'\n').count();
        error(newlines + 1, Reason::NotUtf8)
    })
}
