//! Who reaches whom, who sees whom, and which interfaces see a packet: every path of TER-1 to TER-7, and those of CSM-05
//! that begin in a pod, as one table over two nodes.
//!
//! Node a has two uplinks; what the pod `beside` sends elsewhere leaves by the second one. Every interface is captured
//! all the time, and what it has shown is looked up by the client's address and port.

use crate::fixture::with_weft;
use crate::overlay_fixture::{Cluster, SERVED_AT, Wrapping, audit, said};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;
use weft_lab::capture::{Capture, dissect};
use weft_lab::client::{Answer, Datagrams, Talk};
use weft_lab::command::run;
use weft_lab::config::Config;
use weft_lab::http::Connection;
use weft_lab::lab::{Family, Pod, UPLINK, pick, vips};
use weft_lab::namespace::Namespace;
use weft_lab::servers::{self, PEER_PORT, WEB_PORT};
use weft_lab::two_nodes::{UPLINK2, Underlay};
use weft_lab::weft::Weft;

/// The service of the pod `beside`.
const BESIDE: u8 = 33;
/// The port of services whose requests are read.
const HTTP: u16 = 81;
/// The routes of that pod.
const TABLE: u32 = 102;
/// How long a flow of datagrams pauses before the hooks have it.
const PAUSE: Duration = Duration::from_millis(30);
/// How long an end may keep an acknowledgement back, which then goes the next way.
const QUIET: Duration = Duration::from_millis(250);
/// How packets travel to other nodes' pods (TER-4).
const WAYS: [Wrapping; 3] = [Wrapping::GENEVE, Wrapping::VXLAN, Wrapping::NATIVE];

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// A process of node a.
    Node,
    /// The client pod of node a.
    Pod,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Pod,
    /// Its service at layer 4.
    Service,
    /// Its service at stage `http`.
    Http,
}

/// An interface that is captured. Of pods it is their own `eth0`: what the hooks put there no other one shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Client,
    Near,
    Beside,
    Far,
    Uplink,
    Uplink2,
    FarUplink,
}

impl Place {
    const ALL: [Self; 7] = [
        Self::Client,
        Self::Near,
        Self::Beside,
        Self::Far,
        Self::Uplink,
        Self::Uplink2,
        Self::FarUplink,
    ];
    const UPLINKS: [Self; 3] = [Self::Uplink, Self::Uplink2, Self::FarUplink];
}

