//! What a stack moves: bytes in bulk with frames of 1500 bytes and with packets of 64 KiB, and connections.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_main};
use weft_datapath::{Address, Now, Parsed, parse};
use weft_stack::*;

const ROUTE: Route = Route { tag: 1, mtu: 1500 };

struct Port80(ServiceOptions);

impl Listeners for Port80 {
    fn lookup(&self, _: Address, port: u16, _: u32) -> Option<(ServiceId, ServiceOptions)> {
        (port == 80).then_some((ServiceId(0), self.0))
    }
}

/// Frames in memory that is used again.
#[derive(Default)]
struct Frames {
    memory: Vec<Vec<u8>>,
    used: usize,
}

impl Transmit for Frames {
    fn ready(&mut self) -> bool {
        self.used < 64
    }

    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8])) {
        if self.used == self.memory.len() {
            self.memory.push(vec![0; 70_000]);
        }
        let frame = &mut self.memory[self.used];
        self.used += 1;
        frame.resize(70_000, 0);
        write(&mut frame[14..14 + packet.len]);
        frame.truncate(14 + packet.len);
        frame[12..14].copy_from_slice(&[8, 0]);
    }
}

struct Pair {
    stacks: [Stack; 2],
    frames: [Frames; 2],
    listeners: Port80,
    now: Now,
    verified: bool,
}

impl Pair {
    fn new(options: ServiceOptions, verified: bool) -> Self {
        let mut config = StackConfig {
            secret: [1; 32],
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        };
        config.limits.time_wait = 1_024;
        Self {
            stacks: [Stack::new(&config), Stack::new(&config)],
            frames: Default::default(),
            listeners: Port80(options),
            now: Now::from_nanos(1_000_000_000),
            verified,
        }
    }

    /// Each sends what it has, the other takes it; whether anything moved.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        self.now = self.now + Duration::from_micros(10);
        for from in 0..2 {
            self.stacks[from].poll(&mut self.frames[from], self.now);
            let frames = &mut self.frames[from];
            for frame in &mut frames.memory[..frames.used] {
                let Ok(Parsed::Flow(packet)) = parse(frame) else {
                    panic!("no TCP");
                };
                let arrival = Arrival {
                    route: ROUTE,
                    verified: self.verified,
                };
                self.stacks[1 - from].ingest(frame, &packet, arrival, &self.listeners, self.now);
                moved = true;
            }
            frames.used = 0;
        }
        moved
    }

    fn open(&mut self, port: u16) -> (Stream, Stream) {
        let connect = Connect {
            local: (Address::from_v4([10, 0, 0, 1]), port),
            remote: (Address::from_v4([10, 0, 0, 2]), 80),
            route: ROUTE,
            service: ServiceId(0),
            payer: ROUTE.tag,
        };
        let client = self.stacks[0]
            .connect(&connect, &self.listeners.0, self.now)
            .unwrap();
        while self.turn() {}
        (client, self.stacks[1].accept().unwrap().stream)
    }
}

fn bulk(criterion: &mut Criterion) {
    const BYTES: usize = 4 << 20;
    let mut group = criterion.benchmark_group("bulk");
    group.throughput(Throughput::Bytes(BYTES as u64));
    for (name, segmentation, verified) in [
        ("1500, checksums", false, false),
        ("1500, verified", false, true),
        ("64k, verified", true, true),
    ] {
        let options = ServiceOptions {
            receive_buffer: 256 << 10,
            send_buffer: 256 << 10,
            ..ServiceOptions::default()
        };
        let mut pair = Pair::new(options, verified);
        let (client, server) = pair.open(1_000);
        client.set_segmentation(segmentation);
        let data = vec![0x5a; 64 << 10];
        let mut cx = Context::from_waker(Waker::noop());
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let (mut sent, mut got) = (0, 0);
                while got < BYTES {
                    while sent < BYTES {
                        let some = &data[..data.len().min(BYTES - sent)];
                        let Poll::Ready(Ok(count)) = client.poll_write(&mut cx, some) else {
                            break;
                        };
                        sent += count;
                    }
                    pair.turn();
                    while let Poll::Ready(Ok(count)) = server.poll_peek(&mut cx, <[u8]>::len) {
                        got += count;
                    }
                }
            });
        });
    }
    group.finish();
}

fn transactions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transactions");
    group.throughput(Throughput::Elements(1));
    let mut cx = Context::from_waker(Waker::noop());
    let mut pair = Pair::new(ServiceOptions::default(), false);
    let (client, server) = pair.open(1_000);
    let mut buffer = [0; 64];
    group.bench_function("question and answer, both ends", |bench| {
        bench.iter(|| {
            for (from, to) in [(&client, &server), (&server, &client)] {
                let written = from.poll_write(&mut cx, &[1; 64]);
                assert!(matches!(written, Poll::Ready(Ok(64))));
                pair.turn();
                let read = to.poll_read(&mut cx, &mut buffer);
                assert!(matches!(read, Poll::Ready(Ok(64))), "{read:?}");
            }
        });
    });
    let mut port = 1_000;
    group.bench_function("open and close, both ends", |bench| {
        bench.iter(|| {
            port = if port > 60_000 { 1_001 } else { port + 1 };
            let (client, server) = pair.open(port);
            drop(client);
            pair.turn();
            drop(server);
            while pair.turn() {}
        });
    });
    group.finish();
}

/// Criterion's macro makes public functions without documentation, hence the module.
mod benches {
    #![allow(missing_docs, reason = "made by a macro")]

    criterion::criterion_group!(benches, super::bulk, super::transactions);
}

criterion_main!(benches::benches);
