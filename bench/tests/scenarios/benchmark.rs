//! The benchmarks run over every path, and their report has the form that is documented.

use crate::fixture::with_weft;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use weft_lab::binaries;
use weft_lab::namespace::NETNS_DIR;

const TRAFFIC: [&str; 4] = [
    "l4-rr-p50",
    "l4-node-total",
    "l4-new-flows-node",
    "l4-live-flows-50000-v6",
];
const PATHS: [&str; 6] = [
    "direct",
    "ebpf",
    "iptables",
    "nftables",
    "weft-user",
    "weft",
];
const PROXIES: [&str; 4] = [
    "tcp-proxy-bulk",
    "tcp-proxy-rr-p99",
    "tcp-proxy-cps-32",
    "tcp-idle-memory",
];
const GATEWAYS: [&str; 3] = ["l7-rps-32", "l7-grpc", "l7-idle-memory"];

#[test]
fn lab_a_quick_benchmark_reports_every_path_and_leaves_nothing_behind() -> Result<()> {
    with_weft(|| {
        let scenarios = [&TRAFFIC[..], &["l4-lookup-scale"]].concat();
        let (report, html) = quick(&scenarios)?;
        for index in 0..TRAFFIC.len() {
            let scenario = &report["scenarios"][index];
            assert_eq!(keys(&scenario["paths"]), BTreeSet::from(PATHS));
            compared("weft", &PATHS[..5], scenario)?;
        }
        let lookup = &report["scenarios"][TRAFFIC.len()]["ratio"];
        assert_eq!(
            keys(lookup),
            BTreeSet::from(["uniform-1000/uniform-10", "zipf-1000/zipf-10"])
        );
        assert_eq!(html.matches("<svg").count(), scenarios.len());
        Ok(())
    })
}

#[test]
fn lab_a_quick_benchmark_of_proxies_goes_over_the_paths_of_each_scenario() -> Result<()> {
    with_weft(|| {
        // Envoy is one more where it is installed, which only benchmarks do.
        let (report, _) = quick(&PROXIES)?;
        for (index, id) in PROXIES.into_iter().enumerate() {
            let scenario = &report["scenarios"][index];
            compared("weft", &["haproxy"], scenario).context(id)?;
            let measured = keys(&scenario["paths"]);
            assert_eq!(measured.contains("haproxy-splice"), id == "tcp-proxy-bulk");
            assert_eq!(measured.contains("direct"), id != "tcp-idle-memory");
        }
        Ok(())
    })
}

#[test]
fn lab_a_quick_benchmark_of_layer_7_goes_over_the_paths_of_each_scenario() -> Result<()> {
    with_weft(|| {
        let (report, _) = quick(&GATEWAYS)?;
        for (index, id) in GATEWAYS.into_iter().enumerate() {
            let scenario = &report["scenarios"][index];
            compared("weft", &["weft-node", "haproxy", "nginx"], scenario).context(id)?;
            let measured = keys(&scenario["paths"]);
            assert_eq!(measured.contains("direct"), id != "l7-idle-memory");
        }
        Ok(())
    })
}

#[test]
fn a_scenario_without_any_of_the_paths_asked_for_is_named() -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not built")?;
    let wrong = Command::new(&program)
        .args(["bench", "tcp-idle-memory", "--paths", "direct"])
        .output()?;
    let said = String::from_utf8(wrong.stderr)?;
    ensure!(
        !wrong.status.success() && said.contains("tcp-idle-memory has none"),
        "{said}"
    );
    Ok(())
}

/// Runs a quick benchmark of scenarios, options after them, and returns its report and page.
fn quick(words: &[&str]) -> Result<(Value, String)> {
    let program = binaries::weft_lab().context("weft-lab is not built")?;
    let page = std::env::temp_dir().join(format!("weft-bench-{}.html", std::process::id()));
    let bench = Command::new(&program)
        .arg("bench")
        .args(words)
        .args(["--reps", "1", "--quick", "--json", "-", "--html"])
        .arg(&page)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let labs = format!("wl{}-", bench.id());
    let output = bench.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let json = String::from_utf8(output.stdout)?;
    let html = fs::read_to_string(&page)?;
    fs::remove_file(&page)?;
    let report: Value = serde_json::from_str(&json).context("not JSON")?;
    assert!(report["machine"]["cores"].as_u64() > Some(0), "{json}");
    assert_eq!(report["quick"], true);
    let asked = words.iter().take_while(|word| !word.starts_with("--"));
    for (index, id) in asked.enumerate() {
        let scenario = &report["scenarios"][index];
        assert_eq!(scenario["id"], *id);
        sound(scenario).with_context(|| format!("{id}: {scenario:#}"))?;
        ensure!(html.contains(id), "{id} is not on the page");
    }
    for entry in fs::read_dir(NETNS_DIR)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(!name.starts_with(&labs), "{name} is left");
    }
    Ok((report, html))
}

/// The quotients of `own` and each of `others` are there.
fn compared(own: &str, others: &[&str], scenario: &Value) -> Result<()> {
    for other in others {
        let name = format!("{own}/{other}");
        let ratio = scenario["ratio"][&name].as_f64();
        ensure!(ratio > Some(0.0), "{name}: {scenario:#}");
    }
    Ok(())
}

/// Every figure is there, and of one run they are all the same.
fn sound(scenario: &Value) -> Result<()> {
    ensure!(scenario["unit"].is_string() && scenario["higher_is_better"].is_boolean());
    let paths = scenario["paths"].as_object().context("no paths")?;
    for (path, figures) in paths {
        let median = figures["median"].as_f64();
        ensure!(median > Some(0.0), "{path}");
        for same in ["min", "max"] {
            ensure!(figures[same].as_f64() == median, "{path}: {same}");
        }
        ensure!(figures["runs"][0].as_f64() == median, "{path}: runs");
        ensure!(
            figures["cpu_us_per_op"].is_number(),
            "{path}: processor time"
        );
        ensure!(figures["placement"].is_string(), "{path}: placement");
    }
    Ok(())
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object
        .as_object()
        .map(|map| map.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

#[test]
fn every_scenario_is_listed_and_unknown_ones_are_named() -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not built")?;
    let list = Command::new(&program).args(["bench", "--list"]).output()?;
    let list = String::from_utf8(list.stdout)?;
    for id in [
        "l4-established-v6",
        "l4-node-total",
        "l4-new-flows-node",
        "l4-live-flows-50000",
        "l4-crr-30000",
        "l4-lookup-scale",
        "config-update",
        "tcp-proxy-cps-32",
    ] {
        ensure!(
            list.lines().any(|line| line.contains(&format!(" {id} "))),
            "{id}:\n{list}"
        );
    }
    let wrong = Command::new(&program)
        .args(["bench", "l4-nothing"])
        .output()?;
    let said = String::from_utf8(wrong.stderr)?;
    ensure!(
        !wrong.status.success() && said.contains("l4-bulk"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_report_that_cannot_be_written_is_named_before_anything_is_measured() -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not built")?;
    let file = "/proc/nowhere/report.json";
    let wrong = Command::new(&program)
        .args(["bench", "l4-bulk", "--json", file])
        .output()?;
    let said = String::from_utf8(wrong.stderr)?;
    ensure!(!wrong.status.success() && said.contains(file), "{said}");
    ensure!(!said.contains("[1/"), "it began: {said}");
    Ok(())
}
