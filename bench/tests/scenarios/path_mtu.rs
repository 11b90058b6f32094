//! Path MTU discovery through a VIP where the narrow hop is within the pods, so that the errors about it come from
//! the pods' own veths, and where it is a pod's veth (SVC-34, K-01, K-02, U-09).

use crate::fixture::{Fixture, with_root, with_weft};
use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;
use weft_lab::client::ANSWER_LIMIT;
use weft_lab::command::run;
use weft_lab::config::Endpoint;
use weft_lab::kubeproxy::{self, Rule};
use weft_lab::lab::{Family, Pod, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

const SERVICE: u8 = 31;
const PORT: u16 = 4445;
const BULK: usize = 4 << 20;
/// How long an end waits for bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container within a pod: behind the pod's own router, which gives it the pod's address and forwards
/// connections to [`PORT`], over a link that takes `mtu` bytes towards it and whose far end knows nothing of that. So
/// what its peer sends is too large, and the pod says so.
fn container(pod: &Pod, mtu: u32) -> Result<Namespace> {
    let inside = Namespace::create(&format!("{}-in", pod.namespace.name()))?;
    let quiet = "net.ipv6.conf.default.accept_dad=0";
    inside.sysctl(&[quiet])?;
    pod.namespace.sysctl(&[
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        quiet,
    ])?;
    pod.namespace.ip(&format!(
        "link add inner mtu {mtu} type veth peer name eth0 mtu 1500 netns {}\n\
         addr add 172.31.0.1/24 dev inner\n\
         addr add fd31::1/64 dev inner nodad\n\
         link set inner up\n",
        inside.name(),
    ))?;
    inside.ip("addr add 172.31.0.2/24 dev eth0\n\
         addr add fd31::2/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via 172.31.0.1\n\
         route add default via fd31::1\n")?;
    for (program, address) in [
        ("iptables-legacy", "172.31.0.2"),
        ("ip6tables-legacy", "fd31::2"),
    ] {
        let nat = |rule: &str| {
            let mut command = pod.namespace.command(program);
            command.args(["-w", "5", "-t", "nat", "-A"]);
            run(command.args(rule.split_whitespace()))
        };
        nat("POSTROUTING -o eth0 -j MASQUERADE")?;
        nat(&format!(
            "PREROUTING -i eth0 -p tcp --dport {PORT} -j DNAT --to-destination {address}"
        ))?;
    }
    Ok(inside)
}

fn path_mtu(socket: impl AsFd, family: Family) -> Result<u32> {
    Ok(match family {
        Family::V4 => sockopt::ip_mtu(socket)?,
        Family::V6 => sockopt::ipv6_mtu(socket)?,
    })
}

/// Takes [`BULK`] bytes, or what there is until the end.
fn receive(mut stream: &TcpStream) -> Result<usize> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
    while total < BULK {
        match stream.read(&mut buffer)? {
            0 => break,
            length => total += length,
        }
    }
    Ok(total)
}

/// Sends and takes [`BULK`] bytes at once, and says how many came and what path MTU was learnt.
fn exchange(stream: TcpStream, family: Family) -> Result<(usize, u32)> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let sending = thread::spawn(move || writer.write_all(&vec![7; BULK]));
    let total = receive(&stream)?;
    sending.join().expect("the sender")?;
    Ok((total, path_mtu(&stream, family)?))
}

#[test]
fn svc34_k01_k02_both_ends_learn_the_path_mtu_from_errors_of_enrolled_pods() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let [backend, ..] = &fixture.backends;
        // Other values, so that each end shows whose error it has heard.
        let (to_server, to_client) = (1300, 1380);
        let server = container(backend, to_server)?;
        let client = container(&fixture.client, to_client)?;
        let mut config = fixture.config();
        config.workers.cores = vec![0, 1];
        let service = config.service("narrow", SERVICE, &[("tcp", PORT, PORT)]);
        service.endpoints = Some(backend.ips.map(Endpoint::at).into());
        let weft = Weft::start(&fixture.lab, &config)?;
        let inner: [IpAddr; 2] = ["172.31.0.2".parse()?, "fd31::2".parse()?];
        for family in Family::BOTH {
            let at = SocketAddr::new(pick(&inner, family), PORT);
            let listener = server.enter(|| TcpListener::bind(at))??;
            let serving = thread::spawn(move || {
                let (stream, from) = listener.accept()?;
                Ok::<_, anyhow::Error>((exchange(stream, family)?, from))
            });
            let to = SocketAddr::new(pick(&vips(SERVICE), family), PORT);
            let stream = client.enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))??;
            let asked = exchange(stream, family).context("the client's end")?;
            let (served, from) = serving.join().expect("the server")?;
            assert_eq!(asked, (BULK, to_server), "{family:?}: the client's end");
            assert_eq!(served, (BULK, to_client), "{family:?}: the server's end");
            assert_eq!(from.ip(), fixture.client.ip(family), "as every backend");
        }
        weft.audit().map(drop)
    })
}

