//! Services that are served at layer 7: real clients and servers in pods, and the HTTP stage between them.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;
use weft_lab::client::Talk;
use weft_lab::config::{Config, Endpoint};
use weft_lab::http::Connection;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::servers::PEER_PORT;
use weft_lab::tools::web::{digest, is_pattern};
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// Flows of a kind that are not over.
fn open_flows(weft: &Weft, kind: &str) -> Result<usize> {
    let flows = weft.json(&["flows"])?;
    let flows = flows["flows"].as_array().context("no flows")?;
    let open = flows
        .iter()
        .filter(|flow| flow["kind"] == kind && flow["state"] != "closed");
    Ok(open.count())
}

#[test]
fn amb08_u02_backends_see_the_clients_address_and_the_client_the_vip() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        for family in Family::BOTH {
            let mut connection = Connection::open(&site.fixture.client.namespace, to(family))?;
            assert_eq!(connection.peer()?, to(family));
            let local = connection.local()?;
            // Requests of one connection go to every endpoint, from the client's own address.
            let mut servers = std::collections::BTreeSet::new();
            for _ in 0..40 {
                let answer = connection.get("/")?;
                assert_eq!(
                    (answer.word(1), answer.word(2)),
                    (local.ip().to_string(), local.port().to_string())
                );
                servers.insert(answer.word(0));
            }
            assert_eq!(servers.len(), 3, "{servers:?}");
            assert_eq!(connection.get("/")?.word(6), "xff=-");
        }
        weft.audit().map(drop)
    })
}

#[test]
fn amb08_with_source_node_backends_see_the_node_and_are_told_the_client() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config("")?;
        config.services[0].source("node");
        let weft = Weft::start(&site.fixture.lab, &config)?;
        for family in Family::BOTH {
            let client = site.fixture.client.ip(family);
            let mut ports = std::collections::BTreeSet::new();
            for _ in 0..60 {
                let answer = site.curl(family, &[], "/")?;
                assert_ne!(answer.word(1), client.to_string());
                assert_eq!(answer.word(6), format!("xff={client}"));
                ports.insert((answer.word(0), answer.word(2)));
            }
            // A connection to each server is enough for clients that come one after another.
            ensure!(ports.len() <= 6, "{ports:?}");
        }
        weft.audit().map(drop)
    })
}

#[test]
fn large_bodies_arrive_both_ways_whole() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        let body: Vec<u8> = (0..20_000_000u32)
            .map(|at| (at ^ (at >> 11)) as u8)
            .collect();
        let path = site.fixture.lab.directory().join("body");
        fs::write(&path, &body)?;
        let file = format!("@{}", path.display());
        for family in Family::BOTH {
            for how in [&["-H", "Transfer-Encoding: chunked"][..], &[]] {
                let words = [how, &["--data-binary", &file]].concat();
                let answer = site.curl(family, &words, "/")?;
                assert_eq!(
                    (answer.status, answer.word(8)),
                    (200, format!("body={}", digest(&body)))
                );
            }
            let mut connection = Connection::open(&site.fixture.client.namespace, to(family))?;
            for length in [0, 1, 100_000, 30_000_000] {
                let answer = connection.get(&format!("/bytes/{length}"))?;
                assert_eq!(answer.body.len(), length);
                ensure!(is_pattern(&answer.body), "{length} bytes, and not those");
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn http2_by_prior_knowledge_and_upgrades_pass() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config("[backend]\nprotocol = \"http1\"\n")?;
        config.services[0].source("client");
        let weft = Weft::start(&site.fixture.lab, &config)?;
        for family in Family::BOTH {
            let answer = site.curl(family, &["--http2-prior-knowledge"], "/")?;
            ensure!(
                answer.status == 200 && answer.head.starts_with("HTTP/2 200"),
                "{answer:?}"
            );
            let mut connection = Connection::open(&site.fixture.client.namespace, to(family))?;
            connection.send(b"GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")?;
            let answer = connection.answer()?;
            assert_eq!(answer.status, 101, "{answer:?}");
            for said in [&b"hello"[..], &[0x81; 3_000], &[0; 100_000]] {
                connection.send(said)?;
                ensure!(connection.read(said.len())? == said, "not what was said");
            }
        }
        weft.audit().map(drop)
    })
}

