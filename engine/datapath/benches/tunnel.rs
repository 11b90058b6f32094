//! How fast a known flow is wrapped and unwrapped: UDP in frames of 64 bytes, packet by packet, all that `process` does.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_main};
use weft_datapath::*;

#[path = "../tests/support/mod.rs"]
mod support;

use support::tunnel::{coming, far, joined};
use support::*;

/// What makes a frame of 64 bytes with the headers of IPv4.
const PAYLOAD: [u8; 22] = [7; 22];

fn tunnel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tunnel");
    group.measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(1));
    for encapsulation in [Encapsulation::Geneve, Encapsulation::Vxlan] {
        for outer in Net::BOTH {
            let (tables, mut state) = (joined(encapsulation, outer), state(1));
            let net = Net::V4;
            let asked = Spec::udp(net.pod(1), 7000, far(net), 7000).payload(&PAYLOAD);
            let asked = asked.punted(CLIENT, Hook::FromPod);
            let back = coming(asked.clone(), outer, &tables, &mut state);
            for (name, frame) in [("encap", &asked), ("decap", &back)] {
                let id = BenchmarkId::new(name, format!("{encapsulation:?}_{outer:?}"));
                let mut memory = [0; 2048];
                group.bench_function(id, |bench| {
                    bench.iter(|| {
                        // The frame arrives anew each time, as from a ring.
                        let length = black_box(frame).len();
                        memory[..length].copy_from_slice(frame);
                        let mut buf = FrameBuf::new(&mut memory, length);
                        black_box(process(&mut buf, START, &tables, &mut state))
                    });
                });
                let mut buf = FrameBuf::new(&mut memory, frame.len());
                buf.bytes_mut().copy_from_slice(frame);
                let verdict = process(&mut buf, START, &tables, &mut state);
                assert_eq!(verdict, Verdict::Deliver);
            }
            assert_eq!(state.flows.len(), 1, "every packet was of a known flow");
        }
    }
    group.finish();
}

/// Criterion's macro makes public functions without documentation, hence the module.
mod benches {
    #![allow(missing_docs, reason = "made by a macro")]

    criterion::criterion_group!(benches, super::tunnel);
}

criterion_main!(benches::benches);
