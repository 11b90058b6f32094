//! A whole node at layer 7, by a virtual clock and a seed: clients and backends are TCP endpoints of their own, frames are lost,
//! doubled, overtaken and late on the way to the worker and from it, and backends stall, reset, cut and lie. Every byte of a response is
//! right, or there is a named error; the ledger of frames is exact; records, counters and what clients saw agree; nothing is left.
//!
//! `WEFT_SIMULATIONS=100` runs so many more seeds, `WEFT_SIMULATION_SEED=7` that one alone.

mod backend;
mod books;
mod client;
mod h2;
#[path = "../../fuzz/src/node.rs"]
mod node;
#[path = "../../../l7/tests/simulation/plan.rs"]
mod plan;
#[path = "../../fuzz/src/pods.rs"]
mod pods;
mod stream;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_datapath::{DropReason, Hook, KernelReason, Now};
use weft_l7::observe::AccessRecord;

use backend::Backend;
use books::{Outcome, Seen, agree, cut, totals};
use client::Client;
use node::{Node, Room};
use plan::{Fault, Random};
use pods::{OUTSIDE, Pod};
use wire::{To, Wire};

/// The service, and the port of its backends.
pub const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 80), 80);
const TARGET: u16 = 8080;
const CLIENT_PODS: usize = 4;
const BACKENDS: [(Ipv4Addr, u32); 4] = [
    (Ipv4Addr::new(10, 244, 1, 101), 101),
    (Ipv4Addr::new(10, 244, 1, 102), 102),
    (Ipv4Addr::new(10, 244, 1, 103), 103),
    // Not enrolled: the kernel is between.
    (Ipv4Addr::new(192, 0, 2, 7), OUTSIDE),
];
/// Requests of a client.
const REQUESTS: u64 = 4;
/// How long a client waits at most: longer than the node's timeouts, and the repeats of what is lost.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Reasons that the node may give a client.
pub const NAMES: [&str; 4] = [
    "upstream_closed",
    "upstream_protocol",
    "backend_timeout",
    "request_timeout",
];
/// The whole of a run: each client's requests one after another, each as late as may be.
const LONGEST: Duration = Duration::from_secs(90 * REQUESTS);
/// What is left behind ends by itself within this: TIME-WAIT, idle connections, flows.
const AFTERWARDS: Duration = Duration::from_secs(300);

/// Nothing is to be lost for want of it.
const ROOM: Room = Room {
    frames: 4_096,
    ring: 2_048,
    flows: 16_384,
};

fn configuration(source: &str, connections: u64) -> String {
    let mut text = "[node]\nname = \"node-a\"\naccess_log = \"stdout\"\n".to_owned();
    let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap();
    for (address, ifindex) in client_pods().chain(BACKENDS) {
        if ifindex == OUTSIDE {
            continue;
        }
        line(format_args!("[[pod]]\nname = \"p{ifindex}\""));
        line(format_args!(
            "ip = \"{address}\"\ninterface = \"veth{ifindex}\""
        ));
    }
    let (vip, port) = VIP;
    line(format_args!(
        "[[service]]\nname = \"s\"\ncluster_ip = \"{vip}\""
    ));
    line(format_args!(
        "ports = [{{ port = {port}, target_port = {TARGET}, stage = \"http\", source = \"{source}\" }}]"
    ));
    let endpoints = BACKENDS.map(|(address, _)| format!("{{ address = \"{address}\" }}"));
    line(format_args!("endpoints = [{}]", endpoints.join(", ")));
    line(format_args!("http = {{ idle_timeout = \"40s\" }}"));
    line(format_args!(
        "backend = {{ protocol = \"http1\", connections = {connections}, connect_timeout = \"20s\" }}"
    ));
    line(format_args!(
        "[[service.routes]]\nname = \"r\"\n[[service.routes.rules]]"
    ));
    line(format_args!("backends = [{{ service = \"s\" }}]"));
    line(format_args!(
        "timeouts = {{ request = \"60s\", backend_request = \"20s\" }}"
    ));
    text
}

fn client_pods() -> impl Iterator<Item = (Ipv4Addr, u32)> {
    (1..=CLIENT_PODS as u32).map(|number| (Ipv4Addr::new(10, 244, 1, number as u8), number))
}

struct Simulation {
    seed: u64,
    random: Random,
    now: Now,
    node: Node,
    pods: Vec<Pod>,
    wire: Wire,
    clients: Vec<Client>,
    /// Those that speak HTTP/2.
    speakers: Vec<h2::Client>,
    backends: Vec<Backend>,
    /// Whole requests that backends saw, by number.
    seen: HashMap<u64, u32>,
    accepted: u64,
}

