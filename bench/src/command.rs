//! Running other programs to their end, never longer than a given time.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a set-up command may take before it counts as hung.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// What a finished program left behind.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit status; `None` when it ran into the limit and was killed.
    pub status: Option<ExitStatus>,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// True when it ended by itself with exit code zero.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The exit code, unless a signal or the limit ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }
}

/// Runs `command` with `input` on its standard input, for at most `limit`.
pub fn finish_with_input(command: &mut Command, input: &str, limit: Duration) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let mut stderr = child.stderr.take().context("no standard error")?;
    thread::scope(|scope| {
        // Three pipes, three threads: a full pipe must not stall the program.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        let stdout = scope.spawn(move || read_all(&mut stdout));
        let stderr = scope.spawn(move || read_all(&mut stderr));
        let status = wait(&mut child, limit)?;
        if status.is_none() {
            child.kill()?;
            child.wait()?;
        }
        Ok(Finished {
            status,
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
        })
    })
}

/// Runs `command` for at most `limit`, whatever its exit code.
pub fn finish(command: &mut Command, limit: Duration) -> Result<Finished> {
    finish_with_input(command, "", limit)
}

/// Runs a set-up command that has to succeed and returns its standard output.
pub fn run(command: &mut Command) -> Result<String> {
    run_with_input(command, "")
}

/// As [`run`], with text on standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    run_with_input_for(command, input, COMMAND_LIMIT)
}

/// As [`run_with_input`], for at most `limit`.
pub fn run_with_input_for(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    let finished = finish_with_input(command, input, limit)?;
    if finished.success() {
        return Ok(finished.stdout);
    }
    let outcome = finished.status.map_or_else(
        || format!("still running after {limit:?}"),
        |s| s.to_string(),
    );
    bail!(
        "{}: {outcome}: {}{}",
        describe(command),
        finished.stderr.trim(),
        finished.stdout.trim()
    );
}

/// Waits for `child` at most `limit`; `None` when it still runs.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    // Bounded by the deadline; short naps first, since most set-up commands take a few milliseconds.
    let mut nap = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

/// The command line as one would type it, for error messages.
pub fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // A read error ends the text; what came before is still worth showing.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_with_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("broken"), "{text}");
    }

    #[test]
    fn a_hanging_command_ends_at_its_limit() {
        let started = Instant::now();
        let done = finish(Command::new("sleep").arg("30"), Duration::from_millis(50)).unwrap();
        assert!(done.status.is_none() && started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn input_reaches_the_command() {
        assert_eq!(
            run_with_input(&mut Command::new("cat"), "abc").unwrap(),
            "abc"
        );
    }
}
