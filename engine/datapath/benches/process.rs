//! How fast `process` decides: one warm flow, packet by packet; bursts of 100,000 flows in random order and of new
//! flows, with the look ahead.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_main};
use weft_datapath::*;

#[path = "../tests/support/mod.rs"]
mod support;

use support::*;

const FLOWS: usize = 100_000;

fn big_state() -> State {
    let ports = Ports { weft0_mac: WEFT0 };
    State::new(StateConfig {
        max_flows: 2 * FLOWS,
        seed: 7,
        worker: 0,
        workers: 1,
        ports,
        hairpin: Default::default(),
    })
}

/// The frame arrives anew each time, as from a ring: 64 bytes of headers copied in.
fn decide(frame: &[u8], memory: &mut [u8; 2048], tables: &Tables, state: &mut State) -> Verdict {
    memory[..frame.len()].copy_from_slice(frame);
    process(
        &mut FrameBuf::new(memory, frame.len()),
        START,
        tables,
        state,
    )
}

/// Frames as a worker takes them: a burst at a time, looked ahead over.
struct Burst {
    memory: Vec<[u8; 2048]>,
    ahead: LookAhead,
}

impl Burst {
    fn new() -> Self {
        Self {
            memory: vec![[0; 2048]; BURST_MAX],
            ahead: LookAhead::default(),
        }
    }

    /// Decides about a burst, or less, of frames of the same length, which `frame` gives.
    fn decide(
        &mut self,
        count: usize,
        mut frame: impl FnMut(usize, &mut [u8; 2048]) -> usize,
        tables: &Tables,
        state: &mut State,
    ) {
        let mut len = 0;
        for (at, memory) in self.memory.iter_mut().take(count).enumerate() {
            len = frame(at, memory);
            self.ahead.note(&memory[..len], state);
        }
        self.ahead.fetch(tables, state);
        for memory in self.memory.iter_mut().take(count) {
            let mut frame = FrameBuf::new(memory, len);
            let _ = black_box(process(&mut frame, START, tables, state));
        }
        state.pin_ops.clear();
    }
}

/// SYNs and later packets of `FLOWS` flows, 50,000 ports to each of two VIPs.
fn flows(net: Net, flags: u8) -> Vec<Vec<u8>> {
    let frame = |flow: usize| {
        let vip = net.vip(if flow.is_multiple_of(2) { 80 } else { 81 });
        Spec::tcp(
            net.pod(1),
            10_000 + (flow / 2) as u16,
            vip,
            BY_KERNEL,
            flags,
        )
        .punted(CLIENT, Hook::FromPod)
    };
    (0..FLOWS).map(frame).collect()
}

/// As many backends as it takes for 100,000 reply tuples of one client to differ.
fn wide_tables() -> Tables {
    let mut builder = TablesBuilder::new();
    for net in Net::BOTH {
        for (id, vip) in [(1, 80), (2, 81)] {
            let backends = (1..=20)
                .map(|host| kernel_backend(net.pod(host + 100), TARGET + vip as u16))
                .collect();
            let (address, port, proto) = (net.vip(vip), BY_KERNEL, Protocol::Tcp);
            let algorithm = Algorithm::Maglev;
            builder.add_service_port(ServicePortSpec {
                id,
                address,
                port,
                proto,
                algorithm,
                backends,
                options: ServiceOptions::default(),
            });
        }
    }
    builder
        .add_pod(pod(CLIENT, Standing::Settled))
        .set_epochs(epochs());
    builder.build(1).unwrap()
}

fn warm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("process");
    group.measurement_time(Duration::from_secs(3));
    for net in Net::BOTH {
        group.throughput(Throughput::Elements(1));
        let (tables, mut state, mut memory) = (settled(), big_state(), [0; 2048]);
        let spec = Spec::tcp(net.pod(1), 40000, net.vip(80), SERVED, SYN);
        assert_eq!(
            decide(
                &spec.punted(CLIENT, Hook::FromPod),
                &mut memory,
                &tables,
                &mut state
            ),
            Verdict::Deliver
        );
        let frame = Spec { flags: ACK, ..spec }.punted(CLIENT, Hook::FromPod);
        group.bench_function(
            BenchmarkId::new("one_warm_flow", format!("{net:?}")),
            |bench| {
                bench.iter(|| {
                    black_box(decide(black_box(&frame), &mut memory, &tables, &mut state))
                });
            },
        );

        let (tables, mut state) = (wide_tables(), big_state());
        for frame in flows(net, SYN) {
            assert_eq!(
                decide(&frame, &mut memory, &tables, &mut state),
                Verdict::Deliver
            );
            state.pin_ops.clear();
        }
        // One frame whose port and VIP change: a received frame's headers are in the cache, 100,000 of
        // them in memory would not be. Known flows are not verified, so its checksum may stay wrong.
        let mut frame = Spec::tcp(net.pod(1), 10_000, net.vip(80), BY_KERNEL, ACK)
            .punted(CLIENT, Hook::FromPod);
        let (vip, port) = if net == Net::V4 {
            (33, 34..36)
        } else {
            (53, 54..56)
        };
        let mut at = 0;
        let mut burst = Burst::new();
        group.throughput(Throughput::Elements(BURST_MAX as u64));
        group.bench_function(
            BenchmarkId::new("100k_flows", format!("{net:?}")),
            |bench| {
                let mut next = |_: usize, memory: &mut [u8; 2048]| {
                    // A stride prime to the number of flows: every flow, never two neighbours.
                    at = (at + 38_183) % FLOWS;
                    frame[vip] = 80 + (at % 2) as u8;
                    frame[port.clone()].copy_from_slice(&(10_000 + (at / 2) as u16).to_be_bytes());
                    memory[..frame.len()].copy_from_slice(&frame);
                    frame.len()
                };
                bench.iter(|| burst.decide(BURST_MAX, &mut next, &tables, &mut state));
            },
        );
        assert_eq!(state.flows.len(), FLOWS, "every packet was of a known flow");
    }
    group.finish();
}

fn new_flows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("process");
    let (tables, frames) = (wide_tables(), flows(Net::V4, SYN));
    group
        .throughput(Throughput::Elements(FLOWS as u64))
        .sample_size(10);
    group.bench_function("new_flows", |bench| {
        bench.iter_batched_ref(
            big_state,
            |state| {
                let mut burst = Burst::new();
                for frames in frames.chunks(BURST_MAX) {
                    let next = |at: usize, memory: &mut [u8; 2048]| {
                        let frame: &[u8] = &frames[at];
                        memory[..frame.len()].copy_from_slice(frame);
                        frame.len()
                    };
                    burst.decide(frames.len(), next, &tables, state);
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Criterion's macro makes public functions without documentation, hence the module.
mod benches {
    #![allow(missing_docs, reason = "made by a macro")]

    criterion::criterion_group!(benches, super::warm, super::new_flows);
}

criterion_main!(benches::benches);
