//! The node process dies, stops or stands still: what it terminated is reset at once, or goes on (U-06).

use crate::fixture::{Fixture, with_weft};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use weft_lab::client::ANSWER_LIMIT;
use weft_lab::config::Config;
use weft_lab::lab::{Family, Pod, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::wait::{wait_for, wait_until};
use weft_lab::weft::{Weft, offline, sum_of};

/// Where the servers of these scenarios listen, and their services.
const PORT: u16 = 7900;
/// Until when every end of every connection must know, from the fault on.
const PROMPTLY: Duration = Duration::from_secs(1);
/// No end waits longer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(6);

/// A service, whose connections end in user space, and the one server behind it.
struct Served {
    name: &'static str,
    vip: u8,
    /// Whose address the server sees; the default when `None`.
    source: Option<&'static str>,
    pod: Pod,
    listener: TcpListener,
}

impl Served {
    fn new(name: &'static str, vip: u8, source: Option<&'static str>, pod: &Pod) -> Result<Self> {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT);
        Ok(Self {
            name,
            vip,
            source,
            pod: pod.clone(),
            listener: pod.namespace.enter(|| TcpListener::bind(any))??,
        })
    }

    /// By its own address, through a backend that sees the node, and one that is not enrolled.
    fn all(fixture: &Fixture) -> Result<[Self; 3]> {
        let [a, b, _] = &fixture.backends;
        Ok([
            Self::new("client", 31, Some("client"), a)?,
            Self::new("node", 32, Some("node"), b)?,
            Self::new("unenrolled", 33, None, &fixture.outsider)?,
        ])
    }

    fn at(&self, family: Family) -> SocketAddr {
        (pick(&vips(self.vip), family), PORT).into()
    }

    /// A new connection from `client`, and its other end.
    fn connect(&self, client: &Namespace, family: Family) -> Result<[TcpStream; 2]> {
        let to = self.at(family);
        let ours = client.enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))?;
        let mut ours = ours.with_context(|| format!("cannot connect to {} {to}", self.name))?;
        let (mut theirs, from) = self.accept()?;
        let seen = from.ip().to_canonical();
        let same = seen == ours.local_addr()?.ip();
        ensure!(
            same == (self.source != Some("node")),
            "{}: seen as {seen}",
            self.name
        );
        // There and back, so that nothing is half open.
        let mut word = [0; 4];
        for stream in [&ours, &theirs] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        ours.write_all(b"ping")?;
        theirs.read_exact(&mut word)?;
        theirs.write_all(b"pong")?;
        ours.read_exact(&mut word)?;
        Ok([ours, theirs])
    }

    fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        self.listener.set_nonblocking(true)?;
        let mut last = None;
        let accepted = wait_for("the server to accept", ANSWER_LIMIT, || {
            match self.listener.accept() {
                Ok(accepted) => Some(accepted),
                Err(error) => {
                    last = Some(error);
                    None
                }
            }
        });
        let (stream, from) = accepted.with_context(|| format!("{}: {last:?}", self.name))?;
        stream.set_nonblocking(false)?;
        Ok((stream, from))
    }
}

fn config(fixture: &Fixture, served: &[Served]) -> Config {
    let mut config = fixture.config();
    config.workers.heartbeat = Some("100ms".into());
    config.services.clear();
    for served in served {
        let service = config.service(served.name, served.vip, &[("tcp", PORT, PORT)]);
        service.serve_at(served.pod.ips).stage(Some("tcp"));
        if let Some(source) = served.source {
            service.source(source);
        }
    }
    config
}

/// What an end does when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing: it looks later.
    Idle,
    /// It is blocked in a read.
    Waiting,
    /// It writes as fast as it can.
    Writing,
}

/// One end of a connection. Gives when it failed, and how.
struct End {
    what: String,
    role: Role,
    outcome: JoinHandle<(Instant, std::io::Error)>,
}

impl End {
    fn watch(what: String, role: Role, mut stream: TcpStream, look: Instant) -> Self {
        let outcome = thread::spawn(move || {
            let mut buffer = vec![7; 1 << 16];
            loop {
                let done = match role {
                    Role::Idle => {
                        thread::sleep(look.saturating_duration_since(Instant::now()));
                        let _ = stream.set_nonblocking(true);
                        stream.read(&mut buffer)
                    }
                    Role::Waiting => stream.read(&mut buffer),
                    Role::Writing => stream.write(&buffer),
                };
                let error = match done {
                    Ok(0) => ErrorKind::UnexpectedEof.into(),
                    Ok(_) => continue,
                    Err(error) => error,
                };
                return (Instant::now(), error);
            }
        });
        Self {
            what,
            role,
            outcome,
        }
    }
}

