//! A worker in memory: two pods, a service, frames as the hooks punt them. For tests.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::channel::{Sender, bounded};
use etherparse::PacketBuilder;
use pcap_file::PcapError;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use weft_datapath::{
    AffinityTable, Algorithm, Backend, BackendPath, BackendState, ClientNames, Hook, Ingress,
    MemoryIo, Now, PinOp, Pod, PodState, Ports, Protocol, ServiceOptions, ServicePortSpec, SlotRef,
    State, StateConfig, Tables, TablesBuilder,
};
use weft_stack::{Limits, StackConfig};
use weft_xdp::PinOutcome;

use super::{Command, HandOver, Parts, PinSink, Shared, Waker, Worker};

/// The client pod and its veth.
pub const CLIENT: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 244, 1, 1), 11);
/// The backend pod and its veth.
pub const BACKEND: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 244, 1, 2), 12);
/// A UDP service at this address with the backend's port 7000 behind it.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 7);
const WEFT0: [u8; 6] = [2, 0, 0, 0, 0, 0xf0];
/// After this long without a step, the hooks take a worker for dead.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_millis(100);

/// The owner entries written so far, shared by the workers of a test.
#[derive(Clone, Debug, Default)]
pub struct Pins(pub Arc<Mutex<Vec<PinOp>>>);

impl PinSink for Pins {
    fn apply(&mut self, ops: &[PinOp]) -> PinOutcome {
        self.0.lock().unwrap().extend_from_slice(ops);
        let inserts = ops.iter().filter(|op| matches!(op, PinOp::Insert { .. }));
        let inserted = inserts.count() as u64;
        PinOutcome {
            inserted,
            removed: ops.len() as u64 - inserted,
            ..PinOutcome::default()
        }
    }
}

/// Workers over memory, and what a test holds of them.
pub struct Bench {
    /// The workers, by number.
    pub workers: Vec<Worker<MemoryIo, Pins>>,
    /// Their commands.
    pub commands: Vec<Sender<Command>>,
    /// Their tables.
    pub tables: Arc<ArcSwap<Tables>>,
    /// Their owner entries.
    pub pins: Pins,
}

/// The tables of every test: two pods, one service.
pub fn tables(generation: u64) -> Tables {
    builder().build(generation).unwrap()
}

/// As [`tables`], for a test to add to.
pub fn builder() -> TablesBuilder {
    let mut builder = TablesBuilder::new();
    for (address, ifindex) in [CLIENT, BACKEND] {
        builder.add_pod(Pod {
            ifindex,
            name: Box::default(),
            addresses: [std::net::IpAddr::from(address).into()]
                .into_iter()
                .collect(),
            slot: SlotRef::FIXED,
            state: PodState::Enrolled {
                grace_until: Now::default(),
            },
            mtu: 1500,
        });
    }
    builder.add_service_port(ServicePortSpec {
        id: 0,
        address: std::net::IpAddr::from(*VIP.ip()).into(),
        port: VIP.port(),
        proto: Protocol::Udp,
        algorithm: Algorithm::Maglev,
        backends: vec![Backend {
            address: std::net::IpAddr::from(BACKEND.0).into(),
            port: 7000,
            path: BackendPath::Pod { ifindex: BACKEND.1 },
            slot: SlotRef::FIXED,
            member: SlotRef::FIXED,
            state: BackendState::Ready,
            weight: 1,
            name: None,
        }],
        options: ServiceOptions::default(),
    });
    builder
}

/// `count` workers with `frames` frames each and rings of `ring`.
pub fn bench(count: u16, frames: usize, ring: usize) -> Bench {
    bench_for(count, frames, ring, 4096)
}

/// As [`bench`], with room for `max_flows` flows in each worker.
pub fn bench_for(count: u16, frames: usize, ring: usize, max_flows: usize) -> Bench {
    let tables = Arc::new(ArcSwap::from_pointee(tables(1)));
    let pins = Pins::default();
    let shared: Vec<Arc<Shared>> = (0..count).map(|_| Arc::default()).collect();
    let wakers: Vec<Waker> = shared
        .iter()
        .map(|s| Waker::new(Arc::clone(s)).unwrap())
        .collect();
    let mut commands = Vec::new();
    let clients = AffinityTable::for_flows(max_flows, 7);
    let names = ClientNames::for_flows(max_flows, 7);
    let workers = (0..count)
        .zip(HandOver::mesh(&wakers))
        .map(|(index, handover)| {
            let (sender, asked) = bounded(4);
            commands.push(sender);
            let state = State::sharing(
                StateConfig {
                    max_flows,
                    seed: 7,
                    worker: index,
                    workers: count,
                    ports: Ports { weft0_mac: WEFT0 },
                    hairpin: Default::default(),
                },
                clients.shared(),
                names.clone(),
            );
            Worker::new(Parts {
                io: MemoryIo::new(frames, 2048, ring),
                pins: pins.clone(),
                tables: Arc::clone(&tables),
                state,
                stack: stack(),
                layer7: Arc::default(),
                access_log: None,
                seed: 7,
                handover,
                commands: asked,
                shared: Arc::clone(&shared[usize::from(index)]),
                heartbeat_limit: HEARTBEAT_LIMIT,
            })
        })
        .collect();
    Bench {
        workers,
        commands,
        tables,
        pins,
    }
}

/// What a test's TCP stack is made of.
pub fn stack() -> StackConfig {
    StackConfig {
        secret: [7; 32],
        limits: Limits {
            connections: 4096,
            ..Limits::default()
        },
        timeouts: Default::default(),
    }
}

/// A UDP frame as the pod's hook punts it to worker `target`.
pub fn udp(from: (Ipv4Addr, u32), sport: u16, to: SocketAddrV4, target: u16) -> Vec<u8> {
    let source = Ingress {
        ifindex: from.1,
        hook: Hook::FromPod,
        target,
    }
    .encode();
    let builder = PacketBuilder::ethernet2(source, [2, 0, 0, 0, 0, 1])
        .ipv4(from.0.octets(), to.ip().octets(), 64)
        .udp(sport, to.port());
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

/// A seeded coin (xorshift), so that a failure can be run again. The seed is not 0.
pub struct Coin(pub u64);

impl Coin {
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The frames of a test, written as a pcap file if the test fails.
pub struct Trace {
    name: String,
    latest: usize,
    frames: VecDeque<(Now, Vec<u8>)>,
}

impl Trace {
    /// A trace to be written as `weft-<name>.pcap` in the directory for temporary files.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            latest: usize::MAX,
            frames: VecDeque::new(),
        }
    }

    /// As [`new`](Self::new), of the latest frames only.
    pub fn of_latest(latest: usize, name: &str) -> Self {
        let mut trace = Self::new(name);
        trace.latest = latest;
        trace
    }

    /// Remembers a frame.
    pub fn record(&mut self, now: Now, frame: &[u8]) {
        if self.frames.len() == self.latest {
            self.frames.pop_front();
        }
        self.frames.push_back((now, frame.to_vec()));
    }

    fn write(&self, path: &Path) -> Result<(), PcapError> {
        let mut file = PcapWriter::new(File::create(path).map_err(PcapError::IoError)?)?;
        for (now, frame) in &self.frames {
            let time = Duration::from_nanos(now.as_nanos());
            file.write_packet(&PcapPacket::new(time, frame.len() as u32, frame))?;
        }
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("weft-{}.pcap", self.name));
            match self.write(&path) {
                Ok(()) => eprintln!("the frames of this test: {}", path.display()),
                Err(error) => eprintln!("{}: {error}", path.display()),
            }
        }
    }
}
