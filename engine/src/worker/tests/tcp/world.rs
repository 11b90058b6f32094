//! Workers, and around them pods whose TCP is a stack of their own: what lies between is what hooks and kernel do.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use weft_datapath::{
    Address, Backend, BackendPath, BackendState, Egress, Flow, FlowKey, Hook, Ingress, Inject, Now,
    ServiceOptions, ServicePortSpec, SlotRef, Stage, TablesBuilder, UpstreamSource,
};
use weft_datapath::{Algorithm, Protocol};
use weft_stack::{
    Arrival, Connect, Listeners, Outgoing, Route, ServiceId, Stack, StackConfig, Stream, Transmit,
};

use super::super::super::testing::{BACKEND, Bench, CLIENT, Trace, bench_for, builder};
use super::super::super::{Command, TcpReport};
use super::super::balanced;
use super::super::wire::{Steering, packet, v4};

/// The service that ends here, and where its backends listen.
pub const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 80), 80);
pub const TARGET: u16 = 8080;
/// A backend that is not enrolled: the kernel forwards.
pub const OUTSIDE: (Ipv4Addr, u32) = (Ipv4Addr::new(192, 0, 2, 7), 0);
/// A second backend that is enrolled.
pub const SECOND: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 244, 1, 3), 13);
/// The node's own address.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);

pub const ROUTE: Route = Route { tag: 0, mtu: 1500 };
pub const ETHERNET: usize = 14;

/// One end of the world: a pod, or what is behind the kernel.
pub struct Peer {
    pub address: Ipv4Addr,
    /// Its veth; 0 for one behind the kernel.
    pub ifindex: u32,
    pub stack: Stack,
    pub listens: bool,
    /// Connections that it has accepted.
    pub accepted: VecDeque<Stream>,
    out: Out,
}

#[derive(Default)]
struct Out(VecDeque<Vec<u8>>);

impl Transmit for Out {
    fn ready(&mut self) -> bool {
        true
    }

    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8])) {
        let mut frame = vec![0; ETHERNET + packet.len];
        write(&mut frame[ETHERNET..]);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        self.0.push_back(frame);
    }
}

/// Who listens at [`TARGET`], if they do.
pub struct Open(pub bool);

impl Listeners for Open {
    fn lookup(
        &self,
        _: Address,
        port: u16,
        _: u32,
    ) -> Option<(ServiceId, weft_stack::ServiceOptions)> {
        (self.0 && port == TARGET).then_some((ServiceId(0), Default::default()))
    }
}

impl Peer {
    pub fn new((address, ifindex): (Ipv4Addr, u32), listens: bool) -> Self {
        Self {
            address,
            ifindex,
            stack: Stack::new(&StackConfig {
                secret: address.octets().repeat(8).try_into().unwrap(),
                limits: Default::default(),
                timeouts: Default::default(),
            }),
            listens,
            accepted: VecDeque::new(),
            out: Out::default(),
        }
    }

    /// What it sends by now.
    pub fn poll(&mut self, now: Now) -> VecDeque<Vec<u8>> {
        self.stack.poll(&mut self.out, now);
        std::mem::take(&mut self.out.0)
    }

    /// Opens a connection from that port.
    pub fn connect(&self, port: u16, to: (Ipv4Addr, u16), now: Now) -> Stream {
        let connect = Connect {
            local: (v4(self.address), port),
            remote: (v4(to.0), to.1),
            route: ROUTE,
            service: ServiceId(0),
            payer: ROUTE.tag,
        };
        self.stack
            .connect(&connect, &Default::default(), now)
            .unwrap()
    }
}

/// Who is there.
pub const PEERS: usize = 4;
pub const A_CLIENT: usize = 0;
pub const A_BACKEND: usize = 1;
pub const A_SECOND: usize = 2;
pub const AN_OUTSIDER: usize = 3;

