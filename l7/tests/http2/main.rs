//! HTTP/2 through the stage, both legs in memory.

mod attacks;
mod driver;
mod forwarding;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;
