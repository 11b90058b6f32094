//! The fast path: flows that the kernel carries by what user space compiled, with and without user space.

use crate::fixture::{Fixture, flawless, go_on, progress, soak, talks, web, with_weft};
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::Duration;
use weft_lab::client::{Datagrams, ask_tcp, ask_udp};
use weft_lab::config::Config;
use weft_lab::lab::Family;
use weft_lab::servers::PEER_PORT;
use weft_lab::weft::{Weft, sum_of};

/// Longer than datagrams are held back for those of their flow that may be with the engine.
const PAUSE: Duration = Duration::from_millis(25);

fn config(fixture: &Fixture) -> Config {
    let mut config = fixture.config_by_address();
    config.workers.fast_path = "full".into();
    config
}

#[test]
fn svc01_obs04_the_kernel_carries_the_flows_and_weft_lists_them() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture))?;
        let mut talks = talks(&fixture, 20)?;
        for _ in 0..10 {
            go_on(&mut talks)?;
        }
        let status = weft.json(&["status"])?;
        ensure!(status["fast_path"] == "full");
        ensure!(
            sum_of(&status["workers"], "forwarded") == 0,
            "{}",
            status["workers"]
        );
        let found = weft.json(&["flows"])?;
        let flows = found["flows"].as_array().context("no flows")?;
        for talk in &talks {
            let local = talk.local.to_string();
            let flow = flows
                .iter()
                .find(|flow| flow["client"] == local.as_str())
                .with_context(|| format!("no flow of {local}: {found}"))?;
            ensure!(
                flow["tier"] == 0 && flow["state"] == "established",
                "{flow}"
            );
            let pod = flow["backend_pod"].as_str().context("no pod")?;
            ensure!(
                pod.ends_with(&talk.greeting.name),
                "{flow}: {:?}",
                talk.greeting
            );
            // The handshake and ten questions with their answers at least.
            for way in ["packets_out", "packets_in"] {
                ensure!(flow[way].as_u64() > Some(11), "{flow}");
            }
        }
        weft.audit().map(drop)
    })
}

/// Whatever chose the backend: the engine opens a flow, and the kernel carries it on.
#[test]
fn svc43_obs04_what_the_engine_has_opened_is_left_to_the_kernel() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = config(&fixture);
        config.workers.fast_path = "flows".into();
        config.services[0].algorithm("round_robin");
        let mut weft = Weft::start(&fixture.lab, &config)?;
        let mut talks = talks(&fixture, 20)?;
        let datagrams = [(Family::V4, 45_000), (Family::V6, 45_001)].map(|(family, port)| {
            let open = || Datagrams::open_from(port, web(family, PEER_PORT));
            fixture.client.namespace.enter(open)?
        });
        let datagrams: Vec<Datagrams> = datagrams.into_iter().collect::<Result<_>>()?;
        let ask = || -> Result<Vec<String>> {
            thread::sleep(PAUSE); // None may overtake one that waits for the engine.
            let names = datagrams.iter().map(|socket| Ok(socket.ask()?.name));
            names.collect()
        };
        let served = ask()?;
        let opened = sum_of(&weft.json(&["status"])?["workers"], "forwarded");
        ensure!(opened >= 22, "{opened}");
        for _ in 0..10 {
            go_on(&mut talks)?;
            ensure!(ask()? == served);
        }
        let status = weft.json(&["status"])?;
        let forwarded = sum_of(&status["workers"], "forwarded");
        ensure!(forwarded == opened, "{}", status["workers"]);
        let found = weft.json(&["flows"])?;
        let flows = found["flows"].as_array().context("no flows")?;
        let tier = |tier| flows.iter().filter(|flow| flow["tier"] == tier).count();
        ensure!((tier(0), tier(1)) == (22, 0), "{found}");
        weft.kill()?;
        go_on(&mut talks)?;
        ensure!(ask()? == served);
        drop(weft);
        weft = Weft::start(&fixture.lab, &config)?;
        go_on(&mut talks)?;
        weft.audit().map(drop)
    })
}

#[test]
fn without_user_space_flows_go_on_and_new_ones_begin() -> Result<()> {
    let rounds = if soak() { 50 } else { 5 };
    with_weft(|| {
        let fixture = Fixture::new()?;
        let config = config(&fixture);
        let mut weft = Weft::start(&fixture.lab, &config)?;
        let mut talks = talks(&fixture, if soak() { 1000 } else { 200 })?;
        for round in 0..rounds {
            let loads = fixture.loads(Duration::from_millis(2)); // New connections and datagrams.
            progress(&loads, 50).with_context(|| format!("round {round}"))?;
            weft.kill()?;
            // No rule of the kernel's could take over here.
            progress(&loads, 100).with_context(|| format!("round {round}, without user space"))?;
            go_on(&mut talks)?;
            drop(weft);
            weft = Weft::start(&fixture.lab, &config)?;
            go_on(&mut talks).with_context(|| format!("round {round}, after the restart"))?;
            flawless(loads).with_context(|| format!("round {round}"))?;
        }
        // Ends are ends, whoever is there to see them.
        weft.kill()?;
        drop(talks);
        for family in Family::BOTH {
            ask_tcp(&fixture.client.namespace, web(family, PEER_PORT))?;
            ask_udp(&fixture.client.namespace, web(family, PEER_PORT))?;
        }
        drop(weft);
        Weft::start(&fixture.lab, &config)?.audit().map(drop)
    })
}

#[test]
fn a_reload_between_a_plain_choice_and_another_leaves_flows_alone() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let plain = config(&fixture);
        let weft = Weft::start(&fixture.lab, &plain)?;
        let mut all = talks(&fixture, 40)?;
        for algorithm in ["round_robin", "maglev", "random", "maglev"] {
            let mut other = plain.clone();
            for service in &mut other.services {
                service.algorithm = Some(algorithm.into());
            }
            weft.reload(&other)?;
            all.extend(talks(&fixture, 40)?);
            thread::sleep(Duration::from_millis(50));
            go_on(&mut all)?;
        }
        let flows = weft.json(&["flows"])?;
        let tiers = flows["flows"].as_array().context("no flows")?;
        let of = |tier: u64| tiers.iter().filter(|flow| flow["tier"] == tier).count();
        ensure!(of(0) >= 120 && of(1) >= 80, "{} and {}", of(0), of(1));
        weft.audit().map(drop)
    })
}
