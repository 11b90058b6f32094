//! The process dies or hangs under load: the kernel takes over, a restart takes back.

use crate::fixture::{Fixture, flawless, progress, web, with_weft};
use anyhow::{Result, ensure};
use rustix::process::Signal;
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::client::{Talk, ask_tcp, ask_udp};
use weft_lab::lab::Family;
use weft_lab::load::{Load, Tally};
use weft_lab::servers::PEER_PORT;
use weft_lab::snapshot::Snapshot;
use weft_lab::weft::{Weft, offline};

/// The heartbeat limit that these scenarios configure, in text and as time.
const HEARTBEAT: (&str, Duration) = ("100ms", Duration::from_millis(100));
/// From the fault on packets may be lost this long: the limit, and one clock tick of slack.
const GAP: Duration = Duration::from_millis(100 + 20);

fn start(fixture: &Fixture) -> Result<Weft> {
    let mut config = fixture.config_by_address();
    config.node.enrolment_grace = Some("1h".into());
    config.workers.heartbeat = Some(HEARTBEAT.0.into());
    config.workers.fast_path = "off".into(); // With it hardly anything needs the process: see fast_path.rs.
    Weft::start(&fixture.lab, &config)
}

/// Ends the loads. Only a request that overlaps the gap may have been late or lost.
fn assert_lost_only_in(gap: (Duration, Duration), loads: Vec<Load>) -> Result<Vec<Tally>> {
    let tallies = loads
        .into_iter()
        .map(Load::stop)
        .collect::<Result<Vec<_>>>()?;
    for tally in &tallies {
        ensure!(tally.misrouted.is_empty(), "{:?}", tally.misrouted);
        let troubled = tally.failures.iter().map(|(at, _)| *at);
        for at in troubled.chain(tally.slow.iter().map(|(at, _)| *at)) {
            // A request that was begun up to an answer's time before the gap can be hit by it.
            let inside = at + Duration::from_millis(500) >= gap.0 && at <= gap.1;
            ensure!(inside, "trouble at {at:?}, outside of {gap:?}: {tally:#?}");
        }
    }
    Ok(tallies)
}

#[test]
fn a_killed_process_loses_no_syn_after_the_heartbeat_limit_and_restarts_within_2_s() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let mut weft = start(&fixture)?;
        let loads = fixture.loads(Duration::from_millis(1));
        progress(&loads, 200)?;
        let at = loads[0].elapsed();
        weft.kill()?;
        thread::sleep(GAP);
        let silent = fixture.punted()?;
        progress(&loads, 500)?;
        assert_eq!(
            fixture.punted()?,
            silent,
            "packets still go to a dead process"
        );
        assert_lost_only_in((at, at + GAP), loads)?;

        // A new start needs no hand and takes the traffic back.
        drop(weft);
        let started = Instant::now();
        let weft = start(&fixture)?;
        let took = started.elapsed();
        ensure!(took < Duration::from_secs(2), "the restart took {took:?}");
        let loads = fixture.loads(Duration::from_millis(1));
        let before = fixture.punted()?;
        progress(&loads, 200)?;
        ensure!(
            fixture.punted()? > before,
            "nothing is punted after the restart"
        );
        flawless(loads)?;
        weft.audit().map(drop)
    })
}

#[test]
fn a_restart_under_load_loses_nothing_that_the_kernel_serves() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let mut weft = start(&fixture)?;
        weft.kill()?;
        drop(weft);
        thread::sleep(GAP);
        let mut talks = Vec::new();
        for family in Family::BOTH {
            talks.push(Talk::open(
                &fixture.client.namespace,
                web(family, PEER_PORT),
            )?);
        }
        let loads = fixture.loads(Duration::from_millis(1));
        progress(&loads, 100)?;
        let weft = start(&fixture)?;
        progress(&loads, 200)?;
        // Opened through the kernel while Weft was dead: older than the enrolment.
        for talk in &mut talks {
            assert_eq!(talk.ask()?.client, talk.local);
        }
        flawless(loads)?;
        weft.audit().map(drop)
    })
}

