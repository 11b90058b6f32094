//! Everything of Weft that faces the kernel.
//!
//! - [`Steering`]: the BPF programs of `bpf/`, their pinned maps and links.
//! - [`XskIo`]: one AF_XDP socket behind `weft_datapath::PacketIo`.
//! - [`netlink`]: the punt pair `weft0`/`weft1`, and what interfaces there are.
//! - [`reset_orphans`]: what becomes of connections that ended in a process that is dead.
//! - [`owned`] and [`cleanup`]: what Weft holds of the kernel, with or without a running process.
//!
//! `unsafe` lives in `edge` only. The layout shared with the BPF programs is described once, in
//! `bpf/weft.h`; `abi` asserts it at compile time.
#![deny(unsafe_code)]

mod abi;
mod bpffs;
mod bulk;
mod edge;
mod links;
mod maps;
pub mod netlink;
mod orphans;
mod owned;
mod skel;
mod steering;
mod xsk;

#[cfg(test)]
mod tests;

pub use abi::Counter;
pub use bpffs::{BPFFS, ensure_bpffs};
pub use bulk::{BulkError, BulkLane};
pub use edge::program::{execute, give_way, inherited};
pub use edge::signals::{hold_ends, ignore_ends, release_ends};
pub use edge::tap::map_large_blocks;
pub use links::{Attach, LinkError, attach_tcx_unpinned};
pub use maps::MapError;
pub use netlink::PairInfo;
pub use orphans::{OrphanError, Orphans, reset_orphans};
pub use owned::{
    CleanupReport, OwnedError, OwnedKind, OwnedObject, cleanup, owned, pair_is_foreign,
};
pub use steering::{
    Adopted, Changes, Choice, ChoiceBackend, Counters, Error, FastFlow, FastLookup, FastPath,
    Heartbeat, OverlayEntries, Pin, PinOutcome, PinWriter, PodEntry, ServiceKey, Steering,
    SteeringConfig, try_programs, ways,
};
pub use xsk::{
    Ready, RingOccupancy, SocketProbe, XdpStatistics, XskConfig, XskError, XskFrame, XskIo, XskMode,
};

/// Version of the layout of the pinned maps: another one is refused, see [`Error::ForeignAbi`].
pub const MAP_LAYOUT: u32 = abi::ABI;
/// Pods that the BPF maps have room for.
pub const MAX_PODS: usize = abi::MAX_PODS as usize;
/// Peers that the hooks have room for.
pub const MAX_PEERS: usize = abi::MAX_PEERS as usize;
/// Ranges of peers' pods that the hooks have room for.
pub const MAX_RANGES: usize = abi::MAX_RANGES as usize;
/// VIPs and ports of VIPs, together, that the BPF maps have room for.
pub const MAX_SERVICES: usize = abi::MAX_SERVICES as usize;
/// Workers, and so queues of the punt pair, that the BPF maps have room for.
pub const MAX_WORKERS: u16 = abi::MAX_WORKERS as u16;

/// The secret behind the places of flows in their table, whoever makes it.
pub type FlowSecret = [u8; abi::FLOW_SECRET as usize * size_of::<u32>()];
