//! Whether a program may take this one's place.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::handover;
use crate::admin::{Answer, view};
use crate::cli::Exit;

/// How long a check may take: 300,000 endpoints take 1.3 s, the BPF programs less. Shorter than a client waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Of what it says: thousands of faults of a configuration are below a megabyte.
const WORDS_MAX: u64 = 4 << 20;

/// What `weft check --json` says of a configuration that it accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// What is in it.
    pub accepted: Accepted,
    /// Version of the program that says so.
    #[serde(default)]
    pub version: String,
    /// Layout of the maps that it can take over. None: it is older than upgrades.
    #[serde(default)]
    pub map_layout: Option<u32>,
}

/// What is in an accepted configuration.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Enrolled pods.
    pub pods: usize,
    /// Services.
    pub services: usize,
}

/// A program that may take this one's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
}

impl Candidate {
    /// As its upgrade is announced.
    pub fn announced(&self, id: u64) -> view::Upgrading {
        view::Upgrading {
            id,
            binary: self.path.display().to_string(),
        }
    }
}

/// Why a program may not. Nothing has changed.
#[derive(Debug, Error)]
pub enum Refused {
    /// There is none, or it cannot be looked at.
    #[error("cannot be found: {0}")]
    Missing(io::Error),
    /// It is a directory, say.
    #[error("is not a file")]
    NotAFile,
    /// It may not be executed.
    #[error("is not executable")]
    NotExecutable,
    /// The kernel does not start it.
    #[error("cannot be started: {0} (is it whole, and built for this machine?)")]
    Unstartable(io::Error),
    /// Its check did not end.
    #[error("its `check` takes longer than {PATIENCE:?}")]
    Silent,
    /// Its check failed for another reason than the configuration.
    #[error("its `check` fails ({status}): {said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        said: String,
    },
    /// Its check succeeded, but did not say what is expected of it.
    #[error(
        "does not say which layout of the maps it can take over (is it a Weft, and new enough?): to run it all the same, \
         stop this node process, which gives all traffic to the kernel, then start the other one"
    )]
    Unknown,
    /// It cannot read what is pinned.
    #[error(
        "has map layout {found}, and what is pinned here has {expected}: flows cannot be taken over. Stop this node process, \
         which gives all traffic to the kernel and removes the maps, then start the other one"
    )]
    Layout {
        /// The program's.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// It is another one than when its check began.
    #[error("has changed during its check: try again once it is in place")]
    Changed,
    /// It refuses the configuration.
    #[error("refuses the configuration")]
    Config(Vec<view::Refusal>),
}

impl Refused {
    /// What the client is told about the program at `path`.
    pub fn answer(self, path: &Path) -> Answer {
        match self {
            Self::Config(faults) => Answer::Refused(faults),
            other => Answer::NotUpgraded(view::NotUpgraded {
                binary: path.display().to_string(),
                reason: other.to_string(),
            }),
        }
    }
}

/// Lets the program at `path` check `files`, and itself: whether this kernel takes its BPF programs, and whether it can
/// take over maps of layout `expected`.
///
/// # Errors
/// Why it may not take this program's place.
pub async fn check(path: &Path, files: &[PathBuf], expected: u32) -> Result<Candidate, Refused> {
    let before = identity(&look(path)?);
    let output = ask(path, files).await?;
    let version = verdict(&output, expected)?;
    match look(path) {
        Ok(after) if identity(&after) == before => Ok(Candidate {
            path: path.into(),
            version,
        }),
        _ => Err(Refused::Changed),
    }
}

fn look(path: &Path) -> Result<Metadata, Refused> {
    let metadata = fs::metadata(path).map_err(Refused::Missing)?;
    if !metadata.is_file() {
        return Err(Refused::NotAFile);
    }
    access(path, Access::EXEC_OK).map_err(|_| Refused::NotExecutable)?;
    Ok(metadata)
}

/// What changes when a file is replaced or written to.
fn identity(file: &Metadata) -> [i64; 5] {
    let [dev, ino, size] = [file.dev(), file.ino(), file.size()].map(u64::cast_signed);
    [dev, ino, size, file.ctime(), file.ctime_nsec()]
}

async fn ask(path: &Path, files: &[PathBuf]) -> Result<Output, Refused> {
    let mut child = Command::new(path)
        .args(["check", "--json", "--programs", "--"])
        .args(files)
        .env_remove(handover::VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Refused::Unstartable)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (stdout, stderr) = tokio::join!(words(out), words(err));
        child.wait().await.map(|status| Output {
            status,
            stdout,
            stderr,
        })
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended
        .map_err(|_| Refused::Silent)?
        .map_err(Refused::Unstartable)
}

/// What somebody says, up to a bound.
async fn words(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut words = Vec::new();
    if let Some(from) = from {
        let _ = from.take(WORDS_MAX).read_to_end(&mut words).await; // What there is, is judged.
    }
    words
}

/// The program's version, if what its check said is good.
pub(super) fn verdict(output: &Output, expected: u32) -> Result<String, Refused> {
    #[derive(Deserialize)]
    struct Faults {
        refused: Vec<view::Refusal>,
    }
    let status = output.status;
    if status.code() == Some(i32::from(Exit::Refused as u8))
        && let Ok(faults) = serde_json::from_slice::<Faults>(&output.stdout)
    {
        return Err(Refused::Config(faults.refused));
    }
    if !status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Refused::Failed { status, said });
    }
    let checked: Checked = serde_json::from_slice(&output.stdout).map_err(|_| Refused::Unknown)?;
    match checked.map_layout {
        Some(found) if found == expected => Ok(checked.version),
        Some(found) => Err(Refused::Layout { found, expected }),
        None => Err(Refused::Unknown),
    }
}
