//! The client's half of the admin socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::{Answer, LINE_MAX, Request};

/// How long an answer may take: a reload of the largest configuration is well below it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a node process could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no node process answers at {path} (is `weft run` running, with the same --run-dir, and are you root?)"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the node process at {path} gave no answer (is it stopped, or ending?)")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Asks the node process that listens at `socket`.
///
/// # Errors
/// When nobody listens there, or the answer does not come or cannot be read.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, ClientError> {
    let stream = UnixStream::connect(socket).map_err(|source| ClientError::Unreachable {
        path: socket.into(),
        source,
    })?;
    converse(stream, request).map_err(|source| ClientError::Broken {
        path: socket.into(),
        // What a socket's own timeout is called in Linux.
        source: match source.kind() {
            io::ErrorKind::WouldBlock => io::Error::other(format!("nothing for {PATIENCE:?}")),
            _ => source,
        },
    })
}

fn converse(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .take(LINE_MAX)
        .read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if answer.len() as u64 == LINE_MAX {
        let mib = LINE_MAX >> 20;
        return Err(io::Error::other(format!("more than {mib} MiB to list")));
    }
    Ok(serde_json::from_str(&answer)?)
}