impl Simulation {
    fn new(seed: u64, clients: u64) -> Self {
        let mut random = Random(seed);
        let source = ["node", "client"][seed as usize % 2];
        let text = configuration(source, 4 + clients / 6);
        let now = Now::from_nanos(1_000_000_000);
        let pods = client_pods().map(|(address, ifindex)| Pod::new(address, ifindex, None));
        let backends = BACKENDS.map(|(address, ifindex)| Pod::new(address, ifindex, Some(TARGET)));
        let asks = |id: u64, count: u64| {
            (0..count).map(move |n| plan::ask(seed << 32 | id << 8 | n, seed))
        };
        let speakers = (0..clients / 10).map(|id| {
            let place = (id as usize % CLIENT_PODS, 5_000 + id as u16);
            let start = now + Duration::from_micros(random.below(500_000));
            h2::Client::new(place, asks(1 << 20 | id, 2 * REQUESTS).collect(), start)
        });
        let speakers = speakers.collect();
        let client = |id: u64| {
            let asks = asks(id, REQUESTS);
            let place = (
                id as usize % CLIENT_PODS,
                10_000 + (id / CLIENT_PODS as u64 * (REQUESTS + 1)) as u16,
            );
            let start = now + Duration::from_micros(random.below(500_000));
            Client::new(place, asks.collect(), start, &mut random)
        };
        let clients = (0..clients).map(client).collect();
        Self {
            seed,
            now,
            node: Node::new(&node::compile(&text), seed, ROOM),
            pods: pods.chain(backends).collect(),
            wire: Wire::new(random.next()),
            random,
            clients,
            speakers,
            backends: Vec::new(),
            seen: HashMap::new(),
            accepted: 0,
        }
    }

    /// Everybody's turn, and the time of the next one.
    fn turn(&mut self) {
        let Self {
            seed,
            random,
            now,
            node,
            pods,
            wire,
            clients,
            speakers,
            backends,
            seen,
            accepted,
        } = self;
        let now = *now;
        while let Some((to, mut frame)) = wire.next(now) {
            match to {
                To::Node(ifindex, Hook::ToPod)
                    if !pods::ends(&frame).is_some_and(|ends| node.catches(ends, ifindex)) =>
                {
                    let pod = pods.iter_mut().find(|pod| pod.ifindex == ifindex);
                    pod.expect("a pod").arrive(&mut frame, now);
                }
                To::Node(ifindex, hook) => _ = node.push(&mut frame, ifindex, hook),
                To::Pod(pod) => pods[pod].arrive(&mut frame, now),
            }
        }
        for client in clients.iter_mut() {
            if client.attention.take(now) {
                client.step(&pods[client.pod], now, random);
            }
        }
        for client in speakers.iter_mut() {
            if client.attention.take(now) {
                client.step(&pods[client.pod], now, random);
            }
        }
        for pod in pods.iter_mut() {
            *accepted += pod.accepted.len() as u64;
            backends.extend(pod.accepted.drain(..).map(|one| Backend::new(one, now)));
        }
        backends.retain_mut(|one| !one.attention.take(now) || one.step(*seed, now, random, seen));
        for at in 0..pods.len() {
            for frame in pods[at].poll(now) {
                let (ifindex, hook) = pods::caught(pods, at, &frame).expect("to a pod");
                wire.carry(To::Node(ifindex, hook), frame, now);
            }
        }
        node.step(now, |frame| {
            let Some(to) = pods::receiver(pods, frame) else {
                // The kernel has no such connection. Its reset might as well be lost.
                let ends = pods::ends(frame).expect("TCP");
                assert_eq!(std::net::IpAddr::from(ends.dst), node::NODE);
                return;
            };
            wire.carry(To::Pod(to), frame.to_vec(), now);
        });
        let due = [wire.due(), Some(node.due(now))].into_iter();
        let due = due.chain(pods.iter().map(Pod::due));
        let due = due.chain(clients.iter().map(|one| one.attention.due(now)));
        let due = due.chain(speakers.iter().map(|one| one.attention.due(now)));
        let due = due.chain(backends.iter().map(|one| one.attention.due(now)));
        let next = due.flatten().min().expect("the node has a next step");
        self.now = next.max(now + Duration::from_micros(10));
    }

    fn run(&mut self) {
        let start = self.now;
        let done = |simulation: &Self| {
            simulation.clients.iter().all(Client::is_done)
                && simulation.speakers.iter().all(h2::Client::is_done)
        };
        while !done(self) {
            let stuck = self.clients.iter().find(|client| !client.is_done());
            assert!(self.now.since(start) < LONGEST, "{stuck:?}");
            self.turn();
        }
        let over = self.now;
        while !(self.backends.is_empty() && self.wire.is_empty() && self.node.is_empty(self.now)) {
            if self.now.since(over) > AFTERWARDS {
                panic!("something is left: {}", self.node.describe(self.now));
            }
            // A look at whether it is empty is a step of its own.
            let look = self.now + Duration::from_secs(1);
            while self.now < look {
                self.turn();
            }
        }
        self.node.close_books(self.now);
    }

