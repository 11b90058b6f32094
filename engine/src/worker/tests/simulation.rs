//! Two whole workers under a virtual clock: hundreds of connections over a wire that loses, doubles and
//! reorders, hooks that put some frames on the wrong queue, and a ledger that comes out exactly.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_datapath::{
    Address, Algorithm, Backend, BackendPath, BackendState, DropReason, Egress, FlowKey, Inject,
    KernelReason, Now, PacketIo, Pod, PodState, Protocol, ServiceOptions, ServicePortSpec, SlotRef,
    TablesBuilder, Tuple,
};

use super::super::testing::{Bench, Coin, Trace, bench};
use super::Tables;
use super::wire::{ACK, FIN, Payload, SYN, Sent, Steering, packet, sound, v4};

const WORKERS: u16 = 2;
const CONNECTIONS: u16 = 400;
/// Packets that a client sends on a connection, each when the one before was answered.
const PACKETS: u8 = 6;
const TICK: Duration = Duration::from_micros(50);
/// The longest way between a pod and its hook, in ticks, and how long a client waits for an answer.
const DELAY_MAX: u64 = 20;
const PATIENCE: Duration = Duration::from_millis(5);
/// One frame in so many is lost, one comes twice, one lands on the wrong queue.
const LOSS: u64 = 20;
const DOUBLE: u64 = 20;
const STRAY: u64 = 10;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
const SERVED: u16 = 80;
const UNSERVED: u16 = 81;
const TARGET: u16 = 8080;
const CLIENTS: [u32; 3] = [11, 12, 13];
const BACKENDS: [u32; 3] = [21, 22, 23];

/// The address of the pod behind an interface.
fn address(ifindex: u32) -> Address {
    v4(Ipv4Addr::new(10, 244, 1, ifindex as u8))
}

fn tables() -> Tables {
    let mut builder = TablesBuilder::new();
    for ifindex in CLIENTS.into_iter().chain(BACKENDS) {
        builder.add_pod(Pod {
            ifindex,
            name: Box::default(),
            addresses: [address(ifindex)].into_iter().collect(),
            slot: SlotRef::FIXED,
            state: PodState::Enrolled {
                grace_until: Now::default(),
            },
            mtu: 1500,
        });
    }
    for (id, proto) in [(0, Protocol::Tcp), (1, Protocol::Udp)] {
        let backend = |ifindex| Backend {
            address: address(ifindex),
            port: TARGET,
            path: BackendPath::Pod { ifindex },
            slot: SlotRef::FIXED,
            member: SlotRef::FIXED,
            state: BackendState::Ready,
            weight: 1,
            name: None,
        };
        builder.add_service_port(ServicePortSpec {
            id,
            address: v4(VIP),
            port: SERVED,
            proto,
            algorithm: Algorithm::Random,
            backends: BACKENDS.map(backend).into(),
            options: ServiceOptions::default(),
        });
    }
    builder.build(1).unwrap()
}

/// A client's end of a connection: it sends the next packet when the last one was answered.
struct Connection {
    number: u32,
    ifindex: u32,
    tuple: Tuple,
    answered: u8,
    backend: Option<Address>,
}

impl Connection {
    fn packet(&self) -> Sent {
        let flags = match (self.tuple.proto, self.answered) {
            (Protocol::Udp, _) => 0,
            (Protocol::Tcp, 0) => SYN,
            (Protocol::Tcp, number) if number + 1 == PACKETS => FIN | ACK,
            (Protocol::Tcp, _) => ACK,
        };
        Sent {
            ifindex: self.ifindex,
            tuple: self.tuple,
            flags,
            payload: Payload {
                connection: self.number,
                number: self.answered,
                ..Payload::default()
            },
        }
    }
}

/// What happens at a time.
enum Event {
    /// A packet comes to its pod's hook.
    AtHook(Sent),
    /// A connection's answer to this packet is late.
    Late { connection: usize, number: u8 },
}

/// What the hooks punted, by the fate that the engine must give it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    forwarded: u64,
    replied: u64,
    not_ours: u64,
    src_spoof: u64,
}