/// A path, and the pod at its end.
type Row = (&'static str, From, To, Place);

/// Those to the far node are gone in every way.
const ROWS: [Row; 9] = [
    ("TER-1", From::Node, To::Pod, Place::Near),
    ("TER-2", From::Pod, To::Pod, Place::Near),
    ("TER-3", From::Pod, To::Pod, Place::Beside),
    ("TER-4", From::Pod, To::Pod, Place::Far),
    ("TER-5, CSM-05", From::Pod, To::Service, Place::Near),
    ("TER-6", From::Pod, To::Service, Place::Beside),
    ("TER-7, CSM-05", From::Pod, To::Service, Place::Far),
    ("CSM-05", From::Pod, To::Http, Place::Near),
    ("CSM-05", From::Pod, To::Http, Place::Far),
];

/// A client that can ask again.
enum Client {
    Tcp(Talk),
    Udp(Datagrams),
    Http(Connection),
}

impl Client {
    fn ask(&mut self) -> Result<Answer> {
        match self {
            Self::Tcp(talk) => talk.ask(),
            Self::Udp(datagrams) => datagrams.ask(),
            Self::Http(connection) => {
                let said = connection.get("/")?;
                [0, 1, 2].map(|at| said.word(at)).join(" ").parse()
            }
        }
    }
}

/// A conversation along a row, which goes on.
struct Spoken {
    row: Row,
    way: Wrapping,
    client: Client,
    protocol: &'static str,
    /// The client's own end, what it asked, and the server's end.
    local: SocketAddr,
    asked: SocketAddr,
    server: SocketAddr,
}

impl Spoken {
    fn open(
        from: &Namespace,
        (row, way): (Row, Wrapping),
        protocol: &'static str,
        (asked, server): (SocketAddr, SocketAddr),
    ) -> Result<Self> {
        let (client, local) = match (row.2, protocol) {
            (To::Http, _) => {
                let connection = Connection::open(from, asked)?;
                let local = connection.local()?;
                (Client::Http(connection), local)
            }
            (_, "tcp") => {
                let talk = Talk::open_apart(from, asked)?;
                let local = talk.local;
                (Client::Tcp(talk), local)
            }
            _ => {
                let datagrams = Datagrams::open(from, asked)?;
                let local = datagrams.local;
                (Client::Udp(datagrams), local)
            }
        };
        Ok(Self {
            row,
            way,
            client,
            protocol,
            local,
            asked,
            server,
        })
    }

    /// The server is the one that was meant, and sees the client as it is.
    fn served_by(&mut self, pod: &Pod) -> Result<()> {
        let (answer, wanted) = (self.client.ask()?, (&pod.name, self.local));
        ensure!((&answer.name, answer.client) == wanted, "{answer:?}");
        Ok(())
    }

    fn is_far(&self) -> bool {
        self.row.3 == Place::Far
    }

    /// Whom the client's packets come from or go to at an interface; `None` where there is none of them.
    fn other_end(&self, at: Place) -> Option<SocketAddr> {
        match at {
            Place::Client => (self.row.1 == From::Pod).then_some(self.asked),
            Place::Uplink | Place::FarUplink => self.is_far().then_some(self.server),
            at => (at == self.row.3).then_some(self.server),
        }
    }

    /// The client's node tells of what was asked and who answers in one flow, and the far node, where the way can say it,
    /// what was asked.
    fn is_told(&self, flows: &[Value; 2]) -> Result<()> {
        let ends = [self.asked, self.server].map(|end| end.to_string());
        let of = |node: usize| {
            let flows = flows[node]["flows"].as_array().into_iter().flatten();
            let local = self.local.to_string();
            flows.filter(move |flow| flow["protocol"] == self.protocol && flow["client"] == local)
        };
        let whole = |flow: &Value| flow["destination"] == ends[0] && flow["backend"] == ends[1];
        let own = self.row.1 == From::Node || self.row.2 == To::Http || of(0).any(whole);
        ensure!(own, "at its node: {:#?}", of(0).collect::<Vec<_>>());
        if self.is_far() {
            let says = self.row.2 != To::Pod && !self.way.native && self.way.encap == "geneve";
            let asked = if says {
                ends[0].as_str().into()
            } else {
                Value::Null
            };
            let told = |flow: &Value| flow["asked"] == asked && flow["destination"] == ends[1];
            ensure!(of(1).any(told), "far: {:#?}", of(1).collect::<Vec<_>>());
        }
        Ok(())
    }
}

/// A packet of a capture.
#[derive(Debug, Default)]
struct Frame {
    /// Source and destination of each IP header, the outermost first.
    headers: Vec<[IpAddr; 2]>,
    /// The innermost TCP or UDP, and its ports.
    innermost: Option<(&'static str, [u16; 2])>,
}

impl Frame {
    /// Where the client is one end of it: the other end, and whether it is to that one.
    fn with(&self, spoken: &Spoken) -> Option<(SocketAddr, bool)> {
        let ([from, to], (protocol, ports)) = (self.headers.last()?, self.innermost?);
        let ends = [(*from, ports[0]).into(), (*to, ports[1]).into()];
        let at = ends.iter().position(|end| *end == spoken.local)?;
        (protocol == spoken.protocol).then(|| (ends[1 - at], at == 0))
    }
}

/// What a capture shows, as tshark reads it.
fn frames(file: &Path) -> Result<Vec<Frame>> {
    const FIELDS: [&str; 9] = [
        "frame.protocols",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.srcport",
        "tcp.dstport",
        "udp.srcport",
        "udp.dstport",
    ];
    let read = |words: Vec<String>| -> Result<Frame> {
        let mut frame = Frame::default();
        let mut lists = words.iter().map(|list| list.split(',')).collect::<Vec<_>>();
        let mut next = |at: usize| lists[at].next().context("a list too short");
        for protocol in words[0].split(':') {
            let (at, name) = match protocol {
                "ip" => (1, None),
                "ipv6" => (3, None),
                "tcp" => (5, Some("tcp")),
                "udp" => (7, Some("udp")),
                "icmp" | "icmpv6" => break, // What it quotes is no packet here.
                _ => continue,
            };
            let [from, to] = [next(at)?, next(at + 1)?];
            match name {
                Some(name) => frame.innermost = Some((name, [from.parse()?, to.parse()?])),
                None => {
                    frame.headers.push([from.parse()?, to.parse()?]);
                    frame.innermost = None;
                }
            }
        }
        Ok(frame)
    };
    let frames = dissect(file, "ip || ipv6", &FIELDS)?.into_iter().map(read);
    frames.collect()
}

/// Whether one of the addresses is of services, or of pods.
fn any_of(addresses: &[IpAddr], range: u16) -> bool {
    addresses.iter().any(|address| match address {
        IpAddr::V4(ip) => ip.octets()[..2] == [10, if range == SERVICES { 96 } else { 244 }],
        IpAddr::V6(ip) => ip.segments()[..2] == [0xfd00, range],
    })
}

/// The ranges of the lab's addresses, as the second group of those of IPv6 has them.
const SERVICES: u16 = 0x96;
const PODS: u16 = 0x244;

/// The two nodes and node a's third pod.
struct Matrix {
    cluster: Cluster,
    beside: Pod,
}

impl Matrix {
    fn new() -> Result<Self> {
        let mut cluster = Cluster::new(Underlay::Routed)?;
        cluster.nodes.pods_are_known()?;
        let a = &mut cluster.nodes.nodes[0];
        let beside = a.pod("beside")?;
        servers::peer(a, &beside.namespace, &beside.name)?;
        let gateways = cluster.nodes.second_uplink(0)?.gateway();
        let node = &cluster.nodes.nodes[0].node;
        for (version, gateway) in ["-4", "-6"].into_iter().zip(gateways) {
            let rule = format!("rule add iif {} lookup {TABLE}", beside.interface);
            let mut ip = node.command("ip");
            run(ip.arg(version).args(rule.split(' ')))?;
            node.ip(&format!(
                "route add default via {gateway} dev {UPLINK2} table {TABLE}\n"
            ))?;
        }
        Ok(Self { cluster, beside })
    }

    fn config(&self, at: usize) -> Result<Config> {
        let mut config = self.cluster.config(at);
        config.node.enrolment_grace = Some("0s".into()); // Datagrams between pods of a node are the kernel's for so long.
        let ports = [("tcp", PEER_PORT, PEER_PORT), ("udp", PEER_PORT, PEER_PORT)];
        let beside = config.service("beside", BESIDE, &ports);
        beside.serve_at(self.beside.ips);
        if at == 0 {
            config.node.uplink = vec![UPLINK.into(), UPLINK2.into()];
            config.enrol(&self.beside, "beside");
        }
        let ports = config.services.iter_mut().flat_map(|one| &mut one.ports);
        for port in ports.filter(|port| port.port == HTTP) {
            port.stage = Some("http".into());
        }
        Ok(config)
    }

    fn server(&self, at: Place) -> (&Pod, u8) {
        match at {
            Place::Far => (&self.cluster.servers[1], SERVED_AT[1]),
            Place::Beside => (&self.beside, BESIDE),
            _ => (&self.cluster.servers[0], SERVED_AT[0]),
        }
    }

    fn capture(&self) -> Result<Vec<Capture>> {
        let [a, b] = &self.cluster.nodes.nodes;
        let captures = Place::ALL.map(|place| {
            let (namespace, interface) = match place {
                Place::Client => (&self.cluster.clients[0].namespace, "eth0"),
                Place::Uplink => (&a.node, UPLINK),
                Place::Uplink2 => (&a.node, UPLINK2),
                Place::FarUplink => (&b.node, UPLINK),
                pod => (&self.server(pod).0.namespace, "eth0"),
            };
            let name = format!("{place:?}");
            Capture::start(namespace, interface, "ip or ip6", &a.directory(), &name)
        });
        captures.into_iter().collect()
    }

    /// All rows that this way makes a difference to; the first one every row. Twice, for the hooks to have the flows.
    fn speak(&self, way: Wrapping, wefts: &[Weft; 2]) -> Result<Vec<Spoken>> {
        let far_only = way.to_string() != WAYS[0].to_string();
        let mut spoken = Vec::new();
        for row in ROWS
            .into_iter()
            .filter(|row| !far_only || row.3 == Place::Far)
        {
            for family in Family::BOTH {
                for protocol in if row.2 == To::Http {
                    &["tcp"][..]
                } else {
                    &["tcp", "udp"]
                } {
                    let one = self.open((row, way), family, protocol);
                    spoken.push(one.with_context(|| format!("{}, {way}, {family:?}", row.0))?);
                }
            }
        }
        thread::sleep(PAUSE);
        for one in &mut spoken {
            let again = one.served_by(self.server(one.row.3).0);
            again.with_context(|| format!("{}, {way}, again: {}", one.row.0, one.asked))?;
        }
        let flows = [wefts[0].json(&["flows"])?, wefts[1].json(&["flows"])?];
        for one in &spoken {
            one.is_told(&flows)
                .with_context(|| format!("{}, {way}: flow of {}", one.row.0, one.local))?;
        }
        thread::sleep(QUIET);
        Ok(spoken)
    }

    fn open(
        &self,
        along: (Row, Wrapping),
        family: Family,
        protocol: &'static str,
    ) -> Result<Spoken> {
        let (_, from, to, place) = along.0;
        let from = match from {
            From::Node => &self.cluster.nodes.nodes[0].node,
            From::Pod => &self.cluster.clients[0].namespace,
        };
        let (pod, number) = self.server(place);
        let vip = pick(&vips(number), family);
        let (asked, target) = match to {
            To::Pod => (pod.at(family, PEER_PORT), PEER_PORT),
            To::Service => ((vip, PEER_PORT).into(), PEER_PORT),
            To::Http => ((vip, HTTP).into(), WEB_PORT),
        };
        let mut spoken = Spoken::open(from, along, protocol, (asked, pod.at(family, target)))?;
        spoken.served_by(pod)?;
        Ok(spoken)
    }

    /// What an interface has shown is what it may.
    fn judge(&self, place: Place, frames: &[Frame], spoken: &[Spoken]) -> Result<()> {
        let nodes = [0, 1].map(|at| self.cluster.nodes.address(at, Family::V4));
        for one in spoken {
            let wanted = one.other_end(place);
            let mut ways = [0, 0];
            for frame in frames {
                let Some((end, sent)) = frame.with(one) else {
                    continue;
                };
                let outer = if sent { nodes } else { [nodes[1], nodes[0]] };
                let wrapped = frame.headers.len() == 2 && frame.headers[0] == outer;
                let bare = frame.headers.len() == 1;
                let travels = Place::UPLINKS.contains(&place) && !one.way.native;
                ensure!(
                    Some(end) == wanted && if travels { wrapped } else { bare },
                    "{}, {}: {frame:?}, and not with {wanted:?}",
                    one.row.0,
                    one.way
                );
                ways[usize::from(sent)] += 1;
            }
            ensure!(
                wanted.is_none() || ways.iter().all(|count| *count > 0),
                "{}, {}: {ways:?} packets of {} with {wanted:?}",
                one.row.0,
                one.way,
                one.local
            );
        }
        for frame in frames {
            // Other packets than those above, too.
            let vip = frame.headers.iter().any(|ends| any_of(ends, SERVICES));
            ensure!(!vip || place == Place::Client, "a service: {frame:?}");
            let native = |one: &Spoken| one.way.native && frame.with(one).is_some();
            ensure!(
                !Place::UPLINKS.contains(&place)
                    || !any_of(&frame.headers[0], PODS)
                    || spoken.iter().any(native),
                "a pod: {frame:?}"
            );
        }
        Ok(())
    }
}

#[test]
fn ter1_ter2_ter3_ter4_ter5_ter6_ter7_csm05_u15_every_path_is_seen_where_it_should_be() -> Result<()>
{
    with_weft(|| {
        let mut matrix = Matrix::new()?;
        let start = |at: usize| Weft::start(&matrix.cluster.nodes.nodes[at], &matrix.config(at)?);
        let wefts = [start(0)?, start(1)?];
        matrix.cluster.joined(&wefts)?;
        let captures = matrix.capture()?;
        let mut spoken = Vec::new();
        for way in WAYS {
            matrix.cluster.wrapping = way;
            for (at, weft) in wefts.iter().enumerate() {
                weft.reload(&matrix.config(at)?)?;
            }
            spoken.extend(matrix.speak(way, &wefts).with_context(|| said(&wefts))?);
        }
        let files = captures.into_iter().map(Capture::stop);
        let files = files.collect::<Result<Vec<_>>>()?;
        for (place, file) in Place::ALL.into_iter().zip(&files) {
            matrix
                .judge(place, &frames(file)?, &spoken)
                .with_context(|| format!("at {place:?}"))?;
        }
        audit(&wefts)
    })
}
