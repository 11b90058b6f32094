//! Connections whose far end sees the client elsewhere: hairpins and tuple clashes (SVC-31, AMB-08).

use crate::fixture::{Fixture, WEB, web, with_weft};
use anyhow::Result;
use std::net::{IpAddr, SocketAddr};
use weft_lab::client::{Datagrams, Talk, ask_tcp, ask_udp, curl_answer};
use weft_lab::config::Config;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::servers::{HTTP_PORT, PEER_PORT};
use weft_lab::weft::Weft;

fn hairpin(family: Family) -> IpAddr {
    match family {
        Family::V4 => "192.0.0.8".parse(),
        Family::V6 => "fd77:6566:74::1".parse(),
    }
    .expect("an address")
}

fn hairpin_works(workers: usize) -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        config.workers.cores = (0..workers).collect();
        let own = &fixture.backends[0];
        let ports = [
            ("tcp", 80, HTTP_PORT),
            ("tcp", 70, PEER_PORT),
            ("udp", 70, PEER_PORT),
        ];
        config.service("own", 16, &ports).serve_at(own.ips);
        let weft = Weft::start(&fixture.lab, &config)?;
        for family in Family::BOTH {
            let vip = pick(&vips(16), family);
            for _ in 0..20 {
                let http = curl_answer(&own.namespace, (vip, 80).into())?;
                assert_eq!(
                    (http.name.as_str(), http.client.ip()),
                    ("a", hairpin(family))
                );
                let tcp = ask_tcp(&own.namespace, (vip, 70).into())?;
                assert_eq!((tcp.name.as_str(), tcp.client.ip()), ("a", hairpin(family)));
                let udp = ask_udp(&own.namespace, (vip, 70).into())?;
                assert_eq!((udp.name.as_str(), udp.client.ip()), ("a", hairpin(family)));
            }
            // A backend among others is itself at times, and every connection is served.
            let mut own_turns = 0;
            for _ in 0..30 {
                let answer = ask_tcp(&own.namespace, web(family, PEER_PORT))?;
                own_turns += u32::from(answer.client.ip() == hairpin(family));
            }
            assert!((1..30).contains(&own_turns), "{own_turns} of 30");
        }
        weft.audit().map(drop)
    })
}

#[test]
fn svc31_a_pod_reaches_itself_through_its_service() -> Result<()> {
    hairpin_works(1)
}

#[test]
fn svc31_a_pod_reaches_itself_through_its_service_with_two_workers() -> Result<()> {
    hairpin_works(2)
}

/// Two VIPs over one backend, and the backend itself, from one source port at the same time.
#[test]
fn amb08_one_source_port_serves_two_vips_and_the_backend_they_share() -> Result<()> {
    one_port_to_three_ends(|_| {})
}

/// The same with two workers, where the flows of one client to a service with affinity are on both.
#[test]
fn svc11_svc33_one_source_port_serves_two_vips_with_affinity_and_two_workers() -> Result<()> {
    one_port_to_three_ends(|config| {
        config.workers.cores = vec![0, 1];
        for service in &mut config.services {
            if service.name == "lab/two" {
                service.session_affinity = Some("client_ip".into());
            }
        }
    })
}

fn one_port_to_three_ends(change: impl Fn(&mut Config)) -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        // In the grace a datagram between pods could be the reply of a flow of the kernel's, and is left to it.
        config.node.enrolment_grace = Some("0s".into());
        let backend = &fixture.backends[0];
        let ports = [("tcp", 70, PEER_PORT), ("udp", 70, PEER_PORT)];
        config.service("one", WEB + 1, &ports).serve_at(backend.ips);
        config.service("two", WEB + 2, &ports).serve_at(backend.ips);
        change(&mut config);
        let weft = Weft::start(&fixture.lab, &config)?;
        let client = &fixture.client.namespace;
        for family in Family::BOTH {
            let ends: [SocketAddr; 3] = [
                (pick(&vips(WEB + 1), family), 70).into(),
                (pick(&vips(WEB + 2), family), 70).into(),
                backend.at(family, PEER_PORT),
            ];
            for port in 20_000..20_010 {
                let mut talks = Vec::new();
                for to in ends {
                    talks.push(Talk::open_from(client, port, to)?);
                }
                let mut seen = Vec::new();
                for talk in &mut talks {
                    let answer = talk.ask()?;
                    assert_eq!(answer.client.ip(), talk.local.ip(), "the address is kept");
                    seen.push(answer.client.port());
                }
                assert_eq!(seen[0], port, "the first connection keeps its port");
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), ends.len(), "the backend tells them apart");
            }
            for port in 21_000..21_010 {
                let mut seen = Vec::new();
                for to in ends {
                    // One socket after the other: the flows of all of them are there.
                    let answer = client.enter(|| Datagrams::open_from(port, to)?.ask())??;
                    seen.push(answer.client.port());
                }
                assert_eq!(seen[0], port);
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), ends.len());
            }
        }
        weft.audit().map(drop)
    })
}