/// MTU of the narrow pod's veth.
const NARROW: u32 = 1400;

/// Bytes before the payload of a datagram.
pub fn headers(family: Family) -> usize {
    match family {
        Family::V4 => 28,
        Family::V6 => 48,
    }
}

/// Sets the MTU of a pod's veth, of both ends or of the node's alone.
fn set_mtu(fixture: &Fixture, pod: &Pod, mtu: u32, ends: Ends) -> Result<()> {
    if ends == Ends::Both {
        pod.namespace.ip(&format!("link set eth0 mtu {mtu}\n"))?;
    }
    let node = &fixture.lab.node;
    node.ip(&format!("link set {} mtu {mtu}\n", pod.interface))
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum Ends {
    /// What the pod offers as its MSS fits.
    Both,
    /// Only an error says that what it offers does not.
    Node,
}

/// A socket in `pod` at any port, connected to `to`, whose datagrams are not fragmented.
pub fn datagrams(pod: &Namespace, port: u16, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let socket = pod.enter(|| UdpSocket::bind((any, port)))??;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    match to {
        SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
    }
    socket.connect(to)?;
    Ok(socket)
}

/// Sends what fits the sender's own link, hears that something narrower is behind, and is refused the next one; then
/// what fits that gets through, and nothing else has. Without `known`, who forwards may still be told of the MTU, and what is
/// too long gets through until then.
pub fn learns(
    from: &UdpSocket,
    to: &UdpSocket,
    family: Family,
    mtu: u32,
    known: bool,
) -> Result<()> {
    let long = vec![7; 1500 - headers(family)];
    _ = from.send(&long); // The server may know the way to the client from an earlier socket.
    wait_until("word of the MTU", ANSWER_LIMIT, || {
        let heard = path_mtu(from, family).is_ok_and(|learnt| learnt == mtu);
        heard || !known && from.send(&long).is_err()
    })?;
    let refused = from
        .send(&long)
        .err()
        .and_then(|error| error.raw_os_error());
    ensure!(
        refused == Some(Errno::MSGSIZE.raw_os_error()),
        "{refused:?}"
    );
    let learnt = path_mtu(from, family)?;
    from.take_error()?; // The same once more: what the ICMP error left.
    ensure!(learnt == mtu, "the path MTU is {learnt}");
    let fits = vec![8; mtu as usize - headers(family)];
    from.send(&fits)?;
    let mut buffer = [0; 2048];
    let mut got = to.recv(&mut buffer).context("what fits")?;
    while !known && buffer[..got] == long[..] {
        got = to.recv(&mut buffer).context("what fits")?; // Who forwards had not been told yet.
    }
    ensure!(buffer[..got] == fits[..], "{got} other bytes");
    Ok(())
}

/// Datagrams from client to server and back, of which the long ones do not fit into the narrow pod.
fn datagrams_are_told(fixture: &Fixture, narrow: usize, known: bool) -> Result<()> {
    let [server, ..] = &fixture.backends;
    for family in Family::BOTH {
        for to in [
            SocketAddr::new(pick(&vips(SERVICE), family), PORT),
            server.at(family, PORT + 1),
        ] {
            let target = if to.port() == PORT { PORT } else { PORT + 1 };
            let client = datagrams(&fixture.client.namespace, 0, to)?;
            let ours = SocketAddr::new(fixture.client.ip(family), client.local_addr()?.port());
            let there = datagrams(&server.namespace, target, ours)?;
            for (from, to) in [(&client, &there), (&there, &client)] {
                from.send(b"!")?;
                ensure!(to.recv(&mut [0; 8])? == 1, "a short one");
            }
            let (from, at) = if narrow == 0 {
                (&there, &client)
            } else {
                (&client, &there)
            };
            learns(from, at, family, NARROW, known)
                .with_context(|| format!("{family:?} by {to}"))?;
        }
    }
    Ok(())
}

fn served(fixture: &Fixture) -> Result<Weft> {
    let mut config = fixture.config();
    let ports = [("tcp", PORT, PORT), ("udp", PORT, PORT)];
    let service = config.service("narrow", SERVICE, &ports);
    service.endpoints = Some(fixture.backends[0].ips.map(Endpoint::at).into());
    Weft::start(&fixture.lab, &config)
}

/// SVC-34, K-01, U-09: client or backend is behind a narrower link, from the start or since then: what is too long for
/// it is answered as by the kernel, and what fits arrives.
#[test]
fn svc34_k01_u09_datagrams_learn_the_mtu_of_the_pod() -> Result<()> {
    with_weft(|| {
        for narrow in [0, 1] {
            for known in [true, false] {
                let fixture = Fixture::new()?;
                let pod = [&fixture.client, &fixture.backends[0]][narrow];
                let set = || set_mtu(&fixture, pod, NARROW, Ends::Both);
                if known {
                    set()?;
                }
                let weft = served(&fixture)?;
                if !known {
                    set()?;
                }
                datagrams_are_told(&fixture, narrow, known)
                    .with_context(|| format!("narrow: {narrow}, from the start: {known}"))?;
                weft.audit()?;
            }
        }
        Ok(())
    })
}

/// The same through kube-proxy's rules: what the scenario above compares Weft with.
#[test]
fn svc34_k01_u09_datagrams_learn_the_mtu_of_the_pod_from_the_kernel() -> Result<()> {
    with_root(|| {
        for narrow in [0, 1] {
            let fixture = Fixture::new()?;
            let rule = |family| Rule {
                vip: SocketAddr::new(pick(&vips(SERVICE), family), PORT),
                protocol: "udp",
                endpoints: vec![fixture.backends[0].at(family, PORT)],
            };
            kubeproxy::install(&fixture.lab.node, &Family::BOTH.map(rule))?;
            let pod = [&fixture.client, &fixture.backends[0]][narrow];
            set_mtu(&fixture, pod, NARROW, Ends::Both)?;
            datagrams_are_told(&fixture, narrow, true)?;
        }
        Ok(())
    })
}

/// SVC-34, K-01, K-02, U-09: bulk in both directions while the pod's own MSS says what fits, and into the pod alone
/// where only the node's end of its veth is narrow, which the sender has to be told.
#[test]
fn svc34_k01_k02_u09_bulk_gets_through_a_pods_narrower_veth() -> Result<()> {
    with_weft(|| {
        for narrow in [0, 1] {
            for ends in [Ends::Both, Ends::Node] {
                let fixture = Fixture::new()?;
                let [server, ..] = &fixture.backends;
                set_mtu(&fixture, [&fixture.client, server][narrow], NARROW, ends)?;
                let weft = served(&fixture)?;
                for family in Family::BOTH {
                    for to in [
                        SocketAddr::new(pick(&vips(SERVICE), family), PORT),
                        server.at(family, PORT),
                    ] {
                        bulk(&fixture, to, family, narrow, ends)
                            .with_context(|| format!("{to}, narrow: {narrow}"))?;
                    }
                }
                weft.audit()?;
            }
        }
        Ok(())
    })
}

fn bulk(
    fixture: &Fixture,
    to: SocketAddr,
    family: Family,
    narrow: usize,
    ends: Ends,
) -> Result<()> {
    let [server, ..] = &fixture.backends;
    let listener = server
        .namespace
        .enter(|| TcpListener::bind(server.at(family, PORT)))??;
    let client = &fixture.client.namespace;
    let asked = client.enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))??;
    let (answered, _) = listener.accept()?;
    match ends {
        Ends::Both => {
            let serving = thread::spawn(move || exchange(answered, family));
            let (asked, _) = exchange(asked, family).context("the client's end")?;
            let (served, _) = serving.join().expect("the server")?;
            ensure!(
                (asked, served) == (BULK, BULK),
                "{asked} and {served} bytes"
            );
        }
        Ends::Node => {
            let (from, at) = if narrow == 0 {
                (answered, asked)
            } else {
                (asked, answered)
            };
            let receiving = thread::spawn(move || receive(&at));
            from.set_write_timeout(Some(PATIENCE))?;
            (&from)
                .write_all(&vec![7; BULK])
                .context("into the narrow pod")?;
            let learnt = path_mtu(&from, family)?;
            from.shutdown(Shutdown::Write)?;
            let received = receiving.join().expect("the receiver")?;
            ensure!(
                (received, learnt) == (BULK, NARROW),
                "{received} bytes, path MTU {learnt}"
            );
        }
    }
    Ok(())
}
