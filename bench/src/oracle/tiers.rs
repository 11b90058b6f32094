//! The same flows through Weft's tiers: all by user space, those that it has opened by the kernel, and as many as it can.
//!
//! The flows are drawn from a seed. What arrives has to be what forwarding leaves of what was sent, and the same, byte by byte, on
//! every node: all see the same addresses, and choose by the same tables.

use super::node::{Node, Path};
use super::outcome;
use super::world::{self, CLIENT, Service, Target, To};
use crate::lab::{Family, pod_ips};
use crate::packet::{Ip, L4, Seen, Sum, Tcp, flag, see, tcp, udp};
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// Flows of a seed, and how many of them are under way at a time.
const FLOWS: usize = 256;
const CHUNK: usize = 32;
/// The first source port: a flow's number comes on top.
const FIRST_PORT: u16 = 20_000;
/// Longest payload of a packet within the MTU of 1500, by family: with a TCP header of 24 bytes.
const ROOM: [usize; 2] = [1500 - 20 - 24, 1500 - 40 - 24];

/// Settings of `fast_path`.
const SETTINGS: [&str; 3] = ["off", "flows", "full"];

/// What runs came to.
#[derive(Debug, Default)]
pub struct Tiers {
    /// Flows that went over every node.
    pub flows: usize,
    /// Packets that arrived, on each of them.
    pub packets: usize,
    /// Packets that user space had, with each of [`SETTINGS`].
    pub punted: [u64; 3],
}

impl Tiers {
    /// Runs the flows of `seed` over a node of each setting.
    ///
    /// # Errors
    /// When a packet arrives that is not what forwarding leaves, or not the same on every node; when one does not
    /// arrive; and when a ledger does not add up.
    pub fn add(&mut self, seed: u64) -> Result<()> {
        let mut random = Random::new(seed);
        let services = world::services(&mut random);
        let flows: Vec<Flow> = (0..FLOWS)
            .map(|number| Flow::new(&mut random, &services, number as u16))
            .collect();
        let nodes = SETTINGS
            .into_iter()
            .map(|setting| Node::new(&services, Path::Weft(Some(setting))))
            .collect::<Result<Vec<_>>>()?;
        for chunk in flows.chunks(CHUNK) {
            let mut first: Option<Arrived> = None;
            for (node, setting) in nodes.iter().zip(SETTINGS) {
                let arrived = converse(node, chunk).context(setting)?;
                match &first {
                    Some(first) => same(&flows, first, &arrived).context(setting)?,
                    None => {
                        self.packets += arrived.values().map(Vec::len).sum::<usize>();
                        first = Some(arrived);
                    }
                }
            }
        }
        self.flows += flows.len();
        for (node, punted) in nodes.iter().zip(&mut self.punted) {
            let weft = node.weft.as_ref().context("no Weft")?;
            weft.audit()?;
            *punted += weft.counter("from_pod_punted")? - node.asked.get();
        }
        Ok(())
    }
}

/// Whether the same packets came to the same places.
fn same(flows: &[Flow], one: &Arrived, other: &Arrived) -> Result<()> {
    for (number, packets) in one {
        let others = other.get(number).map(Vec::as_slice).unwrap_or_default();
        let flow = &flows[usize::from(*number)];
        for (at, (packet, other)) in packets.iter().zip(others).enumerate() {
            ensure!(
                packet == other,
                "packet {at} of {flow:?}:\n{:?}\n{:?}",
                (packet.0, see(&packet.1)),
                (other.0, see(&other.1)),
            );
        }
        ensure!(packets.len() == others.len(), "{flow:?}");
    }
    Ok(())
}

/// One packet that an end sends.
#[derive(Debug, Clone)]
struct Shape {
    hops: u8,
    class: u8,
    dont_fragment: bool,
    payload: Vec<u8>,
    /// Of TCP.
    flags: u8,
    seq: u32,
    ack: u32,
    /// Of UDP over IPv4: without a checksum.
    no_sum: bool,
    /// Of UDP: with a payload that makes the checksum zero where the packet arrives, which has to be written as its complement.
    zero_sum: bool,
}

/// Packets that one end sends in a row.
#[derive(Debug, Clone)]
enum Turn {
    Client(Vec<Shape>),
    Server(Vec<Shape>),
}

/// One flow and everything that it carries.
#[derive(Debug, Clone)]
struct Flow {
    number: u16,
    family: Family,
    tcp: bool,
    target: Target,
    turns: Vec<Turn>,
}

impl Flow {
    fn new(random: &mut Random, services: &[Service], number: u16) -> Self {
        let family = *random.pick(&Family::BOTH);
        let tcp = random.below(2) == 0;
        let to = *random.pick(&[To::Service, To::Service, To::Service, To::Pod]);
        let protocol = if tcp { "tcp" } else { "udp" };
        let target = world::target(random, services, to, protocol, family);
        let turns = if tcp {
            connection(random, family)
        } else {
            datagrams(random, family)
        };
        Self {
            number,
            family,
            tcp,
            target,
            turns,
        }
    }

