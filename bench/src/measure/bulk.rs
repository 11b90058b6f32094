//! Throughput of one TCP stream.

use super::placement::{LOAD_CORE, Placement};
use super::services::bulk_port;
use super::topology::Topology;
use super::{Effort, Sample};
use crate::command::{COMMAND_LIMIT, finish};
use crate::lab::Family;
use crate::machine::busy_time;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How long a stream runs, and how long it has run before it counts.
const SECONDS: u32 = 2;
const WARM_UP: u32 = 1;

/// Measures once at `placement`. An operation, for the processor time, is a megabyte (10^6 bytes).
pub fn measure(topology: &Topology, placement: &Placement) -> Result<Sample> {
    let to = topology.target(Family::V4, bulk_port(placement.server_core));
    // iperf3 counts in whole seconds.
    let (time, warm_up) = match topology.effort() {
        Effort::Full => (SECONDS, WARM_UP),
        Effort::Quick => (1, 0),
    };
    let [address, port, core, seconds, omit] = [
        to.ip().to_string(),
        to.port().to_string(),
        LOAD_CORE.to_string(),
        time.to_string(),
        warm_up.to_string(),
    ];
    let words = [
        "iperf3",
        "--client",
        &address,
        "--port",
        &port,
        "--affinity",
        &core,
        "--time",
        &seconds,
        "--omit",
        &omit,
        "--json",
    ];
    let before = busy_time()?;
    let finished = finish(
        topology.client.namespace.command("iperf3").args(words),
        COMMAND_LIMIT,
    )?;
    let busy = busy_time()? - before;
    // With --json it ends well even when it was refused.
    let error = error_of(&finished.stdout);
    ensure!(
        finished.success() && error.is_empty(),
        "iperf3: {}{error}",
        finished.stderr.trim()
    );
    let received = received(&finished.stdout)?;
    // The processor time is of the whole run, so the warm-up's bytes count there.
    let share = received.seconds / (received.seconds + f64::from(warm_up));
    Ok(Sample::rate(
        received.bytes * 8.0 / received.seconds / 1e9,
        busy.as_secs_f64() * share * 1e6 / (received.bytes / 1e6),
    ))
}

/// What the server received after the warm-up.
#[derive(Debug, PartialEq)]
struct Received {
    bytes: f64,
    seconds: f64,
}

fn received(json: &str) -> Result<Received> {
    let report: Value = serde_json::from_str(json).context("iperf3 said nothing")?;
    let sum = &report["end"]["sum_received"];
    let field = |name: &str| sum[name].as_f64().with_context(|| format!("no {name}"));
    let (bytes, seconds) = (field("bytes")?, field("seconds")?);
    ensure!(bytes > 0.0 && seconds > 0.0, "no byte arrived");
    Ok(Received { bytes, seconds })
}

/// iperf3 writes its errors into its JSON.
fn error_of(json: &str) -> String {
    let report: Value = serde_json::from_str(json).unwrap_or_default();
    report["error"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_s_sum_is_what_counts() {
        let json = r#"{"end":{"sum_sent":{"bytes":9,"seconds":1},"sum_received":{"bytes":1000,"seconds":2.5}}}"#;
        let (bytes, seconds) = (1000.0, 2.5);
        assert_eq!(received(json).unwrap(), Received { bytes, seconds });
        assert!(received("{}").is_err());
        assert_eq!(error_of(r#"{"error":"refused"}"#), "refused");
    }
}
