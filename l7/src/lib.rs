//! Weft's HTTP stage: HTTP/1.1 and HTTP/2, routes and upstream pools over byte streams.
//!
//! Pure: it knows streams and not packets, and time, randomness and connections are given to it.
#![forbid(unsafe_code)]

mod framing;
mod list;
pub mod memory;
pub mod route;
#[allow(
    dead_code,
    unused_imports,
    reason = "the stage that runs its tasks on it follows"
)]
mod run;
mod stream;
mod time;

pub use framing::{HeadLimits, Reject};
pub use stream::Stream;
pub use time::Now;
