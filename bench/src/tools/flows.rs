//! A generator of UDP packets of very many flows: each a flow of its own, or flows in turn.
//!
//! It keeps a bounded number of packets under way: it looks at the sink's counter and sends when
//! there is room. So hardly any packet is lost in a queue, every packet counted was of the flow that
//! was planned, and the rate is that of the slowest stage between the two.

use super::flood::{any, payload};
use super::sink;
use crate::machine::{busy_time, pin};
use anyhow::{Context, Result, anyhow, ensure};
use libbpf_rs::{Link, Map, MapCore, MapFlags, MapHandle, Object, ObjectBuilder};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use weft_xdp::attach_tcx_unpinned;

/// `bpf/spread.bpf.c`, compiled by the build script.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/spread.bpf.o"));
/// The first source port.
const FIRST_PORT: u16 = 10_000;
/// Source ports.
const PORTS: u32 = 50_000;
/// Packets that one send becomes (`BATCH` of spread.bpf.c).
const BATCH: u32 = 64;
/// Packets under way at most: below every queue between the two ends (netdev_max_backlog is 1000).
const UNDER_WAY: u64 = 512;
/// How long to wait for room; real-time threads sleep that long to some microseconds.
const NAP: Duration = Duration::from_micros(20);
/// What has not arrived this long after the last one that has is lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
/// A slow path ends here, with fewer flows: before the first of them times out.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// And its warm-up here.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);
/// Losses after which a run gives up.
const MAX_LOST: u64 = 20_000;

/// What a generator's packets came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Outcome {
    /// Packets that arrived, the warm-up left out.
    pub arrived: u64,
    /// Packets that did not.
    pub lost: u64,
    /// From the first to the last one's arrival.
    pub seconds: f64,
    /// Processor time of the whole machine meanwhile, in seconds.
    pub busy: f64,
}

/// Where to, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The first destination.
    pub to: SocketAddr,
    /// Consecutive destination ports that flows take in turn.
    pub ports: u16,
    /// Flows, each with ports that no other one has. Packets take them in turn.
    pub flows: u32,
    /// Packets that are measured.
    pub packets: u32,
    /// Packets before them.
    pub warm_up: u32,
}

impl Plan {
    /// Source and destination port of packet `number`.
    pub fn ports_of(&self, number: u32) -> (u16, u16) {
        let (ports, flow) = (u32::from(self.ports), number % self.flows);
        let (round, turn) = (flow / ports, flow % ports);
        (FIRST_PORT + round as u16, self.to.port() + turn as u16)
    }

    /// Whether there are ports enough for the flows.
    pub fn check(&self) -> Result<()> {
        let room = u64::from(self.ports) * u64::from(PORTS);
        ensure!(
            (1..=room).contains(&u64::from(self.flows)),
            "{} ports have room for 1 to {room} flows, not for {}",
            self.ports,
            self.flows
        );
        Ok(())
    }
}

/// Sends the plan's packets from `interface`, no faster than the sink with the map `counter` counts: from each of
/// `cores` at once, or from wherever this thread runs when none is named.
pub fn run(interface: &str, plan: Plan, counter: u32, cores: &[usize]) -> Result<Outcome> {
    let (_spread, generators) = generators(interface, plan, cores.len().max(1) as u32)?;
    let sink = MapHandle::from_map_id(counter).context("no sink")?;
    let road = Road::new(sink)?;
    send(&generators, &road, cores, 0..plan.warm_up, WARM_UP_LIMIT)?;
    road.drain()?;
    let (start, lost, busy) = (Instant::now(), road.ledger().lost, busy_time()?);
    let before = road.arrived()?;
    let end = plan.warm_up + plan.packets;
    send(&generators, &road, cores, plan.warm_up..end, RUN_LIMIT)?;
    let last = road.drain()?;
    Ok(Outcome {
        arrived: road.arrived()? - before,
        lost: road.ledger().lost - lost,
        seconds: (last - start).as_secs_f64(),
        busy: (busy_time()? - busy).as_secs_f64(),
    })
}

/// Sends the plan's packets as fast as it can, whatever becomes of them.
pub fn flood(interface: &str, plan: Plan) -> Result<()> {
    let (_spread, generators) = generators(interface, plan, 1)?;
    let generator = &generators[0];
    generator.give(0..plan.packets)?;
    for _ in 0..plan.packets.div_ceil(BATCH) {
        // What the pod's own queues do not take is lost as well.
        let _ = generator.socket.send(&generator.payload);
    }
    Ok(())
}

/// As many generators of the plan's packets, and what they share: it has to stay as long as they do.
fn generators(interface: &str, plan: Plan, count: u32) -> Result<(Spread, Vec<Generator>)> {
    plan.check()?;
    let spread = Spread::attach(interface, plan)?;
    let generators = (0..count)
        .map(|index| Generator::new(&spread, index, plan.to))
        .collect::<Result<Vec<_>>>()?;
    Ok((spread, generators))
}

