//! Weft's HTTP stage: HTTP/1.1 and HTTP/2, routes and upstream pools over byte streams.
//!
//! Pure: it knows streams and not packets, and time, randomness and connections are given to it.
#![forbid(unsafe_code)]

mod config;
mod framing;
pub mod fuzzing;
mod leg;
mod list;
pub mod memory;
pub mod observe;
pub mod route;
mod run;
mod serve;
mod stage;
mod stream;
mod time;
pub mod upstream;

pub use config::{
    ConnectRequest, ConnectionMeta, ServiceConfig, ServiceLimits, ServiceTimeouts, Source,
    Upstreams,
};
pub use framing::{HeadLimits, Reject, check_request};
pub use stage::{Budget, ServiceId, Stage};
pub use stream::Stream;
pub use time::Now;
