//! What happens to traffic between two nodes when the way there, a node or the configuration changes, and over bad links
//! (TUN-05, U-09).

use crate::fixture::{progress, with_weft};
use crate::overlay_fixture::{Cluster, audit, said};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;
use weft_lab::client::{Talk, ping};
use weft_lab::config::Peer;
use weft_lab::http::Connection;
use weft_lab::lab::{Family, UPLINK};
use weft_lab::load::Load;
use weft_lab::servers::{HTTP_PORT, PEER_PORT, WEB_PORT};
use weft_lab::tools::web::is_pattern;
use weft_lab::two_nodes::{TwoNodes, Underlay};
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// Ends the loads: whatever was lost, no answer was another one's.
fn nothing_misrouted(loads: Vec<Load>) -> Result<()> {
    for load in loads {
        let tally = load.stop()?;
        ensure!(
            tally.answered() > 0 && tally.misrouted.is_empty(),
            "{tally:#?}"
        );
    }
    Ok(())
}

/// The same where frames are damaged. No sum of the tunnel's covers the inner ports, so a damaged one opens a flow that nobody has,
/// and a connection that has the same port later gets another one at its backend.
fn nothing_misrouted_but_ports(loads: Vec<Load>) -> Result<()> {
    let only_port = |text: &String| {
        let ends = text.split_once(" was seen as ");
        let ip = |end: &str| end.parse().map(|end: SocketAddr| end.ip()).ok();
        ends.is_some_and(|(asked, seen)| ip(asked).is_some() && ip(asked) == ip(seen))
    };
    for load in loads {
        let tally = load.stop()?;
        ensure!(
            tally.answered() > 0 && tally.misrouted.iter().all(only_port),
            "{tally:#?}"
        );
    }
    Ok(())
}

/// Traffic in both directions while `change` is made, and again after it.
fn goes_on(
    cluster: &Cluster,
    wefts: &[Weft; 2],
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let loads = cluster.loads();
    progress(&loads, 10)?;
    change()?;
    progress(&loads, 30).with_context(|| said(wefts))?;
    nothing_misrouted(loads)?;
    cluster.pods_reach_pods().with_context(|| said(wefts))?;
    audit(wefts)
}

#[test]
fn tun05_the_gateway_gets_another_link_address_and_the_node_another_gateway() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start()?;
        let a = &cluster.nodes.nodes[0];
        goes_on(&cluster, &wefts, || {
            a.outside.ip("link set eth0 address 02:00:00:00:07:fd\n")
        })
        .context("another link address")?;
        goes_on(&cluster, &wefts, || {
            a.outside.ip("addr add 192.168.7.253/24 dev eth0\n\
                          addr add fd00:7::fd/64 dev eth0 nodad\n")?;
            a.node.ip(&format!(
                "route replace default via 192.168.7.253 dev {UPLINK}\n\
                 route replace default via fd00:7::fd dev {UPLINK}\n"
            ))?;
            a.outside.ip("addr del 192.168.7.254/24 dev eth0\n\
                          addr del fd00:7::fe/64 dev eth0\n")
        })
        .context("another gateway")
    })
}

/// Takes the uplink of a node down and up again, with what the kernel forgets meanwhile.
fn flap(cluster: &Cluster, at: usize, weft: &Weft) -> Result<()> {
    let lab = &cluster.nodes.nodes[at];
    lab.node.ip(&format!("link set {UPLINK} down\n"))?;
    sleep(Duration::from_millis(500));
    for family in Family::BOTH {
        let to = cluster.servers[1 - at].ip(family);
        let lost = weft.counter("no_route")?;
        ensure!(
            ping(&cluster.clients[at].namespace, to, 56).is_err(),
            "{family:?}: answered"
        );
        let dropped = weft.counter("no_route")?;
        ensure!(dropped > lost, "{family:?}: {}", weft.text(&["status"])?);
    }
    let ([_, ip6], [gateway4, gateway6]) = (lab.place().ips(), lab.place().gateway());
    lab.node.ip(&format!(
        "link set {UPLINK} up\n\
         addr replace {ip6}/64 dev {UPLINK} nodad\n\
         route replace default via {gateway4} dev {UPLINK}\n\
         route replace default via {gateway6} dev {UPLINK}\n"
    ))
}

#[test]
fn tun05_an_uplink_goes_down_and_comes_back() -> Result<()> {
    with_weft(|| {
        for underlay in Underlay::BOTH {
            let cluster = Cluster::new(underlay)?;
            let wefts = cluster.start()?;
            for at in 0..2 {
                goes_on(&cluster, &wefts, || flap(&cluster, at, &wefts[at]))
                    .with_context(|| format!("{underlay}: uplink of node {at}"))?;
            }
        }
        Ok(())
    })
}

