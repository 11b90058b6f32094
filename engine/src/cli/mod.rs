//! The command line: what a person types, and the exit codes that a script reads.

mod offline;
mod routes;
mod table;
mod upgrade;

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::admin::view::{Refusal, refusals};
use crate::admin::{self, Answer, Request};
use crate::guard;
use crate::node;
use crate::rundir::RunDir;

/// How a command ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All well.
    Ok = 0,
    /// Something failed at run time.
    Failed = 1,
    /// The configuration or the new program was refused and nothing changed. (2 is clap's: wrong usage.)
    Refused = 3,
    /// No node process answers.
    Unreachable = 4,
    /// The audit found packets that are not accounted for.
    Unbalanced = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A user-space node dataplane: services, from a pod's socket to a backend pod, without netfilter.
///
/// `weft run` takes over the traffic of the pods that its configuration enrols. All other commands
/// look at that process, or clean up after it. Everything needs root (or CAP_BPF, CAP_NET_ADMIN,
/// CAP_NET_RAW and, to mount the BPF file system, CAP_SYS_ADMIN).
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed at run time
  2  wrong usage
  3  the configuration, or the program to upgrade to, was refused; nothing changed
  4  no node process answers
  5  the audit found packets that are not accounted for";

#[derive(Debug, Args)]
struct Place {
    /// Directory of the admin socket and the lock; its last component names the pins in
    /// /sys/fs/bpf. One node process per directory, and per network namespace.
    #[arg(
        long,
        value_name = "DIR",
        env = "WEFT_RUN_DIR",
        default_value = "/run/weft"
    )]
    run_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    place: Place,
    /// Answer in JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take over the traffic of the enrolled pods, in the foreground.
    ///
    /// Logs a line with `ready` once it has. SIGHUP reads the files again, as `weft reload` does.
    /// SIGTERM and SIGINT give everything back to the kernel and remove what Weft made; a second
    /// one ends the process at once and leaves that to `weft cleanup` or the next `weft run`.
    /// After a crash the kernel carries new connections on by itself, and `weft run` takes over
    /// again without a manual step.
    #[command(after_help = "\