/// Connections of every kind, in both families, to every service.
fn occupy(fixture: &Fixture, served: &[Served], look: Instant) -> Result<Vec<End>> {
    let roles = [
        [Role::Idle, Role::Idle],
        [Role::Waiting, Role::Waiting],
        [Role::Writing, Role::Waiting],
        [Role::Waiting, Role::Writing],
    ];
    let mut ends = Vec::new();
    for served in served {
        for family in Family::BOTH {
            for roles in roles {
                let streams = served.connect(&fixture.client.namespace, family)?;
                for ((stream, role), side) in
                    streams.into_iter().zip(roles).zip(["client", "server"])
                {
                    let what = format!("{} {family:?} {roles:?} {side}", served.name);
                    ends.push(End::watch(what, role, stream, look));
                }
            }
        }
    }
    Ok(ends)
}

/// Every end was reset, within that time of the fault.
fn assert_reset(ends: Vec<End>, fault: Instant, limit: Duration) -> Result<()> {
    let mut wrong = Vec::new();
    for end in ends {
        let Ok((at, error)) = end.outcome.join() else {
            bail!("{}: the thread panicked", end.what);
        };
        let took = at.saturating_duration_since(fault);
        let early = at < fault;
        let late = end.role != Role::Idle && took > limit;
        if early || late || error.kind() != ErrorKind::ConnectionReset {
            wrong.push(format!(
                "{}: {error} after {took:?}, early: {early}",
                end.what
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Until the ends are set up, and the loads run.
const SETTLE: Duration = Duration::from_millis(300);

/// The children of a process.
fn children(pid: i32) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(
            list.split_whitespace()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?)),
        );
    }
    Ok(found)
}

/// The guard of a node process, once it is ready.
fn guard(weft: &Weft) -> Result<Pid> {
    let pid = weft.pid()?;
    let named = |pid: &Pid| {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        name.is_ok_and(|name| name.trim() == "weft-guard")
    };
    wait_for("the guard", Duration::from_secs(1), || {
        children(pid).ok()?.into_iter().find(named)
    })
}

/// Waits until it has ended. Its parent may be dead, and whoever inherits it may not have looked yet.
fn gone(pid: Pid) -> Result<()> {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    wait_until("the guard to end", Duration::from_secs(4), || {
        std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    })
}

#[test]
fn u06_a_killed_process_resets_its_connections_within_a_second() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let served = Served::all(&fixture)?;
        let config = config(&fixture, &served);
        let mut weft = Weft::start(&fixture.lab, &config)?;
        let guard = guard(&weft)?;
        let look = Instant::now() + Duration::from_secs(5);
        let ends = occupy(&fixture, &served, look)?;
        thread::sleep(SETTLE);
        let fault = Instant::now();
        ensure!(fault + PROMPTLY < look, "the set-up took too long");
        weft.kill()?;
        let checked = assert_reset(ends, fault, PROMPTLY);
        checked.with_context(|| weft.log())?;
        gone(guard)?;
        let log = weft.log();
        ensure!(log.contains("silent=0"), "{log}");
        drop(weft);
        let weft = Weft::start(&fixture.lab, &config)?;
        for served in &served {
            for family in Family::BOTH {
                served.connect(&fixture.client.namespace, family)?;
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn u06_a_clean_stop_resets_its_connections_within_a_second() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let served = Served::all(&fixture)?;
        let mut weft = Weft::start(&fixture.lab, &config(&fixture, &served))?;
        let guard = guard(&weft)?;
        let look = Instant::now() + Duration::from_secs(5);
        let ends = occupy(&fixture, &served, look)?;
        thread::sleep(SETTLE);
        let fault = Instant::now();
        // The guard does not mind: it waits for what becomes of the process.
        kill_process(guard, Signal::TERM)?;
        ensure!(weft.stop()?.success(), "{}", weft.log());
        ensure!(!weft.log().contains("guard"), "{}", weft.log());
        gone(guard)?;
        assert_reset(ends, fault, PROMPTLY)
    })
}

