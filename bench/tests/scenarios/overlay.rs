//! Pods and services of two nodes (TER-4, TER-5, TER-7, TUN-01 to TUN-07, CSM-05, OVL-01). Which path is seen where, `overlay_matrix` proves.

use crate::fixture::{with_root, with_weft};
use crate::overlay_fixture::{Cluster, EITHER, SERVED_AT, VNI, Wrapping, audit, said};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use weft_lab::capture::{Capture, dissect, faults};
use weft_lab::client::{Datagrams, Talk, ask_udp, ping};
use weft_lab::config::Config;
use weft_lab::http::Connection;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::servers::{HTTP_PORT, PEER_PORT};
use weft_lab::snapshot::Snapshot;
use weft_lab::two_nodes::Underlay;
use weft_lab::wait::{START_LIMIT, wait_until};
use weft_lab::weft::Weft;

/// Source ports of outer headers: 14 bits of a hash.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 0xc000..=0xffff;

/// A service of node b's server whose connections end in Weft.
const STAGED: u8 = 41;
/// How long both ends need to close a connection.
const OVER: Duration = Duration::from_millis(200);

/// What the underlay shows in front of a node's uplink.
fn on_underlay(cluster: &Cluster, node: usize, name: &str) -> Result<Capture> {
    let lab = &cluster.nodes.nodes[node];
    Capture::start(&lab.outside, "eth0", "ip or ip6", &lab.directory(), name)
}

/// The lab itself, with the kernel's own overlay in Weft's place: what benchmarks compare with.
#[test]
fn ter4_pods_of_two_nodes_reach_each_other_by_the_kernels_vxlan() -> Result<()> {
    with_root(|| {
        for (underlay, outer) in [
            (Underlay::Routed, Family::V4),
            (Underlay::Routed, Family::V6),
            (Underlay::Switched, Family::V4),
        ] {
            let cluster = Cluster::new(underlay)?;
            let nodes = &cluster.nodes;
            for family in Family::BOTH {
                let to = nodes.address(1, family);
                // A first one may be lost while neighbours are looked for.
                wait_until("the other node", START_LIMIT, || {
                    ping(&nodes.nodes[0].node, to, 56).is_ok()
                })
                .with_context(|| format!("{underlay}: {to}"))?;
            }
            nodes.kernel_vxlan(outer)?;
            cluster
                .pods_reach_pods()
                .with_context(|| format!("{underlay}"))?;
            for at in 0..2 {
                for family in Family::BOTH {
                    cluster.bulk(at, cluster.servers[1 - at].ip(family), HTTP_PORT)?;
                }
            }
        }
        Ok(())
    })
}

/// The same through a link that is made of a process, perfect so far.
#[test]
fn ter4_pods_of_two_nodes_reach_each_other_over_a_link() -> Result<()> {
    with_root(|| {
        let nodes = weft_lab::two_nodes::TwoNodes::over_link(Underlay::Routed)?;
        let cluster = Cluster::over(nodes)?;
        cluster.nodes.kernel_vxlan(Family::V4)?;
        cluster.pods_reach_pods()?;
        cluster.bulk(0, cluster.servers[1].ip(Family::V4), HTTP_PORT)
    })
}

#[test]
fn ter4_tun01_pods_reach_pods_of_the_other_node() -> Result<()> {
    with_weft(|| {
        for underlay in Underlay::BOTH {
            let cluster = Cluster::new(underlay)?;
            let before = snapshots(&cluster)?;
            let mut wefts = cluster.start()?;
            cluster
                .pods_reach_pods()
                .with_context(|| said(&wefts))
                .with_context(|| format!("{underlay}"))?;
            for at in 0..2 {
                for family in Family::BOTH {
                    cluster
                        .bulk(at, cluster.servers[1 - at].ip(family), HTTP_PORT)
                        .with_context(|| said(&wefts))?;
                }
            }
            audit(&wefts)?;
            for (at, weft) in wefts.iter_mut().enumerate() {
                ensure!(weft.stop()?.success(), "{}", weft.log());
                let changes = before[at].difference(&Snapshot::take(&cluster.nodes.nodes[at])?);
                ensure!(changes.is_empty(), "node {at}: {changes:#?}");
            }
        }
        Ok(())
    })
}

