//! Latency: one byte there and back.

use super::flood::tool_output;
use super::path::Topology;
use super::placement::{LOAD_CORE, Placement};
use super::services::echo_port;
use super::{Sample, priority, real_time};
use crate::binaries;
use crate::lab::Family;
use crate::machine::busy_time;
use crate::tools::rr::RoundTrips;
use anyhow::{Context, Result, ensure};

/// Round trips a run.
const COUNT: usize = 20_000;

/// Measures once at `placement`.
pub fn measure(topology: &Topology, placement: &Placement, family: Family) -> Result<Sample> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    let program = program.to_string_lossy();
    let to = topology
        .target(family, echo_port(placement.server_core))
        .to_string();
    let (count, core) = (COUNT.to_string(), LOAD_CORE.to_string());
    let words = [&*program, "rr", &to, "--count", &count, "--core", &core];
    let words = real_time(priority::LOAD, &words);
    let before = busy_time()?;
    let output = tool_output(
        topology
            .client
            .namespace
            .command(words[0])
            .args(&words[1..]),
    )?;
    let busy = busy_time()? - before;
    let times: RoundTrips = serde_json::from_str(&output).context("the client said nothing")?;
    ensure!(
        times.lost == 0,
        "{} of {} round trips were lost",
        times.lost,
        times.count
    );
    // The warm-up is a tenth on top.
    let cpu = busy.as_secs_f64() * 1e6 / (COUNT as f64 * 1.1);
    Ok(Sample::times(times.p50, times.p99, cpu))
}
