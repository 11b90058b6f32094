//! The oracle: the same packets through kube-proxy's iptables rules and through Weft.
//!
//! Two nodes with the same pods and the same services, drawn from a seed, get the same packets. What
//! arrives where is put into words in which it does not matter which of a service's backends was
//! chosen, and compared step by step. `docs/oracle.md` lists every difference there may be.

mod cases;
mod document;
mod node;
mod outcome;
mod tiers;
mod world;

pub use document::{Mismatch, compare};
pub use tiers::Tiers;

use crate::lab::Family;
use crate::packet::{Ip, Seen};
use crate::random::Random;
use anyhow::{Context, Result};
use cases::{Act, Case, FIRST_PORT};
use node::{Node, Path};
use std::collections::{BTreeMap, BTreeSet};
use world::{CLIENT, OUTSIDE};

/// Cases under way at a time: their packets stay below every queue on the way.
const CHUNK: usize = 64;

/// A kind of packet that fares differently.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What was sent where.
    pub packet: String,
    /// What came of it with iptables rules.
    pub kernel: String,
    /// What came of it with Weft.
    pub weft: String,
}

/// What runs came to.
#[derive(Debug, Default)]
pub struct Findings {
    /// Conversations that were compared.
    pub cases: usize,
    found: Found,
}

impl Findings {
    /// Runs the packets of `seed` through both nodes.
    ///
    /// # Errors
    /// When a lab cannot be made, when something arrives that no packet of a case explains, and when
    /// Weft's ledger does not add up afterwards.
    pub fn add(&mut self, seed: u64) -> Result<()> {
        let mut random = Random::new(seed);
        let services = world::services(&mut random);
        let cases = cases::cases(&mut random, &services);
        let kernel = Node::new(&services, Path::Rules)?;
        let weft = Node::new(&services, Path::Weft(None))?;
        for (number, chunk) in cases.chunks(CHUNK).enumerate() {
            let first = number * CHUNK;
            let by_kernel =
                converse(&kernel, &cases, first, chunk.len()).context("iptables rules")?;
            let by_weft = converse(&weft, &cases, first, chunk.len()).context("Weft")?;
            for ((case, kernel), weft) in chunk.iter().zip(by_kernel).zip(by_weft) {
                note(&mut self.found, case, &kernel, &weft);
            }
        }
        self.cases += cases.len();
        weft.weft.context("no Weft")?.audit().map(drop)
    }

    /// Kinds of packets that fared differently; those that did so in one family say in which.
    pub fn differences(&self) -> BTreeSet<Difference> {
        let name = |(difference, families): (&Difference, &BTreeSet<Family>)| {
            let only = match families.first() {
                Some(Family::V4) if families.len() == 1 => " (IPv4)",
                Some(Family::V6) if families.len() == 1 => " (IPv6)",
                _ => "",
            };
            Difference {
                packet: format!("{}{only}", difference.packet),
                ..difference.clone()
            }
        };
        self.found.iter().map(name).collect()
    }
}

/// Differences without their family, and in which families they were seen.
type Found = BTreeMap<Difference, BTreeSet<Family>>;

/// Remembers the first step in which a case fared differently: the later ones follow from it.
fn note(found: &mut Found, case: &Case, kernel: &[String], weft: &[String]) {
    let Some(step) = (0..case.steps.len()).find(|step| kernel[*step] != weft[*step]) else {
        return;
    };
    let step_name = match case.steps.len() {
        1 => String::new(),
        _ => format!(", {}", case.steps[step].0),
    };
    // Whether a port at the backends is the same is the seed's affair.
    let plain = |text: &str| text.replace(":p=t", ":p").replace(":t", ":p");
    let difference = Difference {
        packet: format!("{}{step_name}: to {}", case.what, case.to.text()),
        kernel: plain(&kernel[step]),
        weft: plain(&weft[step]),
    };
    found.entry(difference).or_default().insert(case.family);
}

/// Lets `count` cases from number `first` on converse over `node`; what each step of each came to.
fn converse(node: &Node, cases: &[Case], first: usize, count: usize) -> Result<Vec<Vec<String>>> {
    let chunk = &cases[first..first + count];
    let mut outcomes = vec![Vec::new(); count];
    // The last packet of each case that reached a server, and which one.
    let mut reached: Vec<Option<(usize, Vec<u8>, Seen)>> = vec![None; count];
    let steps = chunk.iter().map(|case| case.steps.len()).max().unwrap_or(0);
    for step in 0..steps {
        let mut senders = vec![None; count];
        let mut sent: Vec<Option<Seen>> = vec![None; count];
        for (at, case) in chunk.iter().enumerate() {
            let Some((_, act)) = case.steps.get(step) else {
                continue;
            };
            let (from, packets) = match (act, &reached[at]) {
                (Act::Send(packets), _) => (CLIENT, packets.clone()),
                (Act::Answer(answer), Some((server, packet, seen))) => {
                    let ip = Ip {
                        id: case.port - FIRST_PORT,
                        ..Ip::new(seen.dst, seen.src)
                    };
                    (*server, answer(&ip, seen, packet))
                }
                (Act::Answer(_), None) => continue,
            };
            for packet in &packets {
                node.send(from, packet)?;
            }
            senders[at] = Some(from);
            sent[at] = packets
                .first()
                .and_then(|packet| crate::packet::see(packet));
        }
        let mut words = vec![Vec::new(); count];
        for (place, packet, seen) in node.arrivals()? {
            if outcome::is_chatter(&seen) {
                continue;
            }
            let number = outcome::case_of(&seen, cases.len());
            let at = number.and_then(|number| (number - 1).checked_sub(first));
            let at = at.filter(|at| *at < count);
            let at = at.with_context(|| format!("a stray packet at {place}: {seen:?}"))?;
            let case = &chunk[at];
            words[at].push(outcome::describe(
                case,
                place,
                senders[at],
                &seen,
                sent[at].as_ref(),
            ));
            if place != OUTSIDE && case.target.servers.contains(&place) {
                reached[at] = Some((place, packet, seen));
            }
        }
        for (outcome, mut words) in outcomes.iter_mut().zip(words) {
            words.sort();
            outcome.push(if words.is_empty() {
                "nothing".into()
            } else {
                words.join("; ")
            });
        }
    }
    Ok(outcomes)
}
