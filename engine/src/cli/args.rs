//! What can be typed: commands, their arguments, and what `--help` says of them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::top::Options;

/// A user-space node dataplane: services, from a pod's socket to a backend pod, without netfilter.
///
/// `weft run` takes over the traffic of the pods that its configuration enrols. All other commands
/// look at that process, or clean up after it. Everything needs root (or CAP_BPF, CAP_NET_ADMIN,
/// CAP_NET_RAW and, to mount the BPF file system, CAP_SYS_ADMIN).
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed at run time
  2  wrong usage
  3  the configuration, or the program to upgrade to, was refused; nothing changed
  4  no node process answers
  5  the audit found packets that are not accounted for";

/// Where the node process is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Directory of the admin socket and the lock; its last component names the pins in
    /// /sys/fs/bpf. One node process per such name, and per network namespace.
    #[arg(
        long,
        value_name = "DIR",
        env = "WEFT_RUN_DIR",
        default_value = "/run/weft"
    )]
    pub(super) run_dir: PathBuf,
}

/// What every command that asks a node process takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) place: Place,
    /// Answer in JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take over the traffic of the enrolled pods, in the foreground.
    ///
    /// Logs a line with `ready` once it has. SIGHUP reads the files again, as `weft reload` does, and opens the access log again.
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
    /// Accepts exactly what `weft run` and `weft reload` accept, interfaces and cores included, so it is for
    /// the node itself. It does not open the access log or the address for metrics. Prints each error as
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
    /// Of a worker: QUEUE is its number and its queue of weft1, POLL how it waits, XDP how its program is attached (`native`, or slower
    /// `generic`), SOCKET `copy` or `zero-copy`, HEARTBEAT when its last step was, GENERATION that of the tables it works with.
    /// RECEIVED packets became FORWARDED (into a pod), REPLIED (answered), TO KERNEL (given back) or DROPPED. Its FLOWS are those in its table, EVICTED those that made room for new ones, its PINS the owner entries that it has in the
    /// kernel. Its FRAMES are free, on the FILL ring, received (RX), in its hands (APP) or being
    /// sent (TX); SOCKET STATISTICS are the kernel's of its socket.
    ///
    /// Of its TCP stack, once there is one: CONNECTIONS, those with buffers (SOCKETS), HALF OPEN ones and those in TIME WAIT; segments
    /// DELIVERED to a connection, ANSWERED without one, DROPPED by reason; EVENTS of connections, and those REFUSED by reason.
    /// Of an HTTP service: OPEN connections of clients and all there were, REQUESTS by class of status, FLAGS of those that the node
    /// answered itself, those REJECTED for their form, and other EVENTS; docs/l7.md has the words.
    ///
    /// A pod's STATE is `grace` while its enrolment is recent, then `enrolled`;
    /// `draining` once it has left the configuration; `absent`, and the kernel's, while its interface
    /// is gone or cannot be served, which `weft check` explains; `link down` where an end of its veth is, which no backend is
    /// left out for. The ledger counts packets since
    /// `weft run`: by the engine, given back to the kernel and dropped by reason, by the BPF
    /// programs (hooks), and lost in between (path).
    Status {
        /// Check that every packet is accounted for; exit code 5 when one is not.
        #[arg(long)]
        audit: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Show services and workers by the second, as long as it runs.
    ///
    /// Of services: FLOWS of clients there are (connections, with `stage = "http"`), NEW ones a second, PACKETS a second both ways,
    /// REQUESTS that ended, BYTES both ways (of IP packets; of bodies with `stage = "http"`), ERRORS, the share of requests that were
    /// answered with 5xx or not at all, and P50 and P99: what half, and 99 of 100, of the requests took at most. Of workers: BUSY, the
    /// CPU time of their thread (always all of it with `poll = "spin"`), packets IN and OUT, DROPS and their most frequent reasons.
    ///
    /// Keys: q quits, p pauses, < and > choose the column to sort by, r reverses, arrows scroll, ? explains.
    /// When the node process ends it says so, and goes on with the next one. Each look costs the node process a walk through its
    /// flows, some ms for 10,000 of them.
    #[command(after_help = "\
Example:
  weft top
  weft top --iterations 10 --json | jq -c '.services[] | [.service, .requests_per_s]'")]
    Top {
        #[command(flatten)]
        options: Options,
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
    /// IN are packets and bytes from and to the client, for `upstream` to and from the backend; `-` where Weft itself sends, which is not counted by flow.
    ///
    /// STATE is the client's, of TCP as RFC 9293 has it (`syn_sent` to `closed`), of UDP `one_way` or `two_way`. AGE is since the first
    /// packet, IDLE since the last. TIER says who decides about its packets: 0 the hooks, by what was compiled, 1 a worker, 2 its TCP
    /// stack; WORKER which one, if one does. DESTINATION is what the client dialled, BACKEND where its packets go. A flow stays listed until it expires, so
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
pub(super) enum RouteCommand {
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
pub(super) enum LbCommand {
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
