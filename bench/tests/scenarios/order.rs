//! No packet overtakes another one of its flow, whatever makes the flow go from one tier to another (SVC-45, U-18): numbers in the
//! payload over UDP, and what the peers' TCP saw of segments out of order.

use crate::fixture::{Fixture, REAL_TIME, WEB, soak, with_weft};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use weft_lab::client::ANSWER_LIMIT;
use weft_lab::config::Config;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::sequence::{Outcome, Pace, Streams};
use weft_lab::servers::{self, ECHO_PORT};
use weft_lab::weft::Weft;

/// Where the datagrams go.
const PORT: u16 = 7300;
/// Between two changes.
const INTERVAL: Duration = Duration::from_millis(50);
/// Connections at a time, each of which carries so many words there and back so often, and then makes room for another.
const STREAMS: usize = 6;
const CHUNK: u64 = 4096;
const CHUNK_INTERVAL: Duration = Duration::from_millis(2);
const CHUNKS_A_CONNECTION: usize = 60;

/// How many changes.
fn changes() -> usize {
    if soak() { 400 } else { 40 }
}

/// Bursts that hit a change now and then, and pauses in which a flow may be handed over.
fn pace() -> Pace {
    Pace {
        flows: 16,
        burst: 32,
        length: 1200,
        pauses: [0, 200, 1000, 1000, 5000, 20_000]
            .map(Duration::from_micros)
            .into(),
        bursts_a_flow: 8,
    }
}

fn config(fixture: &Fixture) -> Config {
    let mut config = fixture.config_by_address();
    // A busy machine is no dead worker.
    config.workers.heartbeat = Some("10s".into());
    let ports = [("udp", PORT, PORT), ("tcp", ECHO_PORT, ECHO_PORT)];
    let addresses: Vec<_> = fixture.backends.iter().flat_map(|pod| pod.ips).collect();
    config.services.clear();
    config.service("web", WEB, &ports).serve_at(addresses);
    config
}

fn streams(fixture: &Fixture, pace: &Pace) -> Result<Streams> {
    let targets = Family::BOTH.map(|family| (pick(&vips(WEB), family), PORT).into());
    Streams::start(&fixture.client, &targets, &fixture.backends, PORT, pace)
}

/// All came in order, to one backend each; `lossless`: and all came.
fn in_order(outcome: &Outcome, lossless: bool) -> Result<()> {
    eprintln!(
        "{} datagrams of {} flows, {} lost, {} overtaken",
        outcome.sent,
        outcome.flows,
        outcome.lost(),
        outcome.overtaken
    );
    ensure!(
        outcome.overtaken == 0,
        "{} overtaken: {:#?}",
        outcome.overtaken,
        outcome.examples
    );
    ensure!(outcome.received > 1000, "hardly any came: {outcome:?}");
    if lossless {
        ensure!(outcome.lost() == 0, "{} were lost", outcome.lost());
        ensure!(outcome.moved == 0, "{} flows moved", outcome.moved);
    }
    Ok(())
}

/// What makes a service one that the kernel's tables are compiled for, or not.
fn variants(config: &Config) -> Vec<Config> {
    let with = |algorithm: &str, affinity: &str, reset: bool| {
        let mut config = config.clone();
        config.services[0].algorithm(algorithm);
        config.services[0].session_affinity = Some(affinity.into());
        config.services[0].rst_on_removal = Some(reset);
        config
    };
    vec![
        with("maglev", "none", false),
        with("round_robin", "none", false),
        with("maglev", "none", false),
        with("maglev", "client_ip", false),
        with("random", "none", false),
        with("maglev", "none", true),
        with("least_connections", "none", false),
    ]
}

#[test]
fn svc45_no_datagram_overtakes_another_when_a_service_is_compiled_or_no_more() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let variants = variants(&config(&fixture));
        let weft = Weft::start_under(&fixture.lab, &variants[0], &REAL_TIME)?;
        let streams = streams(&fixture, &pace())?;
        for number in 0..changes() {
            thread::sleep(INTERVAL);
            weft.reload(&variants[number % variants.len()])?;
        }
        in_order(&streams.stop()?, true)
            .with_context(|| weft.text(&["status"]).unwrap_or_default())?;
        weft.audit().map(drop)
    })
}

#[test]
fn svc45_no_datagram_overtakes_another_when_pods_leave_and_come_back() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let all = config(&fixture);
        let weft = Weft::start_under(&fixture.lab, &all, &REAL_TIME)?;
        // A pod that leaves keeps the flows that it has; new ones would be the kernel's.
        let pace = Pace {
            bursts_a_flow: usize::MAX,
            ..pace()
        };
        let streams = streams(&fixture, &pace)?;
        // Each flow has to have begun.
        thread::sleep(Duration::from_millis(500));
        for number in 0..changes() {
            thread::sleep(INTERVAL);
            let mut fewer = all.clone();
            match number % 4 {
                0 => drop(fewer.unenrol(&fixture.client)),
                2 => drop(fewer.unenrol(&fixture.backends[number % 3])),
                _ => {}
            }
            weft.reload(&fewer)?;
        }
        weft.reload(&all)?;
        in_order(&streams.stop()?, true)
            .with_context(|| weft.text(&["status"]).unwrap_or_default())?;
        weft.audit().map(drop)
    })
}

