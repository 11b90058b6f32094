//! Endpoints that turn, leave and come back, under live flows (SVC-11, -23, -24, -27).

use crate::fixture::{Fixture, web, with_weft};
use anyhow::{Context, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use weft_lab::client::{ANSWER_LIMIT, Datagrams, Refusal, Talk, ask_tcp, ask_udp, udp_refusal};
use weft_lab::config::{Config, Endpoint};
use weft_lab::lab::{Family, Pod};
use weft_lab::servers::PEER_PORT;
use weft_lab::weft::Weft;

/// The web service on these pods by address.
fn on(fixture: &Fixture, pods: &[&Pod]) -> Config {
    let mut config = fixture.config_by_address();
    let addresses: Vec<_> = pods.iter().flat_map(|pod| pod.ips).collect();
    config.services[0].serve_at(addresses);
    config
}

/// The same, with the first pod's endpoints changed.
fn with_first(fixture: &Fixture, pods: &[&Pod], change: impl Fn(&mut Endpoint)) -> Config {
    let mut config = on(fixture, pods);
    let endpoints = config.services[0].endpoints.iter_mut().flatten();
    endpoints
        .filter(|endpoint| pods[0].ips.contains(&endpoint.address))
        .for_each(change);
    config
}

#[test]
fn svc23_a_connection_survives_its_endpoint_unready_and_terminating() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let [a, b, _] = &fixture.backends;
        let weft = Weft::start(&fixture.lab, &on(&fixture, &[a]))?;
        let client = &fixture.client.namespace;
        let mut talks = Family::BOTH
            .into_iter()
            .map(|family| Talk::open(client, web(family, PEER_PORT)))
            .collect::<Result<Vec<_>>>()?;
        let terminating = |endpoint: &mut Endpoint| {
            endpoint.ready = Some(false);
            endpoint.serving = Some(true);
            endpoint.terminating = Some(true);
        };
        let unready = |endpoint: &mut Endpoint| endpoint.ready = Some(false);
        for config in [
            with_first(&fixture, &[a, b], unready),
            with_first(&fixture, &[a, b], terminating),
        ] {
            weft.reload(&config)?;
            for talk in &mut talks {
                assert_eq!(talk.ask()?.name, "a");
            }
            for family in Family::BOTH {
                for _ in 0..10 {
                    assert_eq!(ask_tcp(client, web(family, PEER_PORT))?.name, "b");
                }
            }
        }
        // SVC-22, K-06: none is ready, and one that terminates still serves.
        weft.reload(&with_first(&fixture, &[a], terminating))?;
        for family in Family::BOTH {
            assert_eq!(ask_tcp(client, web(family, PEER_PORT))?.name, "a");
        }
        let list = weft.text(&["lb", "list"])?;
        ensure!(list.contains("terminating"), "{list}");
        weft.audit().map(drop)
    })
}

#[test]
fn svc24_a_removed_endpoint_is_left_alone_or_reset_as_the_service_says() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let [a, b, _] = &fixture.backends;
        let client = &fixture.client.namespace;
        let weft = Weft::start(&fixture.lab, &on(&fixture, &[a]))?;
        for rst in [false, true] {
            let with = |pods: &[&Pod]| {
                let mut config = on(&fixture, pods);
                config.services[0].rst_on_removal = Some(rst);
                config
            };
            weft.reload(&with(&[a]))?;
            let streams = Family::BOTH
                .into_iter()
                .map(|family| client.enter(|| greeted(web(family, PEER_PORT)))?)
                .collect::<Result<Vec<_>>>()?;
            weft.reload(&with(&[b]))?;
            for mut stream in streams {
                let start = Instant::now();
                stream.write_all(b"?\n")?;
                let answer = stream.read(&mut [0; 256]);
                if rst {
                    let error = answer.err().context("the connection went on")?;
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    ensure!(
                        start.elapsed() < Duration::from_secs(1),
                        "{:?}",
                        start.elapsed()
                    );
                } else {
                    ensure!(answer? > 0, "closed");
                }
            }
        }
        weft.audit().map(drop)
    })
}

/// A connection to the peer server that has said hello.
fn greeted(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    ensure!(stream.read(&mut [0; 256])? > 0, "no greeting");
    Ok(stream)
}

