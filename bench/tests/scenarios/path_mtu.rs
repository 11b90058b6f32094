//! Path MTU discovery through a VIP where the narrow hop is within the pods, so that the errors about it come from
//! the pods' own veths (SVC-34, K-01, K-02).

use crate::fixture::{Fixture, with_weft};
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use weft_lab::client::ANSWER_LIMIT;
use weft_lab::command::run;
use weft_lab::config::Endpoint;
use weft_lab::lab::{Family, Pod, pick, vips};
use weft_lab::namespace::Namespace;
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

fn path_mtu(stream: &TcpStream, family: Family) -> Result<u32> {
    Ok(match family {
        Family::V4 => rustix::net::sockopt::ip_mtu(stream)?,
        Family::V6 => rustix::net::sockopt::ipv6_mtu(stream)?,
    })
}

/// Sends and takes [`BULK`] bytes at once, and says how many came and what path MTU was learnt.
fn exchange(stream: TcpStream, family: Family) -> Result<(usize, u32)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let sending = thread::spawn(move || writer.write_all(&vec![7; BULK]));
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
    while total < BULK {
        match (&stream).read(&mut buffer)? {
            0 => break,
            length => total += length,
        }
    }
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
