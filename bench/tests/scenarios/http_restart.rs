//! The node process dies, or another takes its place, while clients speak HTTP through it.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, anyhow, ensure};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};
use weft_lab::config::Config;
use weft_lab::grpc::{Calls, ECHO, echo_request, filling, runtime};
use weft_lab::http::Connection;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::servers::{self, GRPC_PORT};
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// The service of gRPC.
const GRPC: u8 = 40;
/// Clients of each kind and family.
const CLIENTS: usize = 3;
/// Until when every client has been served again, from when the process is there again: a SYN that was lost is sent
/// again after a second, and once more after two. Twice that, for a busy machine.
const AGAIN: Duration = Duration::from_secs(8);

/// A client that asks all the time, on a new connection after every failure.
struct Client<'s> {
    /// Requests that were answered.
    answered: &'s AtomicU64,
    thread: ScopedJoinHandle<'s, Result<Vec<Instant>>>,
}

/// What all clients look at.
#[derive(Default)]
struct Shared {
    done: AtomicBool,
    answered: Vec<AtomicU64>,
}

impl Shared {
    fn new() -> Self {
        let clients = 2 * 2 * CLIENTS;
        Self {
            done: AtomicBool::new(false),
            answered: (0..clients).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Starts them all.
    fn start<'s>(&'s self, scope: &'s Scope<'s, '_>, namespace: &'s Namespace) -> Vec<Client<'s>> {
        let kinds = Family::BOTH
            .into_iter()
            .flat_map(|family| [(family, false), (family, true)]);
        let clients = self.answered.iter().zip(kinds.cycle());
        let clients = clients.map(|(answered, (family, grpc))| {
            let done = &self.done;
            let thread = scope.spawn(move || {
                namespace.enter(|| match grpc {
                    false => ask_http(to(family), done, answered),
                    true => ask_grpc((pick(&vips(GRPC), family), 80).into(), done, answered),
                })?
            });
            Client { answered, thread }
        });
        clients.collect()
    }
}

