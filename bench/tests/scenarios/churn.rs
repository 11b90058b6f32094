//! Churn: connections by the ten thousand leave nothing behind.

use crate::fixture::{soak, with_weft};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::time::Duration;
use weft_lab::command::finish;
use weft_lab::config::Config;
use weft_lab::lab::{Family, Lab, pick, vips};
use weft_lab::servers::{self, ONCE_PORT};
use weft_lab::tools::crr::Connections;
use weft_lab::wait::wait_until;
use weft_lab::weft::{Weft, sum_of};
use weft_lab::{binaries, namespace::Namespace};

/// The service.
const VIP: u8 = 20;
/// Connections of one run of the client: fewer than it has ports.
const BATCH: usize = 10_000;
/// Batches, after a first one that touches whatever memory is taken on first use.
const BATCHES: usize = 2;
/// The same for a soak: 100,000 connections with the first batch.
const SOAK_BATCHES: usize = 9;
/// How long a batch may take on a machine that does much else.
const BATCH_LIMIT: Duration = Duration::from_secs(120);
/// A closed flow is kept for 30 s; then the hand has to come by.
const CLOSING: Duration = Duration::from_secs(90);
/// Until the hand has been round when there is nothing else to do.
const LEAVING: Duration = Duration::from_secs(60);
/// Memory of one flow: its record and its two places in the index, rounded up.
const FLOW_BYTES: u64 = 256;
/// Memory that may come and go: allocator, answers to `weft status`.
const SLACK_BYTES: u64 = 4 << 20;

/// What a node process holds.
#[derive(Debug)]
struct Holdings {
    resident: u64,
    descriptors: usize,
    flows: u64,
    pins: u64,
}

impl Holdings {
    fn of(weft: &Weft) -> Result<Self> {
        let pid = weft.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .context("no VmRSS")?;
        let workers = &weft.json(&["status"])?["workers"];
        Ok(Self {
            resident: resident.trim().parse::<u64>()? << 10,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            flows: sum_of(workers, "flows"),
            pins: sum_of(workers, "pins"),
        })
    }
}

fn batch(client: &Namespace, family: Family) -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    let to = format!(
        "{}",
        std::net::SocketAddr::new(pick(&vips(VIP), family), ONCE_PORT)
    );
    let (count, seconds) = (BATCH.to_string(), BATCH_LIMIT.as_secs().to_string());
    let words = ["crr", &to, "--count", &count, "--seconds", &seconds];
    let finished = finish(client.command(program).args(words), BATCH_LIMIT * 2)?;
    ensure!(finished.success(), "{}", finished.stderr);
    let found: Connections = serde_json::from_str(&finished.stdout)?;
    ensure!((found.count, found.failed) == (BATCH, 0), "{found:?}");
    Ok(())
}

/// Every frame of every worker is in one of the places where frames may be.
fn assert_frames(status: &Value) -> Result<()> {
    let workers = status["workers"].as_array().context("no workers")?;
    for worker in workers {
        let frames = &worker["frames"];
        let places = ["free", "fill", "rx", "app", "tx"].map(|place| frames[place].as_u64());
        let sum: u64 = places.into_iter().flatten().sum();
        ensure!(sum > 0 && frames["total"] == sum, "{frames}");
    }
    Ok(())
}

#[test]
fn churn_leaks_no_frame_flow_owner_entry_memory_or_descriptor() -> Result<()> {
    with_weft(|| {
        let mut lab = Lab::new()?;
        let client = lab.pod("client")?;
        let servers = [lab.pod("a")?, lab.pod("b")?];
        for server in &servers {
            servers::once(&mut lab, server, &[])?;
        }
        let mut config = Config::new();
        // Two workers: with owner entries, and with strays handed over.
        config.workers.cores = vec![0, 1];
        config.node.drain = Some("0s".into());
        // A busy machine is no dead worker; but an idle one looks for dead flows four times a limit.
        config.workers.heartbeat = Some("300ms".into());
        config.enrol(&client, "client");
        for server in &servers {
            config.enrol(server, "server");
        }
        config
            .service("once", VIP, &[("tcp", ONCE_PORT, ONCE_PORT)])
            .select("server");
        let weft = Weft::start(&lab, &config)?;

        batch(&client.namespace, Family::V4)?;
        let before = Holdings::of(&weft)?;
        for number in 0..if soak() { SOAK_BATCHES } else { BATCHES } {
            batch(&client.namespace, Family::BOTH[number % 2])
                .with_context(|| weft.text(&["status"]).unwrap_or_default())?;
        }
        let after = Holdings::of(&weft)?;
        ensure!(
            after.descriptors == before.descriptors,
            "{before:?} {after:?}"
        );
        let new_flows = after.flows.saturating_sub(before.flows);
        let bound = before.resident + new_flows * FLOW_BYTES + SLACK_BYTES;
        ensure!(after.resident <= bound, "{before:?} {after:?}");
        weft.audit()?;
        assert_frames(&weft.json(&["status"])?)?;

        if soak() {
            wait_until("closed flows to time out", CLOSING, || {
                Holdings::of(&weft).is_ok_and(|held| held.flows == 0)
            })?;
        }
        // Without its client no flow is of any use: all go, and their owner entries with them.
        config.unenrol(&client);
        weft.reload(&config)?;
        wait_until("flows of a pod that left", LEAVING, || {
            Holdings::of(&weft).is_ok_and(|held| (held.flows, held.pins) == (0, 0))
        })
        .with_context(|| format!("{:?}", Holdings::of(&weft)))?;
        weft.audit().map(drop)
    })
}
