//! A/B benchmarks: the same traffic through Weft and through the kernel's paths, interleaved.
//!
//! A figure here is worth something only beside another of the same run. So every repetition goes
//! through all paths, every path has a topology of its own that is made once and alike, and what is
//! reported are medians, extremes and ratios.

pub mod flood;
pub mod html;
pub mod path;
pub mod report;
pub mod round_trip;
pub mod scenario;

pub use path::PathKind;
pub use scenario::{SCENARIOS, Scenario};

use crate::binaries;
use crate::command::run;
use crate::machine::Machine;
use crate::progress::Progress;
use anyhow::{Context, Result, bail, ensure};
use path::{Placement, Topology};
use report::Report;
use scenario::Probe;
use std::collections::BTreeMap;
use std::process::Command;

/// Scheduling priorities of a run. Real time, because any other process on the machine would
/// otherwise be part of the figure; in this order, so that nothing that measures can be starved.
/// The kernel leaves 5 % of each core to everything else (sched_rt_runtime_us).
pub mod priority {
    /// Generators, clients and servers.
    pub const LOAD: &str = "10";
    /// The node process: when it wakes on a shared core it runs at once, as a softirq would.
    pub const DATAPLANE: &str = "20";
    /// The packet sink, which only ever answers questions.
    pub const SINK: &str = "25";
    /// This process.
    pub const CONDUCTOR: &str = "30";
}

/// What one measurement of one path at one placement found.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Packets a second, in millions.
    pub mpps: f64,
    /// Median round trip in microseconds.
    pub p50: f64,
    /// 99th percentile in microseconds.
    pub p99: f64,
    /// Processor time of the whole machine per packet or round trip, in microseconds.
    pub cpu_us_per_op: f64,
}

/// Which scenarios to run, on what, how often.
#[derive(Debug)]
pub struct Plan {
    /// The scenarios, in order.
    pub scenarios: Vec<&'static Scenario>,
    /// The paths, in the order each repetition takes them.
    pub paths: Vec<PathKind>,
    /// Repetitions.
    pub reps: usize,
}

impl Plan {
    /// Resolves names from the command line; no names mean everything that can run here.
    pub fn new(scenarios: &[String], paths: &[String], reps: usize) -> Result<Self> {
        ensure!(reps > 0, "--reps: at least 1");
        let scenarios = if scenarios.is_empty() {
            SCENARIOS.iter().collect()
        } else {
            scenarios
                .iter()
                .map(|id| Scenario::find(id))
                .collect::<Result<_>>()?
        };
        let asked = !paths.is_empty();
        let mut paths = if asked {
            paths
                .iter()
                .map(|id| PathKind::find(id))
                .collect::<Result<Vec<_>>>()?
        } else {
            PathKind::ALL.to_vec()
        };
        if binaries::weft().is_none() && paths.contains(&PathKind::WeftUser) {
            if asked {
                bail!("weft-user: the node process is not built: cargo build --release -p weft");
            }
            eprintln!("weft-lab: weft-user is left out: the node process is not built");
            paths.retain(|path| *path != PathKind::WeftUser);
        }
        Ok(Self {
            scenarios,
            paths,
            reps,
        })
    }

    /// Runs everything and reports.
    pub fn run(&self) -> Result<Report> {
        conduct_in_real_time()?;
        let mut probes: Vec<Probe> = Vec::new();
        for scenario in &self.scenarios {
            if !probes.contains(&scenario.probe) {
                probes.push(scenario.probe);
            }
        }
        let turns: Vec<(Probe, PathKind, Placement)> = probes
            .iter()
            .flat_map(|probe| self.paths.iter().map(move |path| (*probe, *path)))
            .flat_map(|(probe, path)| {
                path.placements(probe)
                    .into_iter()
                    .map(move |placement| (probe, path, placement))
            })
            .collect();
        let mut progress = Progress::new((turns.len() * self.reps + 1) as u64);
        progress.step("setting up");
        let mut topologies = BTreeMap::new();
        for path in &self.paths {
            let topology = Topology::new(*path).with_context(|| path.id().to_owned())?;
            topologies.insert(*path, topology);
        }
        let mut samples: BTreeMap<(Probe, PathKind, &'static str), Vec<Sample>> = BTreeMap::new();
        for rep in 1..=self.reps {
            for (probe, path, placement) in &turns {
                let (id, name) = (path.id(), placement.name);
                progress.step(&format!("repetition {rep}: {probe:?} over {id}, {name}"));
                let topology = topologies.get_mut(path).context("no topology")?;
                let sample = topology
                    .measure(*probe, placement)
                    .with_context(|| format!("{probe:?} over {id}, {name}"))?;
                samples
                    .entry((*probe, *path, placement.name))
                    .or_default()
                    .push(sample);
            }
        }
        Ok(Report::new(Machine::this(), &self.scenarios, &samples))
    }
}

/// Real-time scheduling for this thread, not for what it starts (SCHED_RESET_ON_FORK).
fn conduct_in_real_time() -> Result<()> {
    let pid = std::process::id().to_string();
    run(Command::new("chrt").args(["-R", "-f", "-p", priority::CONDUCTOR, &pid]))
        .map(drop)
        .context("benchmarks need real-time scheduling (root, CAP_SYS_NICE)")
}

/// `words` under SCHED_FIFO at `priority`, to be run inside a namespace.
fn real_time<'a>(priority: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["chrt", "-f", priority], words].concat()
}
