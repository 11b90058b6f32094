//! ICMP through services with real kernels at both ends (SVC-03, SVC-34, SVC-44, CSM-07, K-01, K-17).

use crate::fixture::{Fixture, web, with_weft};
use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use rustix::net::{Protocol, SocketType};
use std::io::{IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;
use weft_lab::capture::packets;
use weft_lab::client::{ANSWER_LIMIT, Refusal, connected, ping, udp_refusal};
use weft_lab::config::Endpoint;
use weft_lab::lab::{Family, NODE_IPS, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// A UDP port where nobody listens.
const CLOSED: u16 = 4444;

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn errno(error: &std::io::Error) -> Option<rustix::io::Errno> {
    error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
}

#[test]
fn svc44_k17_a_vip_answers_pings_unless_told_not_to() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let client = &fixture.client.namespace;
        let outside = fixture.watch()?;
        for family in Family::BOTH {
            let largest = match family {
                Family::V4 => 1500 - 28,
                Family::V6 => 1500 - 48,
            };
            for size in [0, 56, largest] {
                ping(client, web(family, 0).ip(), size)?;
            }
            ping(client, fixture.backends[0].ip(family), 56)?;
        }
        let mut config = fixture.config();
        config.node.vip_echo = Some(false);
        weft.reload(&config)?;
        for family in Family::BOTH {
            assert!(ping(client, web(family, 0).ip(), 56).is_err());
        }
        assert_eq!(packets(&outside.stop()?)?, [""; 0], "left the node");
        weft.audit().map(drop)
    })
}

#[test]
fn svc03_a_protocol_that_nobody_serves_is_refused() -> Result<()> {
    with_weft(|| {
        const EXPERIMENTAL: u32 = 253; // RFC 3692.
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let outside = fixture.watch()?;
        let number = std::num::NonZero::new(EXPERIMENTAL).context("a number")?;
        for (family, refused) in [
            (Family::V4, rustix::io::Errno::NOPROTOOPT),
            (Family::V6, rustix::io::Errno::PROTO),
        ] {
            let to = web(family, 0).ip();
            let protocol = Protocol::from_raw(number);
            let socket = connected(&fixture.client.namespace, to, SocketType::RAW, protocol)?;
            socket.send(b"Linux wants 8 bytes of it quoted")?;
            let error = socket.recv(&mut [0; 64]).expect_err("nobody serves it");
            assert_eq!(errno(&error), Some(refused), "{family:?}");
        }
        assert_eq!(packets(&outside.stop()?)?, [""; 0], "left the node");
        weft.audit().map(drop)
    })
}

/// A service of one backend: an enrolled pod, one that is not, or the node.
fn serve(fixture: &Fixture, backend: [IpAddr; 2], protocol: &str) -> Result<Weft> {
    let mut config = fixture.config();
    let service = config.service("one", 30, &[(protocol, CLOSED, CLOSED)]);
    service.endpoints = Some(backend.map(Endpoint::at).into());
    Weft::start(&fixture.lab, &config)
}

fn one(family: Family) -> SocketAddr {
    (pick(&vips(30), family), CLOSED).into()
}

/// SVC-34: port unreachable of every kind of backend reaches the client's socket, in both families.
#[test]
fn svc34_a_refusing_backend_is_heard_by_the_client() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        for backend in [fixture.backends[0].ips, fixture.outsider.ips, NODE_IPS] {
            let mut weft = serve(&fixture, backend, "udp")?;
            for family in Family::BOTH {
                let refusal = udp_refusal(&fixture.client.namespace, one(family))?;
                assert_eq!(refusal, Refusal::Rejected, "{backend:?}, {family:?}");
            }
            weft.audit()?;
            weft.stop()?;
        }
        Ok(())
    })
}

/// SVC-34: the other way round: the backend answers a client whose socket is gone, and its own hears of that.
#[test]
fn svc34_a_client_that_is_gone_is_heard_by_the_backend() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        for backend in [&fixture.backends[0], &fixture.outsider] {
            let mut weft = serve(&fixture, backend.ips, "udp")?;
            for family in Family::BOTH {
                let server = backend
                    .namespace
                    .enter(|| UdpSocket::bind(backend.at(family, CLOSED)))??;
                server.set_read_timeout(Some(ANSWER_LIMIT))?;
                let client = fixture
                    .client
                    .namespace
                    .enter(|| UdpSocket::bind((any(family), 0)))??;
                client.send_to(b"?", one(family))?;
                let (_, from) = server.recv_from(&mut [0; 8])?;
                drop(client);
                server.connect(from)?;
                server.send(b"!")?;
                let error = server.recv(&mut [0; 8]).expect_err("the client is gone");
                assert_eq!(
                    errno(&error),
                    Some(rustix::io::Errno::CONNREFUSED),
                    "{family:?}"
                );
            }
            weft.audit()?;
            weft.stop()?;
        }
        Ok(())
    })
}

