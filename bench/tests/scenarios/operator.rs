//! What operators are told: of links that are down, of flows of HTTP stages, by metrics, from elsewhere, and by logs that are rotated.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::time::Duration;
use weft_lab::command::{COMMAND_LIMIT, finish};
use weft_lab::http::{Connection, curl};
use weft_lab::lab::Family;
use weft_lab::wait::{wait_for, wait_until};
use weft_lab::weft::Weft;

#[test]
fn obs06_the_access_log_is_opened_again_at_sighup() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let path = site.fixture.lab.directory().join("access.json");
        let moved = path.with_extension("1");
        let mut config = site.config("")?;
        config.node.access_log = Some(path.display().to_string());
        let weft = Weft::start(&site.fixture.lab, &config)?;
        let logged = |path: &std::path::Path, target: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.contains(&format!("\"path\":\"{target}\""))
        };
        let limit = Duration::from_secs(3);
        site.curl(Family::V4, &[], "/before")?;
        wait_until("a line", limit, || logged(&path, "/before"))?;
        fs::rename(&path, &moved)?;
        site.curl(Family::V4, &[], "/between")?;
        wait_until("the file goes on", limit, || logged(&moved, "/between"))?;
        // The configuration of then is refused, which is no reason to write to a file that is gone.
        let good = config.to_toml()?;
        ensure!(!weft.reload_text("nonsense")?.success());
        weft.signal(Signal::HUP)?;
        wait_until("a new file", limit, || path.exists())?;
        site.curl(Family::V4, &[], "/after")?;
        wait_until("the new file", limit, || logged(&path, "/after"))?;
        ensure!(!logged(&moved, "/after") && !logged(&path, "/between"));
        ensure!(weft.reload_text(&good)?.success());
        Ok(())
    })
}

#[test]
fn obs01_status_metrics_and_flows_say_what_they_count() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let (lab, backend) = (&site.fixture.lab, &site.fixture.backends[1]);
        let mut config = site.config("")?;
        config.node.metrics = Some("127.0.0.1:9464".into());
        let weft = Weft::start(lab, &config)?;
        let mut connection = Connection::open(&site.fixture.client.namespace, to(Family::V4))?;
        ensure!(connection.get("/")?.status == 200);
        let flows = weft.json(&["flows"])?;
        let of = |kind: &str| -> Result<Value> {
            let mut flows = flows["flows"].as_array().into_iter().flatten();
            let found = flows.find(|flow| flow["kind"] == kind);
            found
                .cloned()
                .with_context(|| format!("no {kind}: {flows:?}"))
        };
        let (client, upstream) = (of("client")?, of("upstream")?);
        ensure!(
            client["backend"].is_null() && client["packets_in"].is_null(),
            "{client}"
        );
        ensure!(client["packets_out"].as_u64() > Some(0), "{client}");
        ensure!(
            upstream["backend"].is_string() && upstream["packets_out"].is_null(),
            "{upstream}"
        );
        ensure!(upstream["packets_in"].as_u64() > Some(0), "{upstream}");

        let metrics = curl(&lab.node, &[], "http://127.0.0.1:9464/metrics")?.text();
        let status = weft.json(&["status"])?;
        let hooks = status["ledger"]["hooks"].as_object().context("no hooks")?;
        for counter in hooks.keys() {
            let line = format!("weft_hook_packets_total{{counter=\"{counter}\"}} ");
            ensure!(metrics.contains(&line), "{line} is not in\n{metrics}");
        }
        let lost = "weft_path_lost_total{reason=\"punt_lost\"} 0";
        ensure!(metrics.contains(lost), "{metrics}");

        let from_elsewhere = finish(
            Command::new(weft.program())
                .args(["owned", "--json", "--run-dir"])
                .arg(lab.run_dir()),
            COMMAND_LIMIT,
        )?;
        let from_elsewhere: Value = serde_json::from_str(&from_elsewhere.stdout)?;
        assert_eq!(from_elsewhere, weft.json(&["owned"])?);

        let carrier = || -> Option<bool> {
            let status = weft.json(&["status"]).ok()?;
            let mut pods = status["pods"].as_array()?.iter();
            let pod = pods.find(|pod| pod["interface"] == backend.interface.as_str())?;
            pod["carrier"].as_bool()
        };
        assert_eq!(carrier(), Some(true));
        backend.namespace.ip("link set eth0 down")?;
        let limit = Duration::from_secs(3);
        wait_for("the link to be down", limit, || {
            (carrier() == Some(false)).then_some(())
        })?;
        ensure!(weft.text(&["status"])?.contains(", link down"));
        Ok(())
    })
}