fn snapshots(cluster: &Cluster) -> Result<Vec<Snapshot>> {
    cluster.nodes.nodes.iter().map(Snapshot::take).collect()
}

/// The same with user space in every packet's way, and with two workers.
#[test]
fn ter4_pods_reach_pods_without_the_fast_path_and_with_two_workers() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let changes: [fn(&mut Config); 2] = [
            |config| config.workers.fast_path = "off".into(),
            |config| config.workers.cores = vec![0, 1],
        ];
        for change in changes {
            let wefts = cluster.start_with(|config| {
                change(config);
                Ok(())
            })?;
            cluster.pods_reach_pods().with_context(|| said(&wefts))?;
            for at in 0..2 {
                for number in SERVED_AT {
                    for family in Family::BOTH {
                        let vip = pick(&vips(number), family);
                        cluster.bulk(at, vip, 80).with_context(|| said(&wefts))?;
                    }
                }
            }
            audit(&wefts)?;
        }
        Ok(())
    })
}

#[test]
fn tun03_tun07_ovl01_every_wrapping_carries_pods_and_services() -> Result<()> {
    with_weft(|| {
        let mut cluster = Cluster::new(Underlay::Routed)?;
        for wrapping in Wrapping::ALL {
            cluster = cluster.wrapped(wrapping);
            let wefts = cluster.start().with_context(|| wrapping.to_string())?;
            carries(&cluster)
                .with_context(|| said(&wefts))
                .with_context(|| wrapping.to_string())?;
            audit(&wefts)?;
        }
        Ok(())
    })
}

fn carries(cluster: &Cluster) -> Result<()> {
    cluster.pods_reach_pods()?;
    for family in Family::BOTH {
        for (at, server) in cluster.servers.iter().enumerate() {
            let vip = pick(&vips(SERVED_AT[at]), family);
            cluster.speaks(1 - at, server, vip, [80, PEER_PORT])?;
        }
        cluster.bulk(0, pick(&vips(SERVED_AT[1]), family), 80)?;
        cluster.bulk(1, cluster.servers[0].ip(family), HTTP_PORT)?;
    }
    Ok(())
}

/// Both servers are chosen, wherever the client is, and either sees the client as it is, as the only one of its service, too.
#[test]
fn csm05_ter5_ter7_services_are_served_from_either_node() -> Result<()> {
    with_weft(|| {
        for stage in [None, Some("tcp")] {
            let cluster = Cluster::new(Underlay::Routed)?;
            let wefts = cluster.start_with(|config| {
                for service in &mut config.services {
                    service.stage(stage);
                }
                Ok(())
            })?;
            served_from_either(&cluster)
                .with_context(|| said(&wefts))
                .with_context(|| format!("stage {stage:?}"))?;
            audit(&wefts)?;
        }
        Ok(())
    })
}

fn served_from_either(cluster: &Cluster) -> Result<()> {
    for at in 0..2 {
        for family in Family::BOTH {
            let client = &cluster.clients[at].namespace;
            for (server, number) in cluster.servers.iter().zip(SERVED_AT) {
                let vip = pick(&vips(number), family);
                cluster
                    .speaks(at, server, vip, [80, PEER_PORT])
                    .with_context(|| format!("from node {at}"))?;
            }
            let vip = SocketAddr::new(pick(&vips(EITHER), family), PEER_PORT);
            let mut names = [BTreeSet::new(), BTreeSet::new()];
            for _ in 0..40 {
                let mut talk = Talk::open(client, vip)?;
                ensure!(
                    talk.greeting.client == talk.local,
                    "{:?} of {}",
                    talk.greeting,
                    talk.local
                );
                ensure!(talk.ask()? == talk.greeting, "another answer");
                names[0].insert(talk.greeting.name);
                let datagrams = Datagrams::open(client, vip)?;
                let answer = datagrams.ask()?;
                ensure!(
                    answer.client == datagrams.local,
                    "{answer:?} of {}",
                    datagrams.local
                );
                names[1].insert(answer.name);
            }
            ensure!(
                names.iter().all(|names| names.len() == 2),
                "from node {at}, {family:?}: {names:?}"
            );
            cluster.bulk(at, pick(&vips(SERVED_AT[1 - at]), family), 80)?;
        }
    }
    Ok(())
}

