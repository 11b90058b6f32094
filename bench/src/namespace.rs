//! One network namespace of a lab: commands inside it, threads inside it, the processes it holds.

use crate::command::{run, run_with_input};
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Where iproute2 keeps named network namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// An interface's packet counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packets {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// A named network namespace. Cheap to clone; the lab that made it deletes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates the namespace and brings its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self {
            name: name.to_owned(),
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A namespace that exists already.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Its name under [`NETNS_DIR`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// A command that will run inside.
    ///
    /// `nsenter --net`, not `ip netns exec`: the latter makes a mount namespace with a fresh /sys,
    /// in which the BPF file system and with it every pin is missing. nsenter replaces itself, so
    /// the child's pid is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs lines of `ip` commands inside, all in one process.
    pub fn ip(&self, batch: &str) -> Result<()> {
        run_with_input(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            batch,
        )
        .with_context(|| format!("in namespace {}", self.name))
        .map(drop)
    }

    /// Sets `key=value` pairs of /proc/sys inside.
    pub fn sysctl(&self, settings: &[impl AsRef<OsStr>]) -> Result<()> {
        run(self.command("sysctl").arg("-qw").args(settings)).map(drop)
    }

    /// Runs `f` on a thread of its own inside. Sockets made there stay there wherever they are used.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R> {
        let file =
            File::open(self.path()).with_context(|| format!("no namespace {}", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map(|()| f())
            });
            inside
                .join()
                .map_err(|_| anyhow!("a thread inside {} panicked", self.name))?
                .with_context(|| format!("cannot enter namespace {}", self.name))
        })
    }

    /// A counter of TCP inside, as the kernel calls it (`Tcp:` of /proc/net/snmp, `TcpExt:` of /proc/net/netstat).
    pub fn tcp_counter(&self, name: &str) -> Result<u64> {
        let files = [
            "/proc/thread-self/net/snmp",
            "/proc/thread-self/net/netstat",
        ];
        let text = self.enter(|| files.map(fs::read_to_string))?;
        for text in text {
            let text = text?;
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with("Tcp"))
                .collect();
            // A line of names, then one of values.
            for pair in lines.chunks_exact(2) {
                let names = pair[0].split_whitespace().zip(pair[1].split_whitespace());
                for (at, value) in names {
                    if at == name {
                        return value.parse().with_context(|| format!("{name} is {value}"));
                    }
                }
            }
        }
        bail!("the kernel has no counter {name}")
    }

    /// Packets received and sent by an interface inside, as the kernel counts them.
    pub fn packets(&self, interface: &str) -> Result<Packets> {
        // /proc/net is that of the process's first thread, which is not inside.
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = table
            .lines()
            .filter_map(|line| line.trim_start().split_once(':'))
            .find_map(|(name, counters)| (name == interface).then_some(counters))
            .with_context(|| format!("no interface {interface} in {}", self.name))?;
        let counters: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        let at = |index: usize| counters.get(index).copied().unwrap_or(0);
        Ok(Packets {
            received: at(1),
            sent: at(9),
        })
    }

    /// The processes whose network namespace this is.
    pub fn processes(&self) -> Vec<Pid> {
        let Ok(ours) = fs::metadata(self.path()) else {
            return Vec::new();
        };
        let Ok(own) = fs::metadata("/proc/self/ns/net") else {
            return Vec::new();
        };
        // A name that is not (or no longer) a mounted namespace must never match a real process.
        if (ours.dev(), ours.ino()) == (own.dev(), own.ino()) || ours.dev() != own.dev() {
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                fs::metadata(format!("/proc/{pid}/ns/net"))
                    .is_ok_and(|ns| (ns.dev(), ns.ino()) == (ours.dev(), ours.ino()))
            })
            .filter_map(Pid::from_raw)
            .collect()
    }

    /// Kills every process inside and deletes the namespace with all its interfaces.
    pub fn delete(&self) -> Result<()> {
        self.kill_all();
        run(Command::new("ip").args(["netns", "del", &self.name])).map(drop)
    }

    /// Kills every process inside; a process that forks while it is killed is met again.
    pub fn kill_all(&self) {
        // At most two seconds: a process in uninterruptible sleep cannot be waited for.
        for _ in 0..100 {
            let inside = self.processes();
            if inside.is_empty() {
                return;
            }
            for pid in inside {
                // It may be gone already, which is what is wanted.
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
