//! What a flow is made of.

use crate::tunnel::Said;
use crate::{Address, FlowKey, Now, SlotRef};

/// What a flow is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FlowKind {
    /// To a service: translated.
    Service,
    /// From pod to pod: as it is.
    Direct,
    /// Older than the enrolment: the kernel's.
    Kernel,
    /// To a service, and ended here: the client's connection and the one to the backend. Its packets are the TCP
    /// stack's, which also says when it is over.
    Terminated,
    /// A client's connection to a service, ended here by itself: its requests go on over others. As [`Terminated`](Self::Terminated)
    /// with only the client's direction.
    Client,
    /// A connection to a backend that requests go on over. As [`Terminated`](Self::Terminated) with only the backend's direction.
    Upstream,
}

impl FlowKind {
    /// Whether it is to a service port, and one of those that it may have.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Service) || self.ends_here()
    }

    /// Whether its packets are the TCP stack's.
    #[inline]
    pub const fn ends_here(self) -> bool {
        matches!(self, Self::Terminated | Self::Client | Self::Upstream)
    }
}

/// The far end of a flow and how it replies.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct FlowEnd {
    /// Its address: the backend's, or the other pod's.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// Its veth; 0 when the kernel brings packets there.
    pub ifindex: u32,
    /// What the flow depends on.
    pub slot: SlotRef,
}

/// The client as the far end sees it, where that is not the client itself.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct FlowSource {
    /// Its address there: the client's own, or the hairpin address.
    pub address: Address,
    /// Its port there.
    pub port: u16,
}

/// What a new flow is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFlow {
    /// The opening packet's tuple (client to VIP) and the client's veth.
    pub key: FlowKey,
    /// The end that serves it.
    pub end: FlowEnd,
    /// The client as that end sees it; `None`: as it is.
    pub source: Option<FlowSource>,
    /// What it is.
    pub kind: FlowKind,
    /// Whether the reply direction is ours to find: not for what the kernel translates to we know not where.
    pub reply: bool,
    /// What the flow depends on at the client's side.
    pub client_slot: SlotRef,
    /// The caller's number of the service port.
    pub service: u32,
    /// The backend's place in the service port; [`SlotRef::FIXED`] for other kinds.
    pub member: SlotRef,
    /// How many flows there may be of its service port; `None` is unlimited.
    pub max_flows: Option<u32>,
    /// Whether its client is told by a reset when what the flow depends on at the far end moves.
    pub reset: bool,
    /// What the client's node has said, if that is a peer.
    pub said: Said,
    /// The caller's number of the backend's name.
    pub backend: Option<u32>,
    /// Whether nothing here has to see its packets or know when it ends, so that the hooks may carry it on.
    pub leaves: bool,
    /// The worker that owns it.
    pub owner: u16,
    /// Its number, unique on the node.
    pub cookie: u64,
    /// When its first packet came.
    pub now: Now,
}
