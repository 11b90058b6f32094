//! A generator of UDP packets of which each is a flow of its own.
//!
//! It keeps a bounded number of packets under way: it looks at the sink's counter and sends when
//! there is room. So hardly any packet is lost in a queue, every packet counted was a flow that
//! nobody had seen before, and the rate is that of the slowest stage between the two.

use super::frames::{FRAME, Template, gateway};
use crate::machine::busy_time;
use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::MapHandle;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, sendmmsg, socket,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The first source port.
const FIRST_PORT: u16 = 10_000;
/// Source ports.
const PORTS: u32 = 50_000;
/// Frames a system call takes.
const BATCH: u32 = 64;
/// Packets under way at most: below every queue between the two ends (netdev_max_backlog is 1000).
const UNDER_WAY: u64 = 512;
/// How long to wait for room; real-time threads sleep that long to some microseconds.
const NAP: Duration = Duration::from_micros(20);
/// What has not arrived this long after the last one that has is lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
/// A slow path ends here, with fewer flows: before the first of them times out.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// Losses after which a run gives up.
const MAX_LOST: u64 = 20_000;

/// What a generator's packets came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct NewFlows {
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
    pub to: SocketAddrV4,
    /// Consecutive destination ports that packets take in turn.
    pub ports: u16,
    /// Packets that are measured, each with ports that no other one has.
    pub flows: u32,
    /// Packets before them.
    pub warm_up: u32,
}

impl Plan {
    /// Ports of packet `number`: all differ, since destination and source ports do.
    fn ports_of(&self, number: u32) -> (u16, u16) {
        let ports = u32::from(self.ports);
        let (round, turn) = (number / ports, number % ports);
        (FIRST_PORT + round as u16, self.to.port() + turn as u16)
    }

    fn check(&self) -> Result<()> {
        let room = u64::from(self.ports) * u64::from(PORTS);
        let wanted = u64::from(self.flows) + u64::from(self.warm_up);
        ensure!(
            wanted <= room,
            "{} ports have room for {room} flows, not for {wanted}",
            self.ports
        );
        Ok(())
    }
}

/// Sends the plan's packets from `interface`, no faster than the sink with the map `counter` counts.
pub fn run(interface: &str, plan: Plan, counter: u32) -> Result<NewFlows> {
    plan.check()?;
    let mut sender = Sender::new(interface, plan, counter)?;
    sender.send_until(plan.warm_up)?;
    sender.drain()?;
    let (start, lost, busy) = (Instant::now(), sender.lost, busy_time()?);
    let before = sender.arrived()?;
    sender.send_until(plan.warm_up + plan.flows)?;
    let last = sender.drain()?;
    Ok(NewFlows {
        arrived: sender.arrived()? - before,
        lost: sender.lost - lost,
        seconds: (last - start).as_secs_f64(),
        busy: (busy_time()? - busy).as_secs_f64(),
    })
}

struct Sender {
    socket: OwnedFd,
    link: LinkAddr,
    template: Template,
    plan: Plan,
    sink: MapHandle,
    /// The sink's counter at the start.
    base: u64,
    sent: u64,
    lost: u64,
    /// The last arrival seen: how many then, and when.
    progress: (u64, Instant),
}

impl Sender {
    fn new(interface: &str, plan: Plan, counter: u32) -> Result<Self> {
        let link = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {interface} here"))?;
        // The address a socket would take as its source.
        let probe = UdpSocket::bind(("0.0.0.0", 0))?;
        probe.connect(plan.to)?;
        let IpAddr::V4(from) = probe.local_addr()?.ip() else {
            bail!("{} is not reached over IPv4", plan.to)
        };
        let table = fs::read_to_string("/proc/thread-self/net/arp")?;
        let from_mac = link.addr().context("the interface has no link address")?;
        let template = Template::new(from_mac, gateway(&table, interface)?, from, *plan.to.ip());
        // Protocol zero: it sends, and receives nothing.
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let mut sender = Self {
            socket,
            link,
            template,
            plan,
            sink: MapHandle::from_map_id(counter).context("no sink")?,
            base: 0,
            sent: 0,
            lost: 0,
            progress: (0, Instant::now()),
        };
        sender.base = sender.arrived()?;
        Ok(sender)
    }

    /// Sends until `end` packets have been sent since the start, or the limit is reached.
    fn send_until(&mut self, end: u32) -> Result<()> {
        let mut frames = vec![[0; FRAME]; BATCH as usize];
        let start = Instant::now();
        while self.sent < u64::from(end) && start.elapsed() < RUN_LIMIT {
            if self.under_way()? + u64::from(BATCH) > UNDER_WAY {
                std::thread::sleep(NAP);
                continue;
            }
            // Below `end`, so it fits.
            let first = self.sent as u32;
            let count = BATCH.min(end - first);
            for (frame, number) in frames.iter_mut().zip(first..first + count) {
                let (from, to) = self.plan.ports_of(number);
                self.template.write(frame, from, to);
            }
            self.sent += self.send(&frames[..count as usize])? as u64;
        }
        Ok(())
    }

    fn send(&self, frames: &[[u8; FRAME]]) -> Result<usize> {
        let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let to = vec![Some(self.link); frames.len()];
        let mut headers = MultiHeaders::preallocate(frames.len(), None);
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut headers,
            &slices,
            &to,
            [],
            MsgFlags::empty(),
        )
        .context("the interface takes no frames")?
        .count();
        Ok(sent)
    }

    /// Waits until everything has arrived or is lost; when the last one arrived.
    fn drain(&mut self) -> Result<Instant> {
        while self.under_way()? > 0 {
            std::thread::sleep(NAP);
        }
        Ok(self.progress.1)
    }

    /// Packets that may still arrive.
    fn under_way(&mut self) -> Result<u64> {
        let arrived = self.arrived()? - self.base;
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

    fn arrived(&self) -> Result<u64> {
        super::sink::total(&self.sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_packets_have_the_same_ports() {
        let plan = Plan {
            to: "10.96.0.10:5000".parse().unwrap(),
            ports: 4,
            flows: 190_000,
            warm_up: 10_000,
        };
        plan.check().unwrap();
        let seen: HashSet<_> = (0..200_000).map(|number| plan.ports_of(number)).collect();
        assert_eq!(seen.len(), 200_000);
        let more = Plan {
            flows: 190_001,
            ..plan
        };
        assert!(more.check().is_err());
    }
}
