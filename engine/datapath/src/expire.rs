//! Forgetting flows that timed out or that nothing supports any more.

use crate::flow::FlowId;
use crate::{BURST_MAX, Now, PIN_OPS_PER_FRAME, State, Tables};

/// Room that is left in the owner-entry buffer for the burst that may follow.
const ROOM_FOR_BURST: usize = PIN_OPS_PER_FRAME * BURST_MAX;

impl State {
    /// Moves the clock hand over at most `budget` places of the flow slab and returns how many flows
    /// it removed. Called between bursts with a budget that keeps the step short.
    ///
    /// A lookup checks validity by itself, so a flow is never used after its time, however slow the hand is.
    pub fn expire(&mut self, now: Now, tables: &Tables, budget: usize) -> usize {
        let places = self.flows.places();
        let mut removed = 0;
        // Bound: the budget, and once round the slab.
        for _ in 0..budget.min(places) {
            if self.hand >= places {
                self.hand = 0;
            }
            let dead = self
                .flows
                .slice(self.hand, 1)
                .next()
                .filter(|(_, flow)| !flow.valid(now, tables))
                .filter(|(_, flow)| !flow.removed(now, tables));
            if let Some(id) = dead.map(|(id, _)| id) {
                if !self.forget(id) {
                    break;
                }
                removed += 1;
            }
            self.hand += 1;
        }
        removed
    }

    /// Removes a flow if its owner entries fit in the buffer.
    fn forget(&mut self, id: FlowId) -> bool {
        if self.room() < ROOM_FOR_BURST + 2 {
            return false;
        }
        self.remove(id);
        true
    }
}
