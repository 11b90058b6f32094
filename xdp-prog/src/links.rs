//! Pinned links: attach once, then exchange the program. The kernel keeps them while we are dead.

use std::path::{Path, PathBuf};
use std::{fs, io};

use libbpf_rs::{Link, Program};
use std::os::fd::AsFd;

use crate::edge::link::{LinkHook, LinkInfo, attach_tcx, attach_xdp_native, link_info};
use crate::maps::into_io;

/// Where a program goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// tcx ingress, behind the programs already there.
    TcxIngress,
    /// tcx egress, behind the programs already there.
    TcxEgress,
    /// Native XDP, by the driver.
    Xdp,
}

impl Attach {
    fn hook(self) -> LinkHook {
        match self {
            Self::TcxIngress => LinkHook::TcxIngress,
            Self::TcxEgress => LinkHook::TcxEgress,
            Self::Xdp => LinkHook::Xdp,
        }
    }
}

/// A program could not be attached, exchanged or detached.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The attach failed.
    #[error("cannot attach `{name}` to interface {ifindex}{}", hint(*.at))]
    Attach {
        /// The link's name.
        name: String,
        /// The interface.
        ifindex: u32,
        /// The hook.
        at: Attach,
        /// Why not.
        source: io::Error,
    },
    /// The pin.
    #[error("cannot pin a link at {}", path.display())]
    Pin {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The detach.
    #[error("cannot detach the link pinned at {}", path.display())]
    Detach {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn hint(at: Attach) -> &'static str {
    match at {
        Attach::Xdp => {
            " as native XDP (is its MTU above what native XDP takes, or another XDP program there?)"
        }
        Attach::TcxIngress | Attach::TcxEgress => " (tcx needs Linux 6.6)",
    }
}

/// Attaches any program to the tcx hook that its section names, behind the programs already there, for as
/// long as the returned link lives. `ifindex` is of the calling thread's network namespace.
///
/// Weft's own programs stay by [pinned](attach_pinned) links; this is for what goes with its process.
pub fn attach_tcx_unpinned(program: &Program<'_>, ifindex: u32) -> Result<Link, LinkError> {
    attach_tcx(program, ifindex).map_err(|source| LinkError::Attach {
        name: program.name().to_string_lossy().into_owned(),
        ifindex,
        at: Attach::TcxIngress,
        source,
    })
}

/// The file of a link, `link_<name>_<ifindex>`.
pub(crate) fn link_path(pin_dir: &Path, name: &str, ifindex: u32) -> PathBuf {
    pin_dir.join(format!("link_{name}_{ifindex}"))
}

/// Name and interface of a link's file; `None` for other files.
pub(crate) fn parse_link_file(file: &str) -> Option<(&str, u32)> {
    let (name, ifindex) = file.strip_prefix("link_")?.rsplit_once('_')?;
    Some((name, ifindex.parse().ok()?))
}

/// Makes `program` the one attached at `ifindex`. A link pinned there before keeps its place and
/// only changes its program, so no packet passes in between; one whose interface is gone makes room.
pub(crate) fn attach_pinned(
    pin_dir: &Path,
    name: &str,
    at: Attach,
    ifindex: u32,
    program: &Program<'_>,
) -> Result<(), LinkError> {
    let path = link_path(pin_dir, name, ifindex);
    if path.exists() {
        match readopt(&path, at, ifindex, program) {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::info!(path = %path.display(), %error, "replacing a stale link");
                detach_pinned(&path)?;
            }
        }
    }
    let attach_error = |source| LinkError::Attach {
        name: name.to_owned(),
        ifindex,
        at,
        source,
    };
    match at {
        Attach::Xdp => {
            attach_xdp_native(program, ifindex, &path).map_err(attach_error)?;
        }
        Attach::TcxIngress | Attach::TcxEgress => {
            let mut link = attach_tcx(program, ifindex).map_err(attach_error)?;
            link.pin(&path).map_err(|error| LinkError::Pin {
                path: path.clone(),
                source: into_io(&error),
            })?;
        }
    }
    Ok(())
}

/// Exchanges the program of a pinned link, if it still is where we would attach.
fn readopt(path: &Path, at: Attach, ifindex: u32, program: &Program<'_>) -> io::Result<()> {
    let mut link = Link::open(path).map_err(|error| into_io(&error))?;
    let info = link_info(link.as_fd())?;
    if info.ifindex != Some(ifindex) || info.hook != at.hook() {
        return Err(io::Error::other("its interface is gone or another one"));
    }
    link.update_prog(program).map_err(|error| into_io(&error))
}

/// Detaches and unpins. A link whose interface is gone is only unpinned; no file is no error.
pub(crate) fn detach_pinned(path: &Path) -> Result<(), LinkError> {
    let detach_error = |source| LinkError::Detach {
        path: path.to_owned(),
        source,
    };
    if !path.exists() {
        return Ok(());
    }
    match Link::open(path) {
        Ok(link) => {
            // Closing our descriptor would do, unless somebody else holds one. It fails when the
            // interface is gone, which took the attachment along.
            if let Err(error) = link.detach() {
                tracing::debug!(path = %path.display(), %error, "detach");
            }
        }
        Err(error) => return Err(detach_error(into_io(&error))),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(detach_error(error)),
        _ => Ok(()),
    }
}

/// What the kernel says about a pinned link.
pub(crate) fn inspect(path: &Path) -> io::Result<LinkInfo> {
    let link = Link::open(path).map_err(|error| into_io(&error))?;
    link_info(link.as_fd())
}
