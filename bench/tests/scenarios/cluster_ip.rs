//! ClusterIP services: ports, target ports, refusals, balance (SVC-01, -02, -03, -04, -43).

use crate::fixture::{Fixture, web, with_weft};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};
use weft_lab::capture::packets;
use weft_lab::client::{
    ANSWER_LIMIT, Answer, Refusal, ask_tcp, ask_udp, curl, curl_answer, download, tcp_refusal,
    udp_refusal,
};
use weft_lab::command::finish;
use weft_lab::config::{Endpoint, TargetPort};
use weft_lab::lab::{Family, pick, vips};
use weft_lab::servers::{self, HTTP_PORT, IPERF_PORT, PEER_PORT};
use weft_lab::weft::Weft;

#[test]
fn svc01_every_port_and_protocol_is_served_and_removing_one_stops_only_it() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let client = &fixture.client.namespace;
        for family in Family::BOTH {
            curl_answer(client, web(family, 80))?;
            ask_tcp(client, web(family, PEER_PORT))?;
            ask_udp(client, web(family, PEER_PORT))?;
        }
        let mut config = fixture.config();
        config.services[0]
            .ports
            .retain(|port| port.protocol != "udp");
        weft.reload(&config)?;
        for family in Family::BOTH {
            curl_answer(client, web(family, 80))?;
            ask_tcp(client, web(family, PEER_PORT))?;
            assert_eq!(
                udp_refusal(client, web(family, PEER_PORT))?,
                Refusal::Rejected
            );
        }
        weft.audit().map(drop)
    })
}

#[test]
fn svc02_target_ports_map_and_endpoints_without_the_port_are_skipped() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        let [a, b, _] = &fixture.backends;
        let service = config.service("named", 11, &[("tcp", 80, 0), ("tcp", 7000, 0)]);
        service.ports[0].target_port = TargetPort::Name("http".into());
        service.ports[1].target_port = TargetPort::Name("peer".into());
        let endpoint = |address: IpAddr, ports: &[(&str, u16)]| Endpoint {
            ports: ports
                .iter()
                .map(|(name, port)| ((*name).to_owned(), *port))
                .collect(),
            ..Endpoint::at(address)
        };
        // Both serve HTTP, only b has the peer port.
        let of_a = a.ips.map(|ip| endpoint(ip, &[("http", HTTP_PORT)]));
        let of_b = b
            .ips
            .map(|ip| endpoint(ip, &[("http", HTTP_PORT), ("peer", PEER_PORT)]));
        service.endpoints = Some(of_a.into_iter().chain(of_b).collect());
        let weft = Weft::start(&fixture.lab, &config)?;
        for family in Family::BOTH {
            let vip = pick(&vips(11), family);
            let mut names = BTreeMap::<String, u32>::new();
            for _ in 0..40 {
                let http = curl_answer(&fixture.client.namespace, (vip, 80).into())?;
                *names.entry(http.name).or_default() += 1;
                let peer = ask_tcp(&fixture.client.namespace, (vip, PEER_PORT).into())?;
                assert_eq!(peer.name, "b");
            }
            assert_eq!(names.keys().collect::<Vec<_>>(), ["a", "b"]);
        }
        weft.audit().map(drop)
    })
}

#[test]
fn svc03_unused_ports_are_rejected_and_unassigned_addresses_stay_silent() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let client = &fixture.client.namespace;
        let escaped = fixture.watch()?;
        for family in Family::BOTH {
            assert_eq!(tcp_refusal(client, web(family, 9))?, Refusal::Rejected);
            assert_eq!(udp_refusal(client, web(family, 9))?, Refusal::Rejected);
        }
        // A VIP with a port that nobody serves never travels on.
        assert_eq!(packets(&escaped.stop()?)?, [""; 0], "left the node");
        for family in Family::BOTH {
            let nobody = (pick(&vips(200), family), 80).into();
            assert_eq!(tcp_refusal(client, nobody)?, Refusal::Silent);
        }
        weft.audit().map(drop)
    })
}

#[test]
fn svc04_without_endpoints_clients_are_told_at_once() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config();
        config.service("empty", 12, &[("tcp", 80, 80), ("udp", 53, 53)]);
        let weft = Weft::start(&fixture.lab, &config)?;
        let client = &fixture.client.namespace;
        for family in Family::BOTH {
            let vip = pick(&vips(12), family);
            for (port, refusal) in [
                (80_u16, tcp_refusal as fn(_, _) -> Result<Refusal>),
                (53, udp_refusal as fn(_, _) -> Result<Refusal>),
            ] {
                let start = Instant::now();
                assert_eq!(refusal(client, (vip, port).into())?, Refusal::Rejected);
                assert!(
                    start.elapsed() < Duration::from_millis(300),
                    "{:?}",
                    start.elapsed()
                );
            }
            let finished = curl(client, &format!("http://{}/", web_text(vip)))?;
            assert_eq!(finished.code(), Some(7), "curl says: {}", finished.stderr);
        }
        weft.audit().map(drop)
    })
}