/// SVC-34, K-01: the way to the backend has a smaller MTU than its ends. The client's socket learns it by the
/// error that the router sends about the backend, and a bulk transfer to the VIP completes.
#[test]
fn svc34_k01_path_mtu_is_learnt_through_a_vip() -> Result<()> {
    with_weft(|| {
        const NARROW: u32 = 1300;
        const BULK: usize = 4 << 20;
        let fixture = Fixture::new()?;
        let outsider = &fixture.outsider;
        fixture
            .lab
            .node
            .ip(&format!("link set {} mtu {NARROW}\n", outsider.interface))?;
        let weft = serve(&fixture, outsider.ips, "tcp")?;
        for family in Family::BOTH {
            let listener = outsider
                .namespace
                .enter(|| TcpListener::bind(outsider.at(family, CLOSED)))??;
            let server = std::thread::spawn(move || -> Result<usize> {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
                loop {
                    match stream.read(&mut buffer)? {
                        0 => return Ok(total),
                        length => total += length,
                    }
                }
            });
            let to = one(family);
            let client = &fixture.client.namespace;
            let mut stream = client.enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))??;
            stream.set_write_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(&vec![7; BULK])?;
            let learnt = match family {
                Family::V4 => rustix::net::sockopt::ip_mtu(&stream)?,
                Family::V6 => rustix::net::sockopt::ipv6_mtu(&stream)?,
            };
            drop(stream);
            let received = server.join().expect("the server")?;
            assert_eq!((received, learnt), (BULK, NARROW), "{family:?}");
        }
        weft.audit().map(drop)
    })
}

/// Sends a datagram that may make so many hops, and says who reported what about it.
fn probe(namespace: &Namespace, to: SocketAddr, hops: u8) -> Result<(IpAddr, i32)> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = namespace.enter(|| UdpSocket::bind((any(family), 0)))??;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    match family {
        Family::V4 => {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            rustix::net::sockopt::set_ip_ttl(&socket, hops.into())?;
        }
        Family::V6 => {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            rustix::net::sockopt::set_ipv6_unicast_hops(&socket, Some(hops))?;
        }
    }
    socket.connect(to)?;
    socket.send(b"?")?;
    if socket.recv(&mut [0; 64]).is_ok() {
        bail!("{to} with {hops} hops: served");
    }
    let mut data = [0; 64];
    let mut parts = [IoSliceMut::new(&mut data)];
    let mut control = vec![0; 512];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
            .with_context(|| format!("{to} with {hops} hops: nobody reported"))?;
    for report in message.cmsgs()? {
        match report {
            ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
                let from = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
                return Ok((from.into(), error.ee_errno as i32));
            }
            ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
                let from = Ipv6Addr::from(from.sin6_addr.s6_addr);
                return Ok((from.into(), error.ee_errno as i32));
            }
            _ => {}
        }
    }
    bail!("{to} with {hops} hops: an error without a sender")
}

/// CSM-07: what traceroute does: the first hop is the node, the second the service, or the pod.
#[test]
fn csm07_traceroute_shows_the_node_and_then_the_service() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = serve(&fixture, fixture.backends[0].ips, "udp")?;
        let client = &fixture.client.namespace;
        let expired = rustix::io::Errno::HOSTUNREACH.raw_os_error();
        let refused = rustix::io::Errno::CONNREFUSED.raw_os_error();
        for family in Family::BOTH {
            let direct = fixture.backends[0].at(family, CLOSED);
            for to in [one(family), direct] {
                let node = pick(&NODE_IPS, family);
                assert_eq!(probe(client, to, 1)?, (node, expired), "{to}");
                assert_eq!(probe(client, to, 2)?, (to.ip(), refused), "{to}");
            }
        }
        // Another address, by which the node reaches the client from now on: Weft hears of that.
        for (family, new) in [(Family::V4, "192.168.7.99"), (Family::V6, "fd00:7::99")] {
            let (pod, new) = (fixture.client.ip(family), new.parse::<IpAddr>()?);
            // Without nodad, the address may still be tentative when the route asks for it.
            let (prefix, scope, dad) = match family {
                Family::V4 => (32, "scope link", ""),
                Family::V6 => (128, "", "nodad"),
            };
            fixture.lab.node.ip(&format!(
                "addr add {new}/{prefix} dev lo {dad}\n\
                 route replace {pod}/{prefix} dev {} {scope} src {new}\n",
                fixture.client.interface
            ))?;
            wait_until("the new address", Duration::from_secs(5), || {
                probe(client, one(family), 1).is_ok_and(|told| told == (new, expired))
            })?;
        }
        weft.audit().map(drop)
    })
}
