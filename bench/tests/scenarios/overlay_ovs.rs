//! Open vSwitch as the other node: pods behind its userspace datapath and pods behind Weft reach each other, and tshark
//! reads every frame between them (TUN-01, TUN-03).

use crate::fixture::{REAL_TIME, with_weft};
use crate::overlay_fixture::{Cluster, SERVED_AT, VNI, Wrapping};
use anyhow::{Context, Result, ensure};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use weft_lab::capture::{Capture, dissect, faults};
use weft_lab::client::{ask_udp, ping};
use weft_lab::lab::{Family, pick, vips};
use weft_lab::ovs::{OpenVSwitch, TUNNEL, pod_mtu, to_pod};
use weft_lab::servers::{PEER_PORT, WEB_PORT};
use weft_lab::two_nodes::Underlay;
use weft_lab::wait::{START_LIMIT, wait_until};
use weft_lab::weft::{Weft, sum_of};

/// Weft's option class.
const CLASS: &str = "0xff77";
/// Its types: the service that was asked, and the client's name.
const SERVICE: &str = "0x01";
const NAME: &str = "0x02";
/// An option that Weft does not know.
const OTHER: &str = "{class=0xff12,type=0x21,len=4}->tun_metadata0";
/// One that whoever does not know it must not take.
const CRITICAL: &str = "{class=0xff12,type=0xa1,len=4}->tun_metadata0";
/// Puts either into what goes into the tunnel.
const SET: &str = "set_field:0xcafe0123->tun_metadata0,";
/// How long Open vSwitch may take to count a packet.
const COUNT_LIMIT: Duration = Duration::from_secs(5);

/// Weft on node a, Open vSwitch on node b.
struct Pair {
    cluster: Cluster,
    switch: OpenVSwitch,
}

impl Pair {
    fn new() -> Result<Self> {
        let mut cluster = Cluster::new(Underlay::Routed)?;
        let switch = OpenVSwitch::start(&mut cluster.nodes.nodes[1]).context("Open vSwitch")?;
        Ok(Self { cluster, switch })
    }

    /// Both ends wrap like this from now on.
    fn wrapped(&mut self, wrapping: Wrapping) -> Result<Weft> {
        self.cluster.wrapping = wrapping;
        let nodes = &self.cluster.nodes;
        let ends = [1, 0].map(|at| nodes.address(at, wrapping.outer));
        self.switch
            .tunnel(&nodes.nodes[1], wrapping.encap, ends, VNI)?;
        Weft::start_under(&nodes.nodes[0], &self.cluster.config(0), &REAL_TIME)
    }

    /// Flows with these actions on the way into the tunnel, and others besides.
    fn flows(&self, actions: &str, more: &str) -> Result<()> {
        let [near, far] = &self.cluster.nodes.nodes;
        self.switch.flows(far, near, actions, more)
    }

    /// Waits until neighbours are known, in both directions.
    fn joined(&self) -> Result<()> {
        for at in 0..2 {
            for family in Family::BOTH {
                let from = &self.cluster.clients[at].namespace;
                let to = self.cluster.servers[1 - at].ip(family);
                wait_until("the other node's pods", START_LIMIT, || {
                    ping(from, to, 56).is_ok()
                })
                .with_context(|| format!("from {at} to {to}"))?;
            }
        }
        Ok(())
    }

    /// Everything that pods speak, both ways, from the least to the longest packet that fits, and megabytes.
    fn carries(&self) -> Result<()> {
        let cluster = &self.cluster;
        cluster.pods_reach_pods()?;
        for family in Family::BOTH {
            let headers = if family == Family::V4 { 28 } else { 48 };
            let longest = pod_mtu(cluster.wrapping.outer) - headers;
            for at in 0..2 {
                let server = cluster.servers[1 - at].ip(family);
                ping(&cluster.clients[at].namespace, server, longest as usize)?;
            }
            let vip = pick(&vips(SERVED_AT[1]), family);
            cluster.speaks(0, &cluster.servers[1], vip, [80, PEER_PORT])?;
            cluster.upload(0, vip, 81)?;
            cluster.upload(1, cluster.servers[0].ip(family), WEB_PORT)?;
        }
        Ok(())
    }

