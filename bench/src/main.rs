//! `weft-lab`: the demo, the benchmarks and the tools that labs run inside their namespaces.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weft_lab::impairment::Impairment;
use weft_lab::lab::Lab;
use weft_lab::measure::{Effort, Plan, SCENARIOS, html};
use weft_lab::tcp::Matrix;
use weft_lab::tools::{crowd, crr, flood, link, lookup, new_flows, rr, serve, sink, transfer};
use weft_lab::{demo, janitor, machine, servers, sweep};

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
    /// Runs a small server
    Serve {
        #[command(subcommand)]
        server: Server,
    },
    /// Sends 64-byte UDP packets as fast as it can
    UdpFlood {
        /// Where to
        to: SocketAddr,
        /// For how long
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// From how many sockets (flows)
        #[arg(long, default_value_t = 1)]
        sockets: usize,
        /// On which core
        #[arg(long)]
        core: Option<usize>,
    },
    /// Measures round trips of one byte
    Rr {
        /// An echo server
        to: SocketAddr,
        /// Over what
        #[arg(long, value_enum, default_value = "tcp")]
        transport: rr::Transport,
        /// How many
        #[arg(long, default_value_t = 10_000)]
        count: usize,
        /// On which core
        #[arg(long)]
        core: Option<usize>,
    },
    /// Makes short TCP connections one after another
    Crr {
        /// A server of one request a connection (serve tcp-once, serve tcp-crowd)
        to: SocketAddr,
        /// Or so many at once
        #[arg(long)]
        at_once: Option<usize>,
        /// How many at most
        #[arg(long, default_value_t = 10_000)]
        count: usize,
        /// For how long at most
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// On which core
        #[arg(long)]
        core: Option<usize>,
    },
    /// Sends and receives over TCP, every byte checked at both ends
    Transfer {
        /// A server of transfers (serve transfer)
        to: SocketAddr,
        /// What to do
        #[arg(value_enum)]
        mode: transfer::Mode,
        /// Bytes in each direction that carries any
        #[arg(long, default_value_t = 1 << 24)]
        bytes: u64,
        /// How many pings or connections
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// For how many milliseconds a receiver stops in the middle of stall-upload and stall-download
        #[arg(long, default_value_t = 1000)]
        pause: u64,
        /// For how many seconds it waits for anything
        #[arg(long, default_value_t = 30.0)]
        limit: f64,
        /// The seed of the bytes; from the clock when not given
        #[arg(long)]
        seed: Option<u64>,
        /// On which core
        #[arg(long)]
        core: Option<usize>,
    },
    /// Measures what the first packet of a flow costs the engine among many services, in process
    Lookup {
        /// How many services
        #[arg(long)]
        services: usize,
        /// How often each is asked for
        #[arg(long, value_enum, default_value = "uniform")]
        popularity: lookup::Popularity,
        /// How many flows
        #[arg(long, default_value_t = 100_000)]
        flows: usize,
        /// On which core
        #[arg(long)]
        core: Option<usize>,
    },
    /// Moves frames between two interfaces of its namespace as a bad link would
    Link {
        /// The interface towards the pod
        pod: String,
        /// The interface towards the node
        router: String,
        /// What it does to frames from the pod: words such as loss=1% delay=10ms
        #[arg(long, default_value = "")]
        up: Impairment,
        /// What it does to frames to the pod
        #[arg(long, default_value = "")]
        down: Impairment,
        /// The seed of what it does
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Counts and drops UDP packets entering an interface
    Sink {
        /// The interface
        #[arg(long, default_value = "eth0")]
        interface: String,
        /// The first UDP port
        #[arg(long)]
        port: u16,
        /// How many ports from there on
        #[arg(long, default_value_t = 1)]
        ports: u16,
    },
    /// Sends 64-byte UDP packets, each with ports of its own, no faster than a sink counts them
    NewFlows {
        /// The first port to send to
        to: SocketAddrV4,
        /// How many ports from there on
        #[arg(long, default_value_t = 4)]
        ports: u16,
        /// How many packets
        #[arg(long)]
        flows: u32,
        /// How many before those, not measured
        #[arg(long, default_value_t = 0)]
        warm_up: u32,
        /// The id of the sink's map
        #[arg(long)]
        counter: u32,
        /// The interface to send from
        #[arg(long, default_value = "eth0")]
        interface: String,
        /// On which core
        #[arg(long)]
        core: Option<usize>,
    },
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

#[derive(Debug, Subcommand)]
enum Server {
    /// Echoes datagrams
    UdpEcho(Listen),
    /// Echoes TCP streams
    TcpEcho(Listen),
    /// Answers one 64-byte request a connection and closes
    TcpOnce(Listen),
    /// As tcp-once, any number of connections at once
    TcpCrowd(Listen),
    /// The other end of transfers (weft-lab transfer)
    Transfer(Listen),
    /// Says its name and the client address and port it sees, over TCP and UDP
    Peer {
        #[command(flatten)]
        listen: Listen,
        /// The server's name
        #[arg(long)]
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Listen {
    /// The port
    #[arg(long)]
    port: u16,
    /// On which core
    #[arg(long)]
    core: Option<usize>,
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
        Command::Serve { server } => match server {
            Server::UdpEcho(listen) => pinned(listen.core, || serve::udp_echo(listen.port)),
            Server::TcpEcho(listen) => pinned(listen.core, || serve::tcp_echo(listen.port)),
            Server::TcpOnce(listen) => pinned(listen.core, || serve::tcp_once(listen.port)),
            Server::TcpCrowd(listen) => pinned(listen.core, || serve::tcp_crowd(listen.port)),
            Server::Transfer(listen) => pinned(listen.core, || {
                transfer::serve(listen.port, transfer::SERVER_LIMIT)
            }),
            Server::Peer { listen, name } => {
                pinned(listen.core, || serve::peer(listen.port, &name))
            }
        },
        Command::UdpFlood {
            to,
            seconds,
            sockets,
            core,
        } => pinned(core, || {
            let sent = flood::flood(to, Duration::from_secs_f64(seconds), sockets)?;
            println!("{}", serde_json::to_string(&sent)?);
            Ok(())
        }),
        Command::Rr {
            to,
            transport,
            count,
            core,
        } => pinned(core, || {
            println!(
                "{}",
                serde_json::to_string(&rr::round_trips(to, transport, count)?)?
            );
            Ok(())
        }),
        Command::Crr {
            to,
            at_once,
            count,
            seconds,
            core,
        } => pinned(core, || {
            let limit = Duration::from_secs_f64(seconds);
            let found = match at_once {
                None => crr::connections(to, count, limit)?,
                Some(at_once) => crowd::connections(to, at_once, count, limit)?,
            };
            println!("{}", serde_json::to_string(&found)?);
            Ok(())
        }),
        Command::Transfer {
            to,
            mode,
            bytes,
            count,
            pause,
            limit,
            seed,
            core,
        } => pinned(core, || {
            let plan = transfer::Plan {
                to,
                mode,
                bytes,
                count,
                pause: Duration::from_millis(pause),
                limit: Duration::from_secs_f64(limit),
                seed: seed.unwrap_or_else(transfer::fresh_seed),
            };
            println!("{}", serde_json::to_string(&transfer::run(plan)?)?);
            Ok(())
        }),
        Command::Lookup {
            services,
            popularity,
            flows,
            core,
        } => pinned(core, || {
            let found = lookup::decisions(services, popularity, flows)?;
            println!("{}", serde_json::to_string(&found)?);
            Ok(())
        }),
        Command::Link {
            pod,
            router,
            up,
            down,
            seed,
        } => link::run(&pod, &router, up, down, seed),
        Command::Sink {
            interface,
            port,
            ports,
        } => sink::serve(&interface, port, ports),
        Command::NewFlows {
            to,
            ports,
            flows,
            warm_up,
            counter,
            interface,
            core,
        } => pinned(core, || {
            let plan = new_flows::Plan {
                to,
                ports,
                flows,
                warm_up,
            };
            let found = new_flows::run(&interface, plan, counter)?;
            println!("{}", serde_json::to_string(&found)?);
            Ok(())
        }),
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
            for (name, ratio) in &scenario.ratio {
                println!("{} {name}: {ratio:.2}", scenario.id);
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

fn pinned(core: Option<usize>, then: impl FnOnce() -> Result<()>) -> Result<()> {
    core.map_or(Ok(()), machine::pin)?;
    then()
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
