//! What a new flow asks of the tables: the service among few and many, and Maglev's choice; and what it costs
//! to build a Maglev table.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_main};
use weft_datapath::*;

#[path = "../tests/support/mod.rs"]
mod support;

use support::kernel_backend;

/// Keys that are looked up in turn: enough that no branch predictor knows them all.
const KEYS: usize = 1 << 16;

fn numbered(base: [u8; 4], number: usize) -> Address {
    Address::from_v4((u32::from_be_bytes(base) + number as u32).to_be_bytes())
}

/// So many services of one backend, which they share: a lookup finds the service, not its table.
fn services(count: usize) -> Tables {
    let mut builder = TablesBuilder::new();
    for number in 0..count {
        builder.add_service_port(ServicePortSpec {
            id: number as u32,
            address: numbered([10, 96, 0, 1], number),
            port: 80,
            proto: Protocol::Tcp,
            algorithm: Algorithm::Maglev,
            backends: vec![kernel_backend(numbered([10, 128, 0, 1], 0), 8080)],
            options: ServiceOptions::default(),
        });
    }
    builder.build(1).unwrap()
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));
    for count in [10, 1000, 10_000, 100_000] {
        let tables = services(count);
        // A stride prime to every count: no two neighbours one after another.
        let keys: Vec<Address> = (0..KEYS)
            .map(|key| numbered([10, 96, 0, 1], key * 7919 % count))
            .collect();
        let mut at = 0;
        group.bench_function(BenchmarkId::new("service", count), |bench| {
            bench.iter(|| {
                at = (at + 1) % KEYS;
                let service = tables.service(black_box(&keys[at]), 80, Protocol::Tcp);
                assert!(black_box(service).is_some());
            });
        });
    }
    group.finish();
}

fn maglev(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev");
    group
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    for count in [2, 10, 100, 1000] {
        let backends: Vec<(Address, u16)> = (0..count)
            .map(|number| (numbered([10, 128, 0, 1], number), 1))
            .collect();
        let size = MaglevTable::default_size(count);
        group.throughput(Throughput::Elements(u64::from(size)));
        group.bench_function(BenchmarkId::new("build", count), |bench| {
            bench.iter(|| MaglevTable::build(black_box(&backends), size));
        });
        let table = MaglevTable::build(&backends, size);
        let mut hash = 7_u64;
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("lookup", count), |bench| {
            bench.iter(|| {
                // Any entry may be next, and which one does not wait for the one before.
                hash = hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                assert!(black_box(table.lookup(black_box(hash))).is_some());
            });
        });
    }
    group.finish();
}

/// Criterion's macro makes public functions without documentation, hence the module.
mod benches {
    #![allow(missing_docs, reason = "made by a macro")]

    criterion::criterion_group!(benches, super::lookups, super::maglev);
}

criterion_main!(benches::benches);
