//! Transfers through Weft over bad links, every byte checked (T-02, T-03, T-04).

use crate::fixture::{soak, with_root, with_weft};
use anyhow::{Context, Result, bail, ensure};
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::impairment::{Counters, Impairment};
use weft_lab::lab::Family;
use weft_lab::tcp::{Case, FAR, NEAR, Wish, World};
use weft_lab::tools::transfer::{Mode, Transfer};

/// The stage of the services.
pub const STAGE: Option<&str> = Some("tcp");
/// Bytes of a bulk transfer: more than all buffers on the way, of which there are three times 256 KiB.
const BYTES: u64 = 2 << 20;
/// How long a receiver stops.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a transfer may take over the worst of the links.
const WORST: Duration = Duration::from_secs(20);
/// How soon the other end has to know of a reset where none is lost, in milliseconds, on a machine that does much else.
const PROMPT: f64 = 2000.0;

/// What a mode is asked to do on a link.
fn wish(mode: Mode, case: Case) -> Wish {
    let far = case.part.max(1);
    let count = match mode {
        Mode::Connections => 60,
        _ => 400,
    };
    Wish {
        mode,
        bytes: BYTES,
        // A far end answers ten times a second.
        count: (count / (far * far) as usize).max(5),
        pause: PAUSE,
    }
}

/// What has to hold of a finished transfer, whatever the link.
fn assert_sound(found: &Transfer, case: Case) -> Result<()> {
    // The rest of the time it fills the buffers on the way.
    let stalled = found.sender_stall >= PAUSE.as_secs_f64() * 1e3 / 4.0;
    match found.mode {
        Mode::StallUpload | Mode::StallDownload => {
            ensure!(stalled, "{}: no sender stalled: {found:?}", case.id);
        }
        Mode::Abort | Mode::Aborted => {
            let notice = found.notice.context("no notice")?;
            // A reset may be lost; then it is the next segment's to find out, a timeout later.
            let slack = if case.words.contains("loss") || case.words.contains("corrupt") {
                5.0
            } else {
                1.0
            };
            ensure!(notice <= PROMPT * slack, "{}: {found:?}", case.id);
        }
        _ => {}
    }
    Ok(())
}

/// All modes at once, each on a connection of its own, in families that take turns.
fn every_mode(world: &World, service: u8, case: Case, turn: usize) -> Result<Vec<Transfer>> {
    thread::scope(|scope| {
        let running: Vec<_> = Mode::ALL
            .into_iter()
            .enumerate()
            .map(|(at, mode)| {
                let family = Family::BOTH[(at + turn) % 2];
                scope.spawn(move || {
                    let found = world.transfer(service, family, wish(mode, case));
                    found.with_context(|| format!("{} over {family:?}", case.id))
                })
            })
            .collect();
        running
            .into_iter()
            .map(|running| running.join().expect("a transfer does not panic"))
            .collect()
    })
}

/// The link did what it says.
fn assert_impaired(case: Case, counters: [Counters; 2]) -> Result<()> {
    for found in counters {
        let happened = [
            ("loss", found.lost),
            ("reorder", found.reordered),
            ("duplicate", found.duplicated),
            ("corrupt", found.corrupted),
        ];
        for (key, count) in happened {
            ensure!(
                (count > 0) == case.words.contains(key),
                "{}: {found:?}",
                case.id
            );
        }
        ensure!(
            found.overflowed == 0 && found.rejected == 0,
            "{}: the link was not up to it: {found:?}",
            case.id
        );
    }
    Ok(())
}

#[test]
fn t03_every_kind_of_transfer_gets_through_every_bad_link() -> Result<()> {
    with_weft(|| {
        let mut world = World::new()?;
        let weft = world.weft(STAGE)?;
        let (mut before, mut sum) = ([Counters::default(); 2], Vec::new());
        for (turn, case) in Case::ALL.into_iter().enumerate() {
            world.impair(case.impairment()?)?;
            let start = Instant::now();
            let found = every_mode(&world, NEAR, case, turn)
                .with_context(|| weft.text(&["status"]).unwrap_or_default())?;
            for transfer in &found {
                assert_sound(transfer, case)?;
            }
            let after = world.client.counters()?;
            let after = [after.up, after.down];
            assert_impaired(case, [0, 1].map(|lane| since(before[lane], after[lane])))?;
            before = after;
            sum.push((case.id, start.elapsed()));
        }
        eprintln!("{sum:?}");
        weft.audit().map(drop)
    })
}

/// What has happened between two looks.
fn since(before: Counters, after: Counters) -> Counters {
    Counters {
        offered: after.offered - before.offered,
        passed: after.passed - before.passed,
        lost: after.lost - before.lost,
        reordered: after.reordered - before.reordered,
        duplicated: after.duplicated - before.duplicated,
        corrupted: after.corrupted - before.corrupted,
        tail_dropped: after.tail_dropped - before.tail_dropped,
        oversize: after.oversize - before.oversize,
        overflowed: after.overflowed - before.overflowed,
        rejected: after.rejected - before.rejected,
    }
}

