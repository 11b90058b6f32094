//! Running this crate's own small tools in the pods of a measurement.

use super::{priority, real_time};
use crate::binaries;
use crate::command::{COMMAND_LIMIT, finish};
use crate::namespace::Namespace;
use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use std::process::Command;

/// Runs a tool inside `namespace` to its end, in real time, and returns its one line of JSON.
pub fn run<T: DeserializeOwned>(namespace: &Namespace, words: &[&str]) -> Result<T> {
    run_as(|program| namespace.command(program), words)
}

/// As [`run`], for a tool that touches no network.
pub fn run_outside<T: DeserializeOwned>(words: &[&str]) -> Result<T> {
    run_as(|program| Command::new(program), words)
}

fn run_as<T: DeserializeOwned>(command: impl Fn(&str) -> Command, words: &[&str]) -> Result<T> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    let program = program.to_string_lossy();
    let words = [&[&*program], words].concat();
    let words = real_time(priority::LOAD, &words);
    let finished = finish(command(words[0]).args(&words[1..]), COMMAND_LIMIT)?;
    ensure!(
        finished.status.is_some(),
        "still running after {COMMAND_LIMIT:?}"
    );
    ensure!(finished.success(), "{}", finished.stderr.trim());
    serde_json::from_str(&finished.stdout).context("the tool said nothing")
}