#[test]
fn svc27_a_udp_client_with_a_fixed_port_follows_the_endpoints() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let [a, b, _] = &fixture.backends;
        let client = &fixture.client.namespace;
        let weft = Weft::start(&fixture.lab, &on(&fixture, &[a]))?;
        // Bound to any address, an IPv6 socket takes the port of IPv4 too.
        let sockets = [(Family::V4, 45_000), (Family::V6, 45_001)]
            .map(|(family, port)| (web(family, PEER_PORT), port))
            .into_iter()
            .map(|(to, port)| client.enter(|| Datagrams::open_from(port, to))?)
            .collect::<Result<Vec<_>>>()?;
        for socket in &sockets {
            assert_eq!(socket.ask()?.name, "a");
        }
        // a: removed, and the very next datagram goes to another.
        weft.reload(&on(&fixture, &[b]))?;
        for socket in &sockets {
            assert_eq!(socket.ask()?.name, "b");
        }
        // c: none left, and a flow that there is gets told like a new one.
        weft.reload(&on(&fixture, &[]))?;
        for (socket, family) in sockets.iter().zip(Family::BOTH) {
            let refused = socket.ask().expect_err("nobody serves");
            let cause = refused.downcast_ref::<std::io::Error>().map(|e| e.kind());
            assert_eq!(cause, Some(ErrorKind::ConnectionRefused), "{refused:#}");
            let new = udp_refusal(client, web(family, PEER_PORT))?;
            assert_eq!(new, Refusal::Rejected);
        }
        // b: one is back.
        weft.reload(&on(&fixture, &[a]))?;
        for socket in &sockets {
            assert_eq!(socket.ask()?.name, "a");
        }
        weft.audit().map(drop)
    })
}

/// However short ago it began with it.
#[test]
fn svc22_svc27_a_udp_flow_whose_endpoint_goes_does_not_return_to_one_that_is_not_ready()
-> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let all: Vec<&Pod> = fixture.backends.iter().collect();
        let client = &fixture.client.namespace;
        let weft = Weft::start(&fixture.lab, &on(&fixture, &all))?;
        let without = |name: &str| -> Vec<&Pod> {
            all.iter().copied().filter(|pod| pod.name != name).collect()
        };
        for (family, first_port) in [(Family::V4, 45_000), (Family::V6, 46_000)] {
            // So many that some go from each endpoint to each other one.
            for port in first_port..first_port + 12 {
                let socket =
                    client.enter(|| Datagrams::open_from(port, web(family, PEER_PORT)))??;
                // Twice at each: the second packet is that of a flow that is known.
                let ask = || -> Result<String> {
                    let name = socket.ask()?.name;
                    ensure!(socket.ask()?.name == name, "it moved");
                    Ok(name)
                };
                weft.reload(&on(&fixture, &all))?;
                let first = ask()?;
                weft.reload(&on(&fixture, &without(&first)))?;
                let second = ask()?;
                ensure!(second != first, "{first} was removed");
                // The first one is there again, but not ready, and the second one goes.
                let mut left = without(&second);
                left.sort_by_key(|pod| pod.name != first);
                let unready = |endpoint: &mut Endpoint| endpoint.ready = Some(false);
                weft.reload(&with_first(&fixture, &left, unready))?;
                let third = ask()?;
                ensure!(
                    third != first && third != second,
                    "port {port} over {family:?}: from {first} to {second}, and then to {third}, \
                     though {first} is not ready and {second} is gone"
                );
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn svc11_with_two_workers_a_client_keeps_its_backend() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let [a, b, c] = &fixture.backends;
        let client = &fixture.client.namespace;
        let affine = |pods: &[&Pod], affinity: &str| {
            let mut config = on(&fixture, pods);
            config.workers.cores = vec![0, 1];
            // In turn, so that a worker that does not know the client gives it another backend.
            config.services[0].algorithm("round_robin");
            config.services[0].session_affinity = Some(affinity.into());
            config
        };
        let weft = Weft::start(&fixture.lab, &affine(&[a, b], "client_ip"))?;
        let names = |family, udp: bool| -> Result<Vec<String>> {
            let to = web(family, PEER_PORT);
            let one = || {
                Ok(if udp {
                    ask_udp(client, to)?
                } else {
                    ask_tcp(client, to)?
                }
                .name)
            };
            let mut names = (0..24).map(|_| one()).collect::<Result<Vec<_>>>()?;
            names.dedup();
            Ok(names)
        };
        for family in Family::BOTH {
            for udp in [false, true] {
                weft.reload(&affine(&[a, b], "client_ip"))?;
                let first = names(family, udp)?;
                assert_eq!(first.len(), 1, "{first:?}");
                weft.reload(&affine(&[a, b, c], "client_ip"))?;
                assert_eq!(names(family, udp)?, first, "another endpoint came");
                let left: Vec<&Pod> = [a, b, c]
                    .into_iter()
                    .filter(|pod| pod.name != first[0])
                    .collect();
                weft.reload(&affine(&left, "client_ip"))?;
                let second = names(family, udp)?;
                assert_eq!(second.len(), 1, "{second:?}");
                assert_ne!(second, first, "it left");
                weft.reload(&affine(&[a, b, c], "client_ip"))?;
                assert_eq!(names(family, udp)?, second);
                weft.reload(&affine(&[a, b, c], "none"))?;
                ensure!(
                    names(family, udp)?.len() > 1,
                    "no affinity, yet one backend"
                );
            }
        }
        weft.audit().map(drop)
    })
}
