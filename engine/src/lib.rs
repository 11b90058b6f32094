//! The Weft node process: configuration, control, the worker loop, the admin socket and the command
//! line.
//!
//! The data's way is `weft_xdp` (hooks, sockets) -> [`worker`] -> `weft_datapath` (decision) and
//! back; [`control`] publishes what the decision reads; [`node`] puts them together.

#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod guard;
pub mod layer7;
pub mod node;
pub mod rundir;
pub mod upgrade;
pub mod worker;
