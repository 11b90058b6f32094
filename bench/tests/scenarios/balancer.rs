//! The eBPF load balancer of the benchmarks does what Weft is compared with it for.

use crate::fixture::{Fixture, flawless, progress, web, with_root};
use anyhow::{Result, ensure};
use std::process::Command;
use std::time::Duration;
use weft_lab::balancer::Balancer;
use weft_lab::capture::Capture;
use weft_lab::client::{Refusal, ask_udp, curl_answer, udp_refusal};
use weft_lab::command::run;
use weft_lab::kubeproxy::Rule;
use weft_lab::lab::{Family, Pod};
use weft_lab::servers::{HTTP_PORT, PEER_PORT};

/// The web service on `backends`, port 80 translated to another one.
fn rules(backends: &[Pod]) -> Vec<Rule> {
    let ports = [
        ("tcp", 80, HTTP_PORT),
        ("tcp", PEER_PORT, PEER_PORT),
        ("udp", PEER_PORT, PEER_PORT),
    ];
    let of = |family: Family| {
        ports.map(|(protocol, port, target)| Rule {
            vip: web(family, port),
            protocol,
            endpoints: backends.iter().map(|pod| pod.at(family, target)).collect(),
        })
    };
    Family::BOTH.into_iter().flat_map(of).collect()
}

fn start(fixture: &Fixture, backends: &[Pod]) -> Result<Balancer> {
    let pods: Vec<&Pod> = fixture.backends.iter().chain([&fixture.client]).collect();
    Balancer::start(&fixture.lab.node, &pods, &rules(backends))
}

#[test]
fn lab_tcx_balancer_serves_both_families_and_protocols_without_a_rule() -> Result<()> {
    with_root(|| {
        let fixture = Fixture::new()?;
        // The kernel has no rule: what the balancer left to it would stay unanswered.
        let balancer = start(&fixture, &fixture.backends)?;
        let loads = fixture.loads(Duration::from_millis(1));
        for family in Family::BOTH {
            for _ in 0..10 {
                let answer = curl_answer(&fixture.client.namespace, web(family, 80))?;
                assert_eq!(answer.client.ip(), fixture.client.ip(family));
            }
        }
        progress(&loads, 200)?;
        for tally in flawless(loads)? {
            assert_eq!(tally.answers.len(), 3, "{tally:?}");
        }
        // 20 connections of curl's, and four loads of a flow at least.
        ensure!(balancer.opened()? >= 24, "{}", balancer.opened()?);
        Ok(())
    })
}

#[test]
fn lab_tcx_balancer_counts_the_hop_and_leaves_right_checksums() -> Result<()> {
    with_root(|| {
        let fixture = Fixture::new()?;
        let backend = &fixture.backends[0];
        let _balancer = start(&fixture, std::slice::from_ref(backend))?;
        let filter = format!("tcp port {HTTP_PORT} or udp port {PEER_PORT}");
        let directory = fixture.lab.directory();
        // Checksums are finished in software before the veth, so that they can be judged behind it.
        for pod in [&fixture.client, backend] {
            let off = ["-K", "eth0", "tx", "off"];
            run(pod.namespace.command("ethtool").args(off))?;
        }
        let capture = Capture::start(&backend.namespace, "eth0", &filter, &directory, "backend")?;
        for family in Family::BOTH {
            ask_udp(&fixture.client.namespace, web(family, PEER_PORT))?;
            curl_answer(&fixture.client.namespace, web(family, 80))?;
        }
        let file = capture.stop()?;
        let text = run(Command::new("tcpdump")
            .arg("-r")
            .arg(&file)
            .args(["-nn", "-vv"]))?;
        // A handshake, a request and an answer, and the end, over each family; four datagrams.
        let right = text.matches("(correct)").count() + text.matches("udp sum ok").count();
        ensure!(right >= 2 * 8 + 4, "{text}");
        for wrong in ["(incorrect", "bad udp cksum", "bad cksum"] {
            ensure!(!text.contains(wrong), "{text}");
        }
        for family in Family::BOTH {
            let client = fixture.client.ip(family);
            ensure!(text.contains(&client.to_string()), "{client}: {text}");
        }
        ensure!(
            text.contains("ttl 63") && text.contains("hlim 63"),
            "{text}"
        );
        Ok(())
    })
}

#[test]
fn lab_tcx_balancer_follows_a_changed_endpoint_and_goes_without_a_trace() -> Result<()> {
    with_root(|| {
        let fixture = Fixture::new()?;
        let [first, second] = [&fixture.backends[0], &fixture.backends[1]];
        let balancer = start(&fixture, std::slice::from_ref(first))?;
        for family in Family::BOTH {
            let ask = || ask_udp(&fixture.client.namespace, web(family, PEER_PORT));
            assert_eq!(ask()?.name, first.name);
            // The third rule of each family, one endpoint each.
            balancer.set_endpoint(family, 2, second.at(family, PEER_PORT))?;
            assert_eq!(ask()?.name, second.name);
        }
        drop(balancer);
        let nobody = udp_refusal(&fixture.client.namespace, web(Family::V4, PEER_PORT))?;
        assert_eq!(nobody, Refusal::Silent);
        Ok(())
    })
}
