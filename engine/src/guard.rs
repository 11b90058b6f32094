//! The guard: a small process beside the node process, for when that ends without a word.
//!
//! It holds the reading end of a pipe. However the node process ends (panic, out of memory, kill -9), the
//! kernel closes the writing end; unless a good-bye came before, the guard tells the hooks that nobody is
//! there and the peers of terminated connections that these are no more. Then it ends, too.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::rundir::RunDir;

/// What the node process writes when nothing is left to do for anybody.
const GOOD_BYE: u8 = b'b';
/// How long the guard may take to end then.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often one that has ended is replaced. Whatever ends it again and again, a node process can do without.
const REPLACEMENTS: u8 = 8;

/// The node process's end of the pipe. Dropped without [`Self::dismiss`], the guard takes it for a crash.
#[derive(Debug)]
pub struct Guard {
    dir: RunDir,
    log_format: &'static str,
    running: Option<(Child, ChildStdin)>,
    replaced: u8,
}

impl Guard {
    /// Starts it. Without one, only those peers learn of a crash that send something.
    pub fn start(dir: &RunDir, log_format: &'static str) -> Self {
        let mut guard = Self {
            dir: dir.clone(),
            log_format,
            running: None,
            replaced: 0,
        };
        guard.run();
        guard
    }

    fn run(&mut self) {
        match spawn(&self.dir, self.log_format) {
            Ok(running) => self.running = Some(running),
            Err(error) => tracing::warn!(
                %error,
                "cannot start the guard: after a crash, clients of terminated connections may wait"
            ),
        }
    }

    /// Replaces one that has ended.
    pub fn look_after(&mut self) {
        let Some((child, _)) = &mut self.running else {
            return;
        };
        if let Ok(Some(status)) = child.try_wait() {
            self.running = None;
            if self.replaced < REPLACEMENTS {
                self.replaced += 1;
                tracing::warn!(%status, "the guard has ended; starting another");
                self.run();
            } else {
                tracing::warn!(%status, "the guard has ended too often; going on without");
            }
        }
    }

    /// Says that there is nothing to do, and waits for its end.
    pub fn dismiss(mut self) {
        let Some((mut child, mut pipe)) = self.running.take() else {
            return;
        };
        let _ = pipe.write_all(&[GOOD_BYE]); // It may have ended already.
        drop(pipe);
        let deadline = Instant::now() + PATIENCE;
        while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            if Instant::now() >= deadline {
                let _ = child.kill(); // Stopped, or starved: it has nothing to do in any case.
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// This program again, from the file that it was started from, whatever is there by now. In a process group of its
/// own, so that what a terminal sends goes to the node process alone.
fn spawn(dir: &RunDir, log_format: &str) -> io::Result<(Child, ChildStdin)> {
    let mut child = Command::new("/proc/self/exe")
        .arg0("weft")
        .args(["guard", "--parent", &std::process::id().to_string()])
        .args(["--log-format", log_format])
        .arg("--run-dir")
        .arg(std::path::absolute(dir.path())?)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()?;
    let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((child, pipe))
}

/// The guard's own main.
pub fn watch(dir: &RunDir, parent: u32) -> ExitCode {
    let _ = rustix::thread::set_name(c"weft-guard");
    if let Err(error) = weft_xdp::ignore_ends() {
        tracing::warn!(%error, "a signal will end the guard");
    }
    let _presence = dir.guarded(); // Without it nobody waits for us, which is no fault of anybody's.
    let mut words = Vec::new();
    // An error on the pipe is an end like any other.
    let _ = io::stdin().read_to_end(&mut words);
    if words.contains(&GOOD_BYE) {
        return ExitCode::SUCCESS;
    }
    let ours = || dir.holder() == Some(parent);
    if !ours() {
        return ExitCode::SUCCESS; // Cleaned up, or taken over.
    }
    tracing::error!(
        pid = parent,
        "the node process has crashed: giving its traffic to the kernel"
    );
    match weft_xdp::reset_orphans(dir.pins(), ours) {
        Ok(orphans) => {
            report(orphans);
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{}", crate::node::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Resets what a dead process left, and says so. That this fails is no reason not to start.
pub fn reset_orphans(dir: &RunDir) {
    match weft_xdp::reset_orphans(dir.pins(), || true) {
        Ok(orphans) => report(orphans),
        Err(error) => tracing::error!("{}", crate::node::chain(&error)),
    }
}

/// Says what became of connections, if there were any.
fn report(orphans: weft_xdp::Orphans) {
    if orphans.found > 0 {
        tracing::warn!(
            ends = orphans.found,
            silent = orphans.silent,
            "reset the terminated connections of a former node process"
        );
    }
}
