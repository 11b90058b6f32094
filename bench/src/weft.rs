//! The node process in a lab, driven by its command line only.

use crate::binaries;
use crate::command::{Finished, finish};
use crate::config::Config;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::{START_LIMIT, wait_for};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How long one command of the node process may take.
const CLI_LIMIT: Duration = Duration::from_secs(10);
/// How long an upgrade may take: it is a start, and a check before it.
const UPGRADE_LIMIT: Duration = Duration::from_secs(60);
/// How long a clean stop may take.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Exit codes that the node process documents.
pub mod exit {
    /// Something failed at run time.
    pub const FAILED: i32 = 1;
    /// The configuration was refused; nothing changed.
    pub const REFUSED: i32 = 3;
    /// No node process answers.
    pub const UNREACHABLE: i32 = 4;
}

/// A node process running in a lab's node namespace. Dropping it stops it.
#[derive(Debug)]
pub struct Weft {
    process: Process,
    node: Namespace,
    program: PathBuf,
    run_dir: PathBuf,
    config: PathBuf,
    directory: PathBuf,
}

impl Weft {
    /// Starts it with `config` and waits until it has taken over its pods' traffic.
    pub fn start(lab: &Lab, config: &Config) -> Result<Self> {
        Self::start_under(lab, config, &[])
    }