/// What two readers could take differently; every one names a target that must not be reached.
const SMUGGLING: &[&str] = &[
    "POST /smuggled HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /smuggled HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "POST /smuggled HTTP/1.1\r\nHost: web\r\nContent-Length: +4\r\n\r\nabcd",
    "POST /smuggled HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /smuggled HTTP/1.1\r\nHost: web\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST /smuggled HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: web\r\nX: a\r\n b\r\n\r\n",
    "GET /smuggled HTTP/1.1\nHost: web\n\n",
    "GET /smuggled HTTP/1.1\r\nHost: web\r\nX: a\rb\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: web\r\nHost: other\r\n\r\n",
    "GET http://other/smuggled HTTP/1.1\r\nHost: web\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\n\r\n",
    "GET /a/../smuggled HTTP/1.1\r\nHost: web\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: web\r\nX: a\0b\r\n\r\n",
];

#[test]
fn smuggling_gets_400_and_never_reaches_a_server() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        for family in Family::BOTH {
            for probe in SMUGGLING {
                let mut connection = Connection::open(&site.fixture.client.namespace, to(family))?;
                // Behind a sound request, so that a connection to a server is there to be abused.
                assert_eq!(connection.get("/sound")?.status, 200);
                connection.send(probe.as_bytes())?;
                let answer = connection.answer().with_context(|| format!("{probe:?}"))?;
                assert_eq!(answer.status, 400, "{probe:?}: {answer:?}");
                let (rest, _) = connection.rest();
                assert!(rest.is_empty(), "{probe:?}");
            }
        }
        let seen = site.seen()?;
        ensure!(
            seen.contains("/sound") && !seen.contains("smuggled"),
            "{seen}"
        );
        weft.audit().map(drop)
    })
}

#[test]
fn a_response_that_breaks_off_does_not_look_whole_and_a_server_that_is_gone_is_answered_for()
-> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config("")?;
        // Nobody listens at the second service's port.
        config
            .service("deaf", 30, &[("tcp", 80, 9)])
            .serve_at(site.fixture.backends[0].ips)
            .http("")?;
        let weft = Weft::start(&site.fixture.lab, &config)?;
        for family in Family::BOTH {
            let mut connection = Connection::open(&site.fixture.client.namespace, to(family))?;
            connection.send(b"GET /cut/100000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
            let (read, end) = connection.rest();
            ensure!(
                read.starts_with(b"HTTP/1.1 200") && read.len() < 200_000,
                "{}",
                read.len()
            );
            let end = end.map_err(|error| error.kind());
            assert_eq!(end, Err(ErrorKind::ConnectionReset));
            let deaf = std::net::SocketAddr::new(
                config.services.last().context("a service")?.cluster_ips[family as usize],
                80,
            );
            let mut connection = Connection::open(&site.fixture.client.namespace, deaf)?;
            assert_eq!(connection.get("/")?.status, 503);
            assert_eq!(
                connection.get("/")?.status,
                503,
                "the client's connection is none the worse"
            );
        }
        weft.audit().map(drop)
    })
}

#[test]
fn amb11_a_change_of_the_stage_concerns_new_connections_only() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let config = |stage: &str| -> Result<_> {
            let mut config = site.config("")?;
            config.services[0].stage(Some(stage));
            Ok(config)
        };
        let weft = Weft::start(&site.fixture.lab, &config("http")?)?;
        let mut connections = Vec::new();
        for stage in ["http", "l4", "http", "tcp", "http", "l4", "tcp"] {
            weft.reload(&config(stage)?)?;
            for family in Family::BOTH {
                for _ in 0..5 {
                    let mut connection =
                        Connection::open(&site.fixture.client.namespace, to(family))?;
                    connection.get("/")?;
                    connections.push(connection);
                }
            }
            for connection in &mut connections {
                let answer = connection.get("/").context(stage)?;
                assert_eq!(
                    answer.word(1),
                    connection.local()?.ip().to_string(),
                    "{stage}"
                );
            }
        }
        assert_eq!(open_flows(&weft, "client")?, 30);
        weft.audit().map(drop)
    })
}