/// Sends the packets of `numbers`, each generator its share, as far as `limit` allows.
fn send(
    generators: &[Generator],
    road: &Road,
    cores: &[usize],
    numbers: Range<u32>,
    limit: Duration,
) -> Result<()> {
    let share = (numbers.end - numbers.start).div_ceil(generators.len() as u32);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(generators)
            .map(|(index, generator)| {
                let core = cores.get(index as usize).copied();
                let first = (numbers.start + index * share).min(numbers.end);
                let share = first..(first + share).min(numbers.end);
                scope.spawn(move || -> Result<()> {
                    core.map_or(Ok(()), pin)?;
                    generator.send(road, share, limit)
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().map_err(|_| anyhow!("a generator panicked"))?)
    })
}

/// What lies between generators and sink, and what is under way there.
struct Road {
    sink: MapHandle,
    /// The sink's counter at the start.
    base: u64,
    ledger: Mutex<Ledger>,
}

/// What became of packets so far.
struct Ledger {
    sent: u64,
    lost: u64,
    /// The last arrival seen: how many then, and when.
    progress: (u64, Instant),
}

impl Road {
    fn new(sink: MapHandle) -> Result<Self> {
        let mut road = Self {
            sink,
            base: 0,
            ledger: Mutex::new(Ledger {
                sent: 0,
                lost: 0,
                progress: (0, Instant::now()),
            }),
        };
        road.base = road.arrived()?;
        Ok(road)
    }

    /// Room for at most `count` packets, taken at once; 0 when there is not enough for a whole batch.
    fn take(&self, count: u32) -> Result<u32> {
        let arrived = self.arrived()?;
        let mut ledger = self.ledger();
        if ledger.under_way(arrived)? + u64::from(BATCH) > UNDER_WAY {
            return Ok(0);
        }
        ledger.sent += u64::from(count);
        Ok(count)
    }

    /// Waits until everything has arrived or is lost; when the last one arrived.
    fn drain(&self) -> Result<Instant> {
        loop {
            let arrived = self.arrived()?;
            let mut ledger = self.ledger();
            if ledger.under_way(arrived)? == 0 {
                return Ok(ledger.progress.1);
            }
            drop(ledger);
            thread::sleep(NAP);
        }
    }

    /// Packets that the sink has counted since the start.
    fn arrived(&self) -> Result<u64> {
        Ok(sink::total(&self.sink)? - self.base)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Whoever panicked has ended the run.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Packets that may still arrive, when so many have.
    fn under_way(&mut self, arrived: u64) -> Result<u64> {
        if arrived > self.progress.0 {
            self.progress = (arrived, Instant::now());
        }
        // One that was given up may come after all.
        let under_way = self.sent.saturating_sub(arrived + self.lost);
        if under_way > 0 && self.progress.1.elapsed() > LOST_AFTER {
            self.lost += under_way;
            ensure!(
                self.lost <= MAX_LOST,
                "{} of {} packets did not arrive",
                self.lost,
                self.sent
            );
            return Ok(0);
        }
        Ok(under_way)
    }
}

/// The program that makes packets of many flows out of one, at an interface. It goes with the value.
struct Spread {
    object: Object,
    _link: Link,
}

impl Spread {
    fn attach(interface: &str, plan: Plan) -> Result<Self> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = name_to_index(socket, interface)
            .with_context(|| format!("no interface {interface} here"))?;
        let object = ObjectBuilder::default()
            .open_memory(OBJECT)?
            .load()
            .context("cannot load the generator")?;
        // struct plan.
        let words = [
            plan.flows,
            u32::from(plan.ports),
            u32::from(FIRST_PORT),
            u32::from(plan.to.port()),
        ];
        let value = words.map(u32::to_ne_bytes).concat();
        map(&object, "spread_plan")?.update(&[0; 4], &value, MapFlags::ANY)?;
        let program = object.progs_mut().next().context("no program")?;
        let link = attach_tcx_unpinned(&program, index)?;
        Ok(Self {
            object,
            _link: link,
        })
    }
}

fn map<'o>(object: &'o Object, name: &str) -> Result<Map<'o>> {
    let map = object.maps().find(|map| map.name() == name);
    map.with_context(|| format!("the generator has no map {name}"))
}

/// One of as many sockets as cores send.
struct Generator {
    socket: UdpSocket,
    /// Where the program reads what to send, and at which index.
    runs: MapHandle,
    index: u32,
    payload: Vec<u8>,
}

impl Generator {
    fn new(spread: &Spread, index: u32, to: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((any(to), 0))?;
        socket
            .connect(to)
            .with_context(|| format!("no route to {to}"))?;
        // By its mark the program knows whose packet it is.
        setsockopt(&socket, sockopt::Mark, &(index + 1)).context("SO_MARK is refused")?;
        Ok(Self {
            socket,
            runs: MapHandle::try_from(&map(&spread.object, "spread_runs")?)?,
            index,
            payload: vec![0; payload(to)],
        })
    }

    /// Says which packets the next sends are to become.
    fn give(&self, numbers: Range<u32>) -> Result<()> {
        // struct run.
        let run = [numbers.start, numbers.end].map(u32::to_ne_bytes).concat();
        let index = self.index.to_ne_bytes();
        Ok(self.runs.update(&index, &run, MapFlags::ANY)?)
    }

    /// Sends the packets of `numbers`, as far as `limit` allows.
    fn send(&self, road: &Road, mut numbers: Range<u32>, limit: Duration) -> Result<()> {
        self.give(numbers.clone())?;
        let start = Instant::now();
        while !numbers.is_empty() && start.elapsed() < limit {
            let count = road.take(BATCH.min(numbers.end - numbers.start))?;
            if count == 0 {
                thread::sleep(NAP);
                continue;
            }
            self.socket
                .send(&self.payload)
                .context("the interface takes no packets")?;
            numbers.start += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_flows_have_the_same_ports_and_packets_take_them_in_turn() {
        let plan = Plan {
            to: "10.96.0.10:5000".parse().unwrap(),
            ports: 4,
            flows: 200_000,
            packets: 190_000,
            warm_up: 10_000,
        };
        plan.check().unwrap();
        let seen: HashSet<_> = (0..200_000).map(|number| plan.ports_of(number)).collect();
        assert_eq!(seen.len(), 200_000);
        assert_eq!(plan.ports_of(200_007), plan.ports_of(7));
        let more = Plan {
            flows: 200_001,
            ..plan
        };
        assert!(more.check().is_err());
    }
}