    /// A packet of it. `reached`: where the client's packets arrive, and with which header.
    fn packet(&self, turn: &Turn, shape: &Shape, reached: Option<&Seen>) -> Option<Vec<u8>> {
        let client = crate::lab::pick(&pod_ips(CLIENT as u8 + 1), self.family);
        let port = FIRST_PORT + self.number;
        let there = (self.target.address, self.target.port);
        let (from, to) = match (turn, reached) {
            (Turn::Client(_), _) => ((client, port), there),
            (Turn::Server(_), Some(seen)) => {
                let (sport, dport) = seen.ports()?;
                ((seen.dst, dport), (seen.src, sport))
            }
            (Turn::Server(_), None) => return None,
        };
        let ip = Ip {
            hops: shape.hops,
            id: self.number + 1,
            class: shape.class,
            dont_fragment: shape.dont_fragment,
            ..Ip::new(from.0, to.0)
        };
        if self.tcp {
            let header = Tcp {
                sport: from.1,
                dport: to.1,
                flags: shape.flags,
                seq: shape.seq,
                ack: shape.ack,
            };
            return Some(tcp(&ip, header, &shape.payload));
        }
        let mut payload = shape.payload.clone();
        if let (true, Some(seen), Turn::Client(_)) = (shape.zero_sum, reached, turn) {
            // With the checksum of the packet that arrives as its first word, the sum is the one's complement zero.
            payload[..2].fill(0);
            let arrives = Ip::new(client, seen.dst);
            let packet = udp(&arrives, port, seen.ports()?.1, &payload);
            let sum = sum_at(&packet);
            let sum = [packet[sum], packet[sum + 1]];
            payload[..2].copy_from_slice(&sum);
        }
        let mut packet = udp(&ip, from.1, to.1, &payload);
        if shape.no_sum {
            let sum = sum_at(&packet);
            packet[sum..sum + 2].fill(0);
        }
        Some(packet)
    }
}

/// Where the checksum of a UDP packet without options stands.
fn sum_at(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { 26 } else { 46 }
}

/// A packet with whatever a sender may choose.
fn shape(random: &mut Random, family: Family) -> Shape {
    let room = ROOM[usize::from(family == Family::V6)];
    let length = match random.below(4) {
        0 => 0,
        1 => 1 + random.below(64),
        2 => 1 + random.below(room),
        _ => room,
    };
    Shape {
        hops: *random.pick(&[2, 3, 64, 128, 255]),
        class: *random.pick(&[0, 0x02, 0xb8, 0xff]),
        dont_fragment: random.below(2) == 0,
        payload: random.bytes(length),
        flags: flag::ACK,
        seq: random.word() as u32,
        ack: random.word() as u32,
        no_sum: false,
        zero_sum: false,
    }
}

/// A TCP connection: handshake, data in both directions, an end or none; at times another of the same ports after it.
fn connection(random: &mut Random, family: Family) -> Vec<Turn> {
    let mut turns = Vec::new();
    for _ in 0..=random.below(2) {
        let mut one = |flags: u8, empty: bool| {
            let mut shape = shape(random, family);
            shape.flags = flags;
            if empty {
                shape.payload.clear();
            }
            vec![shape]
        };
        turns.push(Turn::Client(one(flag::SYN, true)));
        turns.push(Turn::Server(one(flag::SYN | flag::ACK, true)));
        turns.push(Turn::Client(one(flag::ACK, true)));
        for _ in 0..random.below(4) {
            let shapes = (0..=random.below(3))
                .map(|_| {
                    let mut shape = shape(random, family);
                    shape.flags |= *random.pick(&[0, flag::PSH, flag::PSH | flag::URG]);
                    shape
                })
                .collect();
            turns.push(if random.below(2) == 0 {
                Turn::Client(shapes)
            } else {
                Turn::Server(shapes)
            });
        }
        let mut last = |flags: u8| {
            let mut shape = shape(random, family);
            shape.flags = flags;
            shape.payload.clear();
            vec![shape]
        };
        match last(0)[0].seq % 3 {
            0 => {
                turns.push(Turn::Client(last(flag::FIN | flag::ACK)));
                turns.push(Turn::Server(last(flag::FIN | flag::ACK)));
                turns.push(Turn::Client(last(flag::ACK)));
            }
            1 => turns.push(Turn::Client(last(flag::RST))),
            _ => turns.push(Turn::Server(last(flag::RST | flag::ACK))),
        }
    }
    turns
}

/// A UDP flow: one datagram alone, or several in both directions.
fn datagrams(random: &mut Random, family: Family) -> Vec<Turn> {
    let datagram = |random: &mut Random| {
        let mut shape = shape(random, family);
        match random.below(4) {
            0 => shape.no_sum = family == Family::V4,
            1 => shape.zero_sum = shape.payload.len() >= 2,
            _ => {}
        }
        shape
    };
    let mut turns = vec![Turn::Client(vec![datagram(random)])];
    for _ in 0..random.below(6) {
        let shapes = (0..=random.below(3)).map(|_| datagram(random)).collect();
        turns.push(if random.below(2) == 0 {
            Turn::Client(shapes)
        } else {
            Turn::Server(shapes)
        });
    }
    turns
}

