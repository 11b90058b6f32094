//! The packet ledger: what is counted where, and the equations that must hold between the places.

use weft_xdp::{Counter, Counters, Steering, netlink};

use super::Error;
use crate::admin::view::{Audit, Equation};
use crate::worker::Totals;

/// What a veth queue holds at most between the two ends of the punt pair (`VETH_RING_SIZE`), plus
/// one NAPI poll.
const VETH_RING: u64 = 256 + 64;
/// Frames on their way from a transmit ring into weft0: the ring, and a CPU's backlog
/// (`net.core.netdev_max_backlog` is 1,000 by default).
const TRANSMIT: u64 = 2048 + 1000;
/// Packets in the queue of a bulk lane's device (`tx_queue_len`), and of its queueing discipline.
const BULK: u64 = 2 * 1000;
/// Frames in an AF_XDP receive ring and in the worker's hands.
const RECEIVE: u64 = 2048 + 64;

/// Everything counted on the way of a packet, since the node process took over.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The BPF programs' counters.
    pub hooks: Counters,
    /// Frames that weft0 could not pass to weft1 (`tx_dropped` of weft0).
    pub punt_lost: u64,
    /// Frames that weft1 could not pass to weft0 (`tx_dropped` of weft1).
    pub inject_lost: u64,
    /// Frames that no socket took: rings full or frames lacking (`XDP_STATISTICS`).
    pub socket_lost: u64,
    /// Large packets that the bulk lanes could not hold (`tx_dropped` of their devices).
    pub bulk_lost: u64,
    /// Frames that the kernel refused to send (`XDP_STATISTICS`).
    pub invalid: u64,
    /// Sums over the workers.
    pub engine: Totals,
    /// Fragments that the workers hold.
    pub waiting: u64,
    /// Workers.
    pub workers: u64,
}

/// What the punt pair had lost before this process took over: the pair outlives a killed process.
#[derive(Copy, Clone, Debug)]
pub struct Baseline {
    punt_lost: u64,
    inject_lost: u64,
}

impl Baseline {
    /// What it has lost by now.
    ///
    /// # Errors
    /// When netlink does not answer.
    pub async fn read() -> Result<Self, Error> {
        let (punt_lost, inject_lost) = netlink::pair_losses().await?;
        Ok(Self {
            punt_lost,
            inject_lost,
        })
    }
}

impl Reading {
    /// What the hooks and the pair say; the workers' share is still to be added.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn of_kernel(steering: &Steering, baseline: Baseline) -> Result<Self, Error> {
        let now = Baseline::read().await?;
        Ok(Self {
            hooks: steering.counters()?,
            punt_lost: now.punt_lost.saturating_sub(baseline.punt_lost),
            inject_lost: now.inject_lost.saturating_sub(baseline.inject_lost),
            ..Self::default()
        })
    }
}

