//! What fits between two nodes, and who is told what does not (U-09, TUN-04, K-01 to K-03).

use crate::fixture::with_weft;
use crate::overlay_fixture::{Cluster, PORTS, SERVED_AT, Wrapping, audit, said};
use crate::path_mtu::{datagrams, headers, learns};
use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;
use weft_lab::config::Config;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::servers::{HTTP_PORT, WEB_PORT};
use weft_lab::two_nodes::Underlay;

/// MTUs of uplinks.
const MTUS: [u32; 4] = [1500, 1450, 1400, 1280];
/// The least MTU of IPv6.
const LEAST6: u32 = 1280;
/// Services of node b's server at the stages that end connections.
const STAGED: [(&str, u8); 2] = [("tcp", 41), ("http", 42)];
/// A service of its server for datagrams.
const DATAGRAMS: u8 = 43;
const PORT: u16 = 4445;

fn with_stages(cluster: &Cluster, config: &mut Config) -> Result<()> {
    let ports: Vec<_> = (PORTS.into_iter())
        .filter(|(protocol, port, _)| *protocol == "tcp" && *port < 100)
        .collect();
    for (stage, number) in STAGED {
        let service = config.service(stage, number, &ports);
        service.serve_at(cluster.servers[1].ips).stage(Some(stage));
    }
    config
        .service("datagrams", DATAGRAMS, &[("udp", PORT, PORT)])
        .serve_at(cluster.servers[1].ips);
    Ok(())
}

/// Large transfers of TCP in every direction, to the pod itself and to services at every stage.
fn transfers(cluster: &Cluster) -> Result<()> {
    for family in Family::BOTH {
        let vip = |number| pick(&vips(number), family);
        let server = cluster.servers[1].ip(family);
        let mut targets: Vec<(IpAddr, [u16; 2])> = vec![
            (server, [HTTP_PORT, WEB_PORT]),
            (vip(SERVED_AT[1]), [80, 81]),
        ];
        targets.extend(STAGED.map(|(_, number)| (vip(number), [80, 81])));
        for (to, [http, web]) in targets {
            cluster
                .bulk(0, to, http)
                .with_context(|| format!("down from {to}"))?;
            cluster
                .upload(0, to, web)
                .with_context(|| format!("up to {to}"))?;
        }
    }
    Ok(())
}

/// The sockets of a client on node a and a server on node b, through the service or not; fragmenting or not.
fn pair(
    cluster: &Cluster,
    family: Family,
    service: bool,
    fragments: bool,
) -> Result<[UdpSocket; 2]> {
    let (client, server) = (&cluster.clients[0], &cluster.servers[1]);
    let (to, port) = if service {
        (SocketAddr::new(pick(&vips(DATAGRAMS), family), PORT), PORT)
    } else {
        (server.at(family, PORT + 1), PORT + 1)
    };
    let from = datagrams(&client.namespace, 0, to)?;
    let ours = client.at(family, from.local_addr()?.port());
    let there = datagrams(&server.namespace, port, ours)?;
    for socket in [&from, &there] {
        if fragments {
            match family {
                Family::V4 => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?,
                Family::V6 => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::WANT)?,
            }
        }
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    }
    Ok([from, there])
}

/// Datagrams that may not be fragmented: their senders' sockets are told what fits, both ways.
fn told(cluster: &Cluster, mtu: u32) -> Result<()> {
    let inner = mtu - cluster.wrapping.overhead();
    for family in Family::BOTH {
        if family == Family::V6 && inner < LEAST6 {
            continue;
        }
        for service in [false, true] {
            let [client, server] = pair(cluster, family, service, false)?;
            for (from, to) in [(&client, &server), (&server, &client)] {
                from.send(b"!")?;
                ensure!(to.recv(&mut [0; 8]).context("a short one")? == 1);
            }
            for (from, to, end) in [(&client, &server, "client"), (&server, &client, "server")] {
                learns(from, to, family, inner, false)
                    .with_context(|| format!("the {end}, {family:?}, service: {service}"))?;
            }
        }
    }
    Ok(())
}

