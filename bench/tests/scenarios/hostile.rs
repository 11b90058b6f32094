//! Hostile pods: broken frames, forged tuples, floods. Others' flows go on, and every frame is counted.

use crate::fixture::{Fixture, REAL_TIME, WEB, flawless, progress, soak, talks, web, with_weft};
use anyhow::{Context, Result, ensure};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::client::{Talk, ask_tcp, ask_udp};
use weft_lab::config::Config;
use weft_lab::lab::{Family, Pod, pick, vips};
use weft_lab::packet::{self, Ip, Tcp, flag, protocol};
use weft_lab::random::Random;
use weft_lab::raw::Wire;
use weft_lab::servers::{HTTP_PORT, PEER_PORT};
use weft_lab::weft::Weft;

/// Frames that an attacker sends before it lets others have the core.
const BURST: usize = 32;
/// And for how long.
const NAP: Duration = Duration::from_millis(1);

/// How long frames are thrown at the node.
fn length() -> Duration {
    Duration::from_secs(if soak() { 60 } else { 8 })
}

/// A packet such as `from` might send to `targets`: well-formed, with random tuples.
fn plausible(random: &mut Random, from: &Pod, targets: &[IpAddr]) -> Vec<u8> {
    let dst = *random.pick(targets);
    let family = if dst.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    let ip = Ip {
        hops: *random.pick(&[0, 1, 2, 64, 255]),
        id: random.word() as u16,
        class: random.word() as u8,
        dont_fragment: random.below(2) == 0,
        ..Ip::new(from.ip(family), dst)
    };
    let (sport, other, flags) = (
        random.word() as u16,
        random.word() as u16,
        random.word() as u8,
    );
    let dport = *random.pick(&[80, PEER_PORT, HTTP_PORT, 53, other]);
    let length = random.below(200);
    let payload = random.bytes(length);
    match random.below(7) {
        0..=2 => {
            let tcp = Tcp {
                sport,
                dport,
                flags: *random.pick(&[flag::SYN, flag::ACK, flag::RST, flags]),
                seq: random.word() as u32,
                ack: random.word() as u32,
            };
            packet::tcp(&ip, tcp, &payload)
        }
        3 => packet::udp(&ip, sport, dport, &payload),
        4 => packet::echo(&ip, random.below(2) == 0, sport, &payload),
        5 => {
            let about = packet::udp(&ip.back(), dport, sport, &payload);
            packet::error(&ip, (random.below(2) == 0).then_some(1400), &about)
        }
        _ => {
            let long = random.bytes(120);
            let [first, second] = packet::fragments(&ip, sport, dport, &long);
            if random.below(2) == 0 { first } else { second }
        }
    }
}

/// Sends what `make` makes from `wire` until `stop`, in bounded bursts; how many frames that were.
fn throw(wire: &Wire, stop: &AtomicBool, mut make: impl FnMut() -> Vec<u8>) -> Result<u64> {
    let (mut sent, start) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(120) {
        for _ in 0..BURST {
            let frame = make();
            // What does not even hold an Ethernet header the kernel does not take.
            if frame.len() >= 14 && frame.len() <= 1514 {
                sent += u64::from(wire.send(&frame)?);
            }
        }
        thread::sleep(NAP);
    }
    Ok(sent)
}

/// Everything that an attacker may aim at.
fn targets(fixture: &Fixture) -> Vec<IpAddr> {
    let pods = fixture.backends.iter().chain([&fixture.outsider]);
    pods.flat_map(|pod| pod.ips)
        .chain(fixture.client.ips)
        .chain(vips(WEB))
        .chain(vips(200))
        .collect()
}

/// The fixture's configuration. A busy machine is no dead worker: its packets are not the kernel's.
fn config(fixture: &Fixture) -> Config {
    let mut config = fixture.config();
    config.workers.heartbeat = Some("10s".into());
    config
}

/// A node with one attacker, whose frames go out by `wire`, and the connections of the well-behaved pod.
struct Siege {
    attacker: Pod,
    wire: Wire,
    talks: Vec<Talk>,
    weft: Weft,
    fixture: Fixture,
}