/// Everything, and a clock.
pub struct World {
    pub bench: Bench,
    pub peers: [Peer; PEERS],
    pub steering: Steering,
    pub now: Now,
    /// Frames that the workers gave back to the kernel or sent to nobody here.
    pub lost: Vec<Vec<u8>>,
    /// Takes a packet out of the wire, if it says so: the peer that it is for or from, and whether it is for it.
    #[allow(clippy::type_complexity, reason = "said once")]
    pub tap: Box<dyn FnMut(usize, bool, &[u8]) -> bool>,
    generation: u64,
    trace: Trace,
}

/// What a test says of the service.
#[derive(Clone)]
pub struct Service {
    pub backends: Vec<(Ipv4Addr, u32)>,
    pub options: ServiceOptions,
    /// Until when unknown flows may be older than the enrolments.
    pub grace_until: Now,
    /// Pods that are no more, by the count of their deletion.
    pub epochs: Vec<u32>,
    /// The same of backends that have left the service.
    pub members: Vec<u32>,
}

impl Service {
    pub fn of(backends: &[(Ipv4Addr, u32)]) -> Self {
        Self {
            backends: backends.to_vec(),
            options: ServiceOptions {
                stage: Stage::Tcp(UpstreamSource::Client),
                ..ServiceOptions::default()
            },
            grace_until: Now::default(),
            epochs: vec![0; 20],
            members: vec![0; 20],
        }
    }

    pub fn stage(mut self, stage: Stage) -> Self {
        self.options.stage = stage;
        self
    }

    fn tables(&self, generation: u64) -> weft_datapath::Tables {
        let mut builder: TablesBuilder = builder();
        let pods = [CLIENT, BACKEND, SECOND].map(|(address, ifindex)| weft_datapath::Pod {
            ifindex,
            name: Box::default(),
            addresses: [v4(address)].into_iter().collect(),
            slot: self.slot(ifindex),
            state: weft_datapath::PodState::Enrolled {
                grace_until: self.grace_until,
            },
            mtu: 1500,
        });
        builder.set_pods(pods.to_vec());
        builder.set_epochs(self.epochs.clone());
        builder.set_members(self.members.clone());
        for (_, ifindex) in [CLIENT, BACKEND, SECOND] {
            builder.set_node_address(ifindex, v4(NODE));
        }
        builder.add_service_port(ServicePortSpec {
            id: 1,
            address: v4(SERVICE.0),
            port: SERVICE.1,
            proto: Protocol::Tcp,
            algorithm: Algorithm::RoundRobin,
            backends: self
                .backends
                .iter()
                .map(|backend| self.backend(*backend))
                .collect(),
            options: self.options,
        });
        builder.build(generation).unwrap()
    }

    fn slot(&self, ifindex: u32) -> SlotRef {
        let epoch = self.epochs[ifindex as usize];
        SlotRef {
            slot: ifindex,
            epoch,
        }
    }

    fn backend(&self, (address, ifindex): (Ipv4Addr, u32)) -> Backend {
        Backend {
            address: v4(address),
            port: TARGET,
            path: match ifindex {
                0 => BackendPath::Kernel,
                ifindex => BackendPath::Pod { ifindex },
            },
            slot: match ifindex {
                0 => SlotRef::FIXED,
                ifindex => self.slot(ifindex),
            },
            member: SlotRef::member(ifindex, self.members[ifindex as usize]),
            state: BackendState::Ready,
            weight: 1,
            name: None,
        }
    }
}

impl World {
    pub fn new(name: &str, service: &Service) -> Self {
        Self::with(name, service, 1, 4096)
    }

    /// With as many workers, and room for flows in each.
    pub fn with(name: &str, service: &Service, workers: u16, max_flows: usize) -> Self {
        let mut world = Self {
            bench: bench_for(workers, 2048, 1024, max_flows),
            peers: [
                (CLIENT, true),
                (BACKEND, true),
                (SECOND, true),
                (OUTSIDE, true),
            ]
            .map(|(place, listens)| Peer::new(place, listens)),
            steering: Steering::default(),
            now: Now::from_nanos(1_000_000_000),
            lost: Vec::new(),
            tap: Box::new(|_, _, _| false),
            generation: 1,
            trace: Trace::of_latest(10_000, name),
        };
        world.serve(service);
        world.round(); // The workers have stepped before.
        world
    }

