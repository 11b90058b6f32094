//! The lab itself, proven with the kernel's own paths: routing, kube-proxy-shaped rules, clean-up.

use crate::fixture::{Fixture, flawless, progress, with_root};
use crate::unenrolled;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;
use weft_lab::client::{Refusal, ask_tcp, ask_udp, curl_answer, tcp_refusal, udp_refusal};
use weft_lab::kubeproxy::{self, Rule};
use weft_lab::lab::{Family, Lab, NODE_IPS, Pod, pick, vips};
use weft_lab::load::{Load, Request};
use weft_lab::servers::{self, HTTP_PORT, PEER_PORT};
use weft_lab::snapshot::Snapshot;
use weft_lab::wait::wait_until;
use weft_lab::{binaries, command, nftables, sweep};

#[test]
fn lab_pods_reach_each_other_and_the_node_over_both_families() -> Result<()> {
    with_root(|| {
        let mut lab = Lab::new()?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        servers::peer(&mut lab, &server.namespace, "server")?;
        servers::nginx(&mut lab, &server.namespace, "server")?;
        let node = lab.node.clone();
        servers::peer(&mut lab, &node, "node")?;
        for family in Family::BOTH {
            let to = server.at(family, PEER_PORT);
            for answer in [
                ask_tcp(&client.namespace, to)?,
                ask_udp(&client.namespace, to)?,
            ] {
                assert_eq!(answer.name, "server");
                assert_eq!(answer.client.ip(), client.ip(family));
            }
            let answer = curl_answer(&client.namespace, server.at(family, HTTP_PORT))?;
            assert_eq!(
                (answer.name.as_str(), answer.client.ip()),
                ("server", client.ip(family))
            );
            let node = (pick(&NODE_IPS, family), PEER_PORT).into();
            assert_eq!(ask_tcp(&client.namespace, node)?.name, "node");
            assert_eq!(ask_udp(&client.namespace, node)?.name, "node");
            // Nothing listens: the pod's kernel refuses. Nobody is there: silence.
            assert_eq!(
                tcp_refusal(&client.namespace, server.at(family, 9))?,
                Refusal::Rejected
            );
            assert_eq!(
                udp_refusal(&client.namespace, server.at(family, 9))?,
                Refusal::Rejected
            );
            let nobody = (pick(&vips(200), family), 80).into();
            assert_eq!(tcp_refusal(&client.namespace, nobody)?, Refusal::Silent);
        }
        Ok(())
    })
}

