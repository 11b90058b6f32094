//! `weft upgrade`: another program takes the node process's place while traffic goes on.

use crate::fixture::{Fixture, progress, soak, web, with_weft};
use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use weft_lab::client::{Datagrams, Talk, ask_tcp};
use weft_lab::config::Config;
use weft_lab::lab::Family;
use weft_lab::load::Load;
use weft_lab::servers::PEER_PORT;
use weft_lab::wait::wait_until;
use weft_lab::weft::{Weft, exit};

/// Threads that keep flows busy.
const TALKERS: usize = 4;

pub fn config(fixture: &Fixture, fast_path: &str) -> Config {
    let mut config = fixture.config_by_address();
    config.workers.fast_path = fast_path.into();
    config
}

/// The program beside itself, as an operator would install another one.
pub fn copy(weft: &Weft) -> Result<PathBuf> {
    let path = weft.directory().join("weft-new");
    fs::copy(weft.program(), &path)?;
    Ok(path)
}

/// An upgrade that has to succeed: what it says.
pub fn upgrade(weft: &Weft, words: &[&str]) -> Result<Value> {
    let finished = weft.upgrade(words)?;
    let (out, err) = (&finished.stdout, &finished.stderr);
    ensure!(finished.success(), "{out}{err}\n{}", weft.log());
    serde_json::from_str(out).with_context(|| format!("not JSON: {out}"))
}

/// As [`crate::fixture::flawless`], but for answers that a busy machine has kept for less time than a lost SYN costs: what is
/// verified beside them takes it for a while.
pub fn unharmed(loads: Vec<Load>) -> Result<()> {
    for load in loads {
        let tally = load.stop()?;
        let lost = tally
            .slow
            .iter()
            .any(|(_, took)| *took >= Duration::from_secs(1));
        let well = tally.failures.is_empty() && tally.misrouted.is_empty() && !lost;
        ensure!(well && tally.answered() > 0, "{tally:#?}");
    }
    Ok(())
}

/// A flow that is there, and stays with its backend.
enum Flow {
    Tcp(Talk),
    Udp(Datagrams, String),
}

impl Flow {
    fn ask(&mut self) -> Result<()> {
        let (expected, answer) = match self {
            Self::Tcp(talk) => {
                let answer = talk.ask()?;
                ensure!(answer.client == talk.local, "{answer:?}");
                (&talk.greeting.name, answer)
            }
            Self::Udp(datagrams, name) => (&*name, datagrams.ask()?),
        };
        ensure!(answer.name == *expected, "{answer:?}, not {expected}");
        Ok(())
    }
}

/// As many connections, and half as many datagram flows, in both families.
fn flows(fixture: &Fixture, connections: usize) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for (n, family) in (0..connections).zip(Family::BOTH.into_iter().cycle()) {
        let (client, to) = (&fixture.client.namespace, web(family, PEER_PORT));
        flows.push(Flow::Tcp(Talk::open(client, to)?));
        if n % 4 < 2 {
            let datagrams = Datagrams::open(client, to)?;
            let name = datagrams.ask()?.name;
            flows.push(Flow::Udp(datagrams, name));
        }
    }
    Ok(flows)
}

/// Flows that ask all the time.
struct Busy {
    stop: Arc<AtomicBool>,
    turns: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Result<Vec<Flow>>>>,
}

impl Busy {
    fn start(mut flows: Vec<Flow>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let share = flows.len().div_ceil(TALKERS);
        let (mut turns, mut threads) = (Vec::new(), Vec::new());
        while !flows.is_empty() {
            let mut share = flows.split_off(flows.len().saturating_sub(share));
            let (stopped, turn) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
            turns.push(Arc::clone(&turn));
            threads.push(thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    for flow in &mut share {
                        flow.ask().context("a flow that was there")?;
                        thread::sleep(Duration::from_micros(200)); // The machine has others' work, too.
                    }
                    turn.fetch_add(1, Ordering::Relaxed);
                }
                Ok(share)
            }));
        }
        Self {
            stop,
            turns,
            threads,
        }
    }

    /// Waits until each of them has had `more` answers.
    fn progress(&self, more: u64) -> Result<()> {
        let goals = self
            .turns
            .iter()
            .map(|turn| turn.load(Ordering::Relaxed) + more + 1);
        let goals: Vec<u64> = goals.collect();
        let there = || {
            let turns = self.turns.iter().zip(&goals);
            turns
                .into_iter()
                .all(|(turn, goal)| turn.load(Ordering::Relaxed) >= *goal)
                || self.threads.iter().any(JoinHandle::is_finished)
        };
        wait_until("every flow to be answered", Duration::from_secs(30), there)
    }

    /// None was lost, and none moved.
    fn end(self) -> Result<Vec<Flow>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut flows = Vec::new();
        for thread in self.threads {
            flows.extend(thread.join().map_err(|_| anyhow!("a talker panicked"))??);
        }
        Ok(flows)
    }
}

