//! A worker in memory: two pods, a service, frames as the hooks punt them. For tests.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::channel::{Sender, bounded};
use etherparse::PacketBuilder;
use weft_datapath::{
    Algorithm, Backend, BackendPath, Hook, Ingress, MemoryIo, Now, PinOp, Pod, PodState, Ports,
    Protocol, ServicePortSpec, SlotRef, State, StateConfig, Tables, TablesBuilder,
};
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
        PinOutcome {
            inserted: ops.len() as u64,
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
    let mut builder = TablesBuilder::new();
    for (address, ifindex) in [CLIENT, BACKEND] {
        builder.add_pod(Pod {
            ifindex,
            addresses: [std::net::IpAddr::from(address).into()]
                .into_iter()
                .collect(),
            slot: SlotRef::FIXED,
            state: PodState::Enrolled {
                grace_until: Now::default(),
            },
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
            weight: 1,
            name: None,
        }],
    });
    builder.build(generation).unwrap()
}

/// `count` workers with `frames` frames each and rings of `ring`.
pub fn bench(count: u16, frames: usize, ring: usize) -> Bench {
    let tables = Arc::new(ArcSwap::from_pointee(tables(1)));
    let pins = Pins::default();
    let shared: Vec<Arc<Shared>> = (0..count).map(|_| Arc::default()).collect();
    let wakers: Vec<Waker> = shared
        .iter()
        .map(|s| Waker::new(Arc::clone(s)).unwrap())
        .collect();
    let mut commands = Vec::new();
    let workers = (0..count)
        .zip(HandOver::mesh(&wakers))
        .map(|(index, handover)| {
            let (sender, asked) = bounded(4);
            commands.push(sender);
            Worker::new(Parts {
                io: MemoryIo::new(frames, 2048, ring),
                pins: pins.clone(),
                tables: Arc::clone(&tables),
                state: State::new(StateConfig {
                    max_flows: 4096,
                    seed: 7,
                    worker: index,
                    workers: count,
                    ports: Ports { weft0_mac: WEFT0 },
                }),
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