Example:
  weft run configs/quickstart.toml
  RUST_LOG=weft=debug weft run --log-format json node.toml services/*.toml")]
    Run {
        /// Configuration files; pods and services of all of them count.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How to log, to standard error. RUST_LOG sets what (default: info).
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
        log_format: LogFormat,
        #[command(flatten)]
        place: Place,
    },
    /// Check configuration files against this machine, without changing anything.
    ///
    /// Accepts exactly what `weft run` and `weft reload` accept. Prints each error as
    /// `file:line: key: reason`.
    Check {
        /// Configuration files, as for `weft run`.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Load the BPF programs, too, to see whether this kernel takes them; nothing stays of them. Needs root.
        #[arg(long)]
        programs: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Let the node process read its configuration files again, all or nothing.
    ///
    /// They are the files that `weft run` was given. When they are refused (exit code 3) the node
    /// goes on with what it has. Says which pods have joined, which leave and drain, and which
    /// changed keys wait for a restart.
    Reload {
        #[command(flatten)]
        common: Common,
    },
    /// Let another program take the running one's place, in the same process and over the same maps.
    ///
    /// The program checks the configuration files and the kernel first, and whether it can take over what is pinned; if not,
    /// nothing changes (exit code 3). Then the workers stop, and it starts as after a crash, with the same arguments: it reads
    /// the files again, and what waits for a restart comes into force. Meanwhile the kernel has the
    /// packets. With `fast_path = "full"` flows go on and new ones begin. Flows through user space end: connections
    /// that end there (`stage` above `l4`) are reset, others to services break, datagrams go to the backend that is chosen
    /// anew. Waits until the new program is ready; to stop waiting stops nothing.
    #[command(after_help = "\
Example:
  install -m 755 weft-new /usr/local/bin/weft && weft upgrade")]
    Upgrade {
        /// The program. Without: the one where the running one was started from, as it is there now.
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Show workers, queues, pods and where the packets went.
    ///
    /// A worker's FLOWS are those in its table, EVICTED those that made room for new ones, its PINS the owner entries that it has in the
    /// kernel. Its FRAMES are free, on the FILL ring, received (RX), in its hands (APP) or being
    /// sent (TX). A pod's STATE is `grace` while its enrolment is recent, then `enrolled`;
    /// `draining` once it has left the configuration; `absent`, and the kernel's, while its interface
    /// is gone or cannot be served, which `weft check` explains. The ledger counts packets since
    /// `weft run`: by the engine, given back to the kernel and dropped by reason, by the BPF
    /// programs (hooks), and lost in between (path).
    Status {
        /// Check that every packet is accounted for; exit code 5 when one is not.
        #[arg(long)]
        audit: bool,
        #[command(flatten)]
        common: Common,
    },
    /// The load balancer's live tables.
    Lb {
        #[command(subcommand)]
        command: LbCommand,
    },
    /// List the flows with both tuples: client to VIP, client to backend.
    ///
    /// KIND is `service`, `direct` (pod to pod), `kernel` (seen, and left to the kernel), `terminated` (joined to a connection of Weft's own to
    /// the backend), or of HTTP stages `client` (its connection) and `upstream` (one to a backend). OUT and
    /// IN are packets and bytes from and to the client. A flow stays listed until it expires, so
    /// `closing` ones are connections that have just ended.
    Flows {
        #[command(flatten)]
        common: Common,
    },
    /// List the routes of services with `stage = "http"`, in the order in which they are tried.
    ///
    /// Each line is a hostname, a path and other conditions, and the route and rule that serve what meets all of them.
    Routes {
        /// Only this service's, such as default/reviews.
        #[arg(value_name = "SERVICE")]
        service: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// One request's way.
    Route {
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// List everything that Weft owns on this node, also when no node process runs.
    ///
    /// That is what this run directory has: links and maps in /sys/fs/bpf, the interfaces weft0 and
    /// weft1, the directory itself.
    Owned {
        #[command(flatten)]
        common: Common,
    },
    /// Watch over a node process: `weft run` starts it by itself.
    #[command(hide = true)]
    Guard {
        /// The node process.
        #[arg(long, value_name = "PID")]
        parent: u32,
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
        log_format: LogFormat,
        #[command(flatten)]
        place: Place,
    },
    /// Remove everything that a dead node process left behind.
    ///
    /// Connections that ended in it are reset. Run it in the network namespace of the node. Refuses while a node process runs.
    Cleanup {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Say which rule serves a request, and why none before it does. Nothing is sent.
    ///
    /// The service is the one at the URL's address and port, or for a host by name the only one with `stage = "http"`, or is named.
    #[command(after_help = "\
Example:
  weft route explain GET http://10.96.0.80:9080/reviews/1 -H 'Host: reviews' -H 'end-user: jason'")]
    Explain {
        /// The request's method.
        method: String,
        /// Its URL.
        url: String,
        /// A header field of it.
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        /// The service that is asked.
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Subcommand)]
enum LbCommand {
    /// Services and their backends, as the workers see them now.
    ///
    /// STATE is `ready`, `terminating` (and serving still) or `unready`. NEW FLOWS go to those that are ready;
    /// while none is, to those that are terminating. PATH is `pod` (straight into an enrolled pod) or
    /// `kernel` (not enrolled here); FLOWS are those that the backend has now.
    List {
        /// Only this VIP.
        #[arg(long, value_name = "ADDRESS")]
        vip: Option<IpAddr>,
        #[command(flatten)]
        common: Common,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    // A reader that leaves early (`weft flows | head`) is no failure of ours.
    match Cli::parse().command {
        Command::Run {
            files,
            log_format,
            place,
        } => run(&files, log_format, &place),
        Command::Check {
            files,
            programs,
            common,
        } => offline::check(&files, programs, common.json),
        Command::Upgrade { binary, common } => upgrade::upgrade(&common, binary.as_deref()),
        Command::Reload { common } => ask(&common, &Request::Reload),
        Command::Status { audit, common } => ask(&common, &Request::Status { audit }),
        Command::Lb {
            command: LbCommand::List { vip, common },
        } => ask(&common, &Request::LbList { vip }),
        Command::Flows { common } => ask(&common, &Request::Flows),
        Command::Routes { service, common } => ask(&common, &Request::Routes { service }),
        Command::Route {
            command:
                RouteCommand::Explain {
                    method,
                    url,
                    headers,
                    service,
                    common,
                },
        } => ask(
            &common,
            &Request::Explain {
                method,
                url,
                headers,
                service,
            },
        ),
        Command::Owned { common } => match RunDir::new(&common.place.run_dir) {
            Ok(dir) => offline::owned(&dir, common.json),
            Err(error) => failed(&error),
        },
        Command::Guard {
            parent,
            log_format,
            place,
        } => {
            logs(log_format);
            match RunDir::new(&place.run_dir) {
                Ok(dir) => return guard::watch(&dir, parent),
                Err(error) => failed(&error),
            }
        }
        Command::Cleanup { common } => match RunDir::new(&common.place.run_dir) {
            Ok(dir) => offline::cleanup(&dir, common.json),
            Err(error) => failed(&error),
        },
    }
    .into()
}

/// Says what failed.
fn failed(error: &dyn std::error::Error) -> Exit {
    eprintln!("weft: {}", node::chain(error));
    Exit::Failed
}

fn logs(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

fn run(files: &[PathBuf], format: LogFormat, place: &Place) -> Exit {
    logs(format);
    let dir = match RunDir::new(&place.run_dir) {
        Ok(dir) => dir,
        Err(error) => return failed(&error),
    };
    let name = match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    match node::run(files, &dir, name) {
        Ok(()) => Exit::Ok,
        Err(node::Error::Config(errors)) => refused(&refusals(&errors), false),
        Err(error) => {
            tracing::error!("{}", node::chain(&error));
            Exit::Failed
        }
    }
}

/// Prints configuration errors: lines to standard error, or JSON to standard output.
fn refused(errors: &[Refusal], json: bool) -> Exit {
    if json {
        print_json(&serde_json::json!({ "refused": errors }));
    } else {
        for error in errors {
            eprintln!("{error}");
        }
    }
    Exit::Refused
}

fn print_json(value: &impl serde::Serialize) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Write errors here mean that the reader has left.
    if serde_json::to_writer_pretty(&mut out, value).is_ok() {
        let _ = writeln!(out);
    }
}

fn print_text(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for line in text.trim_end().lines() {
        // Tables fill their last column up with spaces.
        if writeln!(out, "{}", line.trim_end()).is_err() {
            return;
        }
    }
}

fn ask(common: &Common, request: &Request) -> Exit {
    let dir = match RunDir::new(&common.place.run_dir) {
        Ok(dir) => dir,
        Err(error) => return failed(&error),
    };
    match admin::ask(&dir.socket(), request) {
        Ok(answer) => show(&answer, common.json),
        Err(error) => {
            failed(&error);
            Exit::Unreachable
        }
    }
}

fn show(answer: &Answer, json: bool) -> Exit {
    let exit = match answer {
        Answer::Refused(errors) => return refused(errors, json),
        Answer::NotUpgraded(refused) if json => {
            print_json(&serde_json::json!({ "not_upgraded": refused }));
            return Exit::Refused;
        }
        Answer::NotUpgraded(refused) => {
            eprintln!("weft: not upgraded: {} {}", refused.binary, refused.reason);
            return Exit::Refused;
        }
        Answer::Failed(reason) => {
            eprintln!("weft: {reason}");
            return Exit::Failed;
        }
        Answer::Status(status) if status.audit.as_ref().is_some_and(|a| !a.balanced) => {
            Exit::Unbalanced
        }
        _ => Exit::Ok,
    };
    match answer {
        Answer::Status(status) if json => print_json(status),
        Answer::Status(status) => print_text(&table::status(status)),
        Answer::LbList(list) if json => print_json(list),
        Answer::LbList(list) => print_text(&table::services(list)),
        Answer::Flows(flows) if json => print_json(flows),
        Answer::Flows(flows) => print_text(&table::flows(flows)),
        Answer::Routes(routes) if json => print_json(routes),
        Answer::Routes(routes) => print_text(&routes::routes(routes)),
        Answer::Explained(explained) if json => print_json(explained),
        Answer::Explained(explained) => print_text(&routes::explained(explained)),
        Answer::Metrics(text) => print_text(text),
        Answer::Owned(owned) if json => print_json(owned),
        Answer::Owned(owned) => print_text(&table::owned(owned)),
        Answer::Reloaded(reloaded) if json => print_json(reloaded),
        Answer::Reloaded(reloaded) => print_text(&table::reloaded(reloaded)),
        Answer::Upgrading(_) | Answer::NotUpgraded(_) | Answer::Refused(_) | Answer::Failed(_) => {}
    }
    exit
}