/// What becomes of a site's configuration.
type Change = fn(&mut Config);

/// What is under way ends as it would have, whatever becomes of its service, and connections that are there are answered on.
#[test]
fn amb11_what_is_under_way_outlives_every_change_of_its_service() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        // What becomes of a service, and what the next request on a connection is answered.
        let changes: [(&str, Change, u16); 5] = [
            ("l4", |config| _ = config.services[0].stage(Some("l4")), 200),
            (
                "tcp",
                |config| _ = config.services[0].stage(Some("tcp")),
                200,
            ),
            (
                "other",
                |config| _ = config.services[0].select("other"),
                503,
            ),
            ("none", |config| _ = config.services[0].serve_at([]), 503),
            ("gone", |config| _ = config.services.remove(0), 503),
        ];
        let weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        for (name, change, then) in changes {
            weft.reload(&site.config("")?)?;
            let mut sets = Vec::new();
            for family in Family::BOTH {
                let open = || Connection::open(&site.fixture.client.namespace, to(family));
                let (mut slow, mut large, mut upload) = (open()?, open()?, open()?);
                slow.send(b"GET /slow/1000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
                large.send(b"GET /bytes/20000000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
                large.read(1_000_000)?;
                upload.send(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\n")?;
                upload.send(&[b'x'; 500_000])?;
                sets.push((slow, large, upload, open()?));
            }
            std::thread::sleep(Duration::from_millis(100)); // The servers have it.
            let mut config = site.config("")?;
            change(&mut config);
            weft.reload(&config)?;
            for (slow, large, upload, silent) in &mut sets {
                upload.send(&[b'x'; 500_000])?;
                assert_eq!(slow.answer().context(name)?.status, 200, "{name}");
                let digest = format!("body={}", digest(&[b'x'; 1_000_000]));
                assert_eq!(upload.answer().context(name)?.word(8), digest, "{name}");
                large.read(19_000_000).context(name)?;
                assert_eq!(silent.get("/").context(name)?.status, then, "{name}");
            }
            drop(sets);
            wait_until("all flows to be over", Duration::from_secs(5), || {
                let open = |kind| open_flows(&weft, kind).unwrap_or(1);
                open("client") + open("upstream") == 0
            })?;
        }
        weft.audit().map(drop)
    })
}

#[test]
fn k24_requests_follow_the_states_of_endpoints_on_connections_that_are_there() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let addresses = site.fixture.backends.iter().flat_map(|pod| pod.ips);
        let addresses: Vec<_> = addresses.collect();
        let config = |change: fn(&mut Endpoint)| -> Result<Config> {
            let mut config = site.config("")?;
            config.services[0].serve_at(addresses.clone());
            let endpoints = config.services[0]
                .endpoints
                .as_mut()
                .context("no endpoints")?;
            endpoints[..2].iter_mut().for_each(change); // Both addresses of the first pod.
            Ok(config)
        };
        let weft = Weft::start(&site.fixture.lab, &config(|_| {})?)?;
        let client = &site.fixture.client.namespace;
        let mut connections = Vec::new();
        for family in Family::BOTH {
            connections.push(Connection::open(client, to(family))?);
        }
        let mut servers = |wanted: usize| -> Result<()> {
            for connection in &mut connections {
                let asked = (0..40).map(|_| Ok(connection.get("/")?.word(0)));
                let seen = asked.collect::<Result<std::collections::BTreeSet<_>>>()?;
                ensure!(
                    seen.len() == wanted && seen.contains("a") == (wanted == 3),
                    "{seen:?}"
                );
            }
            Ok(())
        };
        servers(3)?;
        weft.reload(&config(|endpoint| endpoint.terminating = Some(true))?)?;
        servers(2)?;
        weft.reload(&config(|endpoint| endpoint.ready = Some(false))?)?;
        servers(2)?;
        weft.reload(&config(|_| {})?)?;
        servers(3)?;
        weft.audit().map(drop)
    })
}