#[test]
fn lab_kube_proxy_rules_balance_over_both_families_under_strict_rp_filter() -> Result<()> {
    with_root(|| {
        let mut lab = Lab::new()?;
        let client = lab.pod("client")?;
        let servers = [lab.pod("a")?, lab.pod("b")?];
        for server in &servers {
            servers::peer(&mut lab, &server.namespace, &server.name)?;
        }
        let rules: Vec<Rule> = Family::BOTH
            .iter()
            .flat_map(|family| ["tcp", "udp"].map(|protocol| (*family, protocol)))
            .map(|(family, protocol)| Rule {
                vip: (pick(&vips(10), family), 80).into(),
                protocol,
                endpoints: servers
                    .iter()
                    .map(|pod| pod.at(family, PEER_PORT))
                    .collect(),
            })
            .collect();
        kubeproxy::install(&lab.node, &rules)?;
        for family in Family::BOTH {
            for request in [Request::Tcp, Request::Udp] {
                let vip = (pick(&vips(10), family), 80).into();
                let load = Load::start(&client.namespace, request, vec![vip], Duration::ZERO);
                wait_until("answers", Duration::from_secs(10), || {
                    load.answered() >= 200
                })?;
                let tally = load.stop()?;
                assert!(
                    tally.failures.is_empty() && tally.misrouted.is_empty(),
                    "{tally:?}"
                );
                assert_eq!(tally.answers.len(), 2, "{tally:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn lab_rules_of_both_kinds_follow_a_changed_endpoint_of_one_service() -> Result<()> {
    with_root(|| {
        let mut lab = Lab::new()?;
        let client = lab.pod("client")?;
        let pods = [lab.pod("a")?, lab.pod("b")?];
        for pod in &pods {
            servers::peer(&mut lab, &pod.namespace, &pod.name)?;
        }
        let rule = |service: u8, family, pod: &Pod| Rule {
            vip: (pick(&vips(service), family), 80).into(),
            protocol: "udp",
            endpoints: vec![pod.at(family, PEER_PORT)],
        };
        // Services 10 and 11 on the first pod; number 1 of each family moves to the second.
        let rules: Vec<Rule> = [10, 11]
            .into_iter()
            .flat_map(|service| Family::BOTH.map(|family| rule(service, family, &pods[0])))
            .collect();
        let (node, namespace) = (lab.node.clone(), &client.namespace);
        let moves_to = |service, family| -> Result<String> {
            Ok(ask_udp(namespace, (pick(&vips(service), family), 80).into())?.name)
        };
        for kind in ["iptables", "nftables"] {
            let is_iptables = kind == "iptables";
            if is_iptables {
                kubeproxy::install(&node, &rules)?;
            } else {
                kubeproxy::install(&node, &[])?;
                nftables::install(&node, &rules, &[])?;
            }
            for family in Family::BOTH {
                assert_eq!(moves_to(11, family)?, "a", "{kind}");
                let moved = rule(11, family, &pods[1]);
                if is_iptables {
                    kubeproxy::update(&node, 1, &moved)?;
                } else {
                    nftables::update(&node, 1, &moved)?;
                }
                assert_eq!(moves_to(11, family)?, "b", "{kind}");
                assert_eq!(moves_to(10, family)?, "a", "{kind}: the other one stays");
            }
        }
        Ok(())
    })
}

#[test]
fn lab_captures_of_the_same_traffic_are_byte_identical() -> Result<()> {
    with_root(|| {
        let fixture = Fixture::new()?;
        unenrolled::install_one_endpoint(&fixture)?;
        let runs = [
            unenrolled::record(&fixture, "1")?,
            unenrolled::record(&fixture, "2")?,
        ];
        // Both families, four datagrams, there and back; seen at the client and at the server.
        assert_eq!(runs[0].each_ref().map(Vec::len), [16, 16]);
        assert_eq!(runs[0], runs[1]);
        // The server sees one TTL less than the client sent: the captures do hold the headers.
        assert_ne!(runs[0][0], runs[0][1]);
        Ok(())
    })
}

#[test]
fn lab_loads_of_every_kind_are_flawless_over_kube_proxy_rules() -> Result<()> {
    with_root(|| {
        let fixture = Fixture::with_queues(4)?;
        fixture.install_shadow_rules()?;
        let loads = fixture.loads(Duration::from_millis(1));
        progress(&loads, 100)?;
        for tally in flawless(loads)? {
            assert_eq!(tally.answers.len(), 3, "{tally:?}");
        }
        Ok(())
    })
}

#[test]
fn lab_snapshots_change_only_with_the_node() -> Result<()> {
    with_root(|| {
        let fixture = Fixture::new()?;
        let before = Snapshot::take(&fixture.lab)?;
        ask_udp(
            &fixture.client.namespace,
            fixture.backends[0].at(Family::V4, PEER_PORT),
        )?;
        assert_eq!(
            before.difference(&Snapshot::take(&fixture.lab)?),
            Vec::<String>::new()
        );
        fixture
            .lab
            .node
            .ip("link add weft0 type veth peer name weft1\n")?;
        let changes = before.difference(&Snapshot::take(&fixture.lab)?);
        assert!(
            changes.iter().any(|line| line.contains("weft0")),
            "{changes:?}"
        );
        fixture.lab.node.ip("link del weft0\n")?;
        assert_eq!(
            before.difference(&Snapshot::take(&fixture.lab)?),
            Vec::<String>::new()
        );
        Ok(())
    })
}

#[test]
fn lab_leaves_nothing_behind_when_dropped() -> Result<()> {
    with_root(|| {
        let mut lab = Lab::new()?;
        let id = lab.id().to_owned();
        let pod = lab.pod("a")?;
        servers::nginx(&mut lab, &pod.namespace, "a")?;
        assert_eq!(sweep::namespaces(&id).len(), 3);
        drop(lab);
        assert_nothing_left(&id)
    })
}

#[test]
fn lab_leaves_nothing_behind_after_kill_9_and_after_sigterm() -> Result<()> {
    with_root(|| {
        let program = binaries::weft_lab().context("weft-lab is not built")?;
        for signal in ["-KILL", "-TERM", "-INT"] {
            let mut lab = Command::new(&program)
                .arg("self-test")
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start a lab")?;
            let mut lines = BufReader::new(lab.stdout.take().context("no output")?).lines();
            let id = lines.next().context("the lab said nothing")??;
            ensure!(sweep::is_lab_id(&id), "{id:?}");
            assert_eq!(sweep::namespaces(&id).len(), 3);
            command::run(Command::new("kill").args([signal, &lab.id().to_string()]))?;
            lab.wait()?;
            wait_until("the janitor", Duration::from_secs(10), || gone(&id))?;
            assert_nothing_left(&id)?;
        }
        Ok(())
    })
}

fn gone(id: &str) -> bool {
    sweep::namespaces(id).is_empty() && !sweep::state_dir(id).exists()
}

fn assert_nothing_left(id: &str) -> Result<()> {
    ensure!(
        gone(id),
        "{:?} and {:?}",
        sweep::namespaces(id),
        sweep::state_dir(id)
    );
    ensure!(!sweep::pin_dir(id).exists(), "pins are left");
    let processes = command::run(Command::new("ps").args(["-eo", "args"]))?;
    ensure!(
        !processes.contains(&format!("{id}/")),
        "processes are left:\n{processes}"
    );
    Ok(())
}
