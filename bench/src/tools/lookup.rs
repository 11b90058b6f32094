//! What the first packet of a flow costs the engine, in process: `weft_datapath::process` on SYNs of new
//! flows to some of many services.
//!
//! Measured is the whole decision: parse, steering, service, backend, the new flow's entry, rewrite. Not
//! measured are rings and system calls, and the flow's expiry later on.

use crate::random::Random;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use weft_datapath::wire::{ethernet, ipv4, tcp};
use weft_datapath::{
    Address, Algorithm, BURST_MAX, Backend, BackendPath, BackendState, Checksum, FrameBuf, Hook,
    Ingress, LookAhead, Now, Pod, PodState, Ports, Protocol, ServiceOptions, ServicePortSpec,
    SlotRef, State, StateConfig, Tables, TablesBuilder, Verdict, l4_checksum, process,
};

/// Backends of every service, all different, so that no two services share a Maglev table.
const BACKENDS: usize = 2;
/// The port of every service.
const PORT: u16 = 80;
/// Pods that the flows come from: one alone may not have that many, and has too few ports.
const CLIENTS: u32 = 4;
/// The clients' source ports, each used once in a run.
const FIRST_PORT: u16 = 10_000;
const PORTS: usize = 50_000;
/// The kernel's and Weft's default, above what a run makes.
const MAX_FLOWS: usize = 262_144;
/// Bytes of a SYN without options.
const FRAME: usize = ethernet::LEN + ipv4::LEN + tcp::LEN;
/// Long after any new flow has timed out.
const LATER: Duration = Duration::from_secs(24 * 3600);

/// How often the services are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Popularity {
    /// All alike.
    Uniform,
    /// The k-th most popular one in proportion to 1/k, as clusters' services are.
    Zipf,
}

/// Cost of one decision.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Decisions {
    /// Time per packet, in nanoseconds.
    pub ns: f64,
    /// Processor time per packet, in microseconds.
    pub cpu_us: f64,
}

/// Decides about `flows` new flows to `services` services, after as many others to warm up.
pub fn decisions(services: usize, popularity: Popularity, flows: usize) -> Result<Decisions> {
    ensure!(services > 0, "--services: at least 1");
    let most = CLIENTS as usize * PORTS;
    ensure!((1..=most).contains(&flows), "--flows: 1 to {most}");
    let tables = tables(services)?;
    let mut state = State::new(StateConfig {
        max_flows: MAX_FLOWS,
        seed: 7,
        worker: 0,
        workers: 1,
        ports: Ports::default(),
        hairpin: Default::default(),
    });
    let mut random = Random::new(services as u64);
    let draw = Draw::new(services, popularity, &mut random);
    let mut now = Now::from_nanos(0) + LATER;
    let mut measured = None;
    // The second time the flow table's memory is there, and the caches hold what such traffic leaves in them.
    for _ in 0..2 {
        let frames = frames(flows, &draw, &mut random);
        measured = Some(run(&frames, now, &tables, &mut state)?);
        now = now + LATER;
        while !state.flows.is_empty() {
            state.expire(now, &tables, MAX_FLOWS);
            state.pin_ops.clear();
        }
    }
    measured.context("no run was made")
}

fn run(frames: &[[u8; FRAME]], now: Now, tables: &Tables, state: &mut State) -> Result<Decisions> {
    let mut memory = vec![[0; 2048]; BURST_MAX];
    let (mut ahead, mut delivered) = (LookAhead::default(), 0);
    let (busy, start) = (thread_time(), Instant::now());
    // Bursts, as a worker takes them: it arrives anew, as from a ring.
    for burst in frames.chunks(BURST_MAX) {
        for (memory, frame) in memory.iter_mut().zip(burst) {
            memory[..FRAME].copy_from_slice(frame);
            ahead.note(&memory[..FRAME], state);
        }
        ahead.fetch(tables, state);
        for (memory, _) in memory.iter_mut().zip(burst) {
            let mut frame = FrameBuf::new(memory, FRAME);
            delivered += usize::from(process(&mut frame, now, tables, state) == Verdict::Deliver);
        }
        state.pin_ops.clear();
    }
    let (time, busy) = (start.elapsed(), thread_time() - busy);
    let count = frames.len();
    ensure!(
        delivered == count && state.flows.len() == count,
        "{delivered} of {count} packets were delivered, {} flows made",
        state.flows.len()
    );
    Ok(Decisions {
        ns: time.as_nanos() as f64 / count as f64,
        cpu_us: busy.as_nanos() as f64 / 1e3 / count as f64,
    })
}

/// Processor time of this thread so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

/// The address `base` + `number`.
fn numbered(base: [u8; 4], number: usize) -> Address {
    // Numbers stay below a million, so no base here overflows.
    Address::from_v4((u32::from_be_bytes(base) + number as u32).to_be_bytes())
}

fn vip(service: usize) -> Address {
    numbered([10, 96, 0, 1], service)
}

fn client(number: u32) -> Address {
    numbered([10, 244, 1, 1], number as usize)
}

