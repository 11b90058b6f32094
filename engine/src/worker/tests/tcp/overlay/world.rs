//! The nodes, their pods, and what lies between: hooks, veths, and an underlay with faults.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use weft_datapath::{DropReason, Egress, Hook, Ingress, Inject, Now, Protocol, Tuple, Uplink};
use weft_stack::Arrival;

use super::super::super::super::Totals;
use super::super::super::super::testing::{Coin, Trace};
use super::super::super::wire::{Payload, Sent, aim, packet, sound, v4};
use super::super::world::{ETHERNET, Open, Peer, ROUTE, TARGET};
use super::ends::{Asked, Connection, Echo};
use super::node::{
    CLIENT, FROM_NODE, L4, MOVER, MOVERS, MTU, NODES, Node, SERVER, STAGE, Told, UPLINK, address,
    underlay,
};

pub const TICK: Duration = Duration::from_micros(200);
/// The longest way over the underlay, in ticks, and how long a client waits for the answer to a datagram.
pub const DELAY_MAX: u64 = 12;
pub const PATIENCE: Duration = Duration::from_millis(8);
/// One frame of the underlay in so many is lost, comes twice, has a bit flipped.
pub const LOSS: u64 = 40;
pub const DOUBLE: u64 = 40;
pub const CORRUPT: u64 = 40;
/// Datagrams of a flow.
pub const DATAGRAMS: u8 = 40;

/// A client's datagrams to somebody: each is another one.
pub struct Datagrams {
    pub client: usize,
    pub tuple: Tuple,
    pub next: u8,
    pub answered: u8,
}

pub enum Event {
    /// A frame gets to a node's uplink.
    Arrives { node: usize, frame: Vec<u8> },
    /// A node hears that the pod has moved.
    Hears { node: usize, told: Told },
    /// A client's datagram is late.
    Late { flow: u32, number: u8 },
}

/// A datagram: the flow, its number, and whether it is an answer.
pub type Which = (u32, u8, bool);

#[derive(Debug, Default)]
pub struct Seen {
    pub lost: u64,
    pub doubled: u64,
    pub corrupted: u64,
    /// Arrived with a wrong checksum, which a receiver drops.
    pub unsound: u64,
    /// For a pod that had gone already.
    pub gone: u64,
    /// Given to the kernel, which knows of nobody.
    pub to_kernel: u64,
    /// Answers from another address than was asked: of flows that their node has forgotten.
    pub untranslated: u64,
    pub wrapped: u64,
    pub completed: u64,
}

