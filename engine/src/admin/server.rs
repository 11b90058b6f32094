//! The node process's half of the admin socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::umask;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Answer, Request};

/// Longest request: one with the longest path, each byte of it escaped.
const REQUEST_MAX: u64 = 32 << 10;
/// Clients at once. More wait in the socket's backlog.
const CLIENTS_MAX: usize = 16;
/// How long a client may take to say what it wants: one that says nothing must not keep others waiting.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a client may take to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One question, on its way to control.
#[derive(Debug)]
pub struct Call {
    /// The question.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// The listening socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// One for each client.
    slots: Arc<Semaphore>,
}

impl Listener {
    /// Listens at `path`, readable and writable by its owner only. A file left there by a dead
    /// process is replaced: the caller holds the run directory's lock.
    ///
    /// # Errors
    /// When the path cannot be bound.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Closed from the first moment on: there is no chmod to be late with.
        let before = umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        Ok(Self::new(listener?, path))
    }

    /// Goes on with the socket that the program before this one in the same process has left, and with the clients that
    /// wait there. One that is not at `path` is replaced.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn keep(listener: std::os::unix::net::UnixListener, path: &Path) -> io::Result<Self> {
        if listener.local_addr()?.as_pathname() != Some(path) {
            return Self::bind(path);
        }
        listener.set_nonblocking(true)?;
        Ok(Self::new(UnixListener::from_std(listener)?, path))
    }

    fn new(listener: UnixListener, path: &Path) -> Self {
        Self {
            listener,
            path: path.into(),
            slots: Arc::new(Semaphore::new(CLIENTS_MAX)),
        }
    }

    /// Waits until every client that was accepted has its answer. For when no more are accepted.
    pub async fn idle(&self) {
        let all = u32::try_from(CLIENTS_MAX).unwrap_or(u32::MAX);
        let _ = self.slots.acquire_many(all).await; // Never closed.
    }

    /// Accepts clients until the process ends and passes what they ask to `calls`.
    pub async fn serve(&self, calls: mpsc::Sender<Call>) {
        loop {
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    tokio::task::spawn_local(async move {
                        let _slot = slot;
                        if let Err(error) = converse(stream, calls).await {
                            tracing::debug!(%error, "an admin client left early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_MAX));
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(SILENCE, reader.read_line(&mut line))
        .await
        .map_err(|_| late())??;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => put(request, &calls).await,
        Err(error) => Answer::Failed(format!("not a request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    tokio::time::timeout(PATIENCE, write.write_all(&text))
        .await
        .map_err(|_| late())?
}

async fn put(request: Request, calls: &mpsc::Sender<Call>) -> Answer {
    let (reply, answer) = oneshot::channel();
    let stopping = || Answer::Failed("the node process is stopping".into());
    if calls.send(Call { request, reply }).await.is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}
