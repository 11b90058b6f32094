//! Many clients, a stage, and endpoints that stall, reset and lie, by a virtual clock and a seed: every byte of a response is
//! right, or there is a named error; and the counts are exact.

mod client;
mod endpoint;
mod plan;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use weft_l7::observe::{AccessRecord, Flag};
use weft_l7::route::{Rule, Timeouts};
use weft_l7::upstream::{BackendConfig, BackendLimits};
use weft_l7::{ServiceConfig, Source};

use client::{Client, Outcome};
use endpoint::Endpoint;
use plan::{Fault, Random};
use support::{SERVICE, World, backend, rule, service_with};

fn config(source: Source, connections: usize) -> ServiceConfig {
    let bounded = Rule {
        timeouts: Timeouts {
            request: Some(Duration::from_secs(10)),
            backend_request: Some(Duration::from_secs(4)),
        },
        ..rule("/")
    };
    let limits = BackendLimits {
        connections,
        ..BackendLimits::default()
    };
    let backend = BackendConfig {
        limits,
        ..backend(3)
    };
    ServiceConfig {
        source,
        ..service_with(vec![bounded], backend)
    }
}

struct Simulation {
    world: World,
    random: Random,
    clients: Vec<Client>,
    endpoints: Vec<Endpoint>,
    /// Whole requests that endpoints saw, by number.
    seen: HashMap<u64, u32>,
    records: Vec<AccessRecord>,
}

impl Simulation {
    fn new(seed: u64, clients: u64, source: Source) -> Self {
        let mut random = Random(seed);
        Self {
            world: World::new(config(source, 10 + clients as usize / 2)),
            clients: (0..clients)
                .map(|id| Client::new(id, seed, &mut random))
                .collect(),
            random,
            endpoints: Vec::new(),
            seen: HashMap::new(),
            records: Vec::new(),
        }
    }

    fn step(&mut self) {
        for client in &mut self.clients {
            client.step(&mut self.world, &mut self.random);
        }
        // Few turns, so that everything meets everything half done.
        for _ in 0..=self.random.below(2) {
            self.world.stage.turn(self.world.now);
        }
        let opened: Vec<_> = self.world.network.borrow_mut().opened.drain(..).collect();
        for (_, stream) in opened {
            let split = [13, 500, usize::MAX, usize::MAX][self.random.below(4) as usize];
            stream.faults().split(split);
            self.endpoints.push(Endpoint::new(stream));
        }
        let (random, seen) = (&mut self.random, &mut self.seen);
        self.endpoints
            .retain_mut(|endpoint| endpoint.step(random, seen));
        while let Some(record) = self.world.stage.record() {
            self.records.push(record);
        }
        self.world.now = self.world.now + Duration::from_micros(self.random.below(2_000));
    }

    fn run(&mut self) {
        for _ in 0..200_000 {
            if self.clients.iter().all(Client::is_done) {
                break;
            }
            self.step();
        }
        let stuck = self.clients.iter().find(|client| !client.is_done());
        assert!(stuck.is_none(), "{stuck:?}");
        // The clients are gone; what they left behind ends by itself.
        for _ in 0..2_000 {
            self.step();
            self.world.now = self.world.now + Duration::from_millis(100);
        }
    }

    /// Holds every outcome, every record and every count against each other.
    fn check(&self, seed: u64) {
        let metrics = self.world.metrics();
        let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
        for record in &self.records {
            *statuses.entry(record.status).or_default() += 1;
        }
        for (status, count) in &statuses {
            assert_eq!(
                metrics.with_status(*status),
                *count,
                "seed {seed}, status {status}"
            );
        }
        assert_eq!(metrics.total(), self.records.len() as u64, "seed {seed}");
        assert_eq!(self.world.stage.records_lost(), 0);
        for flag in Flag::ALL {
            let logged = self
                .records
                .iter()
                .filter(|record| record.flag == Some(flag))
                .count();
            assert_eq!(
                metrics.flags[flag as usize], logged as u64,
                "seed {seed}, {flag}"
            );
        }
        for client in &self.clients {
            let addresses = &client.addresses;
            let logged = self
                .records
                .iter()
                .filter(|record| addresses.contains(&record.client));
            let outcomes = client
                .outcomes
                .iter()
                .filter(|(_, outcome)| *outcome != Outcome::Unsent);
            if !client.aborts {
                assert_eq!(logged.count(), outcomes.count(), "seed {seed}, {client:?}");
            }
        }
        for (number, count) in &self.seen {
            let most = if plan::ask(*number, seed).is_idempotent() {
                2
            } else {
                1
            };
            assert!(
                *count <= most,
                "seed {seed}: request {number} was made {count} times"
            );
        }
        let connects = self.world.network.borrow().connects as u64;
        assert_eq!(metrics.upstream_connections, connects);
        assert_eq!(
            (metrics.panics, metrics.connections_lost, metrics.stalled),
            (0, 0, 0)
        );
        assert_eq!(self.world.stage.connections(SERVICE), 0, "seed {seed}");
        assert_eq!(self.world.stage.tasks(SERVICE), 0, "seed {seed}");
    }
}

fn simulate(seed: u64, clients: u64, source: Source) -> Simulation {
    let mut simulation = Simulation::new(seed, clients, source);
    simulation.run();
    simulation.check(seed);
    simulation
}

#[test]
fn every_byte_is_right_or_there_is_a_named_error() {
    let mut whole = 0;
    let mut faults: BTreeMap<Fault, usize> = BTreeMap::new();
    for seed in 0..12 {
        let source = if seed % 2 == 0 {
            Source::Node
        } else {
            Source::Client
        };
        let simulation = simulate(seed, 60, source);
        for client in &simulation.clients {
            for (ask, outcome) in &client.outcomes {
                whole += usize::from(*outcome == Outcome::Whole);
                if *outcome != Outcome::Unsent {
                    *faults.entry(ask.fault).or_default() += 1;
                }
            }
        }
    }
    assert!(whole > 1_500, "{whole} whole responses");
    for fault in Fault::ALL {
        assert!(
            faults.get(&fault).is_some_and(|count| *count > 20),
            "{fault:?}: {faults:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let logs = [(); 2].map(|()| simulate(99, 40, Source::Node).records);
    assert_eq!(logs[0], logs[1]);
}

#[test]
fn a_thousand_clients() {
    simulate(7, 1_000, Source::Node);
}