fn tables(services: usize) -> Result<Tables> {
    let mut builder = TablesBuilder::new();
    for service in 0..services {
        let backend = |index| Backend {
            address: numbered([10, 128, 0, 1], service * BACKENDS + index),
            port: 8080,
            path: BackendPath::Kernel,
            slot: SlotRef::FIXED,
            member: SlotRef::FIXED,
            state: BackendState::Ready,
            weight: 1,
            name: None,
        };
        builder.add_service_port(ServicePortSpec {
            id: service as u32,
            address: vip(service),
            port: PORT,
            proto: Protocol::Tcp,
            algorithm: Algorithm::Maglev,
            backends: (0..BACKENDS).map(backend).collect(),
            options: ServiceOptions::default(),
        });
    }
    for number in 0..CLIENTS {
        builder.add_pod(Pod {
            ifindex: 1 + number,
            name: Box::default(),
            addresses: [client(number)].into_iter().collect(),
            slot: SlotRef::FIXED,
            state: PodState::Enrolled {
                grace_until: Now::default(),
            },
            mtu: 1500,
        });
    }
    Ok(builder.build(1)?)
}

/// SYNs of different flows, to services as they are drawn.
fn frames(flows: usize, draw: &Draw, random: &mut Random) -> Vec<[u8; FRAME]> {
    (0..flows)
        .map(|flow| {
            let (client, port) = ((flow / PORTS) as u32, FIRST_PORT + (flow % PORTS) as u16);
            syn(client, port, vip(draw.service(random)))
        })
        .collect()
}

/// A SYN as the hook at the client's veth punts it.
fn syn(number: u32, port: u16, to: Address) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let ingress = Ingress {
        ifindex: 1 + number,
        hook: Hook::FromPod,
        target: 0,
    };
    frame[ethernet::SRC].copy_from_slice(&ingress.encode());
    frame[ethernet::TYPE].copy_from_slice(&ethernet::IPV4.to_be_bytes());
    let (ip, segment) = frame[ethernet::LEN..].split_at_mut(ipv4::LEN);
    let length = (ipv4::LEN + tcp::LEN) as u16;
    ip[ipv4::VERSION_IHL] = 0x45;
    ip[ipv4::TOTAL_LENGTH].copy_from_slice(&length.to_be_bytes());
    ip[ipv4::FRAGMENT].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
    ip[ipv4::TTL] = 64;
    ip[ipv4::PROTOCOL] = Protocol::Tcp.number();
    let from = client(number);
    ip[ipv4::SRC].copy_from_slice(&from.0[12..]);
    ip[ipv4::DST].copy_from_slice(&to.0[12..]);
    let sum = Checksum::default().with(ip).finish();
    ip[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    segment[tcp::SPORT].copy_from_slice(&port.to_be_bytes());
    segment[tcp::DPORT].copy_from_slice(&PORT.to_be_bytes());
    segment[tcp::DATA_OFFSET] = (tcp::LEN as u8 / 4) << 4;
    segment[tcp::FLAGS] = tcp::SYN;
    let sum = l4_checksum(&from, &to, Protocol::Tcp, segment);
    segment[tcp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Which service the next flow goes to.
#[derive(Debug)]
struct Draw {
    /// Services by popularity: neighbours in rank are not neighbours in the tables.
    ranks: Vec<u32>,
    /// The share of all traffic that goes to the ranks up to each; empty where all are alike.
    shares: Vec<f64>,
}

impl Draw {
    fn new(services: usize, popularity: Popularity, random: &mut Random) -> Self {
        let mut ranks: Vec<u32> = (0..services as u32).collect();
        // Fisher and Yates.
        for last in (1..services).rev() {
            ranks.swap(last, random.below(last + 1));
        }
        let mut shares = Vec::new();
        if popularity == Popularity::Zipf {
            let mut sum = 0.0;
            shares.extend((1..=services).map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            }));
            shares.iter_mut().for_each(|share| *share /= sum);
        }
        Self { ranks, shares }
    }

    fn service(&self, random: &mut Random) -> usize {
        let rank = if self.shares.is_empty() {
            random.below(self.ranks.len())
        } else {
            let at = random.unit();
            // The last share is 1 but for rounding.
            self.shares
                .partition_point(|share| *share <= at)
                .min(self.ranks.len() - 1)
        };
        self.ranks[rank] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_a_run_is_delivered_and_makes_a_flow() {
        // More flows than a client has ports; the run itself checks what became of them.
        for popularity in [Popularity::Uniform, Popularity::Zipf] {
            let found = decisions(100, popularity, PORTS + 10).unwrap();
            assert!(found.ns > 0.0 && found.cpu_us > 0.0, "{found:?}");
        }
        assert!(decisions(0, Popularity::Uniform, 1).is_err());
        assert!(decisions(1, Popularity::Uniform, 1 + CLIENTS as usize * PORTS).is_err());
    }

    #[test]
    fn popularity_is_as_it_says() {
        let draws = 100_000;
        let count = |popularity| {
            let mut random = Random::new(1);
            let draw = Draw::new(1000, popularity, &mut random);
            let mut counts = vec![0; 1000];
            for _ in 0..draws {
                counts[draw.service(&mut random)] += 1;
            }
            counts.sort_unstable_by(|a, b| b.cmp(a));
            counts
        };
        let uniform = count(Popularity::Uniform);
        assert!(uniform[0] < 160 && uniform[999] > 50, "{uniform:?}");
        let zipf = count(Popularity::Zipf);
        // 1 / H(1000) = 0.1336 of all, and half of that.
        assert!((12_000..15_000).contains(&zipf[0]), "{}", zipf[0]);
        assert!((6_000..7_500).contains(&zipf[1]), "{}", zipf[1]);
    }
}
