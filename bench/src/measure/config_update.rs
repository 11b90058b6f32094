//! How long it takes until a changed endpoint is live on a node that knows very many.

use super::path::PathKind;
use super::services::{self, Change};
use super::topology::Topology;
use super::{Figure, Sample};
use crate::balancer::Balancer;
use crate::lab::Family;
use crate::machine::busy_time;
use crate::weft::Weft;
use crate::{kubeproxy, nftables};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::time::Instant;

/// Measures once; the kernel's rules are afterwards as they were.
pub fn measure(topology: &Topology) -> Result<Sample> {
    let change = services::change(topology.knows());
    match topology.path() {
        PathKind::Weft | PathKind::WeftUser => {
            reload(topology.weft().context("no node process")?, &change)
        }
        PathKind::Ebpf => in_map(topology.balancer().context("no balancer")?, &change),
        PathKind::Iptables => in_rules(&change, |rule| {
            kubeproxy::update(&topology.lab.node, change.number, rule)
        }),
        PathKind::Nftables => {
            // Its rules begin with those of the measured service.
            let measured = services::measured(topology.installed(), &topology.server);
            let first = measured.iter().filter(|rule| rule.vip.is_ipv4()).count();
            in_rules(&change, |rule| {
                nftables::update(&topology.lab.node, first + change.number, rule)
            })
        }
        path => bail!("{} has nothing to change", path.id()),
    }
}

/// Times `update` with the changed service, then puts the old one back.
fn in_rules(change: &Change, update: impl Fn(&kubeproxy::Rule) -> Result<()>) -> Result<Sample> {
    let sample = timed(|| update(&change.after))?;
    update(&change.before)?;
    Ok(sample)
}

fn in_map(balancer: &Balancer, change: &Change) -> Result<Sample> {
    let (old, new) = (change.before.endpoints[0], change.after.endpoints[0]);
    let at = change.number * change.before.endpoints.len();
    let set = |endpoint| balancer.set_endpoint(Family::V4, u32::try_from(at)?, endpoint);
    let sample = timed(|| set(new))?;
    set(old)?;
    Ok(sample)
}

/// Of a path that has one step only.
fn timed(change: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let (busy, start) = (busy_time()?, Instant::now());
    change()?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    let busy = (busy_time()? - busy).as_secs_f64() * 1e6;
    Ok(Sample::of(
        [(Figure::Change, time), (Figure::Switch, time)],
        busy,
    ))
}

fn reload(weft: &Weft, change: &Change) -> Result<Sample> {
    let [old, new] = [&change.before, &change.after].map(|rule| rule.endpoints[0].ip());
    let file = weft.directory().join("node.toml");
    let text = fs::read_to_string(&file)?;
    let changed = text.replace(&format!("\"{old}\""), &format!("\"{new}\""));
    ensure!(changed != text, "{old} is not in {}", file.display());
    // Replaced in one step, as an operator's tools would.
    let whole = file.with_extension("whole");
    fs::write(&whole, changed)?;
    fs::rename(&whole, &file)?;
    let busy = busy_time()?;
    let answer = weft.json(&["reload"])?;
    let busy = (busy_time()? - busy).as_secs_f64() * 1e6;
    let listed = weft.text(&["lb", "list", "--vip", &change.after.vip.ip().to_string()])?;
    ensure!(
        listed.contains(&new.to_string()) && !listed.contains(&old.to_string()),
        "reloaded, but not live:\n{listed}"
    );
    let (parse, switch) = (millis(&answer, "parse_us")?, millis(&answer, "switch_us")?);
    Ok(Sample::of(
        [(Figure::Change, parse + switch), (Figure::Switch, switch)],
        busy,
    ))
}

fn millis(answer: &Value, key: &str) -> Result<f64> {
    let micros = answer[key].as_f64();
    Ok(micros.with_context(|| format!("weft reload --json has no {key}: {answer}"))? / 1e3)
}