#[test]
fn svc01_bulk_transfers_arrive_whole_over_tcp_and_udp() -> Result<()> {
    with_weft(|| {
        let mut fixture = Fixture::new()?;
        let server = fixture.backends[0].clone();
        servers::iperf3(&mut fixture.lab, &server)?;
        let mut config = fixture.config();
        let ports = [
            ("tcp", IPERF_PORT, IPERF_PORT),
            ("udp", IPERF_PORT, IPERF_PORT),
        ];
        config.service("iperf", 13, &ports).serve_at(server.ips);
        let weft = Weft::start(&fixture.lab, &config)?;
        let client = &fixture.client.namespace;
        for family in Family::BOTH {
            let url = format!("http://{}/blob", web(family, 80));
            assert_eq!(download(client, &url, 20)?, servers::BLOB);

            let vip = pick(&vips(13), family).to_string();
            for extra in [&[][..], &["-R"], &["-u", "-b", "50M", "-l", "1000"]] {
                let mut command = client.command("iperf3");
                command.args(["-J", "-t", "1", "-c", &vip]).args(extra);
                let finished = finish(&mut command, Duration::from_secs(20))?;
                let report: serde_json::Value = serde_json::from_str(&finished.stdout)
                    .with_context(|| finished.stderr.clone())?;
                ensure!(
                    report.get("error").is_none(),
                    "{extra:?}: {}",
                    report["error"]
                );
                let end = &report["end"];
                let received = end["sum_received"]["bytes"].as_u64().unwrap_or(0);
                ensure!(
                    received > 1_000_000 || extra.contains(&"-u"),
                    "{extra:?}: {end}"
                );
                let lost = end["sum"]["lost_percent"].as_f64().unwrap_or(0.0);
                ensure!(lost < 1.0, "{extra:?}: {lost} % lost");
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn svc43_every_algorithm_balances_and_removal_moves_only_the_removed() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let mut config = fixture.config_by_address();
        let weft = Weft::start(&fixture.lab, &config)?;
        // Ports of their own for each algorithm: a known flow keeps its backend.
        for (algorithm, ports, new) in [
            ("maglev", 20_000..21_500, 30_000..30_200),
            ("round_robin", 22_000..23_500, 31_000..31_200),
            ("random", 24_000..25_500, 32_000..32_200),
        ] {
            config.services[0].algorithm(algorithm);
            weft.reload(&config)?;
            let before = ask_from_ports(&fixture, ports.clone())?;
            let mut counts = BTreeMap::<&str, u32>::new();
            for name in before.values() {
                *counts.entry(name).or_default() += 1;
            }
            assert_eq!(counts.len(), 3, "{algorithm}: {counts:?}");
            for (name, count) in &counts {
                // Of 1,500 draws a third each: four standard deviations are 73.
                assert!(
                    count.abs_diff(500) < 75,
                    "{algorithm}: {name} of {counts:?}"
                );
            }
            // c leaves the service: no flow of another backend moves, and nothing new goes to c.
            let mut without = config.clone();
            let stay = fixture.backends[..2].iter().flat_map(|pod| pod.ips);
            without.services[0].serve_at(stay);
            weft.reload(&without)?;
            for (port, now) in ask_from_ports(&fixture, ports)? {
                let then = &before[&port];
                assert!(
                    now == *then || then == "c",
                    "{algorithm}: {port}: {then}, then {now}"
                );
            }
            let new = ask_from_ports(&fixture, new)?;
            assert!(new.values().all(|name| name != "c"), "{algorithm}: {new:?}");
            weft.reload(&config)?;
        }
        weft.audit().map(drop)
    })
}

/// One UDP question from each port; who answered.
fn ask_from_ports(fixture: &Fixture, ports: std::ops::Range<u16>) -> Result<BTreeMap<u16, String>> {
    let to = web(Family::V4, PEER_PORT);
    fixture.client.namespace.enter(|| {
        ports
            .map(|port| {
                let socket = UdpSocket::bind(("0.0.0.0", port))?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(ANSWER_LIMIT))?;
                socket.send(b"?")?;
                let mut buffer = [0; 256];
                let length = socket
                    .recv(&mut buffer)
                    .with_context(|| format!("port {port}"))?;
                let answer: Answer = std::str::from_utf8(&buffer[..length])?.parse()?;
                Ok((port, answer.name))
            })
            .collect()
    })?
}

fn web_text(vip: IpAddr) -> String {
    if vip.is_ipv6() {
        format!("[{vip}]")
    } else {
        vip.to_string()
    }
}
