//! Processes that a lab started, and that end with it.

use crate::command::{describe, wait};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long a process may take to end after a polite signal.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A running process with its output in a file. Dropping it ends exactly this process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `<directory>/<name>.log`, appended when that exists.
    pub fn start(name: &str, command: &mut Command, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", describe(command)))?;
        Ok(Self {
            name: name.to_owned(),
            child: Some(child),
            log,
        })
    }

    /// What it was called at its start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} is not ours any more", self.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = self
            .child
            .as_mut()
            .with_context(|| format!("{} was left alone", self.name))?;
        match wait(child, limit)? {
            Some(status) => Ok(status),
            None => bail!("{} still runs after {limit:?}:\n{}", self.name, self.log()),
        }
    }

    /// SIGTERM, then waits for its end, at most `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Lets it run on after the lab has ended.
    pub fn leave(mut self) {
        self.child = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(child) = self.child.as_mut() else {
            return;
        };
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        // A stopped process cannot react to SIGTERM; SIGCONT does no harm to one that runs.
        let pid = Pid::from_child(child);
        let _ = kill_process(pid, Signal::TERM);
        let _ = kill_process(pid, Signal::CONT);
        if !matches!(wait(child, STOP_LIMIT), Ok(Some(_))) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{START_LIMIT, wait_until};

    #[test]
    fn dropping_a_process_ends_it_even_when_it_ignores_sigterm_politely() {
        let directory = std::env::temp_dir();
        let name = format!("weft-lab-process-{}", std::process::id());
        let mut command = Command::new("sh");
        command.args(["-c", "echo up; exec sleep 60"]);
        let mut process = Process::start(&name, &mut command, &directory).unwrap();
        wait_until("its output", START_LIMIT, || process.log().contains("up")).unwrap();
        assert!(process.is_running());
        let pid = process.pid().unwrap();
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
        fs::remove_file(directory.join(format!("{name}.log"))).unwrap();
    }
}