/// Everything that arrived of each flow, in its order, with where.
type Arrived = BTreeMap<u16, Vec<(usize, Vec<u8>)>>;

/// Lets flows converse over `node`, and checks each arrival against what was sent.
fn converse(node: &Node, flows: &[Flow]) -> Result<Arrived> {
    let mut arrived = Arrived::new();
    // Where the client's packets of each flow arrive.
    let mut reached: BTreeMap<u16, (usize, Seen)> = BTreeMap::new();
    let turns = flows.iter().map(|flow| flow.turns.len()).max().unwrap_or(0);
    for turn in 0..turns {
        let mut sent: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for flow in flows {
            let Some(turn) = flow.turns.get(turn) else {
                continue;
            };
            let at = reached.get(&flow.number);
            let (Turn::Client(shapes) | Turn::Server(shapes)) = turn;
            let from = match turn {
                Turn::Client(_) => CLIENT,
                Turn::Server(_) => at.context("no server has been reached")?.0,
            };
            let packets = shapes
                .iter()
                .map(|shape| flow.packet(turn, shape, at.map(|(_, seen)| seen)))
                .collect::<Option<Vec<_>>>()
                .context("nothing to answer")?;
            for packet in &packets {
                node.send(from, packet)?;
            }
            sent.insert(flow.number, packets);
        }
        let mut came = Arrived::new();
        for (place, packet, seen) in node.arrivals()? {
            if !outcome::is_chatter(&seen) {
                let number = seen.id.checked_sub(1).context("a stray packet")?;
                came.entry(number).or_default().push((place, packet));
            }
        }
        for flow in flows.iter().filter(|flow| sent.contains_key(&flow.number)) {
            let came = came.remove(&flow.number).unwrap_or_default();
            let sent = &sent[&flow.number];
            check(flow, turn, sent, &came, reached.get(&flow.number))
                .with_context(|| format!("turn {turn} of {flow:?}"))?;
            if let (Turn::Client(_), Some((place, packet))) = (&flow.turns[turn], came.last()) {
                let seen = see(packet).context("no packet")?;
                reached.insert(flow.number, (*place, seen));
            }
            arrived.entry(flow.number).or_default().extend(came);
        }
        ensure!(came.is_empty(), "strays: {came:?}");
    }
    Ok(arrived)
}

/// Whether what came is what forwarding leaves of what was sent, in the same order and all in one place.
fn check(
    flow: &Flow,
    turn: usize,
    sent: &[Vec<u8>],
    came: &[(usize, Vec<u8>)],
    reached: Option<&(usize, Seen)>,
) -> Result<()> {
    ensure!(
        came.len() == sent.len(),
        "{} of {} packets arrived",
        came.len(),
        sent.len()
    );
    for (sent, (place, packet)) in sent.iter().zip(came) {
        let (sent, seen) = (
            see(sent).context("no packet")?,
            see(packet).context("none")?,
        );
        let opens = matches!(sent.l4, L4::Tcp { flags, .. } if flags & flag::SYN != 0);
        match (&flow.turns[turn], reached) {
            (Turn::Client(_), Some((server, _))) if !opens => ensure!(place == server, "it moved"),
            (Turn::Client(_), _) => ensure!(flow.target.servers.contains(place), "at {place}"),
            (Turn::Server(_), _) => {
                ensure!(*place == CLIENT, "at {place}");
                ensure!(seen.src == flow.target.address, "from {}", seen.src);
                let ports = Some((flow.target.port, FIRST_PORT + flow.number));
                ensure!(seen.ports() == ports, "{:?}", seen.ports());
            }
        }
        if let Turn::Client(_) = flow.turns[turn] {
            ensure!(seen.src == sent.src, "from {}", seen.src);
            let ports = Some((FIRST_PORT + flow.number, flow.target.target));
            ensure!(seen.ports() == ports, "{:?}", seen.ports());
        }
        ensure!(
            seen.hops + 1 == sent.hops,
            "{} hops of {}",
            seen.hops,
            sent.hops
        );
        ensure!(seen.header_sum != Sum::Bad, "a bad IP checksum");
        ensure!(
            seen.sum == sent.sum && sent.sum != Sum::Bad,
            "its checksum is {:?}, was {:?}",
            seen.sum,
            sent.sum
        );
        let rest = |seen: &Seen| (seen.class, seen.dont_fragment, seen.id, seen.protocol);
        ensure!(rest(&seen) == rest(&sent), "another header: {seen:?}");
        ensure!(seen.payload == sent.payload, "another payload");
        if let (
            L4::Tcp { flags, numbers, .. },
            L4::Tcp {
                flags: f,
                numbers: n,
                ..
            },
        ) = (&seen.l4, &sent.l4)
        {
            ensure!((flags, numbers) == (f, n), "another TCP header: {seen:?}");
        }
    }
    Ok(())
}
