//! Datagrams larger than the MTU, through a VIP and back, in any order (SVC-35, K-18).

use crate::fixture::{Fixture, with_weft};
use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use weft_lab::capture::packets;
use weft_lab::client::ANSWER_LIMIT;
use weft_lab::config::Config;
use weft_lab::lab::{Family, Pod, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::servers::{self, ECHO_PORT};
use weft_lab::wait::wait_until;
use weft_lab::weft::{Weft, sum_of};

/// Served by an enrolled pod, and by one that is not.
const NEAR: u8 = 14;
const FAR: u8 = 15;
/// Sockets that send to each service.
const SOCKETS: usize = 6;
/// Bytes of payload in a fragment at an MTU of 1500, less than in IPv6 too.
const PIECE: usize = 1400;

fn echo_fixture() -> Result<(Fixture, Config)> {
    let mut fixture = Fixture::new()?;
    for pod in [fixture.backends[0].clone(), fixture.outsider.clone()] {
        servers::echo(&mut fixture.lab, &pod, None)?;
    }
    let mut config = fixture.config();
    let ports = [("udp", ECHO_PORT, ECHO_PORT)];
    let near = fixture.backends[0].ips;
    config.service("near", NEAR, &ports).serve_at(near);
    config
        .service("far", FAR, &ports)
        .serve_at(fixture.outsider.ips);
    Ok((fixture, config))
}

fn any(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Bytes that differ from place to place and from one `seed` to the next.
fn text(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at / 5 + seed) % 251) as u8)
        .collect()
}

/// Datagrams of every length from several sockets; each must come back as it was sent.
fn echoes(namespace: &Namespace, family: Family, to: SocketAddr) -> Result<()> {
    namespace.enter(|| -> Result<()> {
        for seed in 0..SOCKETS {
            let socket = UdpSocket::bind(any(family))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            for length in [10, 4_000, 60_000, 1_473] {
                let sent = text(seed, length);
                socket.send(&sent)?;
                let mut back = vec![0; 65_536];
                let received = socket
                    .recv(&mut back)
                    .with_context(|| format!("{length} bytes to {to} did not come back"))?;
                ensure!(
                    back[..received] == sent,
                    "{length} bytes to {to} came back changed"
                );
            }
        }
        Ok(())
    })?
}

#[test]
fn svc35_large_datagrams_cross_a_vip_and_come_back() -> Result<()> {
    with_weft(|| {
        for (cores, affinity) in [(vec![0], false), (vec![0, 1], false), (vec![0, 1], true)] {
            let (fixture, mut config) = echo_fixture()?;
            config.workers.cores = cores;
            if affinity {
                for service in &mut config.services {
                    service.session_affinity = Some("client_ip".into());
                }
            }
            let weft = Weft::start(&fixture.lab, &config)?;
            let outside = fixture.watch()?;
            for family in Family::BOTH {
                for number in [NEAR, FAR] {
                    let to = (pick(&vips(number), family), ECHO_PORT).into();
                    echoes(&fixture.client.namespace, family, to)?;
                }
            }
            assert_eq!(packets(&outside.stop()?)?, [""; 0], "left the node");
            assert_eq!(by_workers(&weft, "unknown_flow")?, 0);
            // Whole or in fragments, a socket has one flow.
            if config.workers.fast_path == "off" {
                assert_eq!(by_workers(&weft, "flows")?, 2 * 2 * SOCKETS as u64);
            }
            weft.audit()?;
        }
        Ok(())
    })
}

/// What was the kernel's in one piece is so in fragments, with rules that put them together on the way.
#[test]
fn svc35_direct_datagrams_in_fragments_stay_the_kernels() -> Result<()> {
    with_weft(|| {
        let (fixture, config) = echo_fixture()?;
        fixture.install_shadow_rules()?;
        let weft = Weft::start(&fixture.lab, &config)?;
        for family in Family::BOTH {
            let enrolled = fixture.backends[0].at(family, ECHO_PORT);
            let unenrolled = fixture.outsider.at(family, ECHO_PORT);
            echoes(&fixture.client.namespace, family, enrolled)?;
            echoes(&fixture.client.namespace, family, unenrolled)?;
            echoes(&fixture.outsider.namespace, family, enrolled)?;
            let vip = (pick(&vips(FAR), family), ECHO_PORT).into();
            echoes(&fixture.client.namespace, family, vip)?;
        }
        weft.audit().map(drop)
    })
}