/// Datagrams that may be fragmented arrive whole, though the first of a size may not.
fn fragmented(cluster: &Cluster, mtu: u32) -> Result<()> {
    let inner = mtu - cluster.wrapping.overhead();
    for family in Family::BOTH {
        if family == Family::V6 && inner < LEAST6 {
            continue;
        }
        for service in [false, true] {
            let [client, server] = pair(cluster, family, service, true)?;
            for (from, to) in [(&client, &server), (&server, &client)] {
                for size in [1, 1000, 1500 - headers(family), 4000] {
                    arrives(from, to, size)
                        .with_context(|| format!("{size} bytes, {family:?}, service: {service}"))?;
                }
            }
        }
    }
    Ok(())
}

fn arrives(from: &UdpSocket, to: &UdpSocket, size: usize) -> Result<()> {
    let datagram = vec![9; size];
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..6 {
        _ = from.send(&datagram); // The word of a narrower way is no failure.
        if matches!(to.recv(&mut buffer), Ok(got) if buffer[..got] == datagram[..]) {
            return Ok(());
        }
    }
    anyhow::bail!("never arrived")
}

fn matrix(wrapping: Wrapping) -> Result<()> {
    with_weft(|| {
        let mut failures = Vec::new();
        for mtu in MTUS {
            // New ones, whose sockets have not learnt anything yet.
            let cluster = Cluster::new(Underlay::Routed)?.wrapped(wrapping);
            cluster.nodes.uplink_mtu(mtu)?;
            let wefts = cluster.start_with(|config| with_stages(&cluster, config))?;
            for (what, check) in [
                ("transfers", transfers(&cluster)),
                ("datagrams", told(&cluster, mtu)),
                ("fragments", fragmented(&cluster, mtu)),
            ] {
                if let Err(error) = check {
                    failures.push(format!("MTU {mtu}, {what}: {error:#}\n{}", said(&wefts)));
                }
            }
            audit(&wefts)?;
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

#[test]
fn u09_tun04_no_black_hole_at_any_uplink_mtu_with_geneve() -> Result<()> {
    matrix(Wrapping::GENEVE)
}

#[test]
fn u09_tun04_no_black_hole_at_any_uplink_mtu_with_geneve_over_ipv6() -> Result<()> {
    matrix(Wrapping::GENEVE6)
}

#[test]
fn u09_tun04_no_black_hole_at_any_uplink_mtu_with_vxlan() -> Result<()> {
    matrix(Wrapping::VXLAN)
}

/// Only an error of a router says that the way between the nodes is narrower than their uplinks.
#[test]
fn u09_tun04_a_router_between_the_nodes_is_narrower() -> Result<()> {
    with_weft(|| {
        for wrapping in [Wrapping::GENEVE, Wrapping::GENEVE6] {
            let cluster = Cluster::new(Underlay::Routed)?.wrapped(wrapping);
            cluster.nodes.core_mtu(1400)?;
            let wefts = cluster.start_with(|config| with_stages(&cluster, config))?;
            transfers(&cluster)
                .with_context(|| said(&wefts))
                .with_context(|| wrapping.to_string())?;
            audit(&wefts)?;
        }
        Ok(())
    })
}

/// The uplinks get narrower while connections are there.
#[test]
fn u09_an_uplink_that_gets_narrower_is_followed() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start_with(|config| with_stages(&cluster, config))?;
        for mtu in [1500, 1400, 1300, 1500] {
            cluster.nodes.uplink_mtu(mtu)?;
            // Control hears of it and publishes new tables.
            std::thread::sleep(Duration::from_secs(1));
            let checks = transfers(&cluster).and_then(|()| fragmented(&cluster, mtu));
            checks
                .with_context(|| said(&wefts))
                .with_context(|| format!("MTU {mtu}"))?;
        }
        audit(&wefts)
    })
}
