//! What the stage costs a request: over streams in memory, so without TCP.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "a part of what tests use")]
mod support;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_main};
use weft_l7::{ServiceConfig, Source};

use support::{Peer, SERVICE, World, get, ok, service};

/// Clients with a connection each, and the connections to the endpoint that they use.
struct Hop {
    world: World,
    pairs: Vec<(Peer, Peer)>,
    request: String,
    response: String,
}

impl Hop {
    fn new(connections: usize, body: usize) -> Self {
        let mut world = World::new(ServiceConfig {
            source: Source::Client,
            access_log: false,
            ..service()
        });
        let (request, response) = (get("/reviews/1?full=true"), ok(&"x".repeat(body)));
        let pairs = (0..connections)
            .map(|_| {
                let (mut client, endpoint, _) = world.exchange(&request, &response);
                client.read();
                (client, endpoint)
            })
            .collect();
        Self {
            world,
            pairs,
            request,
            response,
        }
    }

    /// A request on each connection, all at once.
    fn round(&mut self) {
        self.world.now = self.world.now + Duration::from_millis(1);
        for (client, _) in &mut self.pairs {
            client.send(&self.request);
        }
        self.world.run();
        for (_, endpoint) in &mut self.pairs {
            assert!(!endpoint.read().is_empty());
            endpoint.send(&self.response);
        }
        self.world.run();
        for (client, _) in &mut self.pairs {
            assert!(!client.read().is_empty());
        }
    }
}

fn hop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for (connections, body) in [(1, 0), (32, 1 << 10), (512, 1 << 10), (1, 12 << 10)] {
        let mut hop = Hop::new(connections, body);
        group.throughput(Throughput::Elements(connections as u64));
        group.bench_function(
            format!("{connections} connections, {body} bytes"),
            |bencher| {
                bencher.iter(|| hop.round());
            },
        );
        assert_eq!(hop.world.stage.connections(SERVICE), connections);
    }
    group.finish();
}

fn benches() {
    hop(&mut Criterion::default().configure_from_args());
}

criterion_main!(benches);
