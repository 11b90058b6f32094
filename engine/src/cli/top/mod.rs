//! `weft top`: services and workers by the second, on a terminal or as text.

mod columns;
mod draw;
mod live;
mod plain;
mod rates;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::{Common, Exit, failed};
use crate::admin::view::Status;
use crate::admin::{self, Answer, Request};
use crate::config::parse_duration;
use crate::node::chain;
use crate::rundir::RunDir;

/// Between two looks. Each costs the node process a walk through its flows.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_hours(1);

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Time between two looks, such as 1s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print one snapshot of the rates as text, and end.
    #[arg(long, conflicts_with = "iterations")]
    once: bool,
    /// Print so many snapshots, and end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let range = SHORTEST..=LONGEST;
    parse_duration(text)
        .filter(|interval| range.contains(interval))
        .ok_or_else(|| "a whole number and its unit, ms, s or m, of 100ms to 1h".into())
}

/// Why there was no look.
struct Failure {
    reason: String,
    exit: Exit,
}

/// `weft top`.
pub(super) fn top(options: &Options, common: &Common) -> Exit {
    let dir = match RunDir::new(&common.place.run_dir) {
        Ok(dir) => dir,
        Err(error) => return failed(&error),
    };
    let snapshots = match (options.once, options.iterations) {
        (true, _) => Some(1),
        (false, count) => count,
    };
    let plain = snapshots.is_some() || common.json;
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !plain && !terminal {
        eprintln!(
            "weft: no terminal to draw on and take keys from: use --once, --iterations or --json"
        );
        return Exit::Failed;
    }
    let socket = dir.socket();
    let first = match look(&socket) {
        Ok(first) => first,
        Err(failure) => return failure.said(),
    };
    if plain {
        let snapshots = snapshots.unwrap_or(u64::MAX);
        return print(&socket, options.interval, first, snapshots, common.json);
    }
    match live::run(&socket, options.interval, first) {
        Ok(()) => Exit::Ok,
        Err(error) => failed(&error),
    }
}

impl Failure {
    fn said(&self) -> Exit {
        eprintln!("weft: {}", self.reason);
        self.exit
    }
}

/// A look at the node process.
fn look(socket: &Path) -> Result<Box<Status>, Failure> {
    let request = Request::Status {
        audit: false,
        traffic: true,
    };
    match admin::ask(socket, &request) {
        Ok(Answer::Status(status)) => Ok(status),
        Ok(Answer::Failed(reason)) => Err(Failure {
            reason,
            exit: Exit::Failed,
        }),
        Ok(_) => Err(Failure {
            reason: "the node process gave another answer".into(),
            exit: Exit::Failed,
        }),
        Err(error) => Err(Failure {
            reason: chain(&error),
            exit: Exit::Unreachable,
        }),
    }
}

fn print(
    socket: &Path,
    interval: Duration,
    first: Box<Status>,
    snapshots: u64,
    json: bool,
) -> Exit {
    let mut before = first;
    let mut printed = 0;
    // Bound: the snapshots that are asked for.
    while printed < snapshots {
        std::thread::sleep(interval);
        let now = match look(socket) {
            Ok(now) => now,
            Err(failure) => return failure.said(),
        };
        // Another process: its rates come with the next look.
        if let Some(mut rates) = rates::between(&before, &now) {
            let text = match json {
                true => serde_json::to_string(&rates).unwrap_or_default() + "\n",
                false => plain::text(&mut rates),
            };
            let mut out = std::io::stdout().lock();
            let written = out.write_all(text.as_bytes());
            if written.and_then(|()| out.flush()).is_err() {
                return Exit::Ok; // The reader has left.
            }
            printed += 1;
        }
        before = now;
    }
    Exit::Ok
}