/// HTTP/1.1; when requests failed.
fn ask_http(to: SocketAddr, done: &AtomicBool, answered: &AtomicU64) -> Result<Vec<Instant>> {
    let (mut failures, mut connection) = (Vec::new(), None);
    while !done.load(Ordering::Relaxed) {
        let mut asked = || -> Result<Connection> {
            let mut taken: Connection = match connection.take() {
                Some(connection) => connection,
                None => Connection::open_here(to)?,
            };
            let answer = taken.get("/")?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(taken)
        };
        match asked() {
            Ok(taken) => {
                connection = Some(taken);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => failures.push(Instant::now()),
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(failures)
}

/// gRPC, whose client connects anew by itself.
fn ask_grpc(to: SocketAddr, done: &AtomicBool, answered: &AtomicU64) -> Result<Vec<Instant>> {
    runtime()?.block_on(async {
        let mut failures = Vec::new();
        let mut calls = Calls::open(to).await?;
        while !done.load(Ordering::Relaxed) {
            match calls.unary(ECHO, echo_request(100, 5_000)).await {
                Ok(said) => {
                    ensure!(said == filling(5_000), "{} bytes", said.len());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => failures.push(Instant::now()),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(failures)
    })
}

/// Waits until each client has been answered `more` times from now on.
fn progress(clients: &[Client], more: u64, limit: Duration) -> Result<()> {
    let goals = clients
        .iter()
        .map(|client| client.answered.load(Ordering::Relaxed) + more);
    let goals: Vec<u64> = goals.collect();
    wait_until("every client to be answered", limit, || {
        let mut pairs = clients.iter().zip(&goals);
        pairs.all(|(client, goal)| client.answered.load(Ordering::Relaxed) >= *goal)
    })
}

fn site() -> Result<(Site, Config)> {
    let mut site = Site::new()?;
    for pod in &site.fixture.backends {
        servers::grpc(&mut site.fixture.lab, &pod.namespace, &pod.name)?;
    }
    let mut config = site.config("")?;
    let service = config.service("grpc", GRPC, &[("tcp", 80, GRPC_PORT)]);
    service
        .select("web")
        .http("backend = { protocol = \"h2c\" }")?;
    config.workers.heartbeat = Some("100ms".into());
    Ok((site, config))
}

/// A fault under load, from which `fault` comes back when the process serves again; then nobody is refused any more.
fn under_load(site: &Site, fault: impl FnOnce() -> Result<Weft>) -> Result<Weft> {
    let shared = Shared::new();
    let namespace = &site.fixture.client.namespace;
    let idle = Family::BOTH.map(|family| -> Result<Connection> {
        let mut connection = Connection::open(namespace, to(family))?;
        connection.get("/")?;
        connection.send(b"GET /slow/9000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
        Ok(connection)
    });
    let weft = thread::scope(|scope| -> Result<Weft> {
        let clients = shared.start(scope, namespace);
        let done = || shared.done.store(true, Ordering::Relaxed);
        let outcome = (|| {
            progress(&clients, 20, AGAIN)?;
            let began = Instant::now();
            // Both ends are told, those too that only wait.
            let waiting = idle.map(|connection| {
                scope.spawn(move || -> Result<_> {
                    let end = connection?.rest().1.map_err(|error| error.kind());
                    Ok((end, Instant::now()))
                })
            });
            let weft = fault()?;
            progress(&clients, 1, AGAIN).context("after the fault")?;
            let again = Instant::now();
            progress(&clients, 50, AGAIN)?;
            for waited in waiting {
                let (end, at) = waited.join().map_err(|_| anyhow!("it panicked"))??;
                ensure!(end == Err(ErrorKind::ConnectionReset), "{end:?}");
                ensure!(at >= began, "before its time");
            }
            Ok((weft, began, again))
        })();
        done(); // Whatever came of it, so that the scope ends.
        let (weft, began, again) = outcome?;
        for client in clients {
            let failures = client
                .thread
                .join()
                .map_err(|_| anyhow!("a client panicked"))??;
            let misplaced = failures.iter().filter(|at| **at < began || **at > again);
            ensure!(misplaced.count() == 0, "requests failed without a fault");
        }
        Ok(weft)
    })?;
    // What went before is nowhere any more, and what was left of it ends with its clients.
    wait_until("all flows to be over", Duration::from_secs(5), || {
        weft.json(&["flows"]).is_ok_and(|flows| {
            let flows = flows["flows"].as_array();
            flows.is_some_and(|flows| flows.iter().all(|flow| flow["state"] == "closed"))
        })
    })?;
    weft.audit()?;
    Ok(weft)
}

#[test]
fn u06_after_a_crash_under_load_of_http_clients_are_served_again_and_nothing_is_left() -> Result<()>
{
    with_weft(|| {
        let (site, config) = site()?;
        let mut weft = Weft::start(&site.fixture.lab, &config)?;
        let mut weft = under_load(&site, || {
            weft.kill()?;
            drop(weft);
            Weft::start(&site.fixture.lab, &config)
        })?;
        ensure!(weft.stop()?.success(), "{}", weft.log());
        ensure!(!site.fixture.lab.pin_dir().exists(), "pins are left");
        Ok(())
    })
}

#[test]
fn after_an_upgrade_under_load_of_http_clients_are_served_again_and_nothing_is_left() -> Result<()>
{
    with_weft(|| {
        let (site, config) = site()?;
        let weft = Weft::start(&site.fixture.lab, &config)?;
        let pid = weft.pid()?;
        let mut weft = under_load(&site, || {
            let finished = weft.upgrade(&[])?;
            ensure!(finished.success(), "{}{}", finished.stdout, finished.stderr);
            let said: serde_json::Value = serde_json::from_str(&finished.stdout)?;
            // Those of clients, and those to endpoints.
            let reset = said["terminated_reset"].as_u64();
            ensure!(said["failed"].is_null() && reset >= Some(20), "{said}");
            Ok(weft)
        })?;
        assert_eq!(weft.pid()?, pid);
        ensure!(weft.stop()?.success(), "{}", weft.log());
        ensure!(!site.fixture.lab.pin_dir().exists(), "pins are left");
        Ok(())
    })
}