impl Reading {
    /// What was lost between the hooks and the sockets, by name.
    pub fn lost(&self) -> [(&'static str, u64); 5] {
        [
            ("punt_lost", self.punt_lost),
            ("socket_lost", self.socket_lost),
            ("bulk_lost", self.bulk_lost),
            ("inject_lost", self.inject_lost),
            ("transmit_invalid", self.invalid),
        ]
    }
}

/// `left = right`, or `left` is ahead by what is under way.
struct Side {
    name: &'static str,
    in_flight_max: u64,
    left: u64,
    right: u64,
}

impl Reading {
    /// Both sides of every equation.
    fn sides(&self) -> [Side; 7] {
        let hooks = |counter: Counter| self.hooks[counter];
        let workers = self.workers;
        [
            Side {
                name: "sent by pods = kernel + punted + forwarded + orphaned + dropped",
                in_flight_max: 0,
                left: hooks(Counter::FromPod),
                right: hooks(Counter::FromPodKernel)
                    + hooks(Counter::FromPodPunted)
                    + hooks(Counter::FromPodForwarded)
                    + hooks(Counter::FromPodOrphan)
                    + hooks(Counter::Malformed)
                    + hooks(Counter::SrcSpoof)
                    + hooks(Counter::PuntRate),
            },
            Side {
                name: "to pods by the kernel = kernel + punted + orphaned",
                in_flight_max: 0,
                left: hooks(Counter::ToPod),
                right: hooks(Counter::ToPodKernel)
                    + hooks(Counter::ToPodPunted)
                    + hooks(Counter::ToPodOrphan),
            },
            Side {
                name: "from peers = punted + forwarded + kernel + orphaned",
                in_flight_max: 0,
                left: hooks(Counter::FromPeer),
                right: hooks(Counter::FromPeerPunted)
                    + hooks(Counter::FromPeerForwarded)
                    + hooks(Counter::FromPeerKernel)
                    + hooks(Counter::FromPeerOrphan),
            },
            Side {
                name: "punted = to sockets + without socket + lost on the pair + bulk",
                in_flight_max: VETH_RING * workers,
                left: hooks(Counter::FromPodPunted)
                    + hooks(Counter::ToPodPunted)
                    + hooks(Counter::FromPeerPunted),
                right: hooks(Counter::XskRedirected)
                    + hooks(Counter::XskAbsent)
                    + self.punt_lost
                    + hooks(Counter::BulkPunted),
            },
            Side {
                name: "to sockets = received + lost at sockets",
                in_flight_max: RECEIVE * workers,
                left: hooks(Counter::XskRedirected),
                right: self.engine.received + self.socket_lost,
            },
            Side {
                name: "large packets = received + lost on the bulk lanes",
                in_flight_max: BULK * workers,
                left: hooks(Counter::BulkFrames),
                right: self.engine.bulk + self.bulk_lost,
            },
            Side {
                name: "transmitted = into pods + to kernel + out of uplinks + lost on the pair",
                in_flight_max: TRANSMIT * workers,
                left: self.engine.transmitted(),
                right: hooks(Counter::InjectedPeer)
                    + hooks(Counter::InjectedReingress)
                    + hooks(Counter::InjectedUplink)
                    + self.inject_lost
                    + self.invalid,
            },
        ]
    }
}

/// Audits two readings of a live node.
///
/// Packets move while they are counted, so an equation is held against both readings: what came by
/// the second must cover what was accounted for by the first, and what came by the first may exceed
/// what was accounted for by the second only by what fits between the two places. On a node at rest
/// both are the same and the equations are exact, but for what a full ring still holds.
pub fn audit(first: &Reading, second: &Reading) -> Audit {
    let mut equations: Vec<Equation> = first
        .sides()
        .into_iter()
        .zip(second.sides())
        .map(|(before, after)| Equation {
            name: before.name.into(),
            left: before.left,
            right: after.right,
            in_flight_max: before.in_flight_max,
            balanced: before.right <= after.left
                && before.left <= after.right + before.in_flight_max,
        })
        .collect();
    let engine = &second.engine;
    equations.push(Equation {
        name: "received + handed in + released + bulk = forwarded + replied + terminated + kernel + dropped + held + handed out".into(),
        left: engine.received + engine.handed_in + engine.released + engine.bulk,
        right: engine.fates.received(),
        in_flight_max: 0,
        balanced: engine.unaccounted() == 0,
    });
    equations.push(Equation {
        name: "fragments held = released + waiting".into(),
        left: engine.fates.held,
        right: engine.released + second.waiting,
        in_flight_max: 0,
        balanced: engine.fates.held == engine.released + second.waiting,
    });
    Audit {
        balanced: equations.iter().all(|equation| equation.balanced),
        equations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(received: u64) -> Reading {
        let mut reading = Reading {
            workers: 1,
            ..Reading::default()
        };
        reading.engine.received = received;
        reading.engine.fates.forwarded = received;
        reading
    }

    #[test]
    fn a_frame_without_a_fate_unbalances_the_ledger() {
        let mut bad = reading(10);
        bad.engine.fates.forwarded = 9;
        assert!(!audit(&bad, &bad).balanced);
    }

    #[test]
    fn a_lost_fragment_unbalances_the_ledger() {
        let mut held = reading(0);
        held.engine.received = 5;
        held.engine.fates.held = 5;
        held.engine.released = 2;
        held.engine.fates.forwarded = 2;
        held.waiting = 3;
        held.socket_lost = 0;
        let equation = |reading: &Reading| {
            let audit = audit(reading, reading);
            let found = audit.equations.iter().find(|e| e.name.starts_with("frag"));
            found.unwrap().balanced
        };
        assert_eq!(held.engine.unaccounted(), 0);
        assert!(equation(&held));
        held.waiting = 2;
        assert!(!equation(&held));
    }

    #[test]
    fn received_without_a_redirect_unbalances_the_ledger() {
        let audit = audit(&reading(10), &reading(10));
        let socket = audit
            .equations
            .iter()
            .find(|e| e.name.starts_with("to sockets"))
            .unwrap();
        assert!(!socket.balanced);
    }

    #[test]
    fn an_empty_node_balances() {
        assert!(audit(&reading(0), &reading(0)).balanced);
    }
}