/// The last fragment first, as a path that reorders would deliver them.
#[test]
fn svc35_k18_fragments_in_reverse_are_held_until_the_first_comes() -> Result<()> {
    with_weft(|| {
        for cores in [vec![0], vec![0, 1]] {
            let (fixture, mut config) = echo_fixture()?;
            config.workers.cores = cores;
            let weft = Weft::start(&fixture.lab, &config)?;
            let mut id = 100;
            for family in Family::BOTH {
                for number in [NEAR, FAR] {
                    let to = (pick(&vips(number), family), ECHO_PORT).into();
                    for length in [4_000, 20_000] {
                        for _ in 0..4 {
                            id += 1;
                            let sent = text(id.into(), length);
                            let back = reversed(&fixture.client, family, to, id, &sent)?;
                            ensure!(back.as_ref() == Some(&sent), "{length} bytes to {to}");
                        }
                    }
                }
            }
            let held = by_workers(&weft, "held")?;
            ensure!(
                held >= 2 * 2 * 4 * (2 + 14),
                "only {held} fragments were held"
            );
            weft.audit()?;

            // Without its first fragment a datagram is given up, by name, and nothing is left.
            let to = (pick(&vips(NEAR), Family::V4), ECHO_PORT).into();
            let pieces = pieces(&fixture.client, Family::V4, 7, to, 9, &text(1, 4_000));
            fixture
                .client
                .namespace
                .enter(|| send(Family::V4, to, &pieces[1..]))??;
            wait_until(
                "the fragments to be given up",
                Duration::from_secs(5),
                || by_workers(&weft, "fragment_timeout").is_ok_and(|count| count == 2),
            )?;
            weft.audit()?;
        }
        Ok(())
    })
}

/// A counter, summed over the workers.
fn by_workers(weft: &Weft, name: &str) -> Result<u64> {
    Ok(sum_of(&weft.json(&["status"])?["workers"], name))
}

/// Sends a datagram with its fragments reversed, from a port that a socket waits at for the answer.
fn reversed(
    client: &Pod,
    family: Family,
    to: SocketAddr,
    id: u16,
    payload: &[u8],
) -> Result<Option<Vec<u8>>> {
    client.namespace.enter(|| -> Result<_> {
        let socket = UdpSocket::bind(any(family))?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        let port = socket.local_addr()?.port();
        let mut pieces = pieces(client, family, port, to, id, payload);
        pieces.reverse();
        send(family, to, &pieces)?;
        let mut back = vec![0; 65_536];
        let Ok((length, from)) = socket.recv_from(&mut back) else {
            return Ok(None);
        };
        assert_eq!(from, to, "the VIP answers");
        back.truncate(length);
        Ok(Some(back))
    })?
}

/// IP packets as they are, in this order.
fn send(family: Family, to: SocketAddr, packets: &[Vec<u8>]) -> Result<()> {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let socket = rustix::net::socket(domain, SocketType::RAW, Some(ipproto::RAW))?;
    for packet in packets {
        sendto(
            &socket,
            packet,
            SendFlags::empty(),
            &SocketAddr::new(to.ip(), 0),
        )?;
    }
    Ok(())
}

/// The fragments of a datagram, in order, from the IP header on.
fn pieces(
    client: &Pod,
    family: Family,
    port: u16,
    to: SocketAddr,
    id: u16,
    payload: &[u8],
) -> Vec<Vec<u8>> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut datagram = [port.to_be_bytes(), to.port().to_be_bytes(), length, [0; 2]].concat();
    datagram.extend(payload);
    let ends = [client.ip(family), to.ip()].map(|address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    let pseudo = [&ends[0][..], &ends[1], &[0, 17], &length].concat();
    let checksum = match finish(sum(&pseudo) + sum(&datagram)) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    let cut = (0..datagram.len()).step_by(PIECE).map(|at| {
        let piece = &datagram[at..datagram.len().min(at + PIECE)];
        let more = u16::from(at + piece.len() < datagram.len());
        let header = match family {
            // The kernel fills in the length and the checksum.
            Family::V4 => {
                let field = (at / 8) as u16 | more << 13;
                let start = [
                    &[0x45, 0, 0, 0][..],
                    &id.to_be_bytes(),
                    &field.to_be_bytes(),
                ];
                [&start.concat()[..], &[64, 17, 0, 0], &ends[0], &ends[1]].concat()
            }
            Family::V6 => {
                let length = (8 + piece.len() as u16).to_be_bytes();
                let start = [&[0x60, 0, 0, 0][..], &length, &[44, 64], &ends[0], &ends[1]];
                let field = (at as u16 | more).to_be_bytes();
                let fragment = [&[17, 0][..], &field, &u32::from(id).to_be_bytes()];
                [start.concat(), fragment.concat()].concat()
            }
        };
        [&header, piece].concat()
    });
    cut.collect()
}

/// The sum of 16-bit words; an odd last byte counts as if a zero followed.
fn sum(bytes: &[u8]) -> u64 {
    let word = |word: &[u8]| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

/// The Internet checksum of a sum (RFC 1071).
fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
