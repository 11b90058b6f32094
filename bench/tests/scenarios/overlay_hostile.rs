//! Pods of two nodes that send what few do, or what none may (TUN-05, U-09).

use crate::fixture::with_weft;
use crate::overlay_fixture::{Cluster, VNI, audit, said};
use anyhow::{Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;
use weft_lab::command::run;
use weft_lab::lab::{Family, Pod, UPLINK};
use weft_lab::packet::{Ip, ethernet, fragments, udp};
use weft_lab::raw::Wire;
use weft_lab::two_nodes::Underlay;

/// Where sockets of these tests are.
const PORT: u16 = 4448;
/// Longer than a UDP flow has to pause before the hooks carry it.
const PAUSE: Duration = Duration::from_millis(50);
/// Datagrams of one call, and bytes of each: more than one frame, less than 64 KiB.
const AT_ONCE: usize = 20;
const SIZE: usize = 1000;

fn socket(pod: &Pod, family: Family) -> Result<UdpSocket> {
    let own = pod.at(family, PORT);
    let socket = pod.namespace.enter(|| UdpSocket::bind(own))??;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

/// Sends many datagrams by one call, as QUIC servers do, and counts what arrives of them.
fn burst(from: &UdpSocket, to: &UdpSocket) -> Result<usize> {
    let bytes: Vec<u8> = (0..AT_ONCE).flat_map(|part| [part as u8; SIZE]).collect();
    setsockopt(from, sockopt::UdpGsoSegment, &(SIZE as i32))?;
    ensure!(from.send_to(&bytes, to.local_addr()?)? == bytes.len());
    let mut buffer = [0; 2 * SIZE];
    let mut arrived = 0;
    while arrived < AT_ONCE {
        match to.recv_from(&mut buffer) {
            Ok((length, _)) => ensure!(length == SIZE, "{length} bytes"),
            Err(_) => break,
        }
        arrived += 1;
    }
    Ok(arrived)
}

#[test]
fn tun05_datagrams_that_a_pod_sends_by_one_call_arrive() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start()?;
        for family in Family::BOTH {
            let client = socket(&cluster.clients[0], family)?;
            let server = socket(&cluster.servers[1], family)?;
            for round in 0..4 {
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let arrived = burst(from, to)?;
                    ensure!(
                        arrived == AT_ONCE,
                        "{family:?}, round {round}: {arrived} of {AT_ONCE}\n{}",
                        said(&wefts)
                    );
                    sleep(PAUSE);
                }
            }
        }
        audit(&wefts)
    })
}

/// A pod wraps a packet by itself, in the name of another one, and its node's kernel masquerades it: then it comes from a peer.
#[test]
fn u09_what_a_pod_has_wrapped_itself_reaches_no_other_node() -> Result<()> {
    with_weft(|| {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start()?;
        let family = Family::V4;
        let (client, server) = (&cluster.clients[0], &cluster.servers[1]);
        let rule = [
            "-t",
            "nat",
            "-A",
            "POSTROUTING",
            "-o",
            UPLINK,
            "-j",
            "MASQUERADE",
        ];
        run(cluster.nodes.nodes[0].node.command("iptables").args(rule))?;
        let socket = socket(server, family)?;
        let victim = cluster.servers[0].ip(family);
        let node = cluster.nodes.address(1, family);
        let mut payload = vec![0, 0, 0x65, 0x58];
        payload.extend((VNI << 8).to_be_bytes());
        payload.extend([2; 12]);
        payload.extend([8, 0]);
        payload.extend(udp(
            &Ip::new(victim, server.ip(family)),
            40_000,
            PORT,
            &[7; 60],
        ));
        let outer = Ip::new(client.ip(family), node);
        let wire = Wire::open(&client.namespace, "eth0")?;
        let whole = udp(&outer, 50_000, 6081, &payload);
        let parts = fragments(&outer, 50_000, 6081, &payload).to_vec();
        for (what, packets) in [("whole", vec![whole]), ("in fragments", parts)] {
            for packet in packets {
                ensure!(wire.send(&ethernet(wire.mac, wire.gateway, &packet))?);
            }
            let mut buffer = [0; 64];
            let got = socket.recv_from(&mut buffer);
            ensure!(got.is_err(), "{what}: {got:?}\n{}", said(&wefts));
        }
        ensure!(wefts[0].counter("src_spoof")? == 2, "{}", said(&wefts));
        audit(&wefts)
    })
}