/// Nobody is left to tell idle peers, until the next start does.
#[test]
fn u06_a_start_resets_what_a_process_and_its_guard_left() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let served = Served::all(&fixture)?;
        let config = config(&fixture, &served);
        let mut weft = Weft::start(&fixture.lab, &config)?;
        let look = Instant::now() + Duration::from_secs(5);
        let mut ends = Vec::new();
        for served in &served {
            for family in Family::BOTH {
                let streams = served.connect(&fixture.client.namespace, family)?;
                for (stream, role) in streams.into_iter().zip([Role::Idle, Role::Waiting]) {
                    let what = format!("{} {family:?} {role:?}", served.name);
                    ends.push(End::watch(what, role, stream, look));
                }
            }
        }
        let guard = guard(&weft)?;
        weft.signal(Signal::STOP)?; // So that it does not replace the guard.
        kill_process(guard, Signal::KILL)?;
        weft.kill()?;
        thread::sleep(SETTLE);
        let fault = Instant::now();
        drop(weft);
        let weft = Weft::start(&fixture.lab, &config)?;
        let log = weft.log();
        ensure!(log.contains("reset the terminated connections"), "{log}");
        assert_reset(ends, fault, PROMPTLY + Duration::from_secs(1))?;
        for served in &served {
            served.connect(&fixture.client.namespace, Family::V4)?;
        }
        weft.audit().map(drop)
    })
}

#[test]
fn u06_a_cleanup_resets_what_a_process_and_its_guard_left() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let served = Served::all(&fixture)?;
        let mut weft = Weft::start(&fixture.lab, &config(&fixture, &served))?;
        let look = Instant::now() + Duration::from_secs(3);
        let ends = occupy(&fixture, &served, look)?;
        let guard = guard(&weft)?;
        weft.signal(Signal::STOP)?;
        kill_process(guard, Signal::KILL)?;
        let fault = Instant::now();
        weft.kill()?;
        let cleaned = offline(&fixture.lab, &["cleanup"])?;
        ensure!(cleaned.success(), "{}", cleaned.stderr);
        assert_reset(ends, fault, PROMPTLY)
    })
}

/// A guard that dies is replaced, and the new one does as well.
#[test]
fn u06_a_guard_that_dies_is_replaced() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let served = Served::all(&fixture)?;
        let mut weft = Weft::start(&fixture.lab, &config(&fixture, &served))?;
        let first = guard(&weft)?;
        kill_process(first, Signal::KILL)?;
        let second = wait_for("another guard", Duration::from_secs(2), || {
            guard(&weft).ok().filter(|pid| *pid != first)
        })?;
        let look = Instant::now() + Duration::from_secs(3);
        let ends = occupy(&fixture, &served, look)?;
        let fault = Instant::now();
        weft.kill()?;
        assert_reset(ends, fault, PROMPTLY)?;
        gone(second)
    })
}

/// Longer than the heartbeat limit, shorter than ten of them.
#[test]
fn u06_a_pause_under_load_resets_nothing() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let served = Served::all(&fixture)?;
        let weft = Weft::start(&fixture.lab, &config(&fixture, &served))?;
        let mut talks = Vec::new();
        for served in &served {
            for family in Family::BOTH {
                talks.push(served.connect(&fixture.client.namespace, family)?);
            }
        }
        let until = Instant::now() + Duration::from_millis(2500);
        let talking: Vec<JoinHandle<Result<u64>>> = talks
            .into_iter()
            .map(|[mut client, mut server]| {
                thread::spawn(move || {
                    let (mut word, mut turns) = ([1; 1024], 0);
                    while Instant::now() < until {
                        client.write_all(&word).context("client")?;
                        server.read_exact(&mut word).context("server")?;
                        server.write_all(&word).context("server")?;
                        client.read_exact(&mut word).context("client")?;
                        turns += 1;
                    }
                    Ok(turns)
                })
            })
            .collect();
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(200));
            weft.signal(Signal::STOP)?;
            thread::sleep(Duration::from_millis(300));
            weft.signal(Signal::CONT)?;
        }
        for talk in talking {
            let turns = talk
                .join()
                .map_err(|_| anyhow::anyhow!("a talk panicked"))??;
            ensure!(turns > 10, "{turns} turns");
        }
        let status = weft.json(&["status"])?;
        let dropped = sum_of(&status, "from_pod_orphan") + sum_of(&status, "to_pod_orphan");
        ensure!(dropped > 0, "the pauses met no packet");
        weft.audit().map(drop)
    })
}