    /// Another generation of the tables.
    pub fn serve(&mut self, service: &Service) {
        self.generation += 1;
        self.bench
            .tables
            .store(Arc::new(service.tables(self.generation)));
    }

    /// A frame from a peer, as the hook that it passes punts it.
    pub fn punt(&mut self, from: usize, mut frame: Vec<u8>) {
        self.trace.record(self.now, &frame);
        if (self.tap)(from, false, &frame) {
            return;
        }
        let (peer, found) = (
            &self.peers[from],
            packet(&frame).map(|packet| *packet.tuple()),
        );
        // What comes by the kernel is caught on its way to the pod, where an entry says so.
        let (hook, ifindex) = match (peer.ifindex, found) {
            (0, Some(tuple)) => (Hook::ToPod, self.pod(&tuple.dst).unwrap_or(0)),
            (ifindex, _) => (Hook::FromPod, ifindex),
        };
        let target = found.map_or(0, |tuple| {
            let key = FlowKey { tuple, ifindex };
            if hook == Hook::ToPod {
                assert!(
                    self.steering.pins.contains_key(&key),
                    "{key:?} is not caught"
                );
            }
            self.steering.target(&key)
        });
        let ingress = Ingress {
            ifindex,
            hook,
            target,
        };
        frame[6..12].copy_from_slice(&ingress.encode());
        let worker = usize::from(target) % self.bench.workers.len();
        assert!(self.bench.workers[worker].io_mut().push(&frame));
    }

    fn pod(&self, address: &Address) -> Option<u32> {
        let at = |peer: &&Peer| v4(peer.address) == *address;
        self.peers.iter().find(at).map(|peer| peer.ifindex)
    }

    /// Everybody's turn once. False if nothing moved.
    pub fn round(&mut self) -> bool {
        let mut moved = false;
        for at in 0..PEERS {
            for frame in self.peers[at].poll(self.now) {
                moved = true;
                self.punt(at, frame);
            }
        }
        for worker in 0..self.bench.workers.len() {
            moved |= self.bench.workers[worker].step(self.now) > 0;
            self.steering.apply(&self.bench.pins);
            let sent = self.bench.workers[worker].io_mut().take_sent();
            for frame in sent {
                moved = true;
                self.deliver(frame);
            }
        }
        moved
    }

    fn deliver(&mut self, frame: Vec<u8>) {
        self.trace.record(self.now, &frame);
        let egress = Egress::decode(frame[6..12].try_into().unwrap()).unwrap();
        let destination = packet(&frame).map(|packet| *packet.tuple());
        let to = self.peers.iter().position(|peer| match egress.inject {
            Inject::Peer => peer.ifindex == egress.ifindex,
            Inject::Neighbour => false,
            Inject::Reingress => {
                peer.ifindex == 0 && destination.is_some_and(|tuple| tuple.dst == v4(peer.address))
            }
        });
        let Some(to) = to else {
            return self.lost.push(frame);
        };
        if (self.tap)(to, true, &frame) {
            return;
        }
        self.arrive(to, frame);
    }

    /// A frame gets to a peer.
    pub fn arrive(&mut self, to: usize, mut frame: Vec<u8>) {
        let Some(found) = packet(&frame).filter(|packet| packet.tuple().proto == Protocol::Tcp)
        else {
            return self.lost.push(frame);
        };
        let peer = &mut self.peers[to];
        let arrival = Arrival {
            route: ROUTE,
            verified: false,
        };
        peer.stack
            .ingest(&mut frame, &found, arrival, &Open(peer.listens), self.now);
        while let Some(accepted) = peer.stack.accept() {
            peer.accepted.push_back(accepted.stream);
        }
    }

