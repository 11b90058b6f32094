//! What one program tells the next one in the same process, and leaves to it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use weft_xdp::Adopted;

use crate::admin::view;

/// The environment variable that it comes by.
pub(super) const VARIABLE: &str = "WEFT_UPGRADE";

/// What the next program has to know. Either may be of another version, so what is missing is the default, and what is
/// not known is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handover {
    /// The process that it is for. What it starts inherits its environment, and is not meant.
    pub pid: u32,
    /// Tells one upgrade from another.
    pub id: u64,
    /// Version of the program that says so.
    pub version: String,
    /// When its workers were told to stop, by the monotonic clock, in nanoseconds.
    pub stopped_at: u64,
    /// Flows in its workers' tables.
    pub flows: u64,
    /// Ends of connections in their TCP stacks.
    pub terminated: u64,
    /// Why it is executed again itself, if it is.
    pub failed: Option<String>,
    /// The descriptor of the run directory's lock.
    pub lock: RawFd,
    /// That of the admin socket.
    pub socket: RawFd,
    /// That of the lock of its pins, which some versions do not have.
    pub pins: Option<RawFd>,
}

/// What the program before this one has left.
#[derive(Debug)]
pub struct Inherited {
    /// What it says.
    pub handover: Handover,
    /// The run directory's lock.
    pub lock: File,
    /// The admin socket.
    pub socket: UnixListener,
    /// The lock of its pins.
    pub pins: Option<File>,
}

impl Handover {
    /// Puts the program at `path` in this one's place, with this one's arguments and environment. It will take `name` for
    /// where it was started from. Returns only when the kernel refuses, and why.
    pub fn execute(
        &mut self,
        path: &Path,
        name: &Path,
        open: [BorrowedFd<'_>; 2],
        pins: Option<BorrowedFd<'_>>,
    ) -> io::Error {
        [self.lock, self.socket] = open.map(|open| open.as_raw_fd());
        self.pins = pins.map(|pins| pins.as_raw_fd());
        let told = match serde_json::to_string(&self) {
            Ok(told) => told,
            Err(error) => return error.into(),
        };
        for open in open.into_iter().chain(pins) {
            if let Err(error) = fcntl_setfd(open, FdFlags::empty()) {
                return error.into();
            }
        }
        let name = name.as_os_str().to_owned();
        let arguments: Vec<_> = [name].into_iter().chain(env::args_os().skip(1)).collect();
        weft_xdp::execute(path, &arguments, &environment(env::vars_os(), &told))
    }

    /// How it went, as the one that has taken over says at `now_ns`.
    pub fn outcome(self, binary: &Path, now_ns: u64, adopted: Adopted) -> view::Upgraded {
        view::Upgraded {
            id: self.id,
            failed: self.failed,
            binary: binary.display().to_string(),
            from: self.version,
            to: env!("CARGO_PKG_VERSION").into(),
            without_worker_us: now_ns.saturating_sub(self.stopped_at) / 1_000,
            flows_kept: adopted.kept as u64,
            flows_removed: adopted.removed as u64,
            flows_ended: self.flows,
            terminated_reset: self.terminated,
        }
    }
}

/// The same environment, and what the next program is told.
pub(super) fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
    told: &str,
) -> Vec<OsString> {
    let told = (OsString::from(VARIABLE), OsString::from(told));
    variables
        .filter(|(name, _)| name != VARIABLE)
        .chain([told])
        .map(|(name, value)| {
            [name.as_os_str(), OsStr::new("="), &value]
                .into_iter()
                .collect()
        })
        .collect()
}

/// What the program before this one in the same process has left, if there was one. To be asked once, at the start.
pub fn inherit() -> Option<Inherited> {
    let handover = understood(&env::var_os(VARIABLE)?, std::process::id())?;
    let taken = |number| -> io::Result<OwnedFd> { weft_xdp::inherited(number) };
    let pins = handover.pins.and_then(|number| taken(number).ok());
    match (taken(handover.lock), taken(handover.socket)) {
        (Ok(lock), Ok(socket)) => Some(Inherited {
            handover,
            lock: lock.into(),
            socket: socket.into(),
            pins: pins.map(File::from),
        }),
        (lock, socket) => {
            tracing::warn!(?lock, ?socket, "{VARIABLE} names what was not left open");
            None
        }
    }
}

/// What process `pid` is told.
pub(super) fn understood(told: &OsStr, pid: u32) -> Option<Handover> {
    let handover: Handover = serde_json::from_slice(told.as_encoded_bytes()).ok()?;
    (handover.pid == pid).then_some(handover)
}

/// Where this program was started from, for it to be read again from there: as it was called, so that a link is followed
/// anew each time, or where the shell found it. To be asked at the start, as long as that is true.
///
/// # Errors
/// When the kernel does not say.
pub fn started_from() -> io::Result<PathBuf> {
    match env::args_os().next().map(PathBuf::from) {
        Some(name) if name.as_os_str().as_encoded_bytes().contains(&b'/') => {
            std::path::absolute(name)
        }
        _ => env::current_exe(),
    }
}
