//! Reloads between the stages of a service: only what is new changes (AMB-11).

use crate::fixture::{Fixture, WEB, flawless, progress, web, with_weft};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use weft_lab::client::Talk;
use weft_lab::config::Config;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::load::{Load, Request};
use weft_lab::servers::PEER_PORT;
use weft_lab::weft::Weft;

fn config(fixture: &Fixture, stage: &str) -> Config {
    let mut config = fixture.config_by_address();
    config.workers.heartbeat = Some("500ms".into());
    for service in &mut config.services {
        service.stage(Some(stage));
    }
    config
}

/// The kind of each open connection to the web service, by its client's end.
fn kinds(weft: &Weft) -> Result<BTreeMap<String, String>> {
    let listed = weft.json(&["flows"])?;
    let mut found = BTreeMap::new();
    collect(&listed, &mut found);
    Ok(found)
}

fn collect(value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => {
            let text = |name| fields.get(name).and_then(Value::as_str).map(str::to_owned);
            if let (Some(client), Some(kind)) = (text("client"), text("kind")) {
                found.insert(client, kind);
            }
            fields.values().for_each(|value| collect(value, found));
        }
        _ => {}
    }
}

#[test]
fn amb11_a_reload_between_stages_under_load_touches_new_connections_only() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture, "l4"))?;
        let load = || {
            let every = Duration::from_millis(4);
            Family::BOTH.map(|family| {
                let to = vec![web(family, PEER_PORT)];
                Load::start(&fixture.client.namespace, Request::Tcp, to, every)
            })
        };
        let loads: Vec<Load> = load().into();
        let mut talks: Vec<(Talk, &str)> = Vec::new();
        for stage in ["l4", "tcp", "l4", "tcp"] {
            if !talks.is_empty() {
                weft.reload(&config(&fixture, stage))?;
            }
            for family in Family::BOTH {
                for _ in 0..5 {
                    let to: SocketAddr = (pick(&vips(WEB), family), PEER_PORT).into();
                    talks.push((Talk::open(&fixture.client.namespace, to)?, stage));
                }
            }
            progress(&loads, 30)?;
            let kinds = kinds(&weft)?;
            for (talk, opened) in &mut talks {
                let answer = talk.ask()?;
                ensure!(
                    answer == talk.greeting,
                    "{answer:?} after {:?}",
                    talk.greeting
                );
                let expected = if *opened == "l4" {
                    "service"
                } else {
                    "terminated"
                };
                let kind = kinds.get(&talk.local.to_string());
                ensure!(
                    kind.is_some_and(|kind| kind == expected),
                    "{} opened at {opened} is {kind:?} at {stage}: {kinds:?}",
                    talk.local
                );
            }
        }
        flawless(loads)?;
        drop(talks);
        weft.audit().map(drop)
    })
}
