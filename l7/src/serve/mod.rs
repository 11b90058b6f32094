//! Serving clients: a connection, its requests, and what becomes of them.

mod answer;
mod body;
mod connection;
mod exchange;
mod headers;
mod lookup;
mod message;
mod pump;
mod relay;
mod service;
mod sniff;
mod streams;
mod translate;
mod tunnel;

pub(crate) use connection::serve;
pub(crate) use service::{Exec, Service, Shared};

/// Most bytes that one direction of a connection of HTTP/1.1 buffers: more than any head may have.
pub(crate) const BUFFER: usize = 64 << 10;
/// Bytes of a stream's window in HTTP/2, and of what is buffered for it.
pub(crate) const WINDOW: u32 = 64 << 10;
