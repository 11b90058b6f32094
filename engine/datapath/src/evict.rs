//! Making room at a bound: what has ended first, what has not begun next, what is established never.

use std::time::Duration;

use crate::flow::{Flow, FlowId, InsertError, NewFlow};
use crate::{Now, State, Tables};

/// Places of the slab that are looked at for one new flow: with a quarter of them evictable, one is found in
/// all but one of 10,000 tries, for as many cache misses, about 2 us.
const PROBES: usize = 32;

/// A handshake younger than this is not evicted: it may be waiting for its answer (the initial
/// retransmission timeout, RFC 6298 section 2.1).
const YOUNG: Duration = Duration::from_secs(1);

impl State {
    /// Evicts one flow, so that `new` fits, if one is found among the next [`PROBES`] places. It is one that
    /// has ended, else of those that nobody has answered and that were silent for a second the one that
    /// was silent for longest. Who has used up a share makes room among its own flows (K-22).
    pub(crate) fn make_room(
        &mut self,
        bound: InsertError,
        new: &NewFlow,
        now: Now,
        tables: &Tables,
    ) -> bool {
        let places = self.flows.places();
        let mut best: Option<(Rank, FlowId)> = None;
        // Bound: PROBES, and once round the slab.
        for _ in 0..PROBES.min(places) {
            if self.probe >= places {
                self.probe = 0;
            }
            let flow = self.flows.slice(self.probe, 1).next();
            self.probe += 1;
            let Some((id, flow)) = flow.filter(|(_, flow)| relieves(flow, bound, new)) else {
                continue;
            };
            let Some(rank) = rank(flow, now, tables) else {
                continue;
            };
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, id));
            }
            if rank == Rank::Ended {
                break;
            }
        }
        let Some((_, id)) = best else { return false };
        self.remove(id);
        self.evicted += 1;
        true
    }
}

/// In which order flows go.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Ended,
    /// Since when it is silent.
    Opening(Now),
}

fn rank(flow: &Flow, now: Now, tables: &Tables) -> Option<Rank> {
    if flow.state().over() || !flow.valid(now, tables) {
        return Some(Rank::Ended);
    }
    let old = now.since(flow.last_seen()) >= YOUNG;
    (flow.state().opening() && old).then(|| Rank::Opening(flow.last_seen()))
}

/// Whether the end of that flow brings the new one below the bound.
fn relieves(flow: &Flow, bound: InsertError, new: &NewFlow) -> bool {
    match bound {
        InsertError::Full => true,
        InsertError::Share => flow.client_slot().slot == new.client_slot.slot,
        InsertError::ServiceShare => flow.kind().serves() && flow.service() == new.service,
        InsertError::Clash(_) | InsertError::NoPort => false,
    }
}