impl Siege {
    fn new(change: impl FnOnce(&mut Config)) -> Result<Self> {
        let mut fixture = Fixture::new()?;
        let attacker = fixture.lab.pod("x")?;
        let mut config = config(&fixture);
        config.enrol(&attacker, "attacker");
        change(&mut config);
        let weft = Weft::start(&fixture.lab, &config)?;
        Ok(Self {
            talks: talks(&fixture, Family::BOTH.len())?,
            wire: Wire::open(&attacker.namespace, "eth0")?,
            attacker,
            weft,
            fixture,
        })
    }
}

/// Asks on every connection; the servers must see the client as before.
fn still_there(talks: &mut [Talk]) -> Result<()> {
    for talk in talks {
        ensure!(talk.ask()?.client == talk.local, "another client is seen");
    }
    Ok(())
}

#[test]
fn hostile_random_and_mutated_frames_neither_stop_the_node_nor_escape_the_ledger() -> Result<()> {
    with_weft(|| {
        let mut fixture = Fixture::new()?;
        let attackers = [fixture.lab.pod("x")?, fixture.lab.pod("y")?];
        let mut config = config(&fixture);
        config.node.enrolment_grace = Some("0s".into()); // What opens nothing is dropped, not given back.
        for pod in &attackers {
            config.enrol(pod, "attacker");
        }
        let weft = Weft::start_under(&fixture.lab, &config, &REAL_TIME)?;
        let mut talks = talks(&fixture, Family::BOTH.len())?;
        let loads = fixture.loads(Duration::from_millis(5));
        let targets = targets(&fixture);
        let stop = AtomicBool::new(false);
        let sent: u64 = thread::scope(|scope| {
            let threads: Vec<_> = attackers
                .iter()
                .zip(0..)
                .map(|(pod, seed)| {
                    let (targets, stop) = (&targets, &stop);
                    scope.spawn(move || {
                        let wire = Wire::open(&pod.namespace, "eth0")?;
                        let mut random = Random::new(seed);
                        throw(&wire, stop, || {
                            if random.below(20) == 0 {
                                let length = 14 + random.below(200);
                                return random.bytes(length);
                            }
                            let packet = plausible(&mut random, pod, targets);
                            let mut frame = packet::ethernet(wire.mac, wire.gateway, &packet);
                            if random.below(3) > 0 {
                                random.mutate(&mut frame);
                            }
                            frame
                        })
                    })
                })
                .collect();
            let mut good = || -> Result<()> {
                progress(&loads, 20)?; // They end by themselves after a minute.
                let start = Instant::now();
                while start.elapsed() < length() {
                    still_there(&mut talks)?;
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            };
            let outcome = good();
            stop.store(true, Ordering::Relaxed);
            let mut sent = 0;
            for thread in threads {
                sent += thread.join().expect("an attacker panicked")?;
            }
            outcome.map(|()| sent)
        })?;
        ensure!(sent > 20_000, "only {sent} frames were sent");
        flawless(loads).with_context(|| weft.text(&["status"]).unwrap_or_default())?;
        still_there(&mut talks)?;
        thread::sleep(Duration::from_millis(200));
        for name in ["src_spoof", "malformed", "unknown_flow", "replied"] {
            ensure!(weft.counter(name)? > 0, "no {name} among {sent} frames");
        }
        ensure!(!weft.log().contains("panicked"), "{}", weft.log());
        weft.audit().map(drop)
    })
}

#[test]
fn amb06_hostile_pods_cannot_use_the_tuples_of_another_pods_flows() -> Result<()> {
    with_weft(|| {
        let Siege {
            wire,
            mut talks,
            weft,
            fixture,
            ..
        } = Siege::new(|_| {})?;
        let mut sent = 0;
        for (talk, family) in talks.iter().zip(Family::BOTH) {
            // The client's own packet, and its backend's reply to it, both as resets.
            let vip = pick(&vips(WEB), family);
            let forward = Ip::new(fixture.client.ip(family), vip);
            let backend = fixture
                .backends
                .iter()
                .find(|pod| pod.name == talk.greeting.name);
            let backend = backend.map_or(vip, |pod| pod.ip(family));
            let reply = Ip::new(backend, fixture.client.ip(family));
            let (client, port) = (talk.local.port(), PEER_PORT);
            for (ip, (sport, dport)) in [(forward, (client, port)), (reply, (port, client))] {
                for flags in [flag::RST, flag::SYN, flag::FIN | flag::ACK] {
                    let tcp = Tcp {
                        sport,
                        dport,
                        flags,
                        seq: 0,
                        ack: 0,
                    };
                    let frame =
                        packet::ethernet(wire.mac, wire.gateway, &packet::tcp(&ip, tcp, b""));
                    ensure!(wire.send(&frame)?, "the frame was not sent");
                    sent += 1;
                }
            }
        }
        still_there(&mut talks)?;
        assert_eq!(weft.counter("src_spoof")?, sent);
        weft.audit().map(drop)
    })
}

#[test]
fn hostile_pods_that_open_flows_without_end_leave_room_for_others() -> Result<()> {
    const FLOWS: u64 = 1024;
    with_weft(|| {
        let Siege {
            attacker,
            wire,
            mut talks,
            weft,
            fixture,
        } = Siege::new(|config| {
            config.workers.max_flows = Some(FLOWS);
            config.workers.fast_path = "off".into(); // It is the engine's table that is besieged.
        })?;
        for port in 0..4 * FLOWS as u16 {
            let ip = Ip::new(attacker.ip(Family::V4), pick(&vips(WEB), Family::V4));
            let packet = packet::udp(&ip, 10_000 + port, PEER_PORT, b"?");
            wire.send(&packet::ethernet(wire.mac, wire.gateway, &packet))?;
            if usize::from(port) % BURST == 0 {
                thread::sleep(NAP);
            }
        }
        // Some are lost on a busy machine, but many more than fit have been seen.
        ensure!(
            weft.counter("flow_share")? > FLOWS,
            "{}",
            weft.text(&["status"])?
        );
        assert_eq!(weft.counter("flow_table_full")?, 0);
        still_there(&mut talks)?;
        for family in Family::BOTH {
            for _ in 0..20 {
                ask_tcp(&fixture.client.namespace, web(family, PEER_PORT))?;
                ask_udp(&fixture.client.namespace, web(family, PEER_PORT))?;
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn hostile_floods_of_icmp_errors_end_no_flow() -> Result<()> {
    const ERRORS: usize = 20_000;
    with_weft(|| {
        let Siege {
            attacker,
            wire,
            mut talks,
            weft,
            fixture,
        } = Siege::new(|_| {})?;
        let loads = fixture.loads(Duration::from_millis(5));
        let (targets, mut random) = (targets(&fixture), Random::new(3));
        for number in 0..ERRORS {
            let talk = random.below(talks.len());
            let (talk, family) = (&talks[talk], Family::BOTH[talk]);
            let client = fixture.client.ip(family);
            // About the victim's own flow, or about any other.
            let about = if random.below(2) == 0 {
                let tcp = Tcp {
                    sport: talk.local.port(),
                    dport: PEER_PORT,
                    flags: flag::ACK,
                    seq: random.word() as u32,
                    ack: 0,
                };
                packet::tcp(&Ip::new(client, pick(&vips(WEB), family)), tcp, b"")
            } else {
                Ip::new(client, attacker.ip(family)).packet(protocol::UDP, &random.bytes(40))
            };
            let to = random.pick(&targets);
            if to.is_ipv4() != client.is_ipv4() {
                continue;
            }
            let mtu = (random.below(2) == 0).then_some(600);
            let packet = packet::error(&Ip::new(attacker.ip(family), *to), mtu, &about);
            wire.send(&packet::ethernet(wire.mac, wire.gateway, &packet))?;
            if number % BURST == 0 {
                thread::sleep(NAP);
            }
        }
        still_there(&mut talks)?;
        progress(&loads, 5)?;
        flawless(loads)?;
        thread::sleep(Duration::from_millis(100));
        weft.audit().map(drop)
    })
}
