//! A pod that floods the node with SYNs: others' new connections take about as long as without it.

use crate::fixture::with_weft;
use anyhow::{Context, Result, ensure};
use rustix::process::setpriority_process;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::binaries;
use weft_lab::command::{COMMAND_LIMIT, finish};
use weft_lab::config::Config;
use weft_lab::lab::{Family, Lab, Pod, pick, vips};
use weft_lab::machine::pin;
use weft_lab::packet::{self, Ip, Tcp, flag};
use weft_lab::random::Random;
use weft_lab::raw::Wire;
use weft_lab::servers::{self, ONCE_PORT};
use weft_lab::tools::crr::Connections;
use weft_lab::weft::Weft;

/// The service of the well-behaved client, and the one that is flooded: how a server copes with a flood
/// is its own affair.
const VIP: u8 = 20;
const FLOODED: u8 = 21;
/// Real-time priorities, so that nothing else on the machine is part of the measure: the worker, which has
/// the first core, and client and server, which share the second with the flood.
const WORKER: &str = "20";
const SERVER: &str = "11";
const CLIENT: &str = "10";
/// Windows of each kind, in turn.
const WINDOWS: usize = 7;
/// New connections of a window.
const CONNECTIONS: usize = 500;
/// The flood's own bounds, whatever becomes of the connections.
const FLOOD_LIMIT: (u64, Duration) = (5_000_000, Duration::from_secs(15));
/// Frames made ahead: the flood costs its core no more than it must.
const PREPARED: usize = 8192;

/// SYNs to the service, from random ports to its port and to others; some claim another source.
fn syns(attacker: &Pod, victim: &Pod, wire: &Wire) -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let syn = |_| {
        let source = if random.below(10) == 0 {
            victim
        } else {
            attacker
        };
        let ip = Ip::new(source.ip(Family::V4), pick(&vips(FLOODED), Family::V4));
        let tcp = Tcp {
            sport: random.word() as u16,
            dport: *random.pick(&[ONCE_PORT, ONCE_PORT, ONCE_PORT, 81]),
            flags: flag::SYN,
            seq: random.word() as u32,
            ack: 0,
        };
        packet::ethernet(wire.mac, wire.gateway, &packet::tcp(&ip, tcp, b""))
    };
    (0..PREPARED).map(syn).collect()
}

/// Sends `frames` over and over until `stop`, politely: the other core is the worker's, and whoever
/// else wants this one comes first. How many were sent.
fn flood(wire: &Wire, frames: &[Vec<u8>], stop: &AtomicBool) -> Result<u64> {
    pin(1)?;
    setpriority_process(None, 19)?;
    let (mut sent, start) = (0, Instant::now());
    for frame in frames.iter().cycle() {
        if stop.load(Ordering::Relaxed) || sent >= FLOOD_LIMIT.0 || start.elapsed() > FLOOD_LIMIT.1
        {
            break;
        }
        sent += u64::from(wire.send(frame)?);
    }
    Ok(sent)
}

/// The 99th percentile of the times of [`CONNECTIONS`] connections, in microseconds.
fn p99(client: &Pod, to: SocketAddr) -> Result<f64> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    let (to, count) = (to.to_string(), CONNECTIONS.to_string());
    let mut command = client.namespace.command("chrt");
    command.args(["-f", CLIENT]).arg(program);
    command.args([
        "crr",
        &to,
        "--count",
        &count,
        "--seconds",
        "10",
        "--core",
        "1",
    ]);
    let finished = finish(&mut command, COMMAND_LIMIT)?;
    ensure!(finished.success(), "{}", finished.stderr);
    let found: Connections = serde_json::from_str(&finished.stdout)?;
    ensure!(
        (found.count, found.failed) == (CONNECTIONS, 0),
        "not every connection was served: {found:?}"
    );
    Ok(found.p99)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
fn hostile_syn_floods_leave_the_p99_of_others_new_connections_within_twice() -> Result<()> {
    with_weft(|| {
        let mut lab = Lab::new()?;
        let (client, attacker) = (lab.pod("client")?, lab.pod("x")?);
        let servers = [lab.pod("a")?, lab.pod("b")?];
        let flooded = lab.pod("c")?;
        let mut config = Config::new();
        config.enrol(&client, "client").enrol(&attacker, "attacker");
        for server in &servers {
            servers::once(&mut lab, server, &["chrt", "-f", SERVER])?;
            config.enrol(server, "server");
        }
        config
            .service("once", VIP, &[("tcp", ONCE_PORT, ONCE_PORT)])
            .select("server");
        config.enrol(&flooded, "flooded");
        config
            .service("flooded", FLOODED, &[("tcp", ONCE_PORT, ONCE_PORT)])
            .select("flooded");
        let weft = Weft::start_under(&lab, &config, &["chrt", "-f", WORKER])?;
        let to = SocketAddr::new(pick(&vips(VIP), Family::V4), ONCE_PORT);
        let wire = Wire::open(&attacker.namespace, "eth0")?;
        let frames = syns(&attacker, &client, &wire);
        p99(&client, to)?; // Cold caches.

        let (mut quiet, mut flooded, mut sent) = (Vec::new(), Vec::new(), 0);
        for _ in 0..WINDOWS {
            quiet.push(p99(&client, to)?);
            let stop = AtomicBool::new(false);
            flooded.push(thread::scope(|scope| -> Result<f64> {
                let flood = scope.spawn(|| flood(&wire, &frames, &stop));
                thread::sleep(Duration::from_millis(20));
                let found = p99(&client, to);
                stop.store(true, Ordering::Relaxed);
                sent += flood.join().expect("the flood panicked")?;
                found
            })?);
        }
        let (quiet, flooded) = (median(&mut quiet), median(&mut flooded));
        ensure!(
            flooded <= 2.0 * quiet,
            "p99 {flooded} us under the flood, {quiet} us without"
        );
        for name in ["src_spoof", "punt_rate"] {
            ensure!(weft.counter(name)? > 0, "no {name} among {sent} SYNs");
        }
        weft.audit().map(drop)
    })
}
