//! Flows that end here: what the TCP stack and the table tell each other of their two connections.

use super::Flow;
use crate::flow::state::FlowState;
use crate::{Direction, Hook, Inject, Now};

impl Flow {
    /// How what answers a packet of that direction is injected, if the flow ends here: the way back that the TCP
    /// stack's packets take.
    pub fn answer(&self, direction: Direction) -> Option<Inject> {
        self.kind.ends_here().then(|| match self.hook(direction) {
            Hook::FromPod => Inject::Peer,
            Hook::ToPod => Inject::Reingress,
        })
    }

    /// One of the two connections of a terminated flow is over; says whether the flow is.
    pub(crate) fn half_over(&mut self, direction: Direction, now: Now) -> bool {
        self.heard |= 1 << direction as u8;
        let over = self.heard == 0b11;
        if over {
            self.close(now);
        }
        over
    }

    /// The connection through which the TCP stack is told that the flow is no more: the client's, or if that is over, the
    /// other. `None` for what it does not have.
    pub(crate) fn open_half(&self) -> Option<Direction> {
        let client = self.heard & 1 << Direction::Forward as u8 == 0;
        let open = if client {
            Direction::Forward
        } else {
            Direction::Reply
        };
        self.terminated().then_some(open)
    }

    /// The forward key is another flow's from now on.
    pub(in crate::flow) fn supersede(&mut self) {
        self.superseded = true;
    }

    /// Whether the TCP stack has it, or should have.
    pub(crate) fn terminated(&self) -> bool {
        self.kind.ends_here() && self.state != FlowState::Closed
    }
}