/// What the engine had is lost with it; the rest stays in order.
#[test]
fn u06_no_datagram_overtakes_another_over_crashes_and_restarts() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let variants = variants(&config(&fixture));
        let mut weft = Weft::start_under(&fixture.lab, &variants[0], &REAL_TIME)?;
        let streams = streams(&fixture, &pace())?;
        for number in 1..=changes() / 8 {
            thread::sleep(INTERVAL * 4);
            weft.kill()?;
            thread::sleep(INTERVAL);
            let next = &variants[number % variants.len()];
            weft = Weft::start_under(&fixture.lab, next, &REAL_TIME)?;
        }
        thread::sleep(INTERVAL * 4);
        in_order(&streams.stop()?, false)?;
        weft.audit().map(drop)
    })
}

/// New flows at more than the pod may open: what the kernel refuses is dropped, not sent another way.
#[test]
fn svc45_no_datagram_overtakes_another_of_a_new_flow_above_the_pods_rate() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = config(&fixture);
        config.workers.punt_rate = Some(500);
        let weft = Weft::start_under(&fixture.lab, &config, &REAL_TIME)?;
        let pace = Pace {
            flows: 64,
            burst: 8,
            pauses: vec![Duration::ZERO, Duration::from_micros(200)],
            bursts_a_flow: 3,
            ..pace()
        };
        let streams = streams(&fixture, &pace)?;
        thread::sleep(INTERVAL * changes() as u32);
        in_order(&streams.stop()?, false)?;
        ensure!(
            weft.counter("punt_rate")? > 0,
            "it was never above its rate"
        );
        weft.audit().map(drop)
    })
}

/// What TCP of all pods counts of segments that overtook others: as they came, and as the sender was told. Not retransmissions: a
/// sender repeats its last segment as soon as a thread on the way has had no core for a millisecond (RFC 8985, 7).
const DISORDER: [&str; 2] = ["TCPOFOQueue", "TCPSACKReorder"];
/// A sender that the scheduler moves to another core can itself overtake what waits on the first one.
const ALLOWED: u64 = 2;

fn disorder(fixture: &Fixture) -> Result<[u64; DISORDER.len()]> {
    let pods = fixture.backends.iter().chain([&fixture.client]);
    let mut sums = [0; DISORDER.len()];
    for pod in pods {
        for (sum, name) in sums.iter_mut().zip(DISORDER) {
            *sum += pod.namespace.tcp_counter(name)?;
        }
    }
    Ok(sums)
}

/// Numbered words to the echo server and back on one connection after another, at a rate that fills no queue; how many came back.
fn words(client: &Namespace, to: SocketAddr, stop: &AtomicBool) -> Result<u64> {
    client.enter(|| {
        let mut words = 0;
        while !stop.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER_LIMIT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            for _ in 0..CHUNKS_A_CONNECTION {
                let sent = words..words + CHUNK;
                let bytes: Vec<u8> = sent.clone().flat_map(u64::to_be_bytes).collect();
                stream.write_all(&bytes)?;
                let mut came = vec![0; bytes.len()];
                stream.read_exact(&mut came)?;
                ensure!(came == bytes, "not what was sent");
                words = sent.end;
                thread::sleep(CHUNK_INTERVAL);
            }
        }
        Ok(words)
    })?
}

/// Streams in both directions and families.
#[test]
fn svc45_no_segment_overtakes_another_when_a_service_is_compiled_or_no_more() -> Result<()> {
    with_weft(|| {
        let mut fixture = Fixture::new()?;
        for pod in fixture.backends.clone() {
            servers::echo(&mut fixture.lab, &pod, None)?;
        }
        let variants = variants(&config(&fixture));
        let weft = Weft::start_under(&fixture.lab, &variants[0], &REAL_TIME)?;
        let client = &fixture.client.namespace;
        let before = disorder(&fixture)?;
        let stop = &AtomicBool::new(false);
        let sent = thread::scope(|scope| -> Result<u64> {
            let running: Vec<_> = (0..STREAMS)
                .map(|number| {
                    let to = (pick(&vips(WEB), Family::BOTH[number % 2]), ECHO_PORT).into();
                    scope.spawn(move || words(client, to, stop))
                })
                .collect();
            let changed = (0..changes()).try_for_each(|number| {
                thread::sleep(INTERVAL);
                weft.reload(&variants[number % variants.len()])
            });
            stop.store(true, Ordering::Relaxed);
            let mut sent = 0;
            for running in running {
                sent += running.join().expect("a stream panicked")?;
            }
            changed.map(|()| sent)
        })?;
        let after = disorder(&fixture)?;
        eprintln!("{sent} words; {DISORDER:?}: {before:?}, then {after:?}");
        let more = after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before);
        ensure!(
            more.max() <= Some(ALLOWED),
            "{DISORDER:?}: {before:?}, then {after:?}\n{}",
            weft.text(&["status"])?
        );
        weft.audit().map(drop)
    })
}