    /// As [`Weft::start`], under a wrapper such as `chrt -f 20`.
    pub fn start_under(lab: &Lab, config: &Config, wrapper: &[&str]) -> Result<Self> {
        let program = binaries::weft()
            .context("the node process is not built: cargo build -p weft, or set WEFT_BIN")?;
        let path = lab.directory().join("node.toml");
        fs::write(&path, config.to_toml()?)?;
        let words = wrapper
            .iter()
            .map(PathBuf::from)
            .chain([program.clone()])
            .collect::<Vec<_>>();
        let mut command = lab.node.command(&words[0]);
        command
            .args(&words[1..])
            .arg("run")
            .arg("--run-dir")
            .arg(lab.run_dir())
            .arg(&path);
        let directory = lab.directory();
        // One log a start, so that waiting for `ready` never finds an earlier one's.
        let _ = fs::rename(
            directory.join("weft.log"),
            directory.join("weft-previous.log"),
        );
        let process = Process::start("weft", &mut command, &directory)?;
        let mut weft = Self {
            process,
            node: lab.node.clone(),
            program,
            run_dir: lab.run_dir(),
            config: path,
            directory,
        };
        weft.wait_ready()?;
        Ok(weft)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let process = &mut self.process;
        let ready = wait_for("the node process to be ready", START_LIMIT, || {
            if process.log().lines().any(|line| line.contains("ready")) {
                return Some(true);
            }
            (!process.is_running()).then_some(false)
        });
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the node process ended:\n{}", self.process.log()),
            Err(error) => Err(error.context(self.process.log())),
        }
    }

    /// A command line of the node process, inside the node.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.node.command(&self.program);
        command.args(words).arg("--run-dir").arg(&self.run_dir);
        command
    }

    /// Runs one of its commands to the end, whatever the exit code.
    pub fn cli(&self, words: &[&str]) -> Result<Finished> {
        finish(&mut self.command(words), CLI_LIMIT)
    }

    /// Runs one of its commands, which has to succeed, and returns what it printed.
    pub fn text(&self, words: &[&str]) -> Result<String> {
        let finished = self.cli(words)?;
        if !finished.success() {
            let (command, code) = (words.join(" "), finished.code());
            let (said, log) = (finished.stdout + &finished.stderr, tail(&self.log()));
            bail!("weft {command}: exit code {code:?}:\n{said}\nits log ends with:\n{log}");
        }
        Ok(finished.stdout)
    }

    /// As [`Weft::text`] with `--json`, parsed.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let text = self.text(&words)?;
        serde_json::from_str(&text).with_context(|| format!("weft {}: {text}", words.join(" ")))
    }

    /// The sum of all counters called `name` in `weft status`.
    pub fn counter(&self, name: &str) -> Result<u64> {
        Ok(sum_of(&self.json(&["status"])?, name))
    }

    /// Writes `config` over the file it runs on and reloads it.
    pub fn reload(&self, config: &Config) -> Result<()> {
        let finished = self.reload_text(&config.to_toml()?)?;
        if !finished.success() {
            bail!(
                "weft reload: {:?}: {}\n{}",
                finished.code(),
                finished.stderr,
                self.log()
            );
        }
        Ok(())
    }

    /// As [`Weft::reload`]; returns what `weft reload --json` says.
    pub fn reload_json(&self, config: &Config) -> Result<Value> {
        self.write(&config.to_toml()?)?;
        self.json(&["reload"])
    }

    /// Begins a reload, which is over when the command that is returned is.
    pub fn begin_reload(&self, config: &Config) -> Result<Child> {
        self.write(&config.to_toml()?)?;
        let mut command = self.command(&["reload"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    /// As [`Weft::reload`], with any text and whatever the exit code.
    pub fn reload_text(&self, text: &str) -> Result<Finished> {
        self.write(text)?;
        self.cli(&["reload"])
    }

    /// Replaces its configuration file in one step, as an operator's tools would.
    fn write(&self, text: &str) -> Result<()> {
        let new = self.config.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(&new, &self.config)?)
    }

    /// `weft upgrade --json` with more words; whatever the exit code.
    pub fn upgrade(&self, words: &[&str]) -> Result<Finished> {
        let words: Vec<&str> = ["upgrade", "--json"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        finish(&mut self.command(&words), UPGRADE_LIMIT)
    }

    /// `weft status --audit`: an error when the ledger does not add up.
    pub fn audit(&self) -> Result<String> {
        self.text(&["status", "--audit"])
    }

    /// What it logged since its start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn pid(&self) -> Result<i32> {
        let pid = self
            .process
            .pid()
            .context("the node process was left alone")?;
        Ok(pid.as_raw_nonzero().get())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit)
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate(STOP_LIMIT)
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(STOP_LIMIT).map(drop)
    }

    /// Lets it run on after the lab has ended.
    pub fn leave(self) {
        self.process.leave();
    }

    /// The program that it was started from.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where it logs and reads its configuration.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Runs a command of the node process in `lab` without one running.
pub fn offline(lab: &Lab, words: &[&str]) -> Result<Finished> {
    let program = binaries::weft().context("the node process is not built")?;
    let mut command = lab.node.command(program);
    finish(
        command.args(words).arg("--run-dir").arg(lab.run_dir()),
        CLI_LIMIT,
    )
}

/// Adds up every number under the key `name`, at any depth.
///
/// Counters are kept per worker and per hook; a test wants their sum. In lists of
/// `{"name": "...", "count": n}` the name is a value, so that form counts too.
pub fn sum_of(value: &Value, name: &str) -> u64 {
    match value {
        Value::Object(map) => {
            let named = map.get("name").and_then(Value::as_str) == Some(name);
            map.iter()
                .map(|(key, value)| match value {
                    Value::Number(n) if key == name || (named && is_count(key)) => {
                        n.as_u64().unwrap_or(0)
                    }
                    Value::Number(_) => 0,
                    _ => sum_of(value, name),
                })
                .sum()
        }
        Value::Array(values) => values.iter().map(|value| sum_of(value, name)).sum(),
        _ => 0,
    }
}

fn is_count(key: &str) -> bool {
    matches!(key, "count" | "value" | "packets")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_are_summed_wherever_they_stand() {
        let status = json!({
            "workers": [{"drops": {"src_spoof": 2}}, {"drops": {"src_spoof": 3, "other": 9}}],
            "bpf": [{"name": "src_spoof", "count": 5}, {"name": "other", "count": 7}],
        });
        assert_eq!(sum_of(&status, "src_spoof"), 10);
        assert_eq!(sum_of(&status, "absent"), 0);
    }
}
