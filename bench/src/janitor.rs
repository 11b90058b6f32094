//! A child process that outlives its lab and removes what the lab left.
//!
//! It holds the reading end of a pipe. However the lab ends (drop, panic, Ctrl-C, kill -9), the
//! kernel closes the writing end, and the janitor sweeps. So there is one way of cleaning up, and
//! every run of the lab exercises it.

use crate::{binaries, sweep};
use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the lab writes to say "leave everything as it is".
const KEEP: u8 = b'k';
/// How long a sweep may take before the lab goes on without it.
const SWEEP_LIMIT: Duration = Duration::from_secs(30);

/// The janitors of this process's labs, for the signal handler.
static ACTIVE: Mutex<Vec<Arc<Mutex<Pipe>>>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Pipe {
    stdin: Option<ChildStdin>,
    child: Child,
}

impl Pipe {
    /// Closes the pipe, which starts the sweep, and waits for its end. The second call does nothing.
    fn close(&mut self) {
        if self.stdin.take().is_none() {
            return;
        }
        if !matches!(
            crate::command::wait(&mut self.child, SWEEP_LIMIT),
            Ok(Some(_))
        ) {
            let _ = kill_process(rustix::process::Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The lab's end of the pipe. Dropping it sweeps and waits until that is done.
#[derive(Debug)]
pub struct Janitor {
    pipe: Arc<Mutex<Pipe>>,
}

impl Janitor {
    /// Starts the janitor of lab `id`, in a process group of its own so that Ctrl-C spares it.
    pub fn start(id: &str) -> Result<Self> {
        let program = binaries::weft_lab()
            .context("weft-lab is not beside this program: cargo build -p weft-bench")?;
        let mut child = Command::new(program)
            .args(["janitor", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the janitor")?;
        let stdin = child.stdin.take();
        let pipe = Arc::new(Mutex::new(Pipe { stdin, child }));
        lock(&ACTIVE).push(Arc::clone(&pipe));
        Ok(Self { pipe })
    }

    /// Tells it to leave everything in place.
    pub fn keep(&self) -> Result<()> {
        let mut pipe = lock(&self.pipe);
        let stdin = pipe.stdin.as_mut().context("the janitor has ended")?;
        stdin.write_all(&[KEEP]).context("cannot reach the janitor")
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        lock(&self.pipe).close();
        lock(&ACTIVE).retain(|pipe| !Arc::ptr_eq(pipe, &self.pipe));
    }
}

/// Sweeps every lab of this process; for the signal handler, right before it exits.
pub fn sweep_all() {
    let pipes = lock(&ACTIVE).clone();
    for pipe in pipes {
        lock(&pipe).close();
    }
}

/// The janitor's own main: waits for the other end of standard input, then sweeps lab `id`.
pub fn watch(id: &str) -> Result<()> {
    let mut words = Vec::new();
    // An error on the pipe is an end like any other.
    let _ = std::io::stdin().read_to_end(&mut words);
    if words.contains(&KEEP) {
        return Ok(());
    }
    sweep::sweep(id).map(drop)
}

/// A panic elsewhere must not keep a lab from being cleaned up.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