    /// Holds every outcome, every record and every count against each other.
    fn check(&mut self) {
        let report = self.node.http(self.now, |_| {});
        let metrics = &report.services[0].metrics;
        let records: Vec<AccessRecord> = self.node.records.try_iter().collect();
        assert_eq!(report.records_lost, 0);
        totals(metrics, &records);
        let mut by_number = HashMap::new();
        for record in &records {
            let number: u64 = record.path[1..].parse().unwrap();
            assert!(by_number.insert(number, record).is_none(), "{number} twice");
        }
        for client in &self.clients {
            let outcomes = client.outcomes.iter();
            let outcomes =
                outcomes.map(|(ask, outcome)| (ask, *outcome, by_number.remove(&ask.number)));
            let outcomes: Vec<Seen<'_>> = outcomes.collect();
            if client.aborts {
                continue;
            }
            for one in &outcomes {
                agree(one);
            }
            for connection in outcomes.chunk_by(|a, b| a.1 == b.1) {
                if let Outcome::Broken(_) = connection[0].1 {
                    cut(connection);
                }
            }
        }
        for (ask, outcome) in self.speakers.iter().flat_map(h2::Client::outcomes) {
            agree(&(&ask, outcome, by_number.remove(&ask.number)));
        }
        assert!(by_number.is_empty(), "nobody's: {by_number:?}");
        for (number, count) in &self.seen {
            let most = 1 + u32::from(plan::ask(*number, self.seed).is_idempotent());
            assert!(*count <= most, "request {number} was made {count} times");
        }
        assert!(self.accepted <= metrics.upstream_connections);
        let lost = (metrics.panics, metrics.connections_lost, metrics.stalled);
        assert_eq!(lost, (0, 0, 0));
        let totals = self.node.snapshot().totals;
        let fates = &totals.fates;
        for reason in DropReason::ALL {
            let count = fates.dropped[reason as usize];
            // What comes late, to a connection that is over.
            let expected = reason == DropReason::UnknownFlow;
            assert!(count == 0 || expected, "{reason}: {count}");
        }
        // What comes late to a connection that is over and out of the kernel's way, and resets of pods in answer to it.
        let not_ours = fates.kernel[KernelReason::NotOurs as usize];
        assert_eq!(fates.total_kernel(), not_ours);
        assert!(not_ours < 10 + totals.received / 1_000, "{totals:?}");
    }
}

fn simulate(seed: u64, clients: u64) -> Simulation {
    let run = || {
        let mut simulation = Simulation::new(seed, clients);
        simulation.run();
        simulation.check();
        simulation
    };
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        eprintln!("seed {seed} with {clients} clients; again alone:");
        eprintln!("WEFT_SIMULATION_SEED={seed} cargo test -p weft --test node -- seeds");
        std::panic::resume_unwind(panic)
    })
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable}: {value:?} is not a number")),
    )
}

/// Clients of a run that is one of many: two in eight have a thousand, one for each `source`.
fn clients(seed: u64) -> u64 {
    if seed % 8 < 6 { 100 } else { 1_000 }
}

/// U-05, U-08: by the seed, over a bad wire.
#[test]
fn u_08_every_byte_is_right_or_there_is_a_named_error_by_many_seeds() {
    if let Some(seed) = number("WEFT_SIMULATION_SEED") {
        let s = simulate(seed, clients(seed));
        eprintln!("HASH {:?} {:?}", s.now, s.node.snapshot().totals.received);
        return;
    }
    let mut outcomes: BTreeMap<(Fault, Outcome), usize> = BTreeMap::new();
    for seed in 1..=8 + number("WEFT_SIMULATIONS").unwrap_or(0) {
        for client in &simulate(seed, clients(seed)).clients {
            for (ask, outcome) in &client.outcomes {
                *outcomes.entry((ask.fault, *outcome)).or_default() += 1;
            }
        }
    }
    let count = |wanted: &dyn Fn(Fault, Outcome) -> bool| -> usize {
        let found = outcomes.iter();
        found
            .filter(|((fault, outcome), _)| wanted(*fault, *outcome))
            .map(|(_, count)| count)
            .sum()
    };
    assert!(
        count(&|_, outcome| outcome == Outcome::Whole) > 3_000,
        "{outcomes:?}"
    );
    for fault in Fault::ALL {
        let met = count(&|met, outcome| met == fault && outcome != Outcome::Unsent);
        assert!(met > 20, "{fault:?}: {outcomes:?}");
    }
}

#[test]
fn u_05_the_same_seed_gives_the_same_run() {
    let runs = [(); 2].map(|()| {
        let simulation = simulate(7, 1_000);
        let outcomes = simulation.clients.into_iter().map(|client| client.outcomes);
        (
            simulation.now,
            outcomes.collect::<Vec<_>>(),
            simulation.node.snapshot().totals,
        )
    });
    assert_eq!(runs[0], runs[1]);
}