pub struct World {
    pub nodes: Vec<Node>,
    /// By node and interface. The moving pod comes last.
    pub pods: Vec<(usize, Peer)>,
    pub echoes: Vec<Echo>,
    pub connections: Vec<Connection>,
    pub flows: Vec<Datagrams>,
    /// How often a datagram may come, and has come.
    pub copies: HashMap<Which, (u64, u64)>,
    pub events: BTreeMap<(Now, u64), Event>,
    pub sequence: u64,
    pub now: Now,
    pub faulty: bool,
    pub coin: Coin,
    pub seen: Seen,
    /// Of the processes that are no more.
    pub before: Totals,
    pub trace: Trace,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let told = Told { home: 1, epoch: 1 };
        let mut pods = Vec::new();
        for node in 0..NODES {
            for ifindex in [CLIENT, SERVER] {
                let place = (address(node, ifindex), ifindex);
                pods.push((node, Peer::new(place, ifindex == SERVER)));
            }
        }
        pods.push((told.home, Peer::new((MOVERS, MOVER), true)));
        let nodes = (0..NODES).map(|node| Node::new(node, told, Now::default()));
        Self {
            nodes: nodes.collect(),
            pods,
            echoes: Vec::new(),
            connections: Vec::new(),
            flows: Vec::new(),
            copies: HashMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            now: Now::from_nanos(1_000_000_000),
            faulty: true,
            coin: Coin(seed),
            seen: Seen::default(),
            before: Totals::default(),
            trace: Trace::of_latest(20_000, &format!("overlay-{seed:x}")),
        }
    }

    pub fn at(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    pub fn client(node: usize) -> usize {
        2 * node
    }

    /// A new connection, of whatever kind.
    pub fn open(&mut self, asked: Asked) {
        let number = self.connections.len() as u32;
        let node = self.coin.below(NODES as u64) as usize;
        let to = match asked {
            Asked::Pod(node) => (address(node, SERVER), TARGET),
            Asked::Mover => (MOVERS, TARGET),
            Asked::Service(vip) => vip,
        };
        let client = Self::client(node);
        let stream = self.pods[client]
            .1
            .connect(10_000 + number as u16, to, self.now);
        self.connections.push(Connection {
            number,
            client,
            asked,
            stream: Some(stream),
            length: 1 + self.coin.below(30_000) as usize,
            written: 0,
            read: 0,
            opened: self.now,
            done: false,
        });
    }

    pub fn any(&mut self) -> Asked {
        match self.coin.below(7) {
            node @ 0..3 => Asked::Pod(node as usize),
            3 => Asked::Mover,
            4 => Asked::Service(L4),
            5 => Asked::Service(STAGE),
            _ => Asked::Service(FROM_NODE),
        }
    }

    /// A new flow of datagrams.
    pub fn talk(&mut self) {
        let client = self.coin.below(NODES as u64) as usize;
        let dst = match self.coin.below(5) {
            node @ 0..3 => (address(node as usize, SERVER), TARGET),
            3 => (MOVERS, TARGET),
            _ => L4,
        };
        let flow = self.flows.len() as u32;
        self.flows.push(Datagrams {
            client: Self::client(client),
            tuple: Tuple {
                src: v4(address(client, CLIENT)),
                dst: v4(dst.0),
                sport: 30_000 + flow as u16,
                dport: dst.1,
                proto: Protocol::Udp,
            },
            next: 0,
            answered: 0,
        });
        self.ask(flow);
    }

    pub fn ask(&mut self, flow: u32) {
        let end = &mut self.flows[flow as usize];
        if end.next == DATAGRAMS {
            return;
        }
        let number = end.next;
        end.next += 1;
        let (client, tuple) = (end.client, end.tuple);
        self.datagram(client, tuple, (flow, number, false));
        self.at(PATIENCE, Event::Late { flow, number });
    }

    /// A pod sends a datagram.
    pub fn datagram(&mut self, from: usize, tuple: Tuple, which: Which) {
        self.copies.entry(which).or_default().0 += 1;
        let payload = Payload {
            connection: which.0,
            number: which.1,
            marked: which.2,
        };
        let sent = Sent {
            ifindex: self.pods[from].1.ifindex,
            tuple,
            flags: 0,
            payload,
        };
        self.leaves(from, sent.punted(0));
    }

    /// A pod's frame, as the hook at its veth punts it.
    pub fn leaves(&mut self, from: usize, mut frame: Vec<u8>) {
        let (node, pod) = &self.pods[from];
        let ingress = Ingress {
            ifindex: pod.ifindex,
            hook: Hook::FromPod,
            target: 0,
        };
        aim(&mut frame, ingress);
        self.trace.record(self.now, &frame);
        // Until its node has heard of a pod that has just come, it has no hook there.
        let node = &mut self.nodes[*node];
        let known = pod.ifindex != MOVER || node.told.home == self.pods[from].0;
        if known {
            node.push(&frame);
        } else {
            self.seen.to_kernel += 1;
        }
    }

    /// A node sends a frame.
    pub fn injected(&mut self, node: usize, frame: Vec<u8>) {
        self.trace.record(self.now, &frame);
        let egress = Egress::decode(frame[6..12].try_into().unwrap()).expect("injected");
        match egress.inject {
            Inject::Peer => self.delivered(node, egress.ifindex, frame),
            Inject::Reingress => self.seen.to_kernel += 1,
            Inject::Neighbour => {
                assert_eq!(egress.ifindex, UPLINK);
                self.seen.wrapped += 1;
                self.carry(frame);
            }
        }
    }

    /// The underlay's part.
    pub fn carry(&mut self, frame: Vec<u8>) {
        assert!(
            frame.len() <= ETHERNET + usize::from(MTU) + 50,
            "{}",
            frame.len()
        );
        let node = usize::from(frame[33]) - 1;
        assert_eq!(
            frame[30..34],
            underlay(node).octets(),
            "to one of the nodes"
        );
        if self.faulty && self.coin.one_in(LOSS) {
            self.seen.lost += 1;
            return;
        }
        let twice = self.faulty && self.coin.one_in(DOUBLE);
        if twice {
            self.seen.doubled += 1;
            if let Some(which) = which(&frame) {
                self.copies.entry(which).or_default().0 += 1;
            }
        }
        for _ in 0..1 + u8::from(twice) {
            let mut frame = frame.clone();
            if self.faulty && self.coin.one_in(CORRUPT) {
                let bit = self.coin.below(8 * (frame.len() - ETHERNET) as u64) as usize;
                frame[ETHERNET + bit / 8] ^= 1 << (bit % 8);
                self.seen.corrupted += 1;
            }
            let ticks = if self.faulty { DELAY_MAX } else { 2 };
            let delay = TICK * (1 + self.coin.below(ticks)) as u32;
            self.at(delay, Event::Arrives { node, frame });
        }
    }

    /// A frame comes out of a veth.
    pub fn delivered(&mut self, node: usize, ifindex: u32, mut frame: Vec<u8>) {
        let at = |(home, pod): &(usize, Peer)| *home == node && pod.ifindex == ifindex;
        let Some(to) = self.pods.iter().position(at) else {
            assert_eq!(ifindex, MOVER, "no such veth");
            self.seen.gone += 1;
            return;
        };
        let Some(found) = packet(&frame) else {
            return; // An ICMP error, or corrupted into no packet at all.
        };
        if !sound(&frame, &found) {
            self.seen.unsound += 1;
            return;
        }
        let tuple = *found.tuple();
        let pod = &mut self.pods[to].1;
        assert_eq!(tuple.dst, v4(pod.address), "into the pod that it is for");
        if tuple.proto == Protocol::Tcp {
            let arrival = Arrival {
                route: ROUTE,
                verified: false,
            };
            let listening = Open(pod.listens);
            pod.stack
                .ingest(&mut frame, &found, arrival, &listening, self.now);
            while let Some(accepted) = pod.stack.accept() {
                self.echoes.push(Echo {
                    stream: accepted.stream,
                    held: Vec::new(),
                    ended: false,
                });
            }
            return;
        }
        let payload = Payload::read(&frame, &found).expect("one of ours");
        let which = (payload.connection, payload.number, payload.marked);
        let (may, came) = self.copies.entry(which).or_default();
        *came += 1;
        assert!(came <= may, "{which:?} came {came} times, sent {may} times");
        let flow = &mut self.flows[payload.connection as usize];
        if !payload.marked {
            // AMB-08: a server sees the client's own address.
            assert_eq!((tuple.src, tuple.dport), (flow.tuple.src, TARGET));
            let answer = (payload.connection, payload.number, true);
            return self.datagram(to, tuple.reversed(), answer);
        }
        assert_eq!(to, flow.client, "somebody else's");
        if tuple != flow.tuple.reversed() {
            self.seen.untranslated += 1;
            return;
        }
        flow.answered += 1;
        if payload.number + 1 == flow.next {
            self.ask(payload.connection);
        }
    }

    /// What servers and clients do with their connections.
    pub fn applications(&mut self) {
        let mut buffer = [0; 4096];
        self.echoes.retain_mut(|echo| echo.turn(&mut buffer));
        for connection in &mut self.connections {
            connection.turn(&mut buffer);
        }
    }

    /// One turn of everything.
    pub fn tick(&mut self) {
        self.now = self.now + TICK;
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= self.now
        {
            match entry.remove() {
                Event::Arrives { node, mut frame } => {
                    let uplink = Uplink {
                        ifindex: UPLINK,
                        target: 0,
                    };
                    frame[6..12].copy_from_slice(&uplink.encode());
                    self.trace.record(self.now, &frame);
                    self.nodes[node].push(&frame);
                }
                Event::Hears { node, told } => {
                    self.nodes[node].told = told;
                    self.nodes[node].publish(node, Now::default());
                }
                Event::Late { flow, number } => {
                    if self.flows[flow as usize].next == number + 1 {
                        self.ask(flow);
                    }
                }
            }
        }
        self.applications();
        for at in 0..self.pods.len() {
            for frame in self.pods[at].1.poll(self.now) {
                self.leaves(at, frame);
            }
        }
        for at in 0..NODES {
            let Node {
                bench,
                steering,
                sent,
                ..
            } = &mut self.nodes[at];
            bench.workers[0].step(self.now);
            let frames = bench.workers[0].io_mut().take_sent();
            steering.apply(&bench.pins);
            *sent += frames.len() as u64;
            for frame in frames {
                self.injected(at, frame);
            }
        }
    }

    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.tick();
        }
    }

    /// A node's process ends, and another begins.
    pub fn restart(&mut self, node: usize, grace: Duration) {
        let totals = self.nodes[node].books();
        self.before.add(&totals);
        let told = self.nodes[node].told;
        self.nodes[node] = Node::new(node, told, self.now + grace);
    }

    /// The pod is another one, on another node; nodes hear of it one after another.
    pub fn relocate(&mut self) {
        let (home, pod) = self.pods.last_mut().unwrap();
        let told = Told {
            home: 3 - *home,
            epoch: self.nodes[0].told.epoch + 1,
        };
        *home = told.home;
        *pod = Peer::new((MOVERS, MOVER), true);
        for node in 0..NODES {
            let delay = TICK * (1 + self.coin.below(100)) as u32;
            self.at(delay, Event::Hears { node, told });
        }
    }

    /// Connections that were opened since, and are not through yet.
    pub fn waiting(&self, since: Now) -> Vec<(u32, usize, Asked)> {
        let open = self
            .connections
            .iter()
            .filter(|c| c.opened >= since && !c.done);
        open.map(|c| (c.number, c.client, c.asked)).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        let nodes = self.nodes.iter().map(Node::seen);
        let now: u64 = nodes
            .map(|seen| seen.totals.fates.dropped[reason as usize])
            .sum();
        now + self.before.fates.dropped[reason as usize]
    }
}

/// What datagram is in a wrapped frame, whose end is the packet's.
pub fn which(frame: &[u8]) -> Option<Which> {
    let options = usize::from(frame[ETHERNET + 28] & 0x3f) * 4;
    let inner = &frame[ETHERNET + 20 + 8 + 8 + options..];
    let found = packet(inner).filter(|found| found.tuple().proto == Protocol::Udp)?;
    let payload = Payload::read(inner, &found)?;
    Some((payload.connection, payload.number, payload.marked))
}
