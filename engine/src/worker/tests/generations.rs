//! A new generation in the middle of a burst (SVC-45).

use arrayvec::ArrayVec;
use weft_datapath::{FrameBuf, FrameLedger, MemoryFrame, MemoryIo, Ports, StateConfig};

use super::super::testing::{Pins, stack};
use super::*;

/// Frames in memory; new tables are published while the worker has one in its hands.
struct Meddling {
    io: MemoryIo,
    published: Arc<ArcSwap<Tables>>,
    next: Arc<Tables>,
    /// Frames until then.
    frames: usize,
}

impl PacketIo for Meddling {
    type Frame = MemoryFrame;

    fn receive(&mut self, burst: &mut ArrayVec<MemoryFrame, BURST_MAX>) {
        self.io.receive(burst);
    }

    fn with_frame<R>(
        &mut self,
        frame: &mut MemoryFrame,
        f: impl FnOnce(&mut FrameBuf<'_>) -> R,
    ) -> R {
        if self.frames == 0 {
            self.published.store(Arc::clone(&self.next));
        }
        self.frames = self.frames.wrapping_sub(1);
        self.io.with_frame(frame, f)
    }

    fn room(&self) -> usize {
        self.io.room()
    }

    fn send(&mut self, frame: MemoryFrame) -> Result<(), MemoryFrame> {
        self.io.send(frame)
    }

    fn release(&mut self, frame: MemoryFrame) {
        self.io.release(frame);
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        self.io.allocate()
    }

    fn flush(&mut self) {
        self.io.flush();
    }

    fn frames(&self) -> FrameLedger {
        self.io.frames()
    }
}

/// The service's backend at another port.
fn moved(tables: &Tables, port: u16) -> Tables {
    let mut builder = weft_datapath::TablesBuilder::editing(tables);
    let mut spec = tables.services()[0].spec().clone();
    builder.remove_service_port((spec.address, spec.port, spec.proto));
    spec.backends[0].port = port;
    builder.add_service_port(spec);
    builder.build(tables.generation + 1).unwrap()
}

#[test]
fn svc_45_a_burst_sees_one_generation_and_the_worker_keeps_no_other() {
    let first = Arc::new(tables(1));
    let published = Arc::new(ArcSwap::from(Arc::clone(&first)));
    let shared = Arc::new(Shared::default());
    let waker = Waker::new(Arc::clone(&shared)).unwrap();
    let mut worker = Worker::new(Parts {
        io: Meddling {
            io: MemoryIo::new(64, 2048, 32),
            published: Arc::clone(&published),
            next: Arc::new(moved(&first, 7001)),
            frames: 3,
        },
        pins: Pins::default(),
        tables: Arc::clone(&published),
        state: State::new(StateConfig {
            max_flows: 64,
            seed: 7,
            worker: 0,
            workers: 1,
            ports: Ports { weft0_mac: [2; 6] },
            hairpin: Default::default(),
        }),
        stack: stack(),
        layer7: Arc::default(),
        access_log: None,
        seed: 7,
        handover: HandOver::mesh(&[waker]).remove(0),
        commands: bounded(1).1,
        shared: Arc::clone(&shared),
        heartbeat_limit: HEARTBEAT_LIMIT,
    });
    let mut burst = |ports: std::ops::Range<u16>, time| -> Vec<u16> {
        for port in ports {
            assert!(worker.io_mut().io.push(&udp(CLIENT, port, VIP, 0)));
        }
        worker.step(at(time));
        let sent = worker.io_mut().io.take_sent();
        sent.iter().map(|frame| addresses(frame).1.port()).collect()
    };

    assert_eq!(
        burst(5000..5008, 0),
        [7000; 8],
        "the tables changed at the fourth"
    );
    assert_eq!(shared.generation(), 1);
    let expected = [[7000; 8], [7001; 8]].concat();
    assert_eq!(burst(5000..5016, 1), expected, "flows keep their backends");
    assert_eq!(shared.generation(), 2);
    assert_eq!(
        Arc::strong_count(&first),
        1,
        "control alone frees a generation"
    );
}

/// One endpoint of 100,000 changes: the first burst after it, of new flows to 64 services, may take
/// 100 us longer than one without a change. The least of many rounds is what the change costs, the
/// rest is the machine.
#[test]
fn svc_45_a_change_among_100_000_endpoints_costs_the_data_core_under_100_us() {
    let vip = |service: u32| {
        let [_, a, b, c] = service.to_be_bytes();
        std::net::Ipv4Addr::from([172, 16 + a, b, c])
    };
    let mut builder = builder();
    for service in 0..10_000 {
        let backend = |number: u32| weft_datapath::Backend {
            address: std::net::IpAddr::from((service * 10 + number + 0x0b00_0000).to_be_bytes())
                .into(),
            port: 7000,
            path: weft_datapath::BackendPath::Kernel,
            slot: weft_datapath::SlotRef::FIXED,
            member: weft_datapath::SlotRef::FIXED,
            state: weft_datapath::BackendState::Ready,
            weight: 1,
            name: None,
        };
        builder.add_service_port(weft_datapath::ServicePortSpec {
            id: service,
            address: std::net::IpAddr::from(vip(service)).into(),
            port: 7,
            proto: weft_datapath::Protocol::Udp,
            algorithm: weft_datapath::Algorithm::Random, // Maglev tables take long to fill 10,000 times.
            backends: (0..10).map(backend).collect(),
            options: weft_datapath::ServiceOptions::default(),
        });
    }
    let mut generation = Arc::new(builder.build(2).unwrap());
    let mut bench = bench(1, 256, 128);
    bench.tables.store(Arc::clone(&generation));
    let worker = &mut bench.workers[0];
    let mut sport = 1000;
    let mut burst = |time| {
        sport += 1;
        for service in 0..BURST_MAX as u32 {
            let to = SocketAddrV4::new(vip(service * 150), 7);
            assert!(worker.io_mut().push(&udp(CLIENT, sport, to, 0)));
        }
        let began = std::time::Instant::now();
        assert_eq!(worker.step(at(time)), BURST_MAX);
        let took = began.elapsed();
        assert_eq!(worker.io_mut().take_sent().len(), BURST_MAX);
        took
    };
    let mut retired = Vec::new();
    let mut least = Duration::MAX;
    for round in 0..20 {
        let quiet = burst(3 * round).min(burst(3 * round + 1));
        let mut builder = weft_datapath::TablesBuilder::editing(&generation);
        let last = generation.service(
            &std::net::IpAddr::from(vip(150 * round as u32)).into(),
            7,
            weft_datapath::Protocol::Udp,
        );
        let mut spec = last.unwrap().spec().clone();
        builder.remove_service_port((spec.address, spec.port, spec.proto));
        spec.backends.pop();
        builder.add_service_port(spec);
        let next = Arc::new(builder.build(generation.generation + 1).unwrap());
        retired.push(std::mem::replace(&mut generation, next));
        bench.tables.store(Arc::clone(&generation));
        least = least.min(burst(3 * round + 2).saturating_sub(quiet));
    }
    assert!(least < Duration::from_micros(100), "{least:?}");
}