#[test]
fn env02_a_server_that_speaks_first_is_passed_on() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config("")?;
        let more = "[http]\ntcp = true\ndetect_timeout = \"200ms\"\n";
        let ports = [("tcp", PEER_PORT, PEER_PORT)];
        config
            .service("peer", 31, &ports)
            .select("web")
            .http(more)?;
        let ips = vips(31);
        let weft = Weft::start(&site.fixture.lab, &config)?;
        for family in Family::BOTH {
            let to = std::net::SocketAddr::new(pick(&ips, family), PEER_PORT);
            let mut talk = Talk::open(&site.fixture.client.namespace, to)?;
            assert_eq!(talk.greeting.client, talk.local);
            for _ in 0..3 {
                assert_eq!(talk.ask()?, talk.greeting);
            }
        }
        assert_eq!(weft.counter("tunnels")?, 2);
        weft.audit().map(drop)
    })
}

#[test]
fn k23_connections_end_with_their_peers_and_no_flow_is_left() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        let mut connections = Vec::new();
        for family in Family::BOTH {
            for _ in 0..30 {
                let mut connection = Connection::open(&site.fixture.client.namespace, to(family))?;
                connection.get("/")?;
                connections.push(connection);
            }
        }
        assert_eq!(open_flows(&weft, "client")?, 60);
        assert_eq!(open_flows(&weft, "upstream")?, 60);
        drop(connections);
        wait_until("all flows to be over", Duration::from_secs(5), || {
            let open = |kind| open_flows(&weft, kind).unwrap_or(1);
            open("client") + open("upstream") == 0
        })?;
        weft.audit().map(drop)
    })
}

#[test]
fn a_clean_stop_lets_requests_finish_and_ends_connections_in_order() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut weft = Weft::start(&site.fixture.lab, &site.config("")?)?;
        let open = || Connection::open(&site.fixture.client.namespace, to(Family::V4));
        let (mut idle, mut busy, mut silent) = (open()?, open()?, open()?);
        idle.get("/")?;
        busy.send(b"GET /slow/700 HTTP/1.1\r\nHost: web\r\n\r\n")?;
        std::thread::sleep(Duration::from_millis(100)); // The server has it.
        ensure!(weft.stop()?.success(), "{}", weft.log());
        let answer = busy.answer()?;
        ensure!(answer.status == 200, "{answer:?}");
        let ends = [&mut idle, &mut busy].map(|connection| connection.rest());
        for (rest, end) in ends {
            ensure!(rest.is_empty() && end.is_ok(), "{end:?}");
        }
        // One on which nothing was said has nothing to lose.
        let end = silent.rest().1;
        assert_eq!(
            end.map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionReset)
        );
        Ok(())
    })
}

#[test]
fn two_workers_share_a_service_and_each_keeps_its_connections() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        for source in ["client", "node"] {
            let mut config = site.config("")?;
            config.workers.cores = vec![0, 1];
            config.services[0].source(source);
            let weft = Weft::start(&site.fixture.lab, &config)?;
            let mut connections = Vec::new();
            for family in Family::BOTH {
                for _ in 0..30 {
                    let client = &site.fixture.client.namespace;
                    connections.push(Connection::open(client, to(family))?);
                }
            }
            for _ in 0..5 {
                for connection in &mut connections {
                    assert_eq!(connection.get("/")?.status, 200, "{source}");
                }
            }
            // Each worker has some of them.
            let status = weft.json(&["status"])?;
            let workers = status["workers"].as_array().context("no workers")?;
            let served = workers
                .iter()
                .all(|worker| worker["tcp"]["connections"].as_u64() > Some(0));
            ensure!(served && workers.len() == 2, "{status}");
            weft.audit()?;
        }
        Ok(())
    })
}