#[test]
fn csm05_ter7_the_http_stage_reaches_servers_of_either_node() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start_with(|config| {
            for service in &mut config.services {
                service
                    .ports
                    .retain(|port| port.protocol == "tcp" && port.port != PEER_PORT);
                service.http("")?;
            }
            Ok(())
        })?;
        requests_to_either(&cluster).with_context(|| said(&wefts))?;
        audit(&wefts)
    })
}

fn requests_to_either(cluster: &Cluster) -> Result<()> {
    for at in 0..2 {
        for family in Family::BOTH {
            let client = &cluster.clients[at].namespace;
            for number in [EITHER, SERVED_AT[1 - at]] {
                let vip = SocketAddr::new(pick(&vips(number), family), 81);
                let mut connection = Connection::open(client, vip)?;
                ensure!(connection.peer()? == vip, "{}", connection.peer()?);
                let local = connection.local()?;
                let mut servers = BTreeSet::new();
                for _ in 0..20 {
                    let answer = connection.get("/")?;
                    let seen = (answer.word(1), answer.word(2));
                    ensure!(
                        seen == (local.ip().to_string(), local.port().to_string()),
                        "{seen:?} of {local}"
                    );
                    servers.insert(answer.word(0));
                }
                let wanted = if number == EITHER { 2 } else { 1 };
                ensure!(servers.len() == wanted, "{vip}: {servers:?}");
                let body = connection.get("/bytes/3000000")?.body;
                ensure!(
                    body.len() == 3_000_000 && weft_lab::tools::web::is_pattern(&body),
                    "{} bytes, or not those",
                    body.len()
                );
            }
            cluster.bulk(at, pick(&vips(SERVED_AT[1 - at]), family), 80)?;
        }
    }
    Ok(())
}

/// What is between the nodes, as another implementation reads it.
#[test]
fn tun01_tun02_tun06_tun07_frames_between_nodes_are_what_they_should_be() -> Result<()> {
    with_weft(|| {
        let mut cluster = Cluster::new(Underlay::Routed)?;
        for wrapping in Wrapping::ALL {
            cluster = cluster.wrapped(wrapping);
            // Without the fast path, so that no checksum is left for an interface to complete.
            let wefts = cluster.start_with(|config| {
                config.workers.fast_path = "off".into();
                Ok(())
            })?;
            let capture = on_underlay(&cluster, 0, "underlay")?;
            cluster.pods_reach_pods()?;
            for family in Family::BOTH {
                let vip = pick(&vips(SERVED_AT[1]), family);
                cluster.speaks(0, &cluster.servers[1], vip, [80, PEER_PORT])?;
                for _ in 0..30 {
                    ask_udp(&cluster.clients[0].namespace, (vip, PEER_PORT).into())?;
                }
            }
            judge(&cluster, &capture.stop()?).with_context(|| wrapping.to_string())?;
            audit(&wefts)?;
        }
        Ok(())
    })
}