    /// Lets time pass, and everything that happens in it.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let step = if self.round() { 20_000 } else { 1_000_000 };
            self.now = self.now + Duration::from_nanos(step);
        }
    }

    /// A connection from the client by way of the service, and its other end at that backend.
    pub fn open(&mut self, port: u16, backend: usize) -> (Stream, Stream) {
        let ours = self.peers[A_CLIENT].connect(port, SERVICE, self.now);
        self.pass(Duration::from_millis(20));
        assert!(
            connected(&ours),
            "port {port}: {:?}",
            self.report().map(|r| r.counters)
        );
        let theirs = self.peers[backend].accepted.pop_front();
        (ours, theirs.expect("the backend has accepted"))
    }

    /// Writes here, reads there, until all of it is there.
    pub fn transfer(&mut self, from: &Stream, to: &Stream, bytes: &[u8]) {
        let (mut written, mut read) = (0, Vec::new());
        let mut buffer = vec![0; 4096];
        for _ in 0..100_000 {
            if written < bytes.len()
                && let Poll::Ready(done) = from.poll_write(&mut context(), &bytes[written..])
            {
                written += done.unwrap();
            }
            while let Poll::Ready(done) = to.poll_read(&mut context(), &mut buffer) {
                let done = done.unwrap();
                assert!(done > 0, "the end after {} bytes", read.len());
                read.extend_from_slice(&buffer[..done]);
            }
            if read.len() == bytes.len() {
                assert!(read == bytes, "other bytes");
                return;
            }
            let step = if self.round() { 20_000 } else { 1_000_000 };
            self.now = self.now + Duration::from_nanos(step);
        }
        panic!(
            "{written} of {} bytes written, {} read",
            bytes.len(),
            read.len()
        );
    }

    /// What a worker says of its stack.
    pub fn report_of(&mut self, worker: usize) -> Option<TcpReport> {
        let (reply, answer) = crossbeam::channel::bounded(1);
        self.bench.commands[worker]
            .send(Command::Tcp { reply })
            .unwrap();
        self.bench.workers[worker].step(self.now);
        for frame in self.bench.workers[worker].io_mut().take_sent() {
            self.deliver(frame);
        }
        answer.recv().unwrap()
    }

    pub fn report(&mut self) -> Option<TcpReport> {
        self.report_of(0)
    }

    /// The first flow of the first worker.
    pub fn first_flow(&self) -> Flow {
        let flows = &self.bench.workers[0].state.flows;
        flows.slice(0, flows.places()).next().unwrap().1.clone()
    }

    /// Terminated flows and connections that the workers have.
    pub fn held(&mut self) -> (usize, usize) {
        let workers = self.bench.workers.len();
        let flows =
            |world: &Self, at: usize| world.bench.workers[at].shared().read().flows as usize;
        let connections = (0..workers)
            .filter_map(|at| Some(self.report_of(at)?.holdings.connections))
            .sum();
        ((0..workers).map(|at| flows(self, at)).sum(), connections)
    }

    /// Nothing may be left once every connection is over: no connection, no flow after its time, no owner entry, no
    /// frame; and every packet has its fate.
    pub fn finish(mut self) {
        self.pass(Duration::from_secs(3));
        let (_, connections) = self.held();
        assert_eq!(
            connections,
            0,
            "{:?}",
            self.report().map(|report| report.holdings)
        );
        // Flows that are over are forgotten in their time, one step of the clock hand after another.
        for _ in 0..400 {
            self.now = self.now + Duration::from_millis(500);
            while self.round() {}
        }
        assert_eq!(self.held().0, 0, "flows");
        assert!(self.steering.pins.is_empty(), "{:?}", self.steering.pins);
        balanced(&mut self.bench);
    }
}

pub fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

pub fn connected(stream: &Stream) -> bool {
    matches!(stream.poll_connected(&mut context()), Poll::Ready(Ok(())))
}

/// What a read gives: bytes, 0 at the end, an error's kind; `None` while there is nothing.
pub fn read(stream: &Stream) -> Option<Result<usize, std::io::ErrorKind>> {
    match stream.poll_read(&mut context(), &mut [0; 4096]) {
        Poll::Ready(done) => Some(done.map_err(|error| error.kind())),
        Poll::Pending => None,
    }
}
