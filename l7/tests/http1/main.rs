//! HTTP/1.1 through the stage, both legs in memory.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

mod forwarding;
mod hostile;
mod pressure;
mod refusals;
mod relay;
mod tunnels;
mod upstreams;
