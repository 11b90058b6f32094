//! `weft-lab`: the demo, the benchmarks and the tools that labs run inside their namespaces.
#![forbid(unsafe_code)]

mod subcommand;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use subcommand::Tool;
use weft_lab::lab::Lab;
use weft_lab::measure::{Effort, Plan, SCENARIOS, html};
use weft_lab::tcp::Matrix;
use weft_lab::{demo, janitor, servers, sweep};

/// Set once a signal has asked for the end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Labs of network namespaces for Weft.
///
/// Labs need root. Everything they make is in network namespaces called wl<pid>-<number>-...,
/// and goes when they end, also by Ctrl-C or kill -9.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows Weft at work: real servers and clients in a lab, and what became of their packets
    Demo {
        /// Leave the lab up and say how to enter it
        #[arg(long)]
        keep: bool,
        /// Take the kernel's path instead of Weft's, to compare
        #[arg(long)]
        kernel: bool,
    },
    /// Measures Weft against the kernel's paths, and against proxies
    Bench(Bench),
    /// Measures TCP over bad links: from Linux to Linux, and through Weft
    Tcp(Tcp),
    /// Removes what dead labs left, kept ones (--keep) included
    Clean {
        /// Only these labs; all whose process is gone when none is named
        labs: Vec<String>,
    },
    /// Sweeps a lab when its process is gone (labs start this themselves)
    #[command(hide = true)]
    Janitor {
        /// The lab
        lab: String,
    },
    /// Makes a small lab, prints its name and stays (for the tests of the clean-up)
    #[command(hide = true)]
    SelfTest,
    #[command(flatten)]
    Tool(Tool),
}

#[derive(Debug, clap::Args)]
struct Bench {
    /// What to measure; what --list marks with * when none is named
    scenarios: Vec<String>,
    /// How often; medians of fewer than 5 are for trying out
    #[arg(long, default_value_t = 5)]
    reps: usize,
    /// Over which paths; all that can run here when none is named
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    /// Where to write the report as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to write the report with plots; - is standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A fraction of everything, to see that it runs; the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Only name the scenarios and their paths
    #[arg(long)]
    list: bool,
}

#[derive(Debug, clap::Args)]
struct Tcp {
    /// Over which links (loss-1, delay-10, ...); over all when none is named
    cases: Vec<String>,
    /// Bytes of a transfer; some cases take a part of it
    #[arg(long, default_value_t = 32 << 20)]
    bytes: u64,
    /// How often
    #[arg(long, default_value_t = 3)]
    reps: usize,
    /// The stage of the services in Weft
    #[arg(long)]
    stage: Option<String>,
    /// Where to write the report as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // What fails after Ctrl-C fails because of it: the handler cleans up and exits.
        Err(_) if INTERRUPTED.load(Ordering::Relaxed) => loop {
            std::thread::park();
        },
        Err(error) => {
            eprintln!("weft-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo { keep, kernel } => {
            sweep_on_signals()?;
            demo::run(demo::Options { keep, kernel })
        }
        Command::Bench(options) => bench(&options),
        Command::Tcp(options) => tcp(&options),
        Command::Clean { labs } => clean(labs),
        Command::Janitor { lab } => janitor::watch(&lab),
        Command::SelfTest => self_test(),
        Command::Tool(tool) => tool.run(),
    }
}

/// Labs end by Ctrl-C and SIGTERM with everything cleaned up; kill -9 leaves it to the janitor.
fn sweep_on_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::Relaxed);
        eprintln!("weft-lab: interrupted, cleaning up");
        janitor::sweep_all();
        std::process::exit(130);
    })?;
    Ok(())
}

/// Makes sure of a report's file before an hour is spent on what goes into it. What it holds stays until then.
fn writable(file: &Path) -> std::io::Result<()> {
    if file.as_os_str() == "-" {
        return Ok(());
    }
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.open(file).map(drop)
}

fn bench(options: &Bench) -> Result<()> {
    if options.list {
        for scenario in SCENARIOS {
            let mark = if scenario.by_default { '*' } else { ' ' };
            println!(
                "{mark} {:22} {} ({})",
                scenario.id, scenario.about, scenario.unit
            );
            let paths = scenario.workload.paths.iter().map(|path| path.id());
            println!("{:25}{}", "", paths.collect::<Vec<_>>().join(", "));
        }
        return Ok(());
    }
    sweep_on_signals()?;
    let effort = if options.quick {
        Effort::Quick
    } else {
        Effort::Full
    };
    let plan = Plan::new(&options.scenarios, &options.paths, options.reps, effort)?;
    for file in [&options.json, &options.html].into_iter().flatten() {
        writable(file).with_context(|| file.display().to_string())?;
    }
    let report = plan.run()?;
    let json = write(&options.json, || {
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    })?;
    let html = write(&options.html, || html::render(&report))?;
    if !(json || html) {
        println!("{}", report.table());
        for scenario in &report.scenarios {
            for quotient in scenario.quotients() {
                println!("{} {quotient}", scenario.id);
            }
        }
    }
    Ok(())
}

fn tcp(options: &Tcp) -> Result<()> {
    sweep_on_signals()?;
    let stage = options.stage.clone();
    let report = Matrix::new(&options.cases, options.bytes, options.reps, stage)?.run()?;
    let text = || Ok(serde_json::to_string_pretty(&report)? + "\n");
    if !write(&options.json, text)? {
        println!("{}", report.table());
    }
    Ok(())
}

/// Writes a report to where it is wanted, if it is; whether that is standard output.
fn write(file: &Option<PathBuf>, text: impl FnOnce() -> Result<String>) -> Result<bool> {
    let Some(file) = file else { return Ok(false) };
    let text = text()?;
    if file.as_os_str() == "-" {
        print!("{text}");
        return Ok(true);
    }
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(file, text).with_context(|| file.display().to_string())?;
    eprintln!("wrote {}", file.display());
    Ok(false)
}

fn self_test() -> Result<()> {
    sweep_on_signals()?;
    let mut lab = Lab::new()?;
    let pod = lab.pod("a")?;
    servers::peer(&mut lab, &pod.namespace, "a")?;
    println!("{}", lab.id());
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn clean(labs: Vec<String>) -> Result<()> {
    let labs = if labs.is_empty() {
        sweep::leftovers()
    } else {
        labs
    };
    if labs.is_empty() {
        println!("nothing was left behind");
    }
    for lab in labs {
        println!("{lab}: removed {}", sweep::sweep(&lab)?.join(", "));
    }
    Ok(())
}