fn judge(cluster: &Cluster, file: &Path) -> Result<()> {
    let wrapping = cluster.wrapping;
    let wrong = faults(file)?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    let (header, network) = match wrapping.encap {
        "vxlan" => ("vxlan", "vxlan.vni"),
        _ => ("geneve", "geneve.vni"),
    };
    let ip = match wrapping.outer {
        Family::V4 => "ip",
        Family::V6 => "ipv6",
    };
    let (src, dst) = (format!("{ip}.src"), format!("{ip}.dst"));
    let fields = [
        &src,
        &dst,
        "udp.srcport",
        "udp.dstport",
        network,
        "udp.checksum",
        "ip.flags.df",
        "udp.stream",
    ];
    let frames = dissect(file, header, &fields)?;
    ensure!(frames.len() > 100, "{} frames", frames.len());
    let ends = [0, 1].map(|at| cluster.nodes.address(at, wrapping.outer).to_string());
    let first = |list: &str| list.split(',').next().unwrap_or_default().to_owned();
    let mut ports = BTreeSet::new();
    for frame in &frames {
        let [src, dst, sport, dport, vni, checksum, df, _] =
            [0, 1, 2, 3, 4, 5, 6, 7].map(|at| first(&frame[at]));
        ensure!(
            ends.contains(&src) && ends.contains(&dst) && src != dst,
            "{frame:?}"
        );
        let sport: u16 = sport.parse().with_context(|| format!("{frame:?}"))?;
        ensure!(SOURCE_PORTS.contains(&sport), "{frame:?}");
        ensure!(dport == wrapping.port().to_string(), "{frame:?}");
        let number = vni
            .strip_prefix("0x")
            .map_or_else(|| vni.parse(), |hex| u32::from_str_radix(hex, 16));
        ensure!(number? == VNI, "{frame:?}");
        let summed = wrapping.checksum || wrapping.outer == Family::V6;
        ensure!((checksum != "0x0000") == summed, "{frame:?}");
        ensure!(wrapping.outer == Family::V6 || df == "1", "{frame:?}");
        ports.insert(sport);
    }
    ensure!(ports.len() > 40, "{} source ports", ports.len());
    // Nothing of the pods' is on the underlay but what is wrapped.
    let bare = dissect(
        file,
        &format!(
            "!{header} && (ip.addr == 10.0.0.0/8 || ipv6.addr == fd00:244::/32 || ipv6.addr == fd00:96::/32)"
        ),
        &["frame.number", "_ws.col.Info"],
    )?;
    ensure!(bare.is_empty(), "{bare:?}");
    Ok(())
}

/// The far node's flows say which service was asked, and by whom: translated, through the stages, and without a service.
#[test]
fn ter7_ter15_u15_the_far_node_names_the_service_that_was_asked_and_the_client() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        for stage in [None, Some("tcp"), Some("http")] {
            let wefts = cluster.start_with(|config| {
                for service in &mut config.services {
                    service
                        .ports
                        .retain(|port| port.port != PEER_PORT || port.protocol == "udp");
                    service.stage(stage);
                }
                Ok(())
            })?;
            for family in Family::BOTH {
                client_is_named(&cluster, &wefts, family)
                    .with_context(|| format!("{family:?}, stage {stage:?}"))?;
            }
            audit(&wefts)?;
        }
        Ok(())
    })
}

fn client_is_named(cluster: &Cluster, wefts: &[Weft; 2], family: Family) -> Result<()> {
    let client = &cluster.clients[0].namespace;
    let vip = |port| SocketAddr::new(pick(&vips(SERVED_AT[1]), family), port);
    let mut requests = Connection::open(client, vip(81))?;
    requests.get("/")?;
    let datagrams = Datagrams::open(client, vip(PEER_PORT))?;
    datagrams.ask()?;
    let to_pod = (cluster.servers[1].ip(family), PEER_PORT).into();
    let mut talk = Talk::open_apart(client, to_pod)?;
    talk.ask()?;
    for (local, asked) in [
        (requests.local()?, Some(vip(81))),
        (datagrams.local, Some(vip(PEER_PORT))),
        (talk.local, None),
    ] {
        let [near, far] = [0, 1].map(|at| flow_of(&wefts[at], local));
        let (near, far) = (near.context("node a")?, far.context("node b")?);
        let dialled = asked.unwrap_or(to_pod);
        ensure!(near["destination"] == dialled.to_string(), "{near:#}");
        let asked = asked.map(|asked| asked.to_string());
        ensure!(far["asked"].as_str() == asked.as_deref(), "{far:#}");
        for flow in [near, far] {
            ensure!(flow["client_pod"] == "lab/client-a", "{flow:#}");
        }
    }
    let table = wefts[1].text(&["flows"])?;
    ensure!(table.contains("(lab/client-a)"), "{table}");
    Ok(())
}

