//! What the parts of a packet's way cost by themselves: parsing, checksums, the answer to what nobody serves.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_main};
use weft_datapath::*;

#[path = "../tests/support/mod.rs"]
mod support;

use support::*;

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for net in Net::BOTH {
        for (name, spec) in [
            (
                "tcp",
                Spec::tcp(net.pod(1), 40000, net.vip(80), SERVED, ACK),
            ),
            ("udp", Spec::udp(net.pod(1), 40000, net.vip(80), SERVED)),
        ] {
            let frame = spec.punted(CLIENT, Hook::FromPod);
            assert_eq!(*packet(&frame).tuple(), spec.tuple);
            group.bench_function(BenchmarkId::new(name, format!("{net:?}")), |bench| {
                bench.iter(|| black_box(parse(black_box(&frame))));
            });
        }
    }
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [20, 64, 1460] {
        let (bytes, [src, dst]) = (vec![0x5a; length], [1, 2].map(|host| Net::V4.pod(host)));
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("full", length), |bench| {
            bench.iter(|| l4_checksum(&src, &dst, Protocol::Tcp, black_box(&bytes)));
        });
    }
    group.throughput(Throughput::Elements(1));
    for (name, length) in [("V4", 4), ("V6", 16)] {
        // An address and a port of one header, as translation patches them.
        let (old, new) = (vec![0x5a; length], vec![0xc3; length]);
        let mut field = [0x12, 0x34];
        group.bench_function(BenchmarkId::new("patch", name), |bench| {
            bench.iter(|| {
                Delta::default()
                    .replace(black_box(&old), black_box(&new))
                    .replace(black_box(&[0, 80]), black_box(&[0x1f, 0x90]))
                    .patch(&mut field);
                black_box(field)
            });
        });
    }
    group.finish();
}

/// The whole way of a packet to a service without backends: a reset, or port unreachable.
fn rejections(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reject");
    group.throughput(Throughput::Elements(1));
    let tables = tables(Standing::Settled, Standing::Settled);
    for net in Net::BOTH {
        let (from, to) = (net.pod(1), net.vip(80));
        for (name, spec) in [
            ("tcp", Spec::tcp(from, 40000, to, WITHOUT_BACKENDS, SYN)),
            ("udp", Spec::udp(from, 40000, to, WITHOUT_BACKENDS)),
        ] {
            let (mut state, mut memory) = (state(1), [0; 2048]);
            let frame = spec.punted(CLIENT, Hook::FromPod);
            group.bench_function(BenchmarkId::new(name, format!("{net:?}")), |bench| {
                bench.iter(|| {
                    memory[..frame.len()].copy_from_slice(&frame);
                    let mut frame = FrameBuf::new(&mut memory, frame.len());
                    let verdict = process(&mut frame, START, &tables, &mut state);
                    assert_eq!(verdict, Verdict::Reply);
                });
            });
        }
    }
    group.finish();
}

/// Criterion's macro makes public functions without documentation, hence the module.
mod benches {
    #![allow(missing_docs, reason = "made by a macro")]

    criterion::criterion_group!(benches, super::parsing, super::checksums, super::rejections);
}

criterion_main!(benches::benches);
