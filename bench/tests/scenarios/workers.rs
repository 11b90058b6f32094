//! Workers: two of them on two queues with strays, an exact ledger, and rest when idle.

use crate::fixture::{Fixture, flawless, progress, web, with_weft};
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;
use weft_lab::client::Talk;
use weft_lab::lab::Family;
use weft_lab::machine::{pages_made, process_time};
use weft_lab::servers::PEER_PORT;
use weft_lab::wait::{START_LIMIT, wait_until};
use weft_lab::weft::{Weft, sum_of};

#[test]
fn two_workers_hand_over_strays_and_lose_nothing() -> Result<()> {
    with_weft(|| {
        // Several queues in the pods: a socket's cached queue then wins over the program's choice
        // for some frames, which arrive at the wrong worker.
        let fixture = Fixture::with_queues(4)?;
        let mut config = fixture.config();
        config.workers.cores = vec![0, 1];
        config.workers.fast_path = "off".into(); // All of it is for the workers.
        let weft = Weft::start(&fixture.lab, &config)?;
        let loads: Vec<_> = (0..3).flat_map(|_| fixture.loads(Duration::ZERO)).collect();
        let mut talks = Vec::new();
        for _ in 0..100 {
            for family in Family::BOTH {
                talks.push(Talk::open(
                    &fixture.client.namespace,
                    web(family, PEER_PORT),
                )?);
            }
        }
        for _ in 0..5 {
            for talk in &mut talks {
                assert_eq!(talk.ask()?.client, talk.local);
            }
        }
        progress(&loads, 100)?;
        flawless(loads)?;
        let status = weft.json(&["status"])?;
        let workers = status["workers"]
            .as_array()
            .context("no workers in the status")?;
        assert_eq!(workers.len(), 2, "{status}");
        for worker in workers {
            ensure!(
                sum_of(worker, "received") > 0,
                "a worker was idle: {worker}"
            );
        }
        ensure!(
            sum_of(&status["workers"], "handed_out") > 0,
            "no stray was handed over: {status}"
        );
        weft.audit().map(drop)
    })
}

#[test]
fn u08_the_ledger_is_exact_under_load_and_after_it() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let loads = fixture.loads(Duration::ZERO);
        for _ in 0..5 {
            progress(&loads, 100)?;
            weft.audit().context("under load")?;
        }
        flawless(loads)?;
        thread::sleep(Duration::from_millis(200));
        weft.audit().context("after the load").map(drop)
    })
}

#[test]
fn an_idle_node_takes_at_most_two_percent_of_a_core() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        config.workers.cores = vec![0, 1];
        let weft = Weft::start(&fixture.lab, &config)?;
        let loads = fixture.loads(Duration::from_millis(1));
        progress(&loads, 50)?;
        flawless(loads)?;
        thread::sleep(Duration::from_millis(500));
        let window = Duration::from_secs(3);
        let before = process_time(weft.pid()?)?;
        thread::sleep(window);
        let share = (process_time(weft.pid()?)? - before).as_secs_f64() / window.as_secs_f64();
        ensure!(share <= 0.02, "{:.1} % of a core while idle", share * 100.0);
        Ok(())
    })
}

/// Each packet that touches memory for the first time waits for the kernel to make it, a microsecond with small pages and up
/// to two milliseconds with huge ones (`transparent_hugepage`): a burst of new flows must not have all of the index made.
#[test]
fn new_flows_do_not_wait_for_memory() -> Result<()> {
    const FLOWS: u16 = 500;
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        config.workers.fast_path = "off".into();
        let weft = Weft::start(&fixture.lab, &config)?;
        let before = pages_made(weft.pid()?, "weft-worker-0")?;
        fixture.client.namespace.enter(|| -> Result<()> {
            for port in 20_000..20_000 + FLOWS {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
                socket.send_to(b"x", web(Family::V4, PEER_PORT))?;
            }
            Ok(())
        })??;
        wait_until("the flows", START_LIMIT, || {
            let status = weft.json(&["status"]);
            status.is_ok_and(|status| sum_of(&status["workers"], "flows") >= FLOWS.into())
        })?;
        let made = pages_made(weft.pid()?, "weft-worker-0")? - before;
        // Records of 192 bytes, one after the other, and what a worker needs once: far fewer than one for each flow.
        ensure!(made < 250, "{made} pages");
        Ok(())
    })
}
