//! A/B benchmarks: the same traffic through Weft and through the kernel's paths, interleaved.
//!
//! A figure here is worth something only beside another of the same run. So every repetition goes
//! through all paths, every path has a topology of its own that is made once and alike, and what is
//! reported are medians, extremes and ratios.

pub mod bulk;
pub mod catalogue;
pub mod config_update;
pub mod connections;
pub mod flood;
pub mod flows;
pub mod html;
pub mod http;
pub mod idle_memory;
pub mod lookup_scale;
pub mod path;
pub mod placement;
pub mod report;
pub mod round_trip;
pub mod scenario;
pub mod services;
pub mod tool;
pub mod topology;

pub use catalogue::SCENARIOS;
pub use path::PathKind;
pub use scenario::Scenario;

use crate::command::run;
use crate::machine::{Machine, open_more_files};
use crate::progress::Progress;
use anyhow::{Context, Result, bail, ensure};
use placement::{Placement, placements};
pub(crate) use report::median;
use report::{Report, Samples};
use scenario::{Node, Probe, Workload};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use topology::Topology;

/// Scheduling priorities of a run. Real time, because any other process on the machine would
/// otherwise be part of the figure; in this order, so that nothing that measures can be starved.
/// The kernel leaves 5 % of each core to everything else (sched_rt_runtime_us).
pub mod priority {
    /// Generators, clients and servers.
    pub const LOAD: &str = "10";
    /// The node process, or a proxy in its place: when it wakes on a shared core it runs at once, as a softirq would.
    pub const DATAPLANE: &str = "20";
    /// The packet sink, which only ever answers questions.
    pub const SINK: &str = "25";
    /// This process.
    pub const CONDUCTOR: &str = "30";
}

/// How much a measurement takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Enough for a figure.
    Full,
    /// Enough to see that everything runs.
    Quick,
}

impl Effort {
    /// So many operations out of `full`.
    pub fn operations(self, full: usize) -> usize {
        match self {
            Self::Full => full,
            Self::Quick => full / 20,
        }
    }

    /// So long out of `full`: a quarter leaves room for a process to start.
    pub fn time(self, full: Duration) -> Duration {
        match self {
            Self::Full => full,
            Self::Quick => full / 4,
        }
    }
}

/// A figure that a scenario reads from a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Operations a second, in the scenario's unit.
    Rate,
    /// Median time of an operation.
    Median,
    /// Its 99th percentile.
    Tail,
    /// Its 99.9th percentile.
    FarTail,
    /// Processor time of the whole machine for an operation.
    Processor,
    /// How long a change takes from its text until it is live.
    Change,
    /// How long of that after the text has been understood.
    Switch,
    /// Bytes of a connection.
    Memory,
}

/// What one measurement of one path at one placement found.
#[derive(Debug, Clone)]
pub struct Sample {
    figures: BTreeMap<Figure, f64>,
    /// Processor time of the whole machine per operation, in microseconds.
    pub cpu_us_per_op: f64,
}

impl Sample {
    /// Of these figures.
    pub fn of<const N: usize>(figures: [(Figure, f64); N], cpu_us_per_op: f64) -> Self {
        let figures = BTreeMap::from(figures);
        Self {
            figures,
            cpu_us_per_op,
        }
    }

    /// Of a measurement of how much.
    pub fn rate(rate: f64, cpu_us_per_op: f64) -> Self {
        Self::of([(Figure::Rate, rate)], cpu_us_per_op)
    }

    /// Of a measurement of how long.
    pub fn times(p50: f64, p99: f64, cpu_us_per_op: f64) -> Self {
        Self::of([(Figure::Median, p50), (Figure::Tail, p99)], cpu_us_per_op)
    }

    /// The figure; NaN where it was not measured.
    pub fn figure(&self, figure: Figure) -> f64 {
        if figure == Figure::Processor {
            return self.cpu_us_per_op;
        }
        self.figures.get(&figure).copied().unwrap_or(f64::NAN)
    }
}

/// Which scenarios to run, on what, how often.
#[derive(Debug)]
pub struct Plan {
    /// The scenarios, in order.
    pub scenarios: Vec<&'static Scenario>,
    /// The paths, in the order each repetition takes them; a scenario takes those that it has.
    pub paths: Vec<PathKind>,
    /// Repetitions.
    pub reps: usize,
    /// How much each takes.
    pub effort: Effort,
}

impl Plan {
    /// Resolves names from the command line; no names mean what runs by default and can run here.
    pub fn new(
        scenarios: &[String],
        paths: &[String],
        reps: usize,
        effort: Effort,
    ) -> Result<Self> {
        ensure!(reps > 0, "--reps: at least 1");
        let named = !scenarios.is_empty();
        let mut scenarios: Vec<&Scenario> = if named {
            scenarios
                .iter()
                .map(|id| Scenario::find(id))
                .collect::<Result<_>>()?
        } else {
            SCENARIOS.iter().filter(|s| s.by_default).collect()
        };
        let asked = !paths.is_empty();
        let mut paths = if asked {
            paths
                .iter()
                .map(|id| PathKind::find(id))
                .collect::<Result<Vec<_>>>()?
                .concat()
        } else {
            PathKind::ALL.to_vec()
        };
        let runs = |scenario: &Scenario, paths: &[PathKind]| {
            let mut own = scenario.workload.paths.iter();
            scenario.workload.paths.is_empty() || own.any(|path| paths.contains(path))
        };
        if let Some(none) = scenarios.iter().find(|s| named && !runs(s, &paths)) {
            bail!("--paths: {} has none of these", none.id);
        }
        scenarios.retain(|scenario| runs(scenario, &paths));
        paths.retain(|path| scenarios.iter().any(|s| s.workload.paths.contains(path)));
        for path in &paths {
            match path.lacks() {
                Some(lack) if asked => bail!("{}: {lack}", path.id()),
                Some(lack) => eprintln!("weft-lab: {} is left out: {lack}", path.id()),
                None => {}
            }
        }
        paths.retain(|path| path.lacks().is_none());
        Ok(Self {
            scenarios,
            paths,
            reps,
            effort,
        })
    }