#[test]
fn upgrades_under_load_lose_no_flow_of_the_fast_path() -> Result<()> {
    let rounds = if soak() { 50 } else { 3 };
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture, "full"))?;
        let (pid, new) = (weft.pid()?, copy(&weft)?);
        let new = new.to_string_lossy();
        let connections = if soak() { 1000 } else { 200 };
        let busy = Busy::start(flows(&fixture, connections)?);
        let open = || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
        let mut before = None;
        for round in 0..rounds {
            let loads = fixture.loads(Duration::from_millis(2)); // New connections and datagrams.
            progress(&loads, 50)?;
            busy.progress(1)?;
            // Once by another path, then by that one again, without a word.
            let words: &[&str] = if round == 0 { &["--binary", &new] } else { &[] };
            let said = upgrade(&weft, words).with_context(|| format!("round {round}"))?;
            eprintln!("round {round}: {said}");
            ensure!(said["failed"].is_null() && said["binary"] == *new, "{said}");
            ensure!(said["from"].is_string() && said["to"].is_string(), "{said}");
            ensure!(
                said["flows_kept"].as_u64() >= Some(connections as u64),
                "{said}"
            );
            ensure!(said["flows_removed"] == 0, "{said}");
            ensure!(said["without_worker_us"].as_u64() > Some(0), "{said}");
            let status = weft.json(&["status"])?;
            ensure!(
                status["pid"] == pid && status["upgrade"] == said,
                "{status}"
            );
            ensure!(weft.pid()? == pid, "another process");
            let there = *before.get_or_insert(open()?);
            ensure!(
                open()? <= there + 2,
                "descriptors are left open: {} after {there}",
                open()?
            );
            progress(&loads, 50).with_context(|| format!("round {round}, after it"))?;
            busy.progress(1)?;
            unharmed(loads).with_context(|| format!("round {round}"))?;
        }
        let flows = busy.end()?;
        let listed = weft.json(&["flows"])?;
        let listed = listed["flows"].as_array().context("no flows")?;
        let kept = listed
            .iter()
            .filter(|flow| flow["tier"] == 0 && flow["state"] == "established");
        ensure!(kept.count() >= connections, "{} flows", listed.len());
        drop(flows);
        let text = weft.text(&["status"])?;
        ensure!(text.contains("upgraded from"), "{text}");
        weft.audit().map(drop)
    })
}

/// What the documents say: flows in user space end, or are made anew; the kernel has those between pods.
/// Nor is a pod's traffic lost for want of it; a start is refused before anything is made.
#[test]
fn an_upgrade_goes_on_without_what_pods_do_not_need() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let plain = config(&fixture, "full");
        let weft = Weft::start(&fixture.lab, &plain)?;
        let client = &fixture.client.namespace;
        let mut talk = Talk::open(client, web(Family::V4, PEER_PORT))?;
        let mut other = plain.clone();
        other.node.metrics = Some("192.0.2.1:9464".into()); // Nobody's here.
        weft.reload(&other)?;
        upgrade(&weft, &[])?;
        talk.ask()?;
        ask_tcp(client, web(Family::V6, PEER_PORT))?;
        ensure!(weft.log().contains("node.metrics"), "{}", weft.log());
        // What waits for a restart is not yet so.
        let mut off = plain.clone();
        off.workers.fast_path = "off".into();
        weft.reload(&off)?;
        let status = weft.json(&["status"])?;
        ensure!(status["fast_path"] == "full", "{}", status["fast_path"]);
        weft.reload(&plain)?;
        weft.audit()?;
        drop(weft);
        let refused = Weft::start(&fixture.lab, &other);
        ensure!(refused.is_err(), "it listens at an address of others");
        ensure!(
            fixture.lab.node.packets("weft0").is_err(),
            "something is left"
        );
        Ok(())
    })
}

