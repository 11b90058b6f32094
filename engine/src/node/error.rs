//! Why a node process ends, in words that say where to look.

use std::borrow::Cow;
use std::path::PathBuf;

use weft_xdp::netlink;

use crate::{config, control, rundir};

/// Why the node process ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration was refused.
    #[error("{0}")]
    Config(config::Errors),
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] rundir::Error),
    /// The configuration cannot be put in force.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// The kernel refused programs, maps or links.
    #[error(transparent)]
    Kernel(#[from] weft_xdp::Error),
    /// The kernel refused a socket.
    #[error(transparent)]
    Socket(#[from] weft_xdp::XskError),
    /// What is on this node already cannot be read.
    #[error(transparent)]
    Owned(#[from] weft_xdp::OwnedError),
    /// Another run directory's node process has this network namespace.
    #[error(
        "weft0 and weft1 of this network namespace belong to a node process with another --run-dir: \
         stop that one, or `weft cleanup` with its --run-dir if it is dead"
    )]
    PairTaken,
    /// The pair has been deleted or brought down under a running process.
    #[error(
        "weft0, weft1 or a bulk lane has been deleted or brought down; the kernel has taken over, start weft again"
    )]
    PairGone,
    /// The kernel refused something about interfaces.
    #[error(transparent)]
    Netlink(#[from] netlink::NetlinkError),
    /// Anything else of the operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: Cow<'static, str>,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Somebody removed the pins, and with them the hooks.
    #[error("{0}: the pins were removed while in use; the kernel has taken over, start weft again")]
    PinsGone(PathBuf),
    /// Neither the other program nor this one again could be executed.
    #[error(
        "{failed}, and this program not again ({again}); its workers have stopped, and the kernel has taken over: start weft again"
    )]
    Upgrade {
        /// What is wrong with the other one.
        failed: String,
        /// Why not this one.
        again: std::io::Error,
    },
    /// A worker does not answer.
    #[error(
        "worker {0} does not answer: its thread is stuck, or something else has its core (`weft status` shows the heartbeat)"
    )]
    WorkerSilent(u16),
    /// A worker ended by itself.
    #[error(
        "worker {0} ended unexpectedly (see the panic above); the kernel has taken over, start weft again"
    )]
    WorkerDied(u16),
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        // Transparent errors repeat their cause.
        if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

pub(super) fn system(what: impl Into<Cow<'static, str>>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::System { what, source }
}
