//! The client's address and port reach the backend, wherever the backend is (AMB-08, SVC-32).

use crate::fixture::{Fixture, web, with_weft};
use anyhow::Result;
use std::net::SocketAddr;
use weft_lab::client::{Datagrams, Talk, curl_answer};
use weft_lab::lab::{Family, NODE_IPS, pick, vips};
use weft_lab::servers::{self, PEER_PORT};
use weft_lab::weft::Weft;

/// Opens TCP and UDP flows to `to`; the server has to be one of `names` and see the client itself.
fn assert_seen(fixture: &Fixture, to: SocketAddr, names: &[&str]) -> Result<()> {
    for _ in 0..20 {
        let mut talk = Talk::open(&fixture.client.namespace, to)?;
        let again = talk.ask()?;
        for answer in [&talk.greeting, &again] {
            assert_eq!(answer.client, talk.local, "over TCP to {to}");
            assert!(names.contains(&answer.name.as_str()), "{answer:?}");
        }
        let datagrams = Datagrams::open(&fixture.client.namespace, to)?;
        for answer in [datagrams.ask()?, datagrams.ask()?] {
            assert_eq!(answer.client, datagrams.local, "over UDP to {to}");
            assert!(names.contains(&answer.name.as_str()), "{answer:?}");
        }
    }
    Ok(())
}

#[test]
fn amb08_svc32_enrolled_backends_see_the_client_itself() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        for family in Family::BOTH {
            assert_seen(&fixture, web(family, PEER_PORT), &["a", "b", "c"])?;
            let answer = curl_answer(&fixture.client.namespace, web(family, 80))?;
            assert_eq!(answer.client.ip(), fixture.client.ip(family));
            // Pod to pod without a service.
            assert_seen(&fixture, fixture.backends[0].at(family, PEER_PORT), &["a"])?;
        }
        weft.audit().map(drop)
    })
}

#[test]
fn amb08_a_backend_that_is_not_enrolled_sees_the_client_itself() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        let ports = [("tcp", PEER_PORT, PEER_PORT), ("udp", PEER_PORT, PEER_PORT)];
        config
            .service("legacy", 14, &ports)
            .serve_at(fixture.outsider.ips);
        let weft = Weft::start(&fixture.lab, &config)?;
        for family in Family::BOTH {
            assert_seen(
                &fixture,
                (pick(&vips(14), family), PEER_PORT).into(),
                &["outsider"],
            )?;
        }
        weft.audit().map(drop)
    })
}

#[test]
fn amb08_a_host_network_backend_sees_the_client_itself() -> Result<()> {
    with_weft(|| {
        let mut fixture = Fixture::new()?;
        let node = fixture.lab.node.clone();
        servers::peer(&mut fixture.lab, &node, "node")?;
        let mut config = fixture.config();
        // Another port than the server's: a reply that escapes translation would be noticed.
        let ports = [("tcp", 70, PEER_PORT), ("udp", 70, PEER_PORT)];
        config.service("host", 15, &ports).serve_at(NODE_IPS);
        let weft = Weft::start(&fixture.lab, &config)?;
        for family in Family::BOTH {
            assert_seen(&fixture, (pick(&vips(15), family), 70).into(), &["node"])?;
        }
        weft.audit().map(drop)
    })
}

#[test]
fn amb08_direct_and_service_connections_to_one_backend_do_not_mix() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        let ports = [("tcp", PEER_PORT, PEER_PORT), ("udp", PEER_PORT, PEER_PORT)];
        config
            .service("one", 16, &ports)
            .serve_at(fixture.backends[0].ips);
        config
            .service("two", 17, &ports)
            .serve_at(fixture.backends[0].ips);
        let weft = Weft::start(&fixture.lab, &config)?;
        for family in Family::BOTH {
            let direct = fixture.backends[0].at(family, PEER_PORT);
            let services = [16, 17].map(|n| SocketAddr::from((pick(&vips(n), family), PEER_PORT)));
            let mut talks = Vec::new();
            for _ in 0..10 {
                // Apart, since the backend could not tell two connections from one port apart, and the
                // second would come from another.
                for to in [direct, services[0], services[1]] {
                    talks.push(Talk::open_apart(&fixture.client.namespace, to)?);
                }
            }
            for talk in &mut talks {
                assert_eq!(talk.ask()?.client, talk.local);
            }
        }
        weft.audit().map(drop)
    })
}
