//! Services whose connections are terminated in user space: what backends, clients and the node's kernel see of it.

use crate::fixture::{Fixture, WEB, soak, web, with_weft};
use crate::tcp_links::STAGE;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use weft_lab::client::{ANSWER_LIMIT, Talk, connect_from};
use weft_lab::command::run;
use weft_lab::config::Config;
use weft_lab::conntrack;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::servers::PEER_PORT;
use weft_lab::snapshot::Snapshot;
use weft_lab::weft::Weft;

/// A second service of the same backends.
const OTHER: u8 = 42;

/// The web service and another one, on one backend, at the stage that is tested.
fn config(fixture: &Fixture) -> Config {
    let mut config = fixture.config();
    config.workers.heartbeat = Some("5s".into());
    config.service("other", OTHER, &[("tcp", PEER_PORT, PEER_PORT)]);
    for service in &mut config.services {
        service.serve_at(fixture.backends[0].ips).stage(STAGE);
    }
    config
}

/// What the node's kernel has to do with TCP.
#[derive(Debug, PartialEq)]
struct Kernel {
    sockets: String,
    tracked: u64,
    /// Connections opened, segments in and out, resets (SNMP).
    tcp: BTreeMap<String, u64>,
}

impl Kernel {
    fn of(node: &Namespace) -> Result<Self> {
        let snmp = node.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let (names, values) = (lines.next(), lines.next());
        let names = names.context("no Tcp line")?.split_whitespace();
        let values = values.context("no Tcp line")?.split_whitespace();
        let tcp = names
            .zip(values)
            .filter(|(name, _)| {
                name.ends_with("Opens") || name.contains("Segs") || name.contains("Rsts")
            })
            .map(|(name, value)| Ok((name.to_owned(), value.parse()?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            sockets: run(node.command("ss").args(["-Hnat"]))?,
            tracked: conntrack::count(node)?,
            tcp,
        })
    }
}

#[test]
fn u03_scr06_a_proxied_connection_leaves_nothing_in_the_nodes_kernel() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        // Rules for the same service: what went through the kernel would be tracked.
        fixture.install_shadow_rules()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture))?;
        let node = &fixture.lab.node;
        let (kernel, before) = (Kernel::of(node)?, Snapshot::take(&fixture.lab)?);
        ensure!(kernel.sockets.is_empty(), "{kernel:?}");

        let mut talks = Vec::new();
        for _ in 0..if soak() { 2000 } else { 100 } {
            for family in Family::BOTH {
                let to = web(family, PEER_PORT);
                talks.push(Talk::open(&fixture.client.namespace, to)?);
            }
        }
        assert_eq!(Kernel::of(node)?, kernel, "with connections");
        let changes = before.difference(&Snapshot::take(&fixture.lab)?);
        ensure!(changes.is_empty(), "{changes:#?}");

        // Rules come and go, and nothing of that concerns these connections.
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            for table in ["nat", "filter"] {
                run(node.command(program).args(["-w", "5", "-t", table, "-F"]))?;
            }
        }
        run(node.command("nft").args(["flush", "ruleset"]))?;
        for talk in &mut talks {
            talk.ask().context("after the rules had gone")?;
        }
        for family in Family::BOTH {
            Talk::open(&fixture.client.namespace, web(family, PEER_PORT))?;
        }
        assert_eq!(Kernel::of(node)?, kernel, "after all of it");
        weft.audit().map(drop)
    })
}

#[test]
fn u02_backends_see_the_clients_address_and_port() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture))?;
        for _ in 0..if soak() { 5000 } else { 100 } {
            for family in Family::BOTH {
                let talk = Talk::open(&fixture.client.namespace, web(family, PEER_PORT))?;
                assert_eq!(talk.greeting.client, talk.local);
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn u02_one_port_of_a_client_towards_two_services_and_their_backend_itself() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture))?;
        let client = &fixture.client.namespace;
        for (family, port) in Family::BOTH.into_iter().zip([20_001, 20_002]) {
            let services = [WEB, OTHER].map(|n| SocketAddr::new(pick(&vips(n), family), PEER_PORT));
            let backend = fixture.backends[0].at(family, PEER_PORT);
            let mut first = Talk::open_from(client, port, services[0])?;
            assert_eq!(first.greeting.client, first.local);
            let mut second = Talk::open_from(client, port, services[1])?;
            assert_eq!(second.greeting.client.ip(), second.local.ip());
            assert_ne!(
                second.greeting.client.port(),
                port,
                "there is one such tuple"
            );
            // The client's own connection to the backend would have that tuple, too.
            let mut own = Talk::open_from(client, port + 10, backend)?;
            assert_eq!(own.greeting.client, own.local);
            let mut third = Talk::open_from(client, port + 10, services[0])?;
            assert_eq!(third.greeting.client.ip(), third.local.ip());
            for talk in [&mut first, &mut second, &mut own, &mut third] {
                assert_eq!(talk.ask()?, talk.greeting);
            }
        }
        weft.audit().map(drop)
    })
}

