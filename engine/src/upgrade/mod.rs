//! Another program in the place of this one, over the same maps: `weft upgrade`.
//!
//! The running program lets the new one check the configuration and itself ([`check()`]), stops its workers and executes
//! it in its own process. The new one starts as after a crash. What it has to know besides comes in its environment
//! ([`Handover`]), together with the numbers of two descriptors that it goes on with: the run directory's lock and the
//! admin socket, so that nobody comes in between and whoever asks meanwhile waits.

mod check;
mod handover;
#[cfg(test)]
mod tests;

pub use check::{Accepted, Candidate, Checked, Refused, check};
pub use handover::{Handover, Inherited, inherit, started_from};