/// The flow of that client.
fn flow_of(weft: &Weft, client: SocketAddr) -> Result<serde_json::Value> {
    let flows = weft.json(&["flows"])?;
    let flows = flows["flows"].as_array().context("no flows")?;
    let client = client.to_string();
    let found = flows.iter().find(|flow| flow["client"] == client.as_str());
    let found = found.with_context(|| format!("no flow of {client}: {flows:#?}"))?;
    Ok(found.clone())
}

/// Who is nobody's pod is not looked for at peers, and what a peer gets for nobody ends there.
#[test]
fn tun05_unknown_destinations_are_never_flooded() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start()?;
        let captures = [
            on_underlay(&cluster, 0, "a")?,
            on_underlay(&cluster, 1, "b")?,
        ];
        let client = &cluster.clients[0].namespace;
        // Of no range, and in node b's, but of no pod there.
        let strangers = [
            "10.244.9.9",
            "fd00:244:9::9",
            "10.244.2.77",
            "fd00:244:2::77",
        ];
        for stranger in strangers {
            let to = stranger.parse()?;
            ensure!(ping(client, to, 56).is_err(), "{to} answers");
            ensure!(
                ask_udp(client, (to, PEER_PORT).into()).is_err(),
                "{to} answers"
            );
        }
        let files = captures.map(Capture::stop);
        for file in files {
            let file = file?;
            let wrapped = |address: &str, port: &str| {
                let ip = if address.contains(':') { "ipv6" } else { "ip" };
                let filter = format!("geneve && {ip}.dst == {address}");
                Ok::<_, anyhow::Error>(dissect(&file, &filter, &[port])?.len())
            };
            for stranger in &strangers[..2] {
                ensure!(
                    wrapped(stranger, "frame.number")? == 0,
                    "{stranger} went to a peer"
                );
            }
            for stranger in &strangers[2..] {
                // Two packets, each once: nothing goes round.
                let count = wrapped(stranger, "frame.number")?;
                ensure!(count <= 2, "{stranger}: {count} frames");
            }
        }
        ensure!(wefts[1].counter("no_route")? >= 4, "{}", said(&wefts));
        audit(&wefts)
    })
}

/// A client's port is as free for a service as for its server once the connection that had it is over, wherever the server is.
#[test]
fn amb08_a_port_is_free_again_after_a_connection_to_the_same_server() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let server = cluster.servers[1].at(Family::V4, PEER_PORT);
        let service = (pick(&vips(SERVED_AT[1]), Family::V4), PEER_PORT).into();
        let staged = (pick(&vips(STAGED), Family::V4), PEER_PORT).into();
        let ways = [
            (20_001, [server, service]),
            (20_003, [service, server]),
            (20_005, [service, staged]),
            (20_007, [staged, service]),
        ];
        for (round, fast_path) in (0..).zip(["off", "flows", "full"]) {
            let wefts = cluster.start_with(|config| {
                config.workers.fast_path = fast_path.into();
                let service = config.service("staged", STAGED, &[("tcp", PEER_PORT, PEER_PORT)]);
                service.serve_at(cluster.servers[1].ips).stage(Some("tcp"));
                Ok(())
            })?;
            for (at, client) in cluster.clients.iter().enumerate() {
                for (port, targets) in ways {
                    // Without timestamps the client has no port twice for one destination within a minute.
                    let port = port + 100 * round;
                    for to in targets {
                        let talk = Talk::open_from(&client.namespace, port, to)
                            .with_context(|| format!("{fast_path}, node {at}, {to}"))?;
                        ensure!(
                            talk.greeting.client == talk.local,
                            "{fast_path}, node {at}, {to}: {} was seen as {}\n{}",
                            talk.local,
                            talk.greeting.client,
                            wefts[at].text(&["flows"])?
                        );
                        drop(talk);
                        std::thread::sleep(OVER);
                    }
                }
            }
            audit(&wefts)?;
        }
        Ok(())
    })
}