#[test]
fn an_upgrade_without_the_fast_path_is_as_a_restart() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture, "off"))?;
        let pid = weft.pid()?;
        let client = &fixture.client.namespace;
        let (mut connections, mut direct, mut datagrams) = (Vec::new(), Vec::new(), Vec::new());
        for (n, family) in (0..20).zip(Family::BOTH.into_iter().cycle()) {
            let backend = &fixture.backends[n % fixture.backends.len()];
            connections.push(Talk::open(client, web(family, PEER_PORT))?);
            direct.push(Flow::Tcp(Talk::open(
                client,
                backend.at(family, PEER_PORT),
            )?));
            let flow = Datagrams::open(client, web(family, PEER_PORT))?;
            let name = flow.ask()?.name;
            datagrams.push(Flow::Udp(flow, name));
        }
        let said = upgrade(&weft, &[])?;
        eprintln!("{said}");
        ensure!(
            said["flows_kept"] == 0 && said["flows_ended"].as_u64() >= Some(60),
            "{said}"
        );
        ensure!(weft.pid()? == pid, "another process");
        for flow in direct.iter_mut().chain(&mut datagrams) {
            flow.ask().context("a flow that needs nobody's memory")?;
        }
        let talk = connections.first_mut().context("none")?;
        ensure!(talk.ask().is_err(), "nobody knows its backend");
        for family in Family::BOTH {
            ask_tcp(client, web(family, PEER_PORT))?;
        }
        weft.audit().map(drop)
    })
}

/// Both ends know at once, also those that only wait.
#[test]
fn an_upgrade_resets_what_ended_in_user_space() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = config(&fixture, "full");
        for service in &mut config.services {
            service.stage(Some("tcp"));
        }
        let weft = Weft::start(&fixture.lab, &config)?;
        let client = &fixture.client.namespace;
        let open = |family| Talk::open(client, web(family, PEER_PORT));
        let families = Family::BOTH.into_iter().cycle().take(20);
        let talks = families.map(open).collect::<Result<Vec<_>>>()?;
        let waiting = talks.into_iter().map(|mut talk| {
            thread::spawn(move || (talk.wait_for_end(Duration::from_secs(5)), Instant::now()))
        });
        let waiting: Vec<_> = waiting.collect();
        thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        let said = upgrade(&weft, &[])?;
        eprintln!("{said}");
        ensure!(
            said["terminated_reset"] == 40 && said["failed"].is_null(),
            "{said}"
        );
        for talk in waiting {
            let (error, at) = talk.join().map_err(|_| anyhow!("it panicked"))?;
            let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
            ensure!(reset && at >= began, "{error}");
        }
        for family in Family::BOTH {
            open(family)?.ask()?;
        }
        weft.audit().map(drop)
    })
}

/// Whoever asks the node process for something meanwhile waits, or is told; a signal is not lost, and kills nobody.
#[test]
fn an_upgrade_meets_others_who_want_something() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut weft = Weft::start(&fixture.lab, &config(&fixture, "full"))?;
        let pid = weft.pid()?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| -> Result<[u64; 2]> {
                let mut counts = [0; 2];
                for command in ["status", "reload", "flows"].into_iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Nobody gets in between who would take all of it away.
                    let finished = weft.cli(&["cleanup"])?;
                    let taken = finished.stderr.contains("a node process runs here");
                    ensure!(
                        finished.code() == Some(exit::FAILED) && taken,
                        "{finished:?}"
                    );
                    let finished = weft.cli(&[command])?;
                    let told = finished.stderr.contains("an upgrade is under way");
                    ensure!(
                        finished.success() || told,
                        "{command}: {finished:?}\n{}",
                        weft.log()
                    );
                    counts[usize::from(told)] += 1;
                }
                Ok(counts)
            });
            let hanging_up = scope.spawn(|| -> Result<()> {
                while !over.load(Ordering::Relaxed) {
                    weft.signal(Signal::HUP)?;
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            });
            let upgraded = (0..3).try_for_each(|_| upgrade(&weft, &[]).map(drop));
            over.store(true, Ordering::Relaxed);
            let counts = asking.join().map_err(|_| anyhow!("it panicked"))??;
            eprintln!("[answered, told to come back]: {counts:?}");
            ensure!(counts[0] > 0, "nobody was answered");
            hanging_up.join().map_err(|_| anyhow!("it panicked"))??;
            upgraded
        })?;
        ensure!(weft.pid()? == pid, "another process");
        // A reload of after the last one.
        let reloads = weft.json(&["status"])?["reloads"]["switch"]["count"].clone();
        weft.signal(Signal::HUP)?;
        wait_until("another reload", Duration::from_secs(5), || {
            let status = weft.json(&["status"]);
            status.is_ok_and(|status| status["reloads"]["switch"]["count"] != reloads)
        })?;
        // And the end of it all, asked for in the middle of one.
        let mut asked = weft.command(&["upgrade"]).spawn()?;
        thread::sleep(Duration::from_millis(400));
        let ended = weft.stop()?;
        asked.wait()?;
        ensure!(ended.success(), "{ended:?}\n{}", weft.log());
        ensure!(!fixture.lab.run_dir().exists(), "the run directory is left");
        ensure!(!fixture.lab.pin_dir().exists(), "pins are left");
        Ok(())
    })
}
