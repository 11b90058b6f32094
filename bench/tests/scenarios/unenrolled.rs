//! Pods that are not enrolled are wholly the kernel's (AMB-02, AMB-04).

use crate::fixture::{Fixture, web, with_weft};
use anyhow::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use weft_lab::capture::{Capture, packets};
use weft_lab::client::{ANSWER_LIMIT, ask_tcp, ask_udp, curl_answer};
use weft_lab::kubeproxy::{self, Rule};
use weft_lab::lab::{Family, pick, vips};
use weft_lab::servers::PEER_PORT;

#[test]
fn amb02_unenrolled_clients_stay_with_kube_proxy_and_rp_filter() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let weft = fixture.weft()?;
        let before = fixture.punted()?;
        for family in Family::BOTH {
            for _ in 0..10 {
                let namespace = &fixture.outsider.namespace;
                let answer = ask_tcp(namespace, web(family, PEER_PORT))?;
                assert_eq!(answer.client.ip(), fixture.outsider.ip(family));
                ask_udp(namespace, web(family, PEER_PORT))?;
                curl_answer(namespace, web(family, 80))?;
                ask_tcp(namespace, fixture.backends[1].at(family, PEER_PORT))?;
            }
        }
        assert_eq!(
            fixture.punted()?,
            before,
            "packets of the unenrolled pod were punted"
        );
        weft.audit().map(drop)
    })
}

#[test]
fn amb02_an_unenrolled_pods_traffic_is_byte_identical_with_weft_on_and_off() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        install_one_endpoint(&fixture)?;
        let off = [record(&fixture, "off-1")?, record(&fixture, "off-2")?];
        assert_eq!(off[0], off[1], "two runs without weft differ already");
        let weft = fixture.weft()?;
        let on = record(&fixture, "on")?;
        assert_eq!(
            off[0], on,
            "weft changes what an unenrolled pod sends or gets"
        );
        weft.audit().map(drop)
    })
}

/// kube-proxy's rules for one endpoint, so that the kernel's choice is no difference.
pub fn install_one_endpoint(fixture: &Fixture) -> Result<()> {
    let rules: Vec<Rule> = Family::BOTH
        .into_iter()
        .map(|family| Rule {
            vip: (pick(&vips(20), family), PEER_PORT).into(),
            protocol: "udp",
            endpoints: vec![fixture.backends[0].at(family, PEER_PORT)],
        })
        .collect();
    kubeproxy::install(&fixture.lab.node, &rules)
}

/// The bytes on both sides, client and server, of a fixed exchange through kube-proxy's rules.
pub fn record(fixture: &Fixture, run: &str) -> Result<[Vec<String>; 2]> {
    let directory = fixture.lab.directory();
    let filter = format!("udp port {PEER_PORT}");
    let capture = |pod: &weft_lab::lab::Pod| {
        Capture::start(
            &pod.namespace,
            "eth0",
            &filter,
            &directory,
            &format!("{run}-{}", pod.name),
        )
    };
    let captures = [capture(&fixture.outsider)?, capture(&fixture.backends[0])?];
    fixture.outsider.namespace.enter(|| -> Result<()> {
        for family in Family::BOTH {
            let any: IpAddr = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            // From a fixed port and not connected: then the IPv6 flow label repeats too.
            let socket = UdpSocket::bind((any, 4000))?;
            socket.set_read_timeout(Some(ANSWER_LIMIT))?;
            let to = SocketAddr::from((pick(&vips(20), family), PEER_PORT));
            for length in [0, 1, 100, 1400] {
                socket.send_to(&vec![b'x'; length], to)?;
                socket.recv_from(&mut [0; 256])?;
            }
        }
        Ok(())
    })??;
    let [client, server] = captures;
    let (mut client, mut server) = (packets(&client.stop()?)?, packets(&server.stop()?)?);
    for (one, other) in client.iter_mut().zip(&mut server) {
        // Within one run the sender's identifier must arrive unchanged.
        assert_eq!(take_identifier(one), take_identifier(other), "in {run}");
    }
    Ok([client, server])
}

/// Cuts the identifier of an IPv4 packet out of its hexadecimal text, and the header checksum with
/// it: the kernel counts identifiers up, so they differ between any two runs.
fn take_identifier(packet: &mut String) -> Option<String> {
    const ETHER_TYPE: std::ops::Range<usize> = 24..28;
    const IDENTIFIER: std::ops::Range<usize> = 36..40;
    const CHECKSUM: std::ops::Range<usize> = 48..52;
    if packet.get(ETHER_TYPE) != Some("0800") {
        return None;
    }
    packet.replace_range(CHECKSUM, "....");
    let identifier = packet.get(IDENTIFIER).map(str::to_owned);
    packet.replace_range(IDENTIFIER, "....");
    identifier
}

#[test]
fn amb04_everything_works_under_strict_rp_filter_in_node_and_pods() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let strict = [
            "net.ipv4.conf.all.rp_filter=1",
            "net.ipv4.conf.default.rp_filter=1",
        ];
        for pod in fixture.lab.pods() {
            pod.namespace.sysctl(&strict)?;
            pod.namespace.sysctl(&["net.ipv4.conf.eth0.rp_filter=1"])?;
        }
        let weft = fixture.weft()?;
        let loads = fixture.loads(Duration::from_millis(2));
        crate::fixture::progress(&loads, 100)?;
        crate::fixture::flawless(loads)?;
        weft.audit().map(drop)
    })
}