#[test]
fn a_stopped_process_loses_no_syn_after_the_heartbeat_limit_and_goes_on_when_continued()
-> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let weft = start(&fixture)?;
        let loads = fixture.loads(Duration::from_millis(1));
        progress(&loads, 200)?;
        let at = loads[0].elapsed();
        weft.signal(Signal::STOP)?;
        thread::sleep(GAP);
        progress(&loads, 500)?;
        assert_lost_only_in((at, at + GAP), loads)?;
        weft.signal(Signal::CONT)?;
        // Frames that waited in the rings come out late; then everything is as before.
        thread::sleep(Duration::from_millis(300));
        let loads = fixture.loads(Duration::from_millis(1));
        let before = fixture.punted()?;
        progress(&loads, 200)?;
        ensure!(
            fixture.punted()? > before,
            "nothing is punted after SIGCONT"
        );
        flawless(loads)?;
        weft.audit().map(drop)
    })
}

/// What the kernel opened while the process stood still goes on after it, though the grace of the
/// enrolments is long over by then.
#[test]
fn connections_opened_while_the_process_is_stopped_outlive_the_pause() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let mut config = fixture.config_by_address();
        config.node.enrolment_grace = Some("1s".into());
        config.workers.heartbeat = Some(HEARTBEAT.0.into());
        let weft = Weft::start(&fixture.lab, &config)?;
        thread::sleep(Duration::from_millis(1200));
        weft.signal(Signal::STOP)?;
        thread::sleep(GAP);
        let client = &fixture.client.namespace;
        let mut talks = Vec::new();
        for family in Family::BOTH {
            talks.push(Talk::open(client, web(family, PEER_PORT))?);
        }
        weft.signal(Signal::CONT)?;
        for _ in 0..15 {
            thread::sleep(Duration::from_millis(100));
            for talk in &mut talks {
                talk.ask()?;
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn a_clean_stop_hands_over_to_the_kernel_without_a_lost_request() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let mut weft = start(&fixture)?;
        for family in Family::BOTH {
            ask_tcp(&fixture.client.namespace, web(family, PEER_PORT))?;
        }
        ensure!(weft.stop()?.success(), "{}", weft.log());
        for family in Family::BOTH {
            for _ in 0..20 {
                ask_tcp(&fixture.client.namespace, web(family, PEER_PORT))?;
                ask_udp(&fixture.client.namespace, web(family, PEER_PORT))?;
            }
        }
        Ok(())
    })
}

/// Whatever takes the ground from under a running process, it ends by itself with a reason, the kernel serves what
/// is new, and the next start takes over again.
#[test]
fn a_process_that_loses_its_pair_or_its_pins_ends_and_the_kernel_takes_over() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let pins = fixture.lab.pin_dir();
        for loss in [
            "link del weft0",
            "link set weft0 down",
            "link set weft1 down",
            "pins",
        ] {
            let mut weft = start(&fixture)?;
            ask_tcp(&fixture.client.namespace, web(Family::V4, PEER_PORT))?;
            match loss {
                "pins" => std::fs::remove_dir_all(&pins)?,
                command => fixture.lab.node.ip(command)?,
            }
            let status = weft.wait(Duration::from_secs(2))?;
            let log = weft.log();
            ensure!(
                !status.success() && log.contains("the kernel has taken over"),
                "{loss}: {log}"
            );
            for family in Family::BOTH {
                ask_tcp(&fixture.client.namespace, web(family, PEER_PORT))?;
                ask_udp(&fixture.client.namespace, web(family, PEER_PORT))?;
            }
        }
        let weft = start(&fixture)?;
        let before = fixture.punted()?;
        ask_tcp(&fixture.client.namespace, web(Family::V4, PEER_PORT))?;
        ensure!(
            fixture.punted()? > before,
            "nothing is punted after the restart"
        );
        weft.audit().map(drop)
    })
}

#[test]
fn a_second_sigterm_forces_the_end() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let before = Snapshot::take(&fixture.lab)?;
        let mut weft = fixture.weft()?;
        // Stopped, so that both signals are there before it can act upon the first.
        weft.signal(Signal::STOP)?;
        weft.signal(Signal::TERM)?;
        weft.signal(Signal::INT)?;
        weft.signal(Signal::CONT)?;
        weft.wait(Duration::from_secs(2))?;
        offline(&fixture.lab, &["cleanup"])?;
        let difference = before.difference(&Snapshot::take(&fixture.lab)?);
        ensure!(difference.is_empty(), "{}", difference.join("\n"));
        Ok(())
    })
}
