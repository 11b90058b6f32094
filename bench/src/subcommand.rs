//! The subcommands that labs run inside their namespaces.

use anyhow::Result;
use clap::Subcommand;
use std::net::SocketAddr;
use std::time::Duration;
use weft_lab::impairment::Impairment;
use weft_lab::machine;
use weft_lab::tools::{
    bookinfo, crowd, crr, flood, flows, greet, grpc, http_load, link, lookup, rr, serve, sink,
    transfer, web,
};

#[derive(Debug, Subcommand)]
pub enum Tool {
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
    /// Asks a server over HTTP/1.1, as fast as it answers or at a rate
    HttpLoad {
        /// The server
        to: SocketAddr,
        /// What it is asked for
        #[arg(long, default_value = "/")]
        path: String,
        /// Over how many connections
        #[arg(long, default_value_t = 32)]
        connections: usize,
        /// Each request over a connection of its own
        #[arg(long)]
        once: bool,
        /// How many a second; as many as are answered when not given
        #[arg(long)]
        rate: Option<f64>,
        /// For how long
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// On which core
        #[arg(long)]
        core: Option<usize>,
    },
    /// Makes unary gRPC calls one after another, on one thread
    GrpcLoad {
        /// A server (serve grpc)
        to: SocketAddr,
        /// Over how many connections
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Calls at once on each
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// For how long, after a tenth of it to warm up
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Bytes of a request, at least 4
        #[arg(long, default_value_t = 64)]
        bytes: usize,
        /// Bytes of an answer; as many as of a request when not given
        #[arg(long)]
        answer: Option<u32>,
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
    /// Sends 64-byte UDP packets of very many flows in turn, no faster than a sink counts them if there is one
    UdpFlows {
        #[command(flatten)]
        flows: Flows,
        /// How many packets; as many as flows: each is a new one
        #[arg(long)]
        packets: u32,
        /// How many before those, not measured
        #[arg(long, default_value_t = 0)]
        warm_up: u32,
        /// The id of the sink's map; without one as fast as it can
        #[arg(long)]
        counter: Option<u32>,
        /// The interface to send from
        #[arg(long, default_value = "eth0")]
        interface: String,
    },
    /// Sends one packet over each of the flows of udp-flows, and waits for its answer
    UdpGreet {
        #[command(flatten)]
        flows: Flows,
    },
}

#[derive(Debug, clap::Args)]
pub struct Flows {
    /// The first port to send to
    to: SocketAddr,
    /// How many ports from there on
    #[arg(long, default_value_t = 4)]
    ports: u16,
    /// How many flows, each with ports of its own
    #[arg(long)]
    flows: u32,
    /// On which cores
    #[arg(long, value_delimiter = ',')]
    core: Vec<usize>,
}

impl Flows {
    fn plan(&self, packets: u32, warm_up: u32) -> flows::Plan {
        flows::Plan {
            to: self.to,
            ports: self.ports,
            flows: self.flows,
            packets,
            warm_up,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Server {
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
    /// One of the servers of the bookinfo application
    Bookinfo {
        #[command(flatten)]
        listen: Listen,
        /// Which
        #[arg(long, value_enum)]
        role: bookinfo::Role,
        /// Its version
        #[arg(long)]
        version: String,
        /// Whom it asks: details and reviews, or ratings
        #[arg(long)]
        asks: Vec<SocketAddr>,
    },
    /// Says over HTTP what it was asked, and by whom
    Web {
        #[command(flatten)]
        listen: Listen,
        /// The server's name
        #[arg(long)]
        name: String,
    },
    /// Answers gRPC over HTTP/2 without TLS, on one thread
    Grpc {
        #[command(flatten)]
        listen: Listen,
        /// The server's name
        #[arg(long, default_value = "grpc")]
        name: String,
    },
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
pub struct Listen {
    /// The port
    #[arg(long)]
    port: u16,
    /// On which core
    #[arg(long)]
    core: Option<usize>,
}

impl Tool {
    /// Does what is asked; what it finds goes to standard output as one line of JSON.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Serve { server } => match server {
                Server::UdpEcho(listen) => pinned(listen.core, || serve::udp_echo(listen.port)),
                Server::TcpEcho(listen) => pinned(listen.core, || serve::tcp_echo(listen.port)),
                Server::TcpOnce(listen) => pinned(listen.core, || serve::tcp_once(listen.port)),
                Server::TcpCrowd(listen) => pinned(listen.core, || serve::tcp_crowd(listen.port)),
                Server::Transfer(listen) => pinned(listen.core, || {
                    transfer::serve(listen.port, transfer::SERVER_LIMIT)
                }),
                Server::Bookinfo {
                    listen,
                    role,
                    version,
                    asks,
                } => pinned(listen.core, || {
                    let server = bookinfo::Server {
                        role,
                        version,
                        asks,
                    };
                    server.serve(listen.port)
                }),
                Server::Web { listen, name } => {
                    pinned(listen.core, || web::serve(listen.port, &name))
                }
                Server::Grpc { listen, name } => {
                    pinned(listen.core, || grpc::serve(listen.port, &name))
                }
                Server::Peer { listen, name } => {
                    pinned(listen.core, || serve::peer(listen.port, &name))
                }
            },
            Self::UdpFlood {
                to,
                seconds,
                sockets,
                core,
            } => pinned(core, || {
                let sent = flood::flood(to, Duration::from_secs_f64(seconds), sockets)?;
                println!("{}", serde_json::to_string(&sent)?);
                Ok(())
            }),
            Self::Rr {
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
            Self::Crr {
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
            Self::HttpLoad {
                to,
                path,
                connections,
                once,
                rate,
                seconds,
                core,
            } => pinned(core, || {
                let plan = http_load::Plan {
                    to,
                    path,
                    connections,
                    once,
                    rate,
                    time: Duration::from_secs_f64(seconds),
                };
                println!("{}", serde_json::to_string(&http_load::run(&plan)?)?);
                Ok(())
            }),
            Self::GrpcLoad {
                to,
                connections,
                streams,
                seconds,
                bytes,
                answer,
                core,
            } => pinned(core, || {
                let bytes = bytes.max(4);
                let load = grpc::Load {
                    to,
                    connections,
                    streams,
                    time: Duration::from_secs_f64(seconds),
                    bytes,
                    answer: answer.map_or_else(|| u32::try_from(bytes), Ok)?,
                };
                println!("{}", serde_json::to_string(&load.run()?)?);
                Ok(())
            }),
            Self::Transfer {
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
            Self::Lookup {
                services,
                popularity,
                flows,
                core,
            } => pinned(core, || {
                let found = lookup::decisions(services, popularity, flows)?;
                println!("{}", serde_json::to_string(&found)?);
                Ok(())
            }),
            Self::Link {
                pod,
                router,
                up,
                down,
                seed,
            } => link::run(&pod, &router, up, down, seed),
            Self::Sink {
                interface,
                port,
                ports,
            } => sink::serve(&interface, port, ports),
            Self::UdpFlows {
                flows,
                packets,
                warm_up,
                counter,
                interface,
            } => {
                let plan = flows.plan(packets, warm_up);
                let Some(counter) = counter else {
                    return pinned(flows.core.first().copied(), || {
                        flows::flood(&interface, plan)
                    });
                };
                let found = flows::run(&interface, plan, counter, &flows.core)?;
                println!("{}", serde_json::to_string(&found)?);
                Ok(())
            }
            Self::UdpGreet { flows } => pinned(flows.core.first().copied(), || {
                let found = greet::run(flows.plan(0, 0))?;
                println!("{}", serde_json::to_string(&found)?);
                Ok(())
            }),
        }
    }
}

fn pinned(core: Option<usize>, then: impl FnOnce() -> Result<()>) -> Result<()> {
    core.map_or(Ok(()), machine::pin)?;
    then()
}
