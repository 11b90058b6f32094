//! What the machine is and what its processors do.

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::fs;
use std::time::Duration;

/// Ticks of /proc/stat in a second; fixed by the kernel's user-space interface.
const TICKS: u64 = 100;

/// The machine that a report was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap_or_default();
            line.split_once(':')
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let kib: u64 = memory
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or_default();
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: cores(),
            memory_mib: kib / 1024,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        }
    }
}

/// Processors online.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Time that all processors together have spent on anything but idling, since boot.
///
/// The kernel samples at its tick, so differences over less than a second are coarse.
pub fn busy_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let idle = fields.get(3).copied().unwrap_or(0) + fields.get(4).copied().unwrap_or(0);
    Ok(Duration::from_millis(
        (fields.iter().sum::<u64>() - idle) * 1000 / TICKS,
    ))
}

/// Time that all threads of one process have run, to the nanosecond (proc_pid_schedstat).
pub fn process_time(pid: i32) -> Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while the directory is read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        total += text
            .split(' ')
            .next()
            .and_then(|ns| ns.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// Memory of one process that is in RAM, in bytes (VmRSS of proc_pid_status).
pub fn resident(pid: i32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| file.clone())?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{file} has no VmRSS"))? * 1024)
}

/// Pages that the kernel has made for a process's thread of that name since it began (proc_pid_stat).
pub fn pages_made(pid: i32, thread: &str) -> Result<u64> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        let Some((name, fields)) = stat.rsplit_once(')') else {
            continue;
        };
        if name.ends_with(&format!("({thread}")) {
            let made = fields.split_whitespace().nth(7);
            return Ok(made.context("too few fields")?.parse()?);
        }
    }
    bail!("process {pid} has no thread {thread}")
}

/// How many files a process may open.
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lets this process, and what it starts, open as many files as it is allowed to.
pub fn open_more_files() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).context("cannot raise the number of open files")
}

/// Ties the calling thread, and every thread it starts, to one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_shows_in_its_own_time() {
        let pid = std::process::id().cast_signed();
        let before = process_time(pid).unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        assert!(process_time(pid).unwrap() > before);
        assert!(busy_time().unwrap() > Duration::ZERO);
    }
}
