//! Weft's dataplane as a pure function: headers, tables, Maglev, flows, rewrites, verdicts.
//!
//! [`process`] takes one frame, the time, one generation of the [`Tables`] and a worker's [`State`],
//! and returns a [`Verdict`]. It makes no syscall, reads no clock and no random source, and allocates
//! nothing: memory is taken when the state is built. The edge (a worker with a [`PacketIo`]) sends.
//!
//! The stages of a packet stand in [`process`], in order; `docs/steering.md` says what comes out.
#![forbid(unsafe_code)]

mod address;
mod adopt;
mod affinity;
mod ahead;
mod answer;
mod checksum;
mod choice;
mod client_names;
mod counters;
mod cut;
mod evict;
mod expire;
mod extension;
mod flow;
mod fragment;
mod frame;
mod hash;
mod icmp;
mod io;
mod lock;
mod mac;
mod maglev;
mod overlay;
mod parse;
mod process;
mod rate;
mod reason;
mod reject;
mod resident;
mod rewrite;
mod state;
pub mod steering;
mod tables;
mod time;
pub mod timeouts;
mod tunnel;
pub mod wire;

pub use address::{Address, FlowKey, ParseAddressError, Protocol, Tuple};
pub use adopt::{FastEnds, FastFlows};
pub use affinity::AffinityTable;
pub use ahead::LookAhead;
pub use checksum::{Checksum, Delta, l4_checksum};
pub use choice::UpstreamSpec;
pub use client_names::{CLIENT_NAME_MAX, CLIENT_NAMES_MAX, ClientNames, NameId, is_name_byte};
pub use counters::Counters;
pub use flow::{
    Direction, Flow, FlowEnd, FlowId, FlowKind, FlowSource, FlowState, FlowTable, InsertError,
    NewFlow,
};
pub use fragment::FragmentTable;
pub use frame::FrameBuf;
pub use hash::{backend_print, client_hash, flow_hash, source_hash};
pub use icmp::IcmpMessage;
pub use io::{FrameLedger, MemoryFrame, MemoryIo, PacketIo};
pub use mac::{Egress, Hook, Ingress, Inject, MAX_IFINDEX, PORT_BITS, Ports, TUNNELS, Uplink};
pub use maglev::{MAGLEV_SIZES, MaglevTable};
pub use overlay::{Encapsulation, OverlaySpec, PeerSpec, Prefix};
pub use parse::{Family, Fragment, Packet, Parsed, TcpFlags, Unflowed, parse};
pub use process::{Claim, TooLong, Verdict, next_fragment, older, process, wrap_for_peer};
pub use rate::RateLimit;
pub use reason::{DropReason, KernelReason};
pub use state::{
    Opens, PIN_OPS_MAX, PIN_OPS_PER_FRAME, PinOp, PinOps, Severed, State, StateConfig,
};
pub use tables::{
    Algorithm, Backend, BackendPath, BackendState, BuildError, Pod, PodState, ServiceOptions,
    ServicePort, ServicePortSpec, SlotRef, Stage, Tables, TablesBuilder, UpstreamSource,
};
pub use time::Now;
pub use tunnel::{Front, Said};

/// Frames a worker takes at a time: enough to spread the cost of a doorbell, few enough that a
/// burst stays in the first-level cache (64 descriptors and headers).
pub const BURST_MAX: usize = 64;