    /// Runs everything and reports.
    pub fn run(&self) -> Result<Report> {
        conduct_in_real_time()?;
        open_more_files()?;
        let mut workloads: Vec<Workload> = Vec::new();
        for scenario in &self.scenarios {
            if !workloads.contains(&scenario.workload) {
                workloads.push(scenario.workload);
            }
        }
        let (in_process, in_labs): (Vec<_>, Vec<_>) = workloads
            .into_iter()
            .partition(|workload| workload.probe == Probe::LookupScale);
        // One node at a time: rules for tens of thousands of services take memory and time.
        let mut nodes: Vec<Node> = in_labs.iter().map(|workload| workload.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let turns = self.turns(&in_labs);
        let cases = in_process.len() * lookup_scale::cases(self.effort).count();
        let steps = (turns.len() + cases) * self.reps + nodes.len();
        let mut progress = Progress::new(steps as u64);
        let mut samples = Samples::new();
        for node in nodes {
            let turns: Vec<&Turn> = turns.iter().filter(|turn| turn.0.node == node).collect();
            self.run_in_labs(node, &turns, &mut progress, &mut samples)?;
        }
        for workload in in_process {
            self.run_in_process(workload, &mut progress, &mut samples)?;
        }
        let quick = self.effort == Effort::Quick;
        Ok(Report::new(
            Machine::this(),
            &self.scenarios,
            &samples,
            quick,
        ))
    }

    /// All turns on nodes of one kind, the paths taking them by turns in each repetition.
    fn run_in_labs(
        &self,
        node: Node,
        turns: &[&Turn],
        progress: &mut Progress,
        samples: &mut Samples,
    ) -> Result<()> {
        progress.step(&format!(
            "setting up, services: {}, endpoints of each: {}",
            node.services, node.endpoints
        ));
        let mut topologies = BTreeMap::new();
        for (_, path, _) in turns {
            if !topologies.contains_key(path) {
                let topology = Topology::new(*path, node, self.effort)
                    .with_context(|| path.id().to_owned())?;
                topologies.insert(*path, topology);
            }
        }
        for rep in 1..=self.reps {
            for (workload, path, placement) in turns {
                let (probe, id, name) = (workload.probe, path.id(), placement.name);
                progress.step(&format!("repetition {rep}: {probe:?} over {id}, {name}"));
                let topology = topologies.get_mut(path).context("no topology")?;
                let sample = topology
                    .measure(probe, placement)
                    .with_context(|| format!("{probe:?} over {id}, {name}"))?;
                samples
                    .entry((*workload, id, name))
                    .or_default()
                    .push(sample);
            }
        }
        Ok(())
    }

    /// What needs no lab: the engine alone, in processes of its own.
    fn run_in_process(
        &self,
        workload: Workload,
        progress: &mut Progress,
        samples: &mut Samples,
    ) -> Result<()> {
        for rep in 1..=self.reps {
            for case in lookup_scale::cases(self.effort) {
                progress.step(&format!("repetition {rep}: LookupScale, {}", case.path));
                let sample = lookup_scale::measure(case, self.effort).context(case.path)?;
                let key = (workload, case.path, lookup_scale::PLACEMENT);
                samples.entry(key).or_default().push(sample);
            }
        }
        Ok(())
    }

    /// What one repetition goes through, in order.
    fn turns(&self, workloads: &[Workload]) -> Vec<Turn> {
        workloads
            .iter()
            .flat_map(|workload| {
                let paths = self.paths.iter();
                let own = paths.filter(|path| workload.paths.contains(path));
                own.map(move |path| (*workload, *path))
            })
            .flat_map(|(workload, path)| {
                placements(path, workload.probe)
                    .into_iter()
                    .map(move |placement| (workload, path, placement))
            })
            .collect()
    }
}

/// One measurement of a repetition.
type Turn = (Workload, PathKind, Placement);

/// Real-time scheduling for this thread, not for what it starts (SCHED_RESET_ON_FORK).
fn conduct_in_real_time() -> Result<()> {
    let pid = std::process::id().to_string();
    run(Command::new("chrt").args(["-R", "-f", "-p", priority::CONDUCTOR, &pid]))
        .map(drop)
        .context("benchmarks need real-time scheduling (root, CAP_SYS_NICE)")
}

/// `words` under SCHED_FIFO at `priority`, to be run inside a namespace.
pub(crate) fn real_time<'a>(priority: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["chrt", "-f", priority], words].concat()
}
