//! Many reloads under connections: nobody notices those that do not concern him (SVC-45).

use crate::fixture::{Fixture, REAL_TIME, progress, soak, with_weft};
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use weft_lab::client::Talk;
use weft_lab::config::{Config, Port, Service, TargetPort};
use weft_lab::lab::Lab;
use weft_lab::load::{Load, Request};
use weft_lab::servers::PEER_PORT;
use weft_lab::weft::Weft;

/// Services, all on the same backends.
const SERVICES: usize = 500;
/// Connections a second: a new one to each service in turn.
const INTERVAL: Duration = Duration::from_millis(5);
/// Reloads, and those of a soak.
const RELOADS: usize = 60;
const SOAK_RELOADS: usize = 1000;
/// Connections that stay open all the time, each to a service of its own.
const TALKS: usize = 50;
/// A load has a limit of its own on its time, so a long run takes several.
const RELOADS_A_LOAD: usize = 100;

/// Most that a node of 1,000 services with 10 endpoints each may hold beyond its packet buffers, in KiB.
const RESIDENT: u64 = 64 << 10;
/// The packet buffers of one worker by default: 8,192 frames of 4 KiB.
const UMEM: u64 = 32 << 10;

fn vip(number: usize) -> SocketAddr {
    let address = IpAddr::from([10, 97, (number / 250) as u8, (number % 250) as u8 + 1]);
    (address, PEER_PORT).into()
}

/// TCP services on the peer port.
fn services(count: usize) -> impl Iterator<Item = Service> {
    (0..count).map(|number| Service {
        name: format!("lab/many-{number}"),
        cluster_ips: vec![vip(number).ip()],
        algorithm: None,
        ports: vec![Port {
            name: "peer".into(),
            protocol: "tcp".into(),
            port: PEER_PORT,
            target_port: TargetPort::Number(PEER_PORT),
            stage: None,
            source: None,
        }],
        selector: None,
        endpoints: None,
        session_affinity: None,
        rst_on_removal: None,
        http: Default::default(),
    })
}

fn config(fixture: &Fixture) -> Config {
    let mut config = fixture.config();
    config.services = services(SERVICES).collect();
    for service in &mut config.services {
        service.serve_at(fixture.backends.iter().map(|pod| pod.ips[0]));
    }
    config
}

/// Every reload takes one backend from one service and gives back what the one before took, so each
/// new connection has a backend that the configuration before and the one after both have. The open
/// ones are to services that lose backends too, and keep theirs.
#[test]
fn svc45_reloads_under_connections_lose_and_move_none() -> Result<()> {
    with_weft(|| {
        let reloads = if soak() { SOAK_RELOADS } else { RELOADS };
        let fixture = Fixture::new()?;
        let mut full = config(&fixture);
        // A busy machine is no dead worker: its packets are not the kernel's, which has no rules here.
        full.workers.heartbeat = Some("10s".into());
        let weft = Weft::start_under(&fixture.lab, &full, &REAL_TIME)?;
        let client = &fixture.client.namespace;
        let mut talks = (0..TALKS)
            .map(|number| Talk::open_apart(client, vip(number)))
            .collect::<Result<Vec<_>>>()?;
        let mut generation = 0;
        let mut switches = Vec::new();
        for first in (0..reloads).step_by(RELOADS_A_LOAD) {
            let targets = (0..SERVICES).map(vip).collect();
            let load = Load::start(client, Request::Tcp, targets, INTERVAL);
            for number in first..reloads.min(first + RELOADS_A_LOAD) {
                let mut config = full.clone();
                // Those with open connections have their turn most often.
                let service = number * 7 % if number % 2 == 0 { TALKS } else { SERVICES };
                let endpoints = config.services[service].endpoints.as_mut();
                endpoints.context("no endpoints")?.remove(number % 3);
                let reloaded = weft.reload_json(&config)?;
                let say = |key: &str| reloaded[key].as_u64().with_context(|| format!("no {key}"));
                ensure!(say("generation")? > generation, "{reloaded}");
                generation = say("generation")?;
                ensure!(say("parse_us")? > 0, "{reloaded}");
                switches.push(say("switch_us")?);
            }
            for talk in &mut talks {
                let answer = talk.ask()?;
                ensure!(answer.name == talk.greeting.name && answer.client == talk.local);
            }
            progress(std::slice::from_ref(&load), 50)?;
            let tally = load.stop()?;
            // A late answer is a lost SYN, and so a failure of a reload; late by less is the machine.
            ensure!(
                tally.failures.is_empty() && tally.misrouted.is_empty() && tally.slow.is_empty(),
                "{tally:#?}\n{}",
                weft.text(&["status"])?
            );
        }
        switches.sort_unstable();
        let (median, longest) = (switches[switches.len() / 2], switches[switches.len() - 1]);
        eprintln!("{reloads} reloads: live in {median} us (median), {longest} us at most");
        // 5 ms is for 100,000 endpoints on a quiet machine; this one may be busy with a build.
        ensure!(median < 50_000, "{switches:?}");

        let status = weft.json(&["status"])?;
        ensure!(status["reloads"]["switch"]["count"] == reloads, "{status}");
        for worker in status["workers"].as_array().context("no workers")? {
            ensure!(worker["generation"] == generation, "{status}");
        }
        weft.audit().map(drop)
    })
}

/// What a node holds is bounded by its configuration, not by how often that was read. The memory of the BPF maps, of which
/// it has mapped a part, is of a fixed size.
#[test]
fn a4_a_node_of_10_000_endpoints_stays_small_over_reloads() -> Result<()> {
    with_weft(|| {
        let lab = Lab::new()?;
        let mut full = Config::new();
        full.services = services(1_000).collect();
        for (number, service) in full.services.iter_mut().enumerate() {
            let [high, low] = (number as u16).to_be_bytes();
            service.serve_at((1..=10).map(|last| IpAddr::from([10, 128 + high, low, last])));
        }
        let weft = Weft::start(&lab, &full)?;
        for number in 0..20 {
            let mut config = full.clone();
            let endpoints = config.services[number * 50].endpoints.as_mut();
            endpoints.context("no endpoints")?.pop();
            weft.reload(&config)?;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", weft.pid()?))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = kib.context("no RssAnon")?.parse()?;
        ensure!(kib <= RESIDENT + UMEM, "{kib} KiB are resident");
        Ok(())
    })
}
