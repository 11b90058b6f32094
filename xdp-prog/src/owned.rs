//! What Weft holds of the kernel, told and taken away with or without a running process.

use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use libbpf_rs::{MapCore, MapHandle, MapType};

use crate::edge::link::LinkHook;
use crate::links::{LinkError, detach_pinned, inspect, parse_link_file};
use crate::netlink::{self, Interface, NetlinkError, WEFT0, WEFT1, XdpMode};
use crate::steering::link_names;

/// The kind of an [`OwnedObject`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnedKind {
    /// A pinned link: a program attached to an interface.
    Link,
    /// A pinned map.
    Map,
    /// One end of the punt pair.
    Interface,
    /// The directory of the pins.
    Directory,
}

impl OwnedKind {
    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Map => "map",
            Self::Interface => "interface",
            Self::Directory => "directory",
        }
    }
}

/// Something that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedObject {
    /// What it is.
    pub kind: OwnedKind,
    /// Its name: a file of the pin directory, an interface.
    pub name: String,
    /// Where it is attached, how large it is.
    pub detail: String,
}

/// What a cleanup did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// What is gone now.
    pub removed: Vec<OwnedObject>,
}

/// Why something could not be listed or taken away.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// A file of the pin directory.
    #[error("{}", path.display())]
    Pin {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The punt pair.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Whether the punt pair of this network namespace is another run directory's: somebody's XDP
/// program is at `weft1`, and no link under `pin_dir` put it there.
pub fn pair_is_foreign(pin_dir: &Path) -> Result<bool, OwnedError> {
    is_foreign(pin_dir, &blocking(netlink::interfaces())?)
}

pub(crate) fn is_foreign(pin_dir: &Path, interfaces: &[Interface]) -> Result<bool, OwnedError> {
    let Some(weft1) = interfaces.iter().find(|i| i.name == WEFT1) else {
        return Ok(false);
    };
    if weft1.xdp == XdpMode::None {
        return Ok(false);
    }
    let attached = |(path, name): &(PathBuf, String)| {
        parse_link_file(name).is_some()
            && inspect(path)
                .is_ok_and(|link| link.hook == LinkHook::Xdp && link.ifindex == Some(weft1.index))
    };
    Ok(!pin_files(pin_dir)?.iter().any(attached))
}

/// Lists what is pinned under `pin_dir`, and the punt pair of this network namespace unless it is
/// another run directory's. Needs no running process; nothing there is an empty list.
pub fn owned(pin_dir: &Path) -> Result<Vec<OwnedObject>, OwnedError> {
    let mut objects = Vec::new();
    let interfaces = blocking(netlink::interfaces())?;
    let foreign = is_foreign(pin_dir, &interfaces)?;
    let interface_name = |ifindex: u32| {
        let found = interfaces
            .iter()
            .find(|interface| interface.index == ifindex);
        found.map_or_else(
            || format!("interface {ifindex}"),
            |interface| interface.name.clone(),
        )
    };
    for (path, name) in pin_files(pin_dir)? {
        let object = if parse_link_file(&name).is_some() {
            let detail = match inspect(&path) {
                Ok(info) => {
                    let hook = match info.hook {
                        LinkHook::TcxIngress => "tcx ingress",
                        LinkHook::TcxEgress => "tcx egress",
                        LinkHook::Xdp => "xdp",
                        LinkHook::Other => "another hook",
                    };
                    match info.ifindex {
                        None | Some(0) => format!("{hook} of an interface that is gone"),
                        Some(ifindex) => format!("{hook} at {}", interface_name(ifindex)),
                    }
                }
                Err(error) => format!("unreadable: {error}"),
            };
            OwnedObject {
                kind: OwnedKind::Link,
                name,
                detail,
            }
        } else {
            let detail = match MapHandle::from_pinned_path(&path) {
                Ok(map) => format!("{}, max_entries {}", map_kind(&map), map.max_entries()),
                Err(error) => format!("unreadable: {error}"),
            };
            OwnedObject {
                kind: OwnedKind::Map,
                name,
                detail,
            }
        };
        objects.push(object);
    }
    for interface in interfaces
        .iter()
        .filter(|i| !foreign && [WEFT0, WEFT1].contains(&i.name.as_str()))
    {
        let detail = format!(
            "{}, queues {}, mtu {}",
            interface.kind.as_deref().unwrap_or("unknown kind"),
            interface.tx_queues,
            interface.mtu
        );
        let name = interface.name.clone();
        objects.push(OwnedObject {
            kind: OwnedKind::Interface,
            name,
            detail,
        });
    }
    if pin_dir.exists() {
        let name = pin_dir.display().to_string();
        let detail = "pins".to_owned();
        objects.push(OwnedObject {
            kind: OwnedKind::Directory,
            name,
            detail,
        });
    }
    objects.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(objects)
}

/// Takes everything away: links first (the pods' before the pair's, so that nothing is punted to
/// where nobody takes it), then the maps, the pair unless it is another run directory's, the
/// directory. Works after a kill, too, and twice. Stop the process first: a running one would go on
/// with maps that nobody can find.
pub fn cleanup(pin_dir: &Path) -> Result<CleanupReport, OwnedError> {
    let removed = owned(pin_dir)?;
    let foreign = pair_is_foreign(pin_dir)?; // Asked while our own link still answers for it.
    let mut files = pin_files(pin_dir)?;
    files.sort_by_key(|(_, name)| match parse_link_file(name) {
        Some((link_names::FROM_POD | link_names::FROM_PEER, _)) => 0,
        Some((link_names::TO_POD, _)) => 1,
        Some(_) => 2,
        None => 3,
    });
    for (path, name) in files {
        if parse_link_file(&name).is_some() {
            detach_pinned(&path)?;
        } else {
            remove(&path, fs::remove_file(&path))?;
        }
    }
    if !foreign {
        blocking(netlink::delete_pair())?;
    }
    remove(pin_dir, fs::remove_dir(pin_dir))?;
    Ok(CleanupReport { removed })
}

/// The kernel's name of the map's type, of those that Weft has.
fn map_kind(map: &MapHandle) -> String {
    match map.map_type() {
        MapType::Array => "array".to_owned(),
        MapType::Hash => "hash".to_owned(),
        MapType::PercpuArray => "percpu_array".to_owned(),
        MapType::Xskmap => "xskmap".to_owned(),
        MapType::LpmTrie => "lpm_trie".to_owned(),
        other => format!("{other:?}"),
    }
}

fn remove(path: &Path, result: io::Result<()>) -> Result<(), OwnedError> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OwnedError::Pin {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn pin_files(pin_dir: &Path) -> Result<Vec<(PathBuf, String)>, OwnedError> {
    let error = |source| OwnedError::Pin {
        path: pin_dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(other) => return Err(error(other)),
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(error)?;
            Ok((
                entry.path(),
                entry.file_name().to_string_lossy().into_owned(),
            ))
        })
        .collect()
}

/// Runs netlink to its end on a thread of its own, which shares our network namespace but not the
/// runtime that we may be called from.
pub(crate) fn blocking<T: Send>(
    work: impl Future<Output = Result<T, NetlinkError>> + Send,
) -> Result<T, NetlinkError> {
    let run = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetlinkError::Connect)?
            .block_on(work)
    };
    thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
