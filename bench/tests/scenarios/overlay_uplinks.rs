//! A node with two uplinks: which of them packets leave by is for its routes to say, and what comes by either is taken
//! (TER-3, TER-4, TER-6). That its own pods need neither, `overlay_matrix` proves.

use crate::fixture::with_weft;
use crate::overlay_fixture::{Cluster, SERVED_AT, Wrapping, audit, said};
use anyhow::{Context, Result, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use weft_lab::client::{Answer, Datagrams, Talk};
use weft_lab::config::Config;
use weft_lab::lab::{Family, NodePlace, UPLINK, pick, vips};
use weft_lab::servers::{HTTP_PORT, PEER_PORT};
use weft_lab::two_nodes::{UPLINK2, Underlay};
use weft_lab::wait::wait_until;

/// How long control may take to hear of a route.
const HEARD: Duration = Duration::from_secs(2);
/// Packets that a link carries in any case: who looks for neighbours, and what was under way.
const FEW: u64 = 20;
/// What a step sends at least.
const MANY: u64 = 100;
/// How long transfers run before a change.
const UNDER_WAY: Duration = Duration::from_millis(50);
/// The uplinks.
const BOTH: [&str; 2] = [UPLINK, UPLINK2];

/// Which of the uplinks node a's packets to node b take, and which the answers: all there are, each a change from the one before.
const WAYS: [[usize; 2]; 4] = [[0, 0], [1, 0], [1, 1], [0, 1]];

/// Connections and flows of datagrams that go on: both nodes' clients with the other's server, by itself and as a service.
struct Running {
    talks: Vec<Talk>,
    datagrams: Vec<(Datagrams, Answer)>,
}

impl Running {
    fn new(cluster: &Cluster) -> Result<Self> {
        let (mut talks, mut datagrams) = (Vec::new(), Vec::new());
        for at in 0..2 {
            let (client, server) = (&cluster.clients[at].namespace, &cluster.servers[1 - at]);
            for family in Family::BOTH {
                let vip = pick(&vips(SERVED_AT[1 - at]), family);
                for ip in [server.ip(family), vip] {
                    talks.push(Talk::open_apart(client, (ip, PEER_PORT).into())?);
                    let flow = Datagrams::open(client, (ip, PEER_PORT).into())?;
                    let answer = flow.ask()?;
                    datagrams.push((flow, answer));
                }
            }
        }
        Ok(Self { talks, datagrams })
    }

    /// Each is with the server that it began with, which sees the client that it has seen.
    fn go_on(&mut self) -> Result<()> {
        for talk in &mut self.talks {
            let answer = talk.ask().with_context(|| format!("of {}", talk.local))?;
            ensure!(answer == talk.greeting, "{answer:?}, {:?}", talk.greeting);
        }
        for (flow, before) in &self.datagrams {
            let answer = flow.ask()?;
            ensure!(answer == *before, "{answer:?}, {before:?}");
        }
        Ok(())
    }
}

/// Routes of node a to node b and its pods, and back from its router.
fn lead(cluster: &Cluster, second: NodePlace, [out, back]: [usize; 2]) -> Result<()> {
    let [a, b] = &cluster.nodes.nodes;
    let places = [a.place(), second];
    let (far, own) = (b.place(), a.place());
    for family in 0..2 {
        let gateway = places[out].gateway()[family];
        let (node, by) = (own.ips()[family], places[back].ips()[family]);
        for range in [&far.uplink_ranges()[family], &far.pod_ranges()[family]] {
            a.node.ip(&format!(
                "route replace {range} via {gateway} dev {}\n",
                BOTH[out]
            ))?;
        }
        let via = if back == 0 {
            String::new()
        } else {
            format!("via {by} ")
        };
        a.outside.ip(&format!(
            "route replace {node} {via}dev eth{back}\n\
             route replace {} via {by} dev eth{back}\n",
            own.pod_ranges()[family]
        ))?;
    }
    Ok(())
}

/// Packets that node a has sent by each of its uplinks, and received.
fn packets(cluster: &Cluster) -> Result<[[u64; 2]; 2]> {
    let node = &cluster.nodes.nodes[0].node;
    let [first, second] = [node.packets(BOTH[0])?, node.packets(BOTH[1])?];
    Ok([[first.sent, second.sent], [first.received, second.received]])
}

/// Transfers to either node go on while the routes are made others.
fn change(cluster: &Cluster, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let changed = AtomicBool::new(false);
    let transfers = |at: usize, family| -> Result<()> {
        while !changed.load(Ordering::Relaxed) {
            cluster.bulk(at, cluster.servers[1 - at].ip(family), HTTP_PORT)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let down = scope.spawn(|| transfers(0, Family::V4));
        let up = scope.spawn(|| transfers(1, Family::V6));
        thread::sleep(UNDER_WAY);
        let made = change();
        changed.store(true, Ordering::Relaxed);
        for transfers in [down, up] {
            transfers.join().expect("a thread")?;
        }
        made
    })
}

/// All that is said goes out by one uplink, and all answers come by one.
fn by(cluster: &Cluster, running: &mut Running, ways: [usize; 2]) -> Result<()> {
    let before = packets(cluster)?;
    running.go_on()?;
    Running::new(cluster)?.go_on()?;
    cluster.bulk(0, cluster.servers[1].ip(Family::V4), HTTP_PORT)?;
    let after = packets(cluster)?;
    for (direction, way) in ways.into_iter().enumerate() {
        let counts = [0, 1].map(|at| after[direction][at] - before[direction][at]);
        ensure!(
            counts[way] > MANY && counts[1 - way] < FEW,
            "{}: {counts:?} packets",
            ["out", "back"][direction]
        );
    }
    Ok(())
}

#[test]
fn ter3_ter4_ter6_flows_follow_the_route_to_another_uplink_and_answers_come_by_either() -> Result<()>
{
    with_weft(|| {
        let mut cluster = Cluster::new(Underlay::Routed)?;
        cluster.nodes.pods_are_known()?;
        let second = cluster.nodes.second_uplink(0)?;
        let both = |config: &mut Config| {
            if config.node.name == "node-a" {
                config.node.uplink = BOTH.map(Into::into).into();
            }
        };
        let wefts = cluster.start_with(|config| {
            both(config);
            Ok(())
        })?;
        let mut running = Running::new(&cluster)?;
        for wrapping in [Wrapping::GENEVE, Wrapping::GENEVE6, Wrapping::NATIVE] {
            cluster.wrapping = wrapping;
            for (at, weft) in wefts.iter().enumerate() {
                let mut config = cluster.config(at);
                both(&mut config);
                weft.reload(&config)?;
            }
            for ways in WAYS {
                let lead = || {
                    lead(&cluster, second, ways)?;
                    wait_until("the way", HEARD, || {
                        let status = wefts[0].json(&["status"]);
                        status.is_ok_and(|status| status["peers"][0]["uplink"] == BOTH[ways[0]])
                    })
                };
                change(&cluster, lead)
                    .and_then(|()| by(&cluster, &mut running, ways))
                    .with_context(|| said(&wefts))
                    .with_context(|| format!("{wrapping}: out and back by {ways:?}"))?;
            }
        }
        audit(&wefts)
    })
}