#[test]
fn tun05_a_peer_is_added_and_a_range_moved_by_reload() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let start = |at: usize, peers: Vec<Peer>| {
            let mut config = cluster.config(at);
            config.overlay.as_mut().context("no overlay")?.peers = peers;
            Weft::start(&cluster.nodes.nodes[at], &config)
        };
        let wefts = [start(0, Vec::new())?, start(1, vec![cluster.peer(0)])?];
        let to = |family| cluster.servers[1].ip(family);
        let reaches = |family| ping(&cluster.clients[0].namespace, to(family), 56).is_ok();
        for family in Family::BOTH {
            ensure!(!reaches(family), "{family:?}: without a peer");
        }
        wefts[0].reload(&cluster.config(0)).context("a peer more")?;
        cluster.joined(&wefts)?;
        cluster.pods_reach_pods().with_context(|| said(&wefts))?;

        // The server is on a third node, which is not there; then on node b, then it is not there again.
        let loads = cluster.loads();
        progress(&loads, 10)?;
        let mut moved = cluster.config(0);
        let peers = &mut moved.overlay.as_mut().context("no overlay")?.peers;
        peers.push(Peer {
            name: "node-c".into(),
            address: "192.168.8.99".parse()?,
            pods: Family::BOTH
                .map(|family| range_of_one(&cluster, family))
                .into(),
            native: false,
        });
        for round in 0..3 {
            wefts[0].reload(&moved).context("a range that moves away")?;
            for family in Family::BOTH {
                ensure!(
                    !reaches(family),
                    "{family:?}, round {round}: is still there"
                );
            }
            wefts[0].reload(&cluster.config(0)).context("and back")?;
            for family in Family::BOTH {
                wait_until("the pod to be there again", Duration::from_secs(1), || {
                    reaches(family)
                })
                .with_context(|| said(&wefts))?;
            }
        }
        progress(&loads, 30).with_context(|| said(&wefts))?;
        nothing_misrouted(loads)?;
        audit(&wefts)?;

        // Without peers there is no overlay, and what a peer still sends is dropped by name.
        let mut alone = cluster.config(0);
        alone.overlay = None;
        wefts[0].reload(&alone).context("no overlay any more")?;
        ensure!(!reaches(Family::V4), "without an overlay");
        wefts[0].audit().map(drop)
    })
}

/// Whichever end began them: the peer that had the range speaks for it no more, and is sent nothing.
#[test]
fn tun05_a_range_that_moves_ends_the_hooks_flows_from_its_pods_and_to_them() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start()?;
        let (far, near) = (&cluster.clients[0], &cluster.servers[1]);
        let mut moved = cluster.config(1);
        let peers = &mut moved.overlay.as_mut().context("no overlay")?.peers;
        let pods = std::mem::replace(&mut peers[0].pods, vec!["10.9.9.0/24".into()]);
        peers.push(Peer {
            name: "node-c".into(),
            address: "192.168.8.99".parse()?,
            pods,
            native: false,
        });
        for family in Family::BOTH {
            let mut from = Talk::open(&far.namespace, near.at(family, PEER_PORT))?;
            let mut to = Talk::open(&near.namespace, far.at(family, PEER_PORT))?;
            for talk in [&mut from, &mut to] {
                talk.ask()?;
            }
            let before = wefts[1].counter("src_spoof")?;
            wefts[1].reload(&moved)?;
            for (what, talk) in [("from", &mut from), ("to", &mut to)] {
                ensure!(talk.ask().is_err(), "{family:?}, {what} its pods: goes on");
            }
            let after = wefts[1].counter("src_spoof")?;
            ensure!(after > before, "{family:?}: {}", said(&wefts));
            wefts[1].reload(&cluster.config(1))?;
        }
        audit(&wefts)
    })
}

/// The server of node b, as a range.
fn range_of_one(cluster: &Cluster, family: Family) -> String {
    let bits = if family == Family::V4 { 32 } else { 128 };
    format!("{}/{bits}", cluster.servers[1].ip(family))
}

#[test]
fn tun05_a_node_process_is_killed_and_started_again() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let mut wefts = cluster.start()?;
        for at in 0..2 {
            let loads = cluster.loads();
            progress(&loads, 10)?;
            wefts[at].kill()?;
            sleep(Duration::from_millis(500));
            wefts[at] = Weft::start(&cluster.nodes.nodes[at], &cluster.config(at))?;
            progress(&loads, 30)
                .with_context(|| said(&wefts))
                .with_context(|| format!("after the end of node {at}'s"))?;
            nothing_misrouted(loads)?;
            cluster.pods_reach_pods().with_context(|| said(&wefts))?;
            audit(&wefts)?;
        }
        Ok(())
    })
}

#[test]
fn ter4_bad_links_between_nodes_lose_and_mix_up_nothing() -> Result<()> {
    with_weft(|| {
        let mut cluster = Cluster::over(TwoNodes::over_link(Underlay::Routed)?)?;
        let wefts = cluster.start()?;
        for impairment in [
            "",
            "loss=1%",
            "reorder=5%",
            "duplicate=5%",
            "corrupt=1%",
            "delay=50ms",
            "loss=0.5% reorder=1% duplicate=1% corrupt=0.5% delay=5ms",
        ] {
            let link = cluster.nodes.impair(impairment.parse()?)?;
            let checked = over_link(&cluster, impairment.contains("corrupt"))
                .with_context(|| said(&wefts))
                .with_context(|| format!("{impairment:?}, before: {link:?}"));
            checked?;
            cluster.nodes.impair("".parse()?)?;
            sleep(Duration::from_millis(200));
            audit(&wefts).with_context(|| format!("{impairment:?}"))?;
        }
        Ok(())
    })
}

fn over_link(cluster: &Cluster, damages: bool) -> Result<()> {
    let loads = cluster.loads();
    for at in 0..2 {
        for family in Family::BOTH {
            let server = &cluster.servers[1 - at];
            let client = &cluster.clients[at].namespace;
            let mut connection = Connection::open(client, server.at(family, WEB_PORT))
                .or_else(|_| Connection::open(client, server.at(family, WEB_PORT)))?;
            let body = connection.get("/bytes/2000000")?.body;
            ensure!(
                body.len() == 2_000_000 && is_pattern(&body),
                "not the bytes that were sent"
            );
            cluster.bulk(at, server.ip(family), HTTP_PORT)?;
        }
    }
    progress(&loads, 20)?;
    match damages {
        true => nothing_misrouted_but_ports(loads),
        false => nothing_misrouted(loads),
    }
}
