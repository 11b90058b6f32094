//! Small tools that run inside a lab's namespaces as subcommands of `weft-lab`.

pub mod bookinfo;
pub mod crowd;
pub mod crr;
pub mod flood;
pub mod flows;
pub mod greet;
pub mod grpc;
pub mod http_load;
pub mod link;
pub mod lookup;
pub mod rr;
pub mod serve;
pub mod sink;
pub mod transfer;
pub mod web;

use std::time::Duration;

/// The time, in microseconds, that so many of a thousand stay below, of times in order; nothing of none.
fn percentile(times: &[Duration], per_mille: usize) -> Option<f64> {
    let last = times.len().checked_sub(1)?;
    let time = times.get((times.len() * per_mille / 1000).min(last))?;
    Some(time.as_secs_f64() * 1e6)
}