    /// What both ends have to say for themselves, for an error.
    fn said(&self, weft: &Weft) -> String {
        let weft = weft
            .text(&["status"])
            .unwrap_or_else(|error| error.to_string());
        format!("{weft}\n{}", self.switch.said())
    }
}

#[test]
fn tun01_tun03_pods_reach_pods_behind_open_vswitch() -> Result<()> {
    with_weft(|| {
        let mut pair = Pair::new()?;
        for wrapping in [Wrapping::GENEVE, Wrapping::GENEVE6, Wrapping::VXLAN] {
            let weft = pair.wrapped(wrapping)?;
            for options in [false, true] {
                if options && wrapping.encap == "vxlan" {
                    continue;
                }
                pair.switch.options(if options { &[OTHER] } else { &[] })?;
                pair.flows(if options { SET } else { "" }, "")?;
                interoperates(&pair, options)
                    .with_context(|| pair.said(&weft))
                    .with_context(|| format!("{wrapping}, options: {options}"))?;
            }
            nothing_refused(&weft)?;
            weft.audit()?;
        }
        Ok(())
    })
}

fn interoperates(pair: &Pair, options: bool) -> Result<()> {
    pair.joined()?;
    let far = &pair.cluster.nodes.nodes[1];
    let directory = far.directory();
    let capture = Capture::start(&far.outside, "eth0", "ip or ip6", &directory, "underlay")?;
    pair.carries()?;
    judge(&pair.cluster, &capture.stop()?, options)
}

/// Of all reasons to refuse a wrapped packet, none.
fn nothing_refused(weft: &Weft) -> Result<()> {
    let status = weft.json(&["status"])?;
    for reason in [
        "tunnel_header",
        "tunnel_checksum",
        "tunnel_peer",
        "tunnel_version",
        "tunnel_vni",
        "tunnel_payload",
        "tunnel_ecn",
        "geneve_oam",
        "geneve_options",
        "geneve_critical_option",
    ] {
        let count = sum_of(&status["ledger"], reason);
        ensure!(count == 0, "{count} x {reason}");
    }
    Ok(())
}

/// What is between the nodes, as another implementation reads it.
fn judge(cluster: &Cluster, file: &Path, options: bool) -> Result<()> {
    let wrapping = cluster.wrapping;
    let wrong = faults(file)?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    let encap = wrapping.encap;
    let ip = match wrapping.outer {
        Family::V4 => "ip",
        Family::V6 => "ipv6",
    };
    let [near, far] = [0, 1].map(|at| cluster.nodes.address(at, wrapping.outer).to_string());
    let (src, dst, vni) = (
        format!("{ip}.src"),
        format!("{ip}.dst"),
        format!("{encap}.vni"),
    );
    let fields = [
        &src,
        &dst,
        "udp.dstport",
        "udp.checksum",
        &vni,
        "geneve.option.class",
        "geneve.option.type",
    ];
    let frames = dissect(file, encap, &fields)?;
    let first = |list: &str| list.split(',').next().unwrap_or_default().to_owned();
    let (mut sent, mut services, mut names) = ([0, 0], 0, 0);
    for frame in &frames {
        let [src, dst, port, checksum, network, class] =
            [0, 1, 2, 3, 4, 5].map(|at| first(&frame[at]));
        let from_near = src == near;
        let ends = if from_near {
            [&near, &far]
        } else {
            [&far, &near]
        };
        ensure!([&src, &dst] == ends, "{frame:?}");
        ensure!(port == wrapping.port().to_string(), "{frame:?}");
        let number = network
            .strip_prefix("0x")
            .map_or_else(|| network.parse(), |hex| u32::from_str_radix(hex, 16));
        ensure!(number? == VNI, "{frame:?}");
        ensure!(
            (checksum != "0x0000") == (wrapping.outer == Family::V6),
            "{frame:?}"
        );
        match (from_near, class.as_str()) {
            (true, CLASS) => {
                services += usize::from(frame[6].contains(SERVICE));
                names += usize::from(frame[6].contains(NAME));
            }
            (true, "") => {}
            (false, "0xff12") => ensure!(options, "{frame:?}"),
            (false, "") => ensure!(!options, "{frame:?}"),
            _ => anyhow::bail!("{frame:?}"),
        }
        sent[usize::from(!from_near)] += 1;
    }
    ensure!(sent.iter().all(|count| *count > 1000), "{sent:?} frames");
    for (count, what) in [(services, "service"), (names, "client")] {
        ensure!(
            (count > 0) == (encap == "geneve"),
            "{count} frames name a {what}"
        );
    }
    // Nothing else is: no pod's packet as it is, no router's or kernel's word about one.
    let bare = dissect(
        file,
        &format!(
            "!{encap} && (ip.addr == 10.0.0.0/8 || ipv6.addr == fd00:244::/32 || ipv6.addr == fd00:96::/32 || \
             icmp || icmpv6.type < 128 || ip.flags.mf == 1 || ip.frag_offset > 0)"
        ),
        &["frame.number", "_ws.col.Info"],
    )?;
    ensure!(bare.is_empty(), "{bare:?}");
    Ok(())
}

