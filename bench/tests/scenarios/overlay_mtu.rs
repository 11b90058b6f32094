//! What fits between two nodes, and who is told what does not, or is not where ICMP is filtered (U-09, TUN-04, K-01 to K-03).

use crate::fixture::with_weft;
use crate::overlay_fixture::{Cluster, PORTS, SERVED_AT, Wrapping, audit, said};
use crate::path_mtu::{datagrams, headers, learns};
use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use weft_lab::client::download;
use weft_lab::command::run_with_input;
use weft_lab::config::Config;
use weft_lab::lab::{Family, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::servers::WEB_PORT;
use weft_lab::two_nodes::Underlay;
use weft_lab::wait::wait_until;
use weft_lab::weft::{Weft, sum_of};

/// MTUs of uplinks.
const MTUS: [u32; 4] = [1500, 1450, 1400, 1280];
/// Of pods' own links: what nothing on the way makes less.
const POD_MTU: u32 = 1500;
/// Who sends.
const ENDS: [&str; 2] = ["client", "server"];
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
    const BYTES: usize = 2_000_000;
    for family in Family::BOTH {
        let vip = |number| pick(&vips(number), family);
        let mut targets = vec![
            SocketAddr::new(cluster.servers[1].ip(family), WEB_PORT),
            (vip(SERVED_AT[1]), 81).into(),
        ];
        targets.extend(STAGED.map(|(_, number)| SocketAddr::new(vip(number), 81)));
        for to in targets {
            let url = format!("http://{to}/bytes/{BYTES}");
            let bytes = download(&cluster.clients[0].namespace, &url, 30)
                .with_context(|| format!("down from {to}"))?;
            ensure!(bytes == BYTES, "{bytes} bytes down from {to}");
            cluster
                .upload(0, to.ip(), to.port())
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
        // Those that may be fragmented are asked for again, and the first ones are lost.
        let limit = if fragments { 200 } else { 500 };
        socket.set_read_timeout(Some(Duration::from_millis(limit)))?;
    }
    Ok([from, there])
}

/// For each family, with the service and without, what `check` says about a client's and a server's socket. A family of which
/// what fits is less than it has to be is left out.
fn each_pair(
    cluster: &Cluster,
    mtu: u32,
    fragments: bool,
    check: impl Fn(Family, &[UdpSocket; 2]) -> Result<()>,
) -> Result<()> {
    for family in Family::BOTH {
        if family == Family::V6 && cluster.inner(mtu) < LEAST6 {
            continue;
        }
        for service in [false, true] {
            let sockets = pair(cluster, family, service, fragments)?;
            if !fragments {
                for at in 0..2 {
                    sockets[at].send(b"!")?;
                    let got = sockets[1 - at].recv(&mut [0; 8]);
                    ensure!(got.context("a short one")? == 1);
                }
            }
            check(family, &sockets).with_context(|| format!("{family:?}, service: {service}"))?;
        }
    }
    Ok(())
}

/// Datagrams that may not be fragmented: their senders' sockets are told what fits, both ways.
fn told(cluster: &Cluster, mtu: u32) -> Result<()> {
    let inner = cluster.inner(mtu);
    each_pair(cluster, mtu, false, |family, sockets| {
        for at in 0..2 {
            let (from, to) = (&sockets[at], &sockets[1 - at]);
            match inner {
                POD_MTU => fits(from, to, family, inner),
                _ => learns(from, to, family, inner, false),
            }
            .with_context(|| format!("the {}", ENDS[at]))?;
        }
        Ok(())
    })
}

/// As many bytes as fit arrive.
fn fits(from: &UdpSocket, to: &UdpSocket, family: Family, inner: u32) -> Result<()> {
    let datagram = vec![8; inner as usize - headers(family)];
    from.send(&datagram)?;
    let mut buffer = [0; 2048];
    let got = to.recv(&mut buffer).context("what fits")?;
    ensure!(buffer[..got] == datagram[..], "{got} other bytes");
    Ok(())
}

/// The same where no error gets through: what fits arrives, and each that does not is one answer of its sender's node.
fn not_told(cluster: &Cluster, wefts: &[Weft; 2], mtu: u32) -> Result<()> {
    let inner = cluster.inner(mtu);
    each_pair(cluster, mtu, false, |family, sockets| {
        for at in 0..2 {
            let (from, to, weft) = (&sockets[at], &sockets[1 - at], &wefts[at]);
            fits(from, to, family, inner).with_context(|| format!("the {}", ENDS[at]))?;
            if inner == POD_MTU {
                continue;
            }
            let replied =
                || Ok::<_, anyhow::Error>(sum_of(&weft.json(&["status"])?["ledger"], "replied"));
            let before = replied()?;
            from.send(&vec![7; inner as usize + 1 - headers(family)])?;
            wait_until("an answer", Duration::from_secs(1), || {
                replied().is_ok_and(|now| now == before + 1)
            })?;
            fits(from, to, family, inner).with_context(|| format!("the {}, again", ENDS[at]))?;
        }
        Ok(())
    })
}

/// Datagrams that may be fragmented arrive whole, though the first of a size may not.
fn fragmented(cluster: &Cluster, mtu: u32) -> Result<()> {
    each_pair(cluster, mtu, true, |family, sockets| {
        for at in 0..2 {
            for size in [1, 1000, 1500 - headers(family), 4000] {
                arrives(&sockets[at], &sockets[1 - at], size)
                    .with_context(|| format!("{size} bytes"))?;
            }
        }
        Ok(())
    })
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

/// Pods that send and routers, which drop what ICMP says about packets, or do no longer.
fn filter(cluster: &Cluster, filters: bool) -> Result<()> {
    let chain = |hook: &str| {
        format!(
            "chain {hook} {{\ntype filter hook {hook} priority -300;\n\
             icmp type {{ 3, 11, 12 }} drop\nicmpv6 type {{ 1, 2, 3, 4 }} drop\n}}\n"
        )
    };
    let chains = ["input", "forward", "output"].map(chain).concat();
    let table = if filters {
        format!("table inet filtered {{\n{chains}}}\n")
    } else {
        "delete table inet filtered\n".into()
    };
    for namespace in all(cluster) {
        run_with_input(namespace.command("nft").args(["-f", "-"]), &table)?;
    }
    Ok(())
}

/// The pods that send, then the routers.
fn all(cluster: &Cluster) -> [&Namespace; 4] {
    let [a, b] = &cluster.nodes.nodes;
    [
        &cluster.clients[0].namespace,
        &cluster.servers[1].namespace,
        &a.outside,
        &b.outside,
    ]
}

/// Pods forget what they have learnt of the path. What is `sure` to fit is all that they send in a packet over IPv6: who hears of
/// no error may not rely on more (RFC 8200, section 5).
fn forget(cluster: &Cluster, sure: bool) -> Result<()> {
    let mtu = if sure { " mtu 1280" } else { "" };
    for pod in &all(cluster)[..2] {
        pod.sysctl(&["net.ipv4.route.flush=1", "net.ipv6.route.flush=1"])?;
        pod.ip(&format!(
            "route replace default via fe80::1 dev eth0{mtu}\n"
        ))?;
    }
    Ok(())
}

/// Both nodes know what fits.
fn heard(cluster: &Cluster, wefts: &[Weft; 2], mtu: u32) -> Result<()> {
    let inner = cluster.inner(mtu);
    wait_until("the MTU of the way", Duration::from_secs(2), || {
        wefts.iter().all(|weft| {
            let status = weft.json(&["status"]);
            status.is_ok_and(|status| status["peers"][0]["mtu"] == inner)
        })
    })
}

fn matrix(wrapping: Wrapping) -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?.wrapped(wrapping);
        if wrapping.native {
            cluster.nodes.pods_are_known()?;
        }
        let wefts = cluster.start_with(|config| with_stages(&cluster, config))?;
        let mut failures = Vec::new();
        for mtu in MTUS {
            cluster.nodes.uplink_mtu(mtu)?;
            heard(&cluster, &wefts, mtu)?;
            for filters in [false, true] {
                forget(&cluster, false)?;
                if filters {
                    filter(&cluster, true)?;
                }
                let checks: [(_, &dyn Fn() -> Result<()>); 3] = [
                    ("transfers", &|| transfers(&cluster)),
                    ("datagrams", &|| match filters {
                        true => not_told(&cluster, &wefts, mtu),
                        false => told(&cluster, mtu),
                    }),
                    ("fragments", &|| {
                        forget(&cluster, filters)?;
                        fragmented(&cluster, mtu)
                    }),
                ];
                for (what, check) in checks {
                    if let Err(error) = check() {
                        let said = said(&wefts);
                        failures.push(format!(
                            "MTU {mtu}, ICMP filtered: {filters}, {what}: {error:#}\n{said}"
                        ));
                    }
                }
            }
            filter(&cluster, false)?;
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

#[test]
fn u09_ter4_no_black_hole_at_any_uplink_mtu_without_wrapping() -> Result<()> {
    matrix(Wrapping::NATIVE)
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