#[test]
fn t03_both_ends_may_be_behind_bad_links() -> Result<()> {
    with_weft(|| {
        let mut world = World::new()?;
        let weft = world.weft(STAGE)?;
        for (turn, id) in ["none", "loss-1-1ms", "reorder-1"].into_iter().enumerate() {
            let case = Case::find(id)?;
            world.impair(case.impairment()?)?;
            for transfer in every_mode(&world, FAR, case, turn)? {
                assert_sound(&transfer, case)?;
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn a_link_that_is_dead_for_a_second_delays_a_transfer_and_does_not_end_it() -> Result<()> {
    with_weft(|| {
        let mut world = World::new()?;
        let weft = world.weft(STAGE)?;
        let slow: Impairment = "rate=200mbit queue=150000".parse()?;
        for mode in [Mode::Upload, Mode::Download] {
            world.impair(slow)?;
            let (client, start) = (world.client.pod.namespace.clone(), Instant::now());
            let to = weft_lab::tcp::service(NEAR, Family::V4);
            let running = thread::spawn(move || {
                weft_lab::tcp::transfer(&client, to, Wish::bytes(mode, 16 << 20))
            });
            thread::sleep(Duration::from_millis(200));
            world.client.impair("loss=100%".parse()?)?;
            thread::sleep(Duration::from_secs(1));
            world.client.impair(slow)?;
            let found = running.join().expect("a transfer does not panic")?;
            ensure!(found.longest_stall >= 900.0, "no stall: {found:?}");
            ensure!(start.elapsed() < WORST, "{found:?}");
        }
        weft.audit().map(drop)
    })
}

#[test]
fn a_path_that_becomes_narrower_is_found_out_in_the_middle_of_a_transfer() -> Result<()> {
    with_weft(|| {
        let mut world = World::new()?;
        let weft = world.weft(STAGE)?;
        world.impair("rate=200mbit queue=150000".parse()?)?;
        for family in Family::BOTH {
            world.client.path_mtu(1500)?;
            let client = world.client.pod.namespace.clone();
            let to = weft_lab::tcp::service(NEAR, family);
            let running = thread::spawn(move || {
                weft_lab::tcp::transfer(&client, to, Wish::bytes(Mode::Download, 16 << 20))
            });
            thread::sleep(Duration::from_millis(200));
            world.client.path_mtu(1300)?;
            let found = running.join().expect("a transfer does not panic");
            let found = found.with_context(|| format!("{family:?}"))?;
            ensure!(found.longest_stall < 2000.0, "{family:?}: {found:?}");
        }
        weft.audit().map(drop)
    })
}

#[test]
fn t04_full_length_transfers_over_a_good_link() -> Result<()> {
    with_weft(|| {
        let world = World::new()?;
        let weft = world.weft(STAGE)?;
        let (bytes, count) = if soak() {
            (1 << 30, 10_000)
        } else {
            (64 << 20, 500)
        };
        for (at, mode) in [Mode::Upload, Mode::Download, Mode::Both, Mode::Connections]
            .into_iter()
            .enumerate()
        {
            let wish = Wish {
                count,
                ..Wish::bytes(mode, bytes)
            };
            let found = world.transfer(NEAR, Family::BOTH[at % 2], wish)?;
            eprintln!("{}: {:.0} Mbit/s", mode.id(), found.goodput);
            // T-04: window updates are not held back, or each window of 64 KiB would wait for a delayed ACK.
            if mode != Mode::Connections {
                ensure!(found.goodput > 25.0, "{found:?}");
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn a_far_pod_is_as_far_as_its_link_says() -> Result<()> {
    with_root(|| {
        let mut world = World::new()?;
        world.kube_proxy()?;
        for (words, least, most) in [("", 0.0, 10.0), ("delay=10ms", 20.0, 30.0)] {
            world.client.impair(words.parse()?)?;
            let wish = Wish {
                count: 50,
                ..Wish::bytes(Mode::Ping, 0)
            };
            for family in Family::BOTH {
                let found = world.transfer(NEAR, family, wish)?;
                let p50 = found.round_trips.context("no pings")?.p50 / 1e3;
                ensure!(p50 >= least && p50 <= most, "{words}: {found:?}");
            }
        }
        world.client.impair("rate=50mbit queue=150000".parse()?)?;
        let found = world.transfer(NEAR, Family::V4, Wish::bytes(Mode::Download, 4 << 20))?;
        ensure!((20.0..50.0).contains(&found.goodput), "{found:?}");
        world.client.impair_down("loss=100%".parse()?)?;
        let Err(_) = world.client.pod.namespace.enter(|| {
            let to = weft_lab::tcp::service(NEAR, Family::V4);
            std::net::TcpStream::connect_timeout(&to, Duration::from_millis(200))
        })?
        else {
            bail!("a dead link carries")
        };
        // A narrow path is told to the sender, in the pod's name.
        world.client.impair(Impairment::default())?;
        world.client.path_mtu(1300)?;
        for family in Family::BOTH {
            world.transfer(NEAR, family, Wish::bytes(Mode::Download, 1 << 20))?;
        }
        Ok(())
    })
}
