//! What connections hold.

#[path = "support/mod.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use support::{World, get, ok, service};

/// Idle connections, each after a request, with their own connections to the endpoint: bytes of the stage for the pair.
#[test]
fn an_idle_pair_of_connections_is_small() {
    const PAIRS: usize = 1_000;
    let mut world = World::new(service());
    let mut kept = Vec::with_capacity(PAIRS);
    let info = allocation_counter::measure(|| {
        for _ in 0..PAIRS {
            let (mut client, mut endpoint, _) = world.exchange(&get("/"), &ok("x"));
            client.read();
            endpoint.read();
            kept.push((client, endpoint));
        }
        while world.stage.record().is_some() {}
    });
    let bytes = usize::try_from(info.bytes_current).unwrap() / PAIRS;
    println!("{bytes} bytes a pair");
    assert!(bytes < 64 << 10, "{bytes} bytes a pair");
}
