//! One of the two nodes: pods whose stacks are silent, and a wire into each.

use super::world::{self, OUTSIDE, PODS, Service};
use crate::command::run;
use crate::kubeproxy;
use crate::lab::{Family, Lab, Pod};
use crate::packet::{Ip, Seen, ethernet, see, udp};
use crate::raw::Wire;
use crate::weft::Weft;
use anyhow::{Result, bail};
use std::thread;
use std::time::{Duration, Instant};

/// Source port, and mark, of the packets that follow a step's and say that those have come through.
const LAST: u16 = 60_000;
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
        let mut missing: Vec<usize> = (0..PODS.len()).collect();
        let (start, mut asked) = (Instant::now(), None::<Instant>);
        while !missing.is_empty() {
            if start.elapsed() > LAST_LIMIT {
                bail!("nothing more comes through from pods {missing:?}");
            }
            if asked.is_none_or(|at| at.elapsed() > LAST_LIMIT / 10) {
                for pod in &missing {
                    self.send(*pod, &self.last(*pod))?;
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

    /// From `pod` to the next one, by the way that its other packets take.
    fn last(&self, pod: usize) -> Vec<u8> {
        let to = &self.pods[(pod + 1) % PODS.len()];
        let ip = Ip::new(self.pods[pod].ip(Family::V4), to.ip(Family::V4));
        udp(&ip, LAST, LAST + pod as u16, b"")
    }

    fn take(
        &self,
        arrived: &mut Vec<(usize, Vec<u8>, Seen)>,
        missing: &mut Vec<usize>,
    ) -> Result<()> {
        for (place, wire) in (0..=OUTSIDE).zip(&self.wires) {
            while let Some(frame) = wire.receive()? {
                let Some(seen) = frame.get(14..).and_then(see) else {
                    continue; // ARP.
                };
                match seen.ports() {
                    Some((LAST, pod)) => {
                        missing.retain(|other| LAST + *other as u16 != pod);
                    }
                    _ => arrived.push((place, frame[14..].to_vec(), seen)),
                }
            }
        }
        Ok(())
    }
}