struct Simulation {
    bench: Bench,
    coin: Coin,
    trace: Trace,
    now: Now,
    events: BTreeMap<(Now, u64), Event>,
    sequence: u64,
    connections: Vec<Connection>,
    by_client: HashMap<(Address, u16), usize>,
    steering: Steering,
    expected: Expected,
    strays: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let bench = bench(WORKERS, 1024, 512);
        bench.tables.store(std::sync::Arc::new(tables()));
        let mut simulation = Self {
            bench,
            coin: Coin(seed),
            trace: Trace::new(&format!("two-workers-{seed:x}")),
            now: Now::from_nanos(1_000_000_000),
            events: BTreeMap::new(),
            sequence: 0,
            connections: Vec::new(),
            by_client: HashMap::new(),
            steering: Steering::default(),
            expected: Expected::default(),
            strays: 0,
        };
        for connection in 0..CONNECTIONS {
            let ifindex = CLIENTS[usize::from(connection) % CLIENTS.len()];
            let tuple = Tuple {
                src: address(ifindex),
                dst: v4(VIP),
                sport: 10_000 + connection,
                dport: SERVED,
                proto: if connection % 2 == 0 {
                    Protocol::Tcp
                } else {
                    Protocol::Udp
                },
            };
            simulation
                .by_client
                .insert((tuple.src, tuple.sport), usize::from(connection));
            simulation.connections.push(Connection {
                number: connection.into(),
                ifindex,
                tuple,
                answered: 0,
                backend: None,
            });
            simulation.send_next(usize::from(connection));
            simulation.disturb(ifindex, tuple);
        }
        simulation
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    /// A pod sends: the way to its hook loses some, doubles some, and overtakes.
    fn send(&mut self, packet: Sent) {
        let copies = if self.coin.one_in(LOSS) {
            0
        } else {
            1 + u64::from(self.coin.one_in(DOUBLE))
        };
        for _ in 0..copies {
            let delay = TICK * self.coin.below(DELAY_MAX) as u32;
            self.at(delay, Event::AtHook(packet.clone()));
        }
    }

    fn send_next(&mut self, connection: usize) {
        let packet = self.connections[connection].packet();
        let number = packet.payload.number;
        self.send(packet);
        self.at(PATIENCE, Event::Late { connection, number });
    }

    /// Packets of every other fate, among those of the connections.
    fn disturb(&mut self, ifindex: u32, tuple: Tuple) {
        let udp = Tuple {
            proto: Protocol::Udp,
            ..tuple
        };
        for (ifindex, tuple) in [
            (
                ifindex,
                Tuple {
                    dport: UNSERVED,
                    ..udp
                },
            ),
            (
                ifindex,
                Tuple {
                    dst: v4(NOWHERE),
                    ..udp
                },
            ),
            (BACKENDS[0], udp),
        ] {
            self.send(Sent {
                ifindex,
                tuple,
                flags: 0,
                payload: Payload::default(),
            });
        }
    }

    /// What the tcx program does: the owner's queue, or a hash of the source; a few go astray.
    fn punt(&mut self, packet: Sent) {
        let Sent { ifindex, tuple, .. } = packet;
        let key = FlowKey { tuple, ifindex };
        let target = self.steering.target(&key);
        let mut queue = target % WORKERS;
        if self.coin.one_in(STRAY) {
            queue = (queue + 1) % WORKERS;
            self.strays += 1;
        }
        match tuple.dst {
            _ if tuple.src != address(ifindex) => self.expected.src_spoof += 1,
            to if to == v4(NOWHERE) => self.expected.not_ours += 1,
            to if to == v4(VIP) && tuple.dport == UNSERVED => self.expected.replied += 1,
            _ => self.expected.forwarded += 1,
        }
        let frame = packet.punted(target);
        self.trace.record(self.now, &frame);
        let io = self.bench.workers[usize::from(queue)].io_mut();
        assert!(io.push(&frame), "{:?}", io.frames());
    }

    /// One turn of everything.
    fn tick(&mut self) {
        self.now = self.now + TICK;
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= self.now
        {
            match entry.remove() {
                Event::AtHook(packet) => self.punt(packet),
                Event::Late { connection, number } => {
                    if self.connections[connection].answered == number {
                        self.send_next(connection);
                    }
                }
            }
        }
        for index in 0..self.bench.workers.len() {
            let worker = &mut self.bench.workers[index];
            worker.step(self.now);
            let sent = worker.io_mut().take_sent();
            self.steering.apply(&self.bench.pins);
            for frame in sent {
                self.trace.record(self.now, &frame);
                self.arrive(&frame);
            }
        }
    }

