//! Weft's user-space TCP: all terminated connections of one worker.
//!
//! A [`Stack`] is driven by its worker: frames in by [`Stack::ingest`], frames out by [`Stack::poll`], time as an
//! argument of both. It makes no syscall, reads no clock and no random source. Under it, each connection that is not idle
//! has a socket of smoltcp in a set of its own; finding it, admission, sequence numbers, timers, limits and what an idle
//! or closed connection leaves behind are this crate's. `docs/tcp.md` says what it does and where its limits are.
#![forbid(unsafe_code)]

mod admit;
mod clock;
mod config;
mod connection;
mod core;
mod device;
mod grow;
mod half_open;
mod header;
mod ingest;
mod key;
mod live;
mod poll;
mod reason;
mod recovery;
mod segment;
mod seq;
mod slab;
mod sockets;
mod spent;
mod splice;
mod stack;
mod stream;
mod time_wait;
mod timer;
mod wheel;
mod wire;

pub use config::{
    Keepalive, Limits, Listeners, Route, ServiceId, ServiceOptions, StackConfig, Timeouts,
};
pub use device::{Outgoing, Transmit};
pub use ingest::Arrival;
pub use reason::{Counters, DropReason, Event, Fate};
pub use stack::{Accepted, Connect, ConnectError, Described, Holdings, Stack};
pub use stream::Stream;
