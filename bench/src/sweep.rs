//! Removing what a lab made, from its name alone: works when the lab itself was killed.

use crate::binaries;
use crate::command::finish;
use crate::namespace::{NETNS_DIR, Namespace};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where labs keep their state, one directory each.
pub const STATE_DIR: &str = "/run/weft-lab";
/// Where the node process pins its maps and links.
const BPF_FS: &str = "/sys/fs/bpf";
/// `statfs` magic of the BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// How long `weft cleanup` may take before the pins are removed by hand.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

/// The directory of lab `id`: configurations, logs, and the node process's run directory.
pub fn state_dir(id: &str) -> PathBuf {
    Path::new(STATE_DIR).join(id)
}

/// The node process's run directory in lab `id`. Its last part names the pins, so it is the id.
pub fn run_dir(id: &str) -> PathBuf {
    state_dir(id).join(id)
}

/// The node process's pin directory in lab `id`.
pub fn pin_dir(id: &str) -> PathBuf {
    Path::new(BPF_FS).join(id)
}

/// True for names this module may act upon: `wl<pid>-<number>`.
pub fn is_lab_id(id: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    id.strip_prefix("wl")
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(pid, number)| digits(pid) && digits(number))
}

/// The namespaces of lab `id` that exist.
pub fn namespaces(id: &str) -> Vec<Namespace> {
    let prefix = format!("{id}-");
    names_in(NETNS_DIR)
        .into_iter()
        .filter(|name| name.starts_with(&prefix))
        .map(|name| Namespace::named(&name))
        .collect()
}

/// Removes everything of lab `id`: processes, pins, namespaces, files. Says what it removed.
pub fn sweep(id: &str) -> Result<Vec<String>> {
    if !is_lab_id(id) {
        bail!("{id:?} is not the name of a lab (wl<pid>-<number>)");
    }
    let mut removed = Vec::new();
    let namespaces = namespaces(id);
    for namespace in &namespaces {
        let processes = namespace.processes().len();
        if processes > 0 {
            removed.push(format!("{processes} processes in {}", namespace.name()));
        }
        namespace.kill_all();
    }
    if remove_pins(id) {
        removed.push(format!("pins {}", pin_dir(id).display()));
    }
    let mut failures = Vec::new();
    for namespace in &namespaces {
        match namespace.delete() {
            Ok(()) => removed.push(format!("namespace {}", namespace.name())),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let state = state_dir(id);
    if state.exists() {
        match fs::remove_dir_all(&state) {
            Ok(()) => removed.push(format!("directory {}", state.display())),
            Err(error) => failures.push(format!("{}: {error}", state.display())),
        }
    }
    if failures.is_empty() {
        Ok(removed)
    } else {
        bail!("{}", failures.join("; "))
    }
}

/// The labs on this machine whose process is gone, kept ones included.
pub fn leftovers() -> Vec<String> {
    let from_namespaces = names_in(NETNS_DIR).into_iter().filter_map(|name| {
        let mut parts = name.splitn(3, '-');
        Some(format!("{}-{}", parts.next()?, parts.next()?))
    });
    let mut ids: Vec<String> = names_in(STATE_DIR)
        .into_iter()
        .chain(from_namespaces)
        .chain(names_in(BPF_FS))
        .filter(|id| is_lab_id(id) && !owner_lives(id))
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Notes in the state directory which process owns the lab.
pub fn record_owner(id: &str) -> Result<()> {
    let pid = std::process::id();
    let Some(started) = start_time(pid) else {
        bail!("cannot read /proc/{pid}/stat")
    };
    fs::write(state_dir(id).join("owner"), format!("{pid} {started}"))?;
    Ok(())
}

/// True while the process that made lab `id` runs. A recycled pid has another start time.
fn owner_lives(id: &str) -> bool {
    let Ok(owner) = fs::read_to_string(state_dir(id).join("owner")) else {
        // No state directory (any more): the name still holds the pid.
        let pid = id
            .trim_start_matches("wl")
            .split('-')
            .next()
            .and_then(|pid| pid.parse().ok());
        return pid.and_then(start_time).is_some();
    };
    let mut words = owner.split(' ');
    let pid = words.next().and_then(|pid| pid.parse().ok());
    let started = words.next().and_then(|time| time.parse().ok());
    pid.and_then(start_time)
        .is_some_and(|now| Some(now) == started)
}

/// When a process started, in clock ticks since boot: field 22 of proc_pid_stat(5).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may hold spaces; fields count from behind it (state is 3).
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(22 - 3)?
        .parse()
        .ok()
}

/// Lets the node process's own clean-up run, then removes what it left.
fn remove_pins(id: &str) -> bool {
    let (run, pins) = (run_dir(id), pin_dir(id));
    let pinned = pins.exists() && is_bpf_fs(&pins);
    if !pinned && !run.exists() {
        return false;
    }
    let node = Namespace::named(&format!("{id}-node"));
    if let (Some(weft), true) = (binaries::weft(), node.path().exists()) {
        let mut cleanup = node.command(weft);
        cleanup.arg("cleanup").arg("--run-dir").arg(&run);
        // Whatever it says, what is left is removed below and with the namespace.
        let _ = finish(&mut cleanup, CLEANUP_LIMIT);
    }
    if pinned && pins.exists() {
        let _ = finish(Command::new("rm").arg("-rf").arg(&pins), CLEANUP_LIMIT);
    }
    pinned
}

/// Only ever remove pins, never files of a directory that merely has that name.
fn is_bpf_fs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| i128::from(stat.f_type) == i128::from(BPF_FS_MAGIC))
}

fn names_in(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_are_ever_removed() {
        for id in ["wl1-0", "wl4711-12"] {
            assert!(is_lab_id(id), "{id}");
        }
        for id in [
            "",
            "wl",
            "wl1",
            "wl-0",
            "wl1-",
            "wl1-0-node",
            "wlan0-1",
            "../wl1-0",
            "eth0",
        ] {
            assert!(!is_lab_id(id), "{id}");
            assert!(sweep(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_process_has_a_start_time_and_a_gone_one_has_none() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }
}