/// A connection that has been served, and that nobody says anything on.
fn idle(fixture: &Fixture, family: Family) -> Result<TcpStream> {
    let to = web(family, PEER_PORT);
    let stream = fixture
        .client
        .namespace
        .enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))??;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut greeting = [0; 64];
    ensure!((&stream).read(&mut greeting)? > 0, "no greeting");
    Ok(stream)
}

#[test]
fn a_node_process_that_stops_resets_the_connections_that_end_in_it() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut weft = Weft::start(&fixture.lab, &config(&fixture))?;
        let mut streams = Vec::new();
        for _ in 0..20 {
            for family in Family::BOTH {
                streams.push(idle(&fixture, family)?);
            }
        }
        let start = Instant::now();
        ensure!(weft.stop()?.success(), "{}", weft.log());
        for mut stream in streams {
            // Nobody has to say anything to learn of it.
            let end = stream.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(end, Err(ErrorKind::ConnectionReset));
        }
        ensure!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        // The backend's ends are gone as well.
        let left = run(fixture.backends[0].namespace.command("ss").args([
            "-Hnt",
            "state",
            "established",
        ]))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

#[test]
fn amb11_a_change_of_the_stage_concerns_new_connections_only() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = Weft::start(&fixture.lab, &config(&fixture))?;
        let client = &fixture.client.namespace;
        let mut talks: Vec<Talk> = Vec::new();
        let mut ended = 0;
        for stage in ["tcp", "l4", "tcp", "l4"] {
            let mut config = config(&fixture);
            for service in &mut config.services {
                service.stage(Some(stage));
            }
            weft.reload(&config)?;
            for family in Family::BOTH {
                for _ in 0..10 {
                    let talk = Talk::open(client, web(family, PEER_PORT))?;
                    assert_eq!(talk.greeting.client, talk.local, "{stage}");
                    talks.push(talk);
                }
            }
            ended += if stage == "tcp" { 20 } else { 0 };
            assert_eq!(weft.counter("accepted")?, ended, "{stage}");
            for talk in &mut talks {
                assert_eq!(talk.ask().context(stage)?, talk.greeting);
            }
        }
        weft.audit().map(drop)
    })
}

/// A request to nginx, which closes first, so that TIME-WAIT is on its side; how long that took.
fn http_from(client: &Namespace, port: u16, to: SocketAddr) -> Result<Duration> {
    client.enter(|| {
        let started = Instant::now();
        let mut stream = connect_from(port, to)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(started.elapsed())
    })?
}

#[test]
fn a_tuple_that_the_backend_has_in_time_wait_is_taken_again_at_once_also_after_a_restart()
-> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let config = config(&fixture);
        let mut weft = Weft::start(&fixture.lab, &config)?;
        for round in 0..6 {
            // Another process has another secret, and so other initial numbers.
            match round {
                2 => _ = weft.stop()?,
                4 => weft.kill()?,
                _ => {}
            }
            if round == 2 || round == 4 {
                weft = Weft::start(&fixture.lab, &config)?;
            }
            for family in Family::BOTH {
                for port in 40_000..40_010 {
                    let took = http_from(&fixture.client.namespace, port, web(family, 80))
                        .with_context(|| format!("round {round}, port {port}"))?;
                    // A SYN that is not taken comes again after a second.
                    ensure!(took < Duration::from_millis(900), "round {round}: {took:?}");
                }
            }
        }
        let waiting =
            run(fixture.backends[0]
                .namespace
                .command("ss")
                .args(["-Hnat", "state", "time-wait"]))?;
        ensure!(
            waiting.contains(":4000"),
            "nothing was in TIME-WAIT:\n{waiting}"
        );
        weft.audit().map(drop)
    })
}

#[test]
fn with_source_node_a_backend_sees_the_node() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = config(&fixture);
        for service in &mut config.services {
            service.source("node");
        }
        let weft = Weft::start(&fixture.lab, &config)?;
        for family in Family::BOTH {
            let mut talks = (0..20)
                .map(|_| Talk::open(&fixture.client.namespace, web(family, PEER_PORT)))
                .collect::<Result<Vec<_>>>()?;
            for talk in &mut talks {
                assert_ne!(talk.greeting.client.ip(), fixture.client.ip(family));
                assert_eq!(talk.ask()?, talk.greeting);
            }
        }
        weft.audit().map(drop)
    })
}
