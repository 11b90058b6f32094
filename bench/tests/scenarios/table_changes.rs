//! Backends come, leave, drain and flap under very many live flows, while the node process stops between the steps of
//! a change, or dies in the middle of one (SVC-22, -23, -24, -27, -45).
//!
//! What is asked all the time: no connection moves or breaks, no segment of one comes to a backend that does not know it, a UDP flow
//! stays while its backend is there and goes to a ready one as soon as that is gone, and no packet comes to a backend that was
//! right for it under neither the configuration in force nor the one on its way.

use crate::fixture::{REAL_TIME, soak, with_weft};
use crate::fleet::{Scale, States, World};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::command::wait;
use weft_lab::fleet::{Crew, Tally};
use weft_lab::random::Random;
use weft_lab::weft::Weft;

/// A reload that takes longer hangs.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// Runs `changes` while every crew asks; what the crews' questions came to.
fn under_load(
    world: &World,
    crews: &mut [Crew],
    changes: impl FnOnce() -> Result<()>,
) -> Result<Tally> {
    let stop = AtomicBool::new(false);
    let mut tally = Tally::default();
    let outcome = thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = crews
            .iter_mut()
            .map(|crew| scope.spawn(|| crew.run(&stop)))
            .collect();
        let outcome = changes();
        stop.store(true, Ordering::Relaxed);
        for crew in running {
            tally.add(crew.join().expect("a crew panicked")?);
        }
        outcome
    });
    for crew in crews.iter_mut() {
        crew.ask_all(&mut tally);
    }
    let median = tally.median();
    eprintln!(
        "{} answers on UDP flows, {} on connections, {} new flows, {} lost; median {median:?}",
        tally.datagrams, tally.streams, tally.new, tally.lost
    );
    world.flawless()?;
    outcome?;
    ensure!(tally.new > 20, "hardly any new flow: {}", tally.new);
    Ok(tally)
}

/// The kernel carries nearly all of the crews' flows; a few may find no room there.
fn carried(weft: &Weft, crews: &[Crew]) -> Result<()> {
    let flows: usize = crews.iter().map(Crew::flows).sum();
    if weft.json(&["status"])?["fast_path"] != "full" {
        return Ok(());
    }
    let opened = weft.counter("flows_opened")? as usize;
    eprintln!("{flows} flows, {opened} opened by the fast path");
    ensure!(opened * 20 > flows * 19, "{opened} of {flows}");
    Ok(())
}

/// No backend has had a segment of a connection that it does not know.
fn strangers(world: &World, before: u64) -> Result<()> {
    let resets = world.resets()? - before;
    ensure!(resets == 0, "{resets} segments came to strangers");
    Ok(())
}

#[test]
fn svc22_svc23_svc24_svc27_svc45_table_changes_under_live_flows_move_and_break_none() -> Result<()>
{
    with_weft(|| {
        let (scale, changes) = if soak() {
            (Scale::FULL, 1000)
        } else {
            (Scale::SHORT, 60)
        };
        let world = World::new(scale)?;
        let mut states = world.states();
        let weft = Weft::start_under(&world.lab, &world.config(&states), &REAL_TIME)?;
        let servers = world.serve()?;
        let mut crews = world.crews()?;
        carried(&weft, &crews)?;
        let resets = world.resets()?;
        let mut random = Random::new(1);
        under_load(&world, &mut crews, || {
            for number in 0..changes {
                for next in states.change(&mut random) {
                    world.begin(&next);
                    let reloaded = weft.reload(&world.config(&next));
                    reloaded.with_context(|| format!("change {number}"))?;
                    world.finish();
                }
                thread::sleep(Duration::from_millis(random.below(30) as u64));
                world
                    .flawless()
                    .with_context(|| format!("change {number}"))?;
            }
            Ok(())
        })?;
        strangers(&world, resets)?;
        servers.stop()?;
        weft.audit().map(drop)
    })
}

/// A process that is stopped again and again has every boundary between two steps of a change in front of it for a while.
#[test]
fn svc27_svc45_a_process_that_stops_between_the_steps_of_a_change_harms_no_flow() -> Result<()> {
    with_weft(|| {
        let (scale, changes) = if soak() {
            (Scale::MEDIUM, 200)
        } else {
            (Scale::SHORT, 20)
        };
        let world = World::new(scale)?;
        let mut states = world.states();
        let weft = Weft::start(&world.lab, &world.config(&states))?;
        let servers = world.serve()?;
        let mut crews = world.crews()?;
        let resets = world.resets()?;
        let mut random = Random::new(2);
        let mut stops = 0;
        under_load(&world, &mut crews, || {
            for number in 0..changes {
                for next in states.change(&mut random) {
                    world.begin(&next);
                    let mut reload = weft.begin_reload(&world.config(&next))?;
                    let start = Instant::now();
                    while reload.try_wait()?.is_none() && start.elapsed() < RELOAD_LIMIT {
                        thread::sleep(Duration::from_micros(random.below(1000) as u64));
                        weft.signal(Signal::STOP)?;
                        thread::sleep(Duration::from_millis(10));
                        weft.signal(Signal::CONT)?;
                        stops += 1;
                    }
                    let status = wait(&mut reload, RELOAD_LIMIT)?;
                    ensure!(
                        status.is_some_and(|status| status.success()),
                        "change {number}: {status:?}: {}",
                        weft.log()
                    );
                    world.finish();
                }
                world
                    .flawless()
                    .with_context(|| format!("change {number}"))?;
            }
            Ok(())
        })?;
        eprintln!("{stops} stops");
        strangers(&world, resets)?;
        servers.stop()?;
        weft.audit().map(drop)
    })
}

/// After its end, flows go on by whatever the tables had come to; the next process brings the rest.
#[test]
fn svc27_svc45_a_process_killed_in_the_middle_of_a_change_harms_no_flow() -> Result<()> {
    with_weft(|| {
        let (scale, kills) = if soak() {
            (Scale::MEDIUM, 50)
        } else {
            (Scale::SHORT, 6)
        };
        let world = World::new(scale)?;
        let mut states = world.states();
        // What the engine carries ends with it.
        let config = |states: &States| {
            let mut config = world.config(states);
            config.workers.fast_path = "full".into();
            config
        };
        let mut weft = Weft::start(&world.lab, &config(&states))?;
        let servers = world.serve()?;
        let mut crews = world.crews()?;
        let resets = world.resets()?;
        let mut random = Random::new(3);
        under_load(&world, &mut crews, || {
            for number in 0..kills {
                for next in states.change(&mut random) {
                    world.begin(&next);
                    let mut reload = weft.begin_reload(&config(&next))?;
                    thread::sleep(Duration::from_micros(random.below(25_000) as u64));
                    // What would be the engine's is nobody's now.
                    world.may_lose(true);
                    weft.kill()?;
                    wait(&mut reload, RELOAD_LIMIT)?;
                    thread::sleep(Duration::from_millis(100));
                    weft = Weft::start(&world.lab, &config(&next))?;
                    world.finish();
                    world.may_lose(false);
                    thread::sleep(Duration::from_millis(50));
                }
                world.flawless().with_context(|| format!("kill {number}"))?;
            }
            Ok(())
        })?;
        strangers(&world, resets)?;
        servers.stop()?;
        weft.audit().map(drop)
    })
}