    /// What weft0 does with a frame, and what its receiver then does.
    fn arrive(&mut self, frame: &[u8]) {
        let egress = Egress::decode(frame[6..12].try_into().unwrap()).expect("an injected frame");
        if egress.inject == Inject::Reingress {
            assert_eq!(packet(frame).unwrap().tuple().dst, v4(NOWHERE));
            return;
        }
        let Some(packet) = packet(frame) else {
            assert!(CLIENTS.contains(&egress.ifindex), "port unreachable");
            return;
        };
        let tuple = *packet.tuple();
        assert!(sound(frame, &packet));
        assert_eq!(
            tuple.dst,
            address(egress.ifindex),
            "into the pod that it is for"
        );
        let payload = Payload::read(frame, &packet).unwrap();
        if BACKENDS.contains(&egress.ifindex) {
            assert_eq!(tuple.dport, TARGET);
            let client = self.by_client[&(tuple.src, tuple.sport)]; // AMB-08: its own address and port.
            let backend = self.connections[client].backend.get_or_insert(tuple.dst);
            assert_eq!(
                *backend, tuple.dst,
                "a connection keeps its backend: {tuple}"
            );
            let flags = match packet.flags().0 {
                flags if flags & SYN != 0 => SYN | ACK,
                flags => flags,
            };
            self.send(Sent {
                ifindex: egress.ifindex,
                tuple: tuple.reversed(),
                flags,
                payload,
            });
        } else {
            let connection = self.by_client[&(tuple.dst, tuple.dport)];
            let end = &mut self.connections[connection];
            assert_eq!(tuple, end.tuple.reversed(), "from the VIP");
            if payload.number == end.answered {
                end.answered += 1;
                if end.answered < PACKETS {
                    self.send_next(connection);
                }
            }
        }
    }

    fn check(&mut self) {
        let done = self.connections.iter().filter(|c| c.answered == PACKETS);
        assert_eq!(done.count(), usize::from(CONNECTIONS));
        let mut sum = super::Totals::default();
        for worker in &mut self.bench.workers {
            let seen = worker.shared().read();
            assert_eq!(seen.totals.unaccounted(), 0, "{seen:?}");
            sum.add(&seen.totals);
            let frames = worker.io_mut().frames();
            assert!(
                frames.balances() && frames.free == frames.total,
                "{frames:?}"
            );
            assert_eq!(seen.frames, frames, "published");
        }
        let fates = &sum.fates;
        let found = Expected {
            forwarded: fates.forwarded,
            replied: fates.replied,
            not_ours: fates.kernel[KernelReason::NotOurs as usize],
            src_spoof: fates.dropped[DropReason::SrcSpoof as usize],
        };
        assert_eq!(found, self.expected);
        assert_eq!(fates.total_dropped(), found.src_spoof, "{fates:?}");
        assert_eq!(fates.total_kernel(), found.not_ours, "{fates:?}");
        assert_eq!(
            (fates.handed_over, sum.handed_in),
            (self.strays, self.strays)
        );
        assert!(self.strays > 100, "{}", self.strays);
        assert!(!self.steering.pins.is_empty());
        assert_eq!(self.steering.raced, 0, "two workers own a flow");
    }

    /// Lets every flow time out.
    fn forget(&mut self) {
        for _ in 0..20 {
            self.now = self.now + Duration::from_secs(60);
            for worker in &mut self.bench.workers {
                worker.step(self.now);
            }
        }
        self.steering.apply(&self.bench.pins);
        assert_eq!(
            self.steering.pins,
            HashMap::new(),
            "owner entries go with their flows"
        );
        for worker in &self.bench.workers {
            let seen = worker.shared().read();
            assert_eq!((seen.flows, seen.pins), (0, 0), "published without traffic");
        }
    }
}

#[test]
fn connections_survive_a_bad_wire_and_every_frame_is_accounted_for() {
    for seed in 1..=8u64 {
        let mut simulation = Simulation::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Bound: every packet is lost at most a few times in a row.
        for _ in 0..20_000 {
            if simulation.events.is_empty() {
                break;
            }
            simulation.tick();
        }
        assert!(simulation.events.is_empty(), "a connection never ends");
        for _ in 0..4 {
            simulation.tick(); // What was handed over last, and its completion.
        }
        simulation.check();
        simulation.forget();
    }
}