/// What Weft's options say is what Open vSwitch reads, which knows a type of option in one length only.
#[test]
fn tun01_u15_open_vswitch_reads_the_options_and_its_critical_one_is_refused() -> Result<()> {
    with_weft(|| {
        let mut pair = Pair::new()?;
        let weft = pair.wrapped(Wrapping::GENEVE)?;
        for family in Family::BOTH {
            names_the_service(&pair, family)
                .with_context(|| pair.said(&weft))
                .with_context(|| format!("{family:?}"))?;
        }
        nothing_refused(&weft)?;

        pair.switch.options(&[CRITICAL])?;
        pair.flows(SET, "")?;
        let client = &pair.cluster.clients[1].namespace;
        let to = pair.cluster.servers[0].ip(Family::V4);
        ensure!(ping(client, to, 56).is_err(), "{to} answers");
        let status = weft.json(&["status"])?;
        let refused = sum_of(&status["ledger"], "geneve_critical_option");
        ensure!(refused == 1, "{refused} refused: {}", pair.said(&weft));
        pair.flows("", "")?;
        ping(client, to, 56).with_context(|| pair.said(&weft))?;
        weft.audit()?;
        Ok(())
    })
}

fn names_the_service(pair: &Pair, family: Family) -> Result<()> {
    const COOKIE: u64 = 7;
    /// Of its data, for both families together.
    const LENGTHS: usize = 8 + 20;
    let vip = pick(&vips(SERVED_AT[1]), family);
    let server = &pair.cluster.servers[1];
    let (protocol, address) = match vip {
        IpAddr::V4(ip) => ("udp", ip.octets().to_vec()),
        IpAddr::V6(ip) => ("udp6", ip.octets().to_vec()),
    };
    let client = &pair.cluster.clients[0];
    let hex = |data: &[u8]| -> String { data.iter().map(|byte| format!("{byte:02x}")).collect() };
    let data = hex(&[&address[..], &PEER_PORT.to_be_bytes(), &[0, 0]].concat());
    let length = address.len() + 4;
    let mapped = |length| format!("{{class={CLASS},type=1,len={length}}}->tun_metadata1");
    let mut name = format!("lab/{}", client.name).into_bytes();
    name.resize(name.len().next_multiple_of(4), 0);
    let mapped_name = format!("{{class={CLASS},type=2,len={}}}->tun_metadata2", name.len());
    let ask = || ask_udp(&client.namespace, (vip, PEER_PORT).into());

    pair.switch.options(&[])?;
    pair.flows("", "")?;
    wait_until("the service", START_LIMIT, || ask().is_ok())?;

    pair.switch.options(&[&mapped(LENGTHS - length)])?;
    pair.flows("", "")?;
    ensure!(ask().is_err(), "an option of another length passed");

    pair.switch.options(&[&mapped(length), &mapped_name])?;
    let named = format!(
        "cookie={COOKIE},priority=20,in_port={TUNNEL},{protocol},tun_metadata1=0x{data},tun_metadata2=0x{},actions={}\n",
        hex(&name),
        to_pod(server)?
    );
    pair.flows("", &named)?;
    wait_until("the service", START_LIMIT, || ask().is_ok())?;
    wait_until(
        "a packet that names the service and its client",
        COUNT_LIMIT,
        || pair.switch.matched(COOKIE).is_ok_and(|count| count > 0),
    )
}
