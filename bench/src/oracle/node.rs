//! One of the two nodes: pods whose stacks are silent, and a wire into each.

use super::world::{self, OTHER, OUTSIDE, PODS, Service};
use crate::command::run;
use crate::kubeproxy;
use crate::lab::{Family, Lab, Pod, pick, vips};
use crate::packet::{Ip, L4, Seen, echo, ethernet, see, udp};
use crate::raw::Wire;
use crate::weft::Weft;
use anyhow::{Result, bail};
use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// The first mark of the packets that follow a step's and say that those have come through, one from each pod.
const LAST: u16 = 60_000;
/// The first mark of those of them that go through user space, which the kernel's fast path does not wait for.
const LAST_BY_ENGINE: u16 = LAST + 100;
/// How long those may take; one is sent again every tenth of that.
const LAST_LIMIT: Duration = Duration::from_secs(5);
/// What the kernel may still have in its hands then.
const SETTLE: Duration = Duration::from_millis(10);

/// A node with its pods.
#[derive(Debug)]
pub struct Node {
    wires: Vec<Wire>,
    pods: Vec<Pod>,
    /// Runs on the node that has it. Goes before the lab.
    pub weft: Option<Weft>,
    /// Packets by which [`Self::arrivals`] has asked user space how far it is.
    pub asked: Cell<u64>,
    _lab: Lab,
}

/// What a node does with services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// kube-proxy's iptables rules.
    Rules,
    /// Weft and no rules, with this `fast_path` where one is named.
    Weft(Option<&'static str>),
}

impl Node {
    /// A node with `services`.
    pub fn new(services: &[Service], path: Path) -> Result<Self> {
        let mut lab = Lab::new()?;
        let pods = PODS
            .iter()
            .map(|name| lab.pod(name))
            .collect::<Result<Vec<_>>>()?;
        // Limits of ICMP errors are the kernel's, a second each and peer; here every packet counts.
        lab.node.sysctl(&[
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv4.icmp_msgs_per_sec=1000000",
            "net.ipv6.icmp.ratelimit=0",
        ])?;
        for pod in &pods {
            // The test answers for the pods: a capture comes before these rules, a stack after.
            for program in ["iptables-legacy", "ip6tables-legacy"] {
                run(pod
                    .namespace
                    .command(program)
                    .args(["-w", "5", "-P", "INPUT", "DROP"]))?;
            }
        }
        let mut wires = pods
            .iter()
            .map(|pod| Wire::open(&pod.namespace, "eth0"))
            .collect::<Result<Vec<_>>>()?;
        wires.push(Wire::open(&lab.outside, "eth0")?);
        let weft = match path {
            Path::Rules => {
                kubeproxy::install(&lab.node, &world::rules(services, &pods))?;
                None
            }
            Path::Weft(fast_path) => {
                let config = world::config(services, &pods, fast_path);
                Some(Weft::start(&lab, &config)?)
            }
        };
        Ok(Self {
            wires,
            pods,
            weft,
            asked: Cell::new(0),
            _lab: lab,
        })
    }

    /// Sends an IP packet out of pod number `from`.
    pub fn send(&self, from: usize, packet: &[u8]) -> Result<()> {
        let wire = &self.wires[from];
        let frame = ethernet(wire.mac, wire.gateway, packet);
        // A queue has room again in no time; the bound is for one that never has.
        for _ in 0..1000 {
            if wire.send(&frame)? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("{} takes no frames", PODS[from])
    }

    /// Everything that has arrived by the time that what was sent last has.
    pub fn arrivals(&self) -> Result<Vec<(usize, Vec<u8>, Seen)>> {
        let mut arrived = Vec::new();
        let mut missing: Vec<u16> = (LAST..).take(PODS.len()).collect();
        if self.weft.is_some() {
            missing.extend((LAST_BY_ENGINE..).take(OTHER)); // The other pod is not enrolled.
        }
        let (start, mut asked) = (Instant::now(), None::<Instant>);
        while !missing.is_empty() {
            if start.elapsed() > LAST_LIMIT {
                bail!("nothing more comes through: {missing:?}");
            }
            if asked.is_none_or(|at| at.elapsed() > LAST_LIMIT / 10) {
                for mark in &missing {
                    self.send_last(*mark)?;
                }
                asked = Some(Instant::now());
            }
            thread::sleep(Duration::from_millis(1));
            self.take(&mut arrived, &mut missing)?;
        }
        thread::sleep(SETTLE);
        self.take(&mut arrived, &mut missing)?;
        Ok(arrived)
    }

    /// From a pod to the next one, or to a service that answers it: by the ways that its other packets take.
    fn send_last(&self, mark: u16) -> Result<()> {
        let from = |pod: usize| self.pods[pod].ip(Family::V4);
        if let Some(pod) = mark.checked_sub(LAST_BY_ENGINE).map(usize::from) {
            self.asked.set(self.asked.get() + 1);
            let ip = Ip::new(from(pod), pick(&vips(1), Family::V4));
            return self.send(pod, &echo(&ip, false, mark, b""));
        }
        let pod = usize::from(mark - LAST);
        let ip = Ip::new(from(pod), from((pod + 1) % PODS.len()));
        self.send(pod, &udp(&ip, LAST, mark, b""))
    }

    fn take(
        &self,
        arrived: &mut Vec<(usize, Vec<u8>, Seen)>,
        missing: &mut Vec<u16>,
    ) -> Result<()> {
        for (place, wire) in (0..=OUTSIDE).zip(&self.wires) {
            while let Some(frame) = wire.receive()? {
                let Some(seen) = frame.get(14..).and_then(see) else {
                    continue; // ARP.
                };
                match last(&seen) {
                    Some(mark) => missing.retain(|other| *other != mark),
                    None => arrived.push((place, frame[14..].to_vec(), seen)),
                }
            }
        }
        Ok(())
    }
}

/// The mark of a packet that followed a step's.
fn last(seen: &Seen) -> Option<u16> {
    match (&seen.l4, seen.ports()) {
        (_, Some((LAST, mark))) => Some(mark),
        (L4::Icmp { ident, .. }, _) => Some(*ident).filter(|mark| *mark >= LAST_BY_ENGINE),
        _ => None,
    }
}
