//! Wrapped frames as anybody on the underlay may write them: right ones arrive, all others are one counted drop each
//! (TUN-01, TUN-02, TUN-05, TUN-06).

use crate::fixture::with_weft;
use crate::overlay_fixture::{Cluster, VNI, audit, said};
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;
use weft_lab::lab::Family;
use weft_lab::packet::{Ip, ethernet, udp};
use weft_lab::raw::Wire;
use weft_lab::two_nodes::Underlay;
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;

/// Where the server's socket is.
const PORT: u16 = 4447;
/// GENEVE's.
const GENEVE: u16 = 6081;
/// EtherTypes.
const BRIDGED: u16 = 0x6558;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// Congestion experienced.
const CE: u8 = 3;

/// A wrapped datagram from the client on node a to the server on node b, or what is wrong with it.
#[derive(Clone)]
struct Wrapped {
    from: IpAddr,
    outer_class: u8,
    version: u8,
    flags: u8,
    protocol: u16,
    vni: u32,
    options: Vec<u8>,
    /// The inner Ethernet header's, where there is one.
    ethertype: u16,
    src: IpAddr,
    dst: IpAddr,
    /// Added to the outer checksum.
    off_by: u8,
}

impl Wrapped {
    fn packet(&self, to: IpAddr) -> Vec<u8> {
        let words = (self.options.len() / 4) as u8;
        let mut payload = vec![self.version << 6 | words, self.flags];
        payload.extend(self.protocol.to_be_bytes());
        payload.extend((self.vni << 8).to_be_bytes());
        payload.extend(&self.options);
        if self.protocol == BRIDGED {
            payload.extend([2; 12]);
            payload.extend(self.ethertype.to_be_bytes());
        }
        payload.extend(udp(&Ip::new(self.src, self.dst), 40_000, PORT, b"inner"));
        let mut outer = Ip::new(self.from, to);
        outer.class = self.outer_class;
        let mut packet = udp(&outer, 50_000, GENEVE, &payload);
        packet[27] ^= self.off_by;
        packet
    }
}

type Change<'a> = &'a dyn Fn(&mut Wrapped);

/// An option of that class and type, with as many words as it says and as many as there are.
fn option(class: u16, kind: u8, says: u8, words: usize) -> Vec<u8> {
    let mut option = class.to_be_bytes().to_vec();
    option.extend([kind, says]);
    option.extend(vec![0xaa; words * 4]);
    option
}

struct Bench {
    cluster: Cluster,
    wefts: [Weft; 2],
    wire: Wire,
    server: UdpSocket,
    right: Wrapped,
}

impl Bench {
    fn new() -> Result<Self> {
        let cluster = Cluster::new(Underlay::Routed)?;
        let wefts = cluster.start()?;
        let wire = Wire::open(&cluster.nodes.nodes[1].outside, "eth0")?;
        let server = &cluster.servers[1];
        let at = server.at(Family::V4, PORT);
        let socket = server.namespace.enter(|| UdpSocket::bind(at))??;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        let right = Wrapped {
            from: cluster.nodes.address(0, Family::V4),
            outer_class: 0,
            version: 0,
            flags: 0,
            protocol: BRIDGED,
            vni: VNI,
            options: Vec::new(),
            ethertype: IPV4,
            src: cluster.clients[0].ip(Family::V4),
            dst: server.ip(Family::V4),
            off_by: 0,
        };
        Ok(Self {
            cluster,
            wefts,
            wire,
            server: socket,
            right,
        })
    }

    /// Puts it in front of node b, and says whether the server got it.
    fn arrives(&self, wrapped: &Wrapped) -> Result<bool> {
        let place = self.cluster.nodes.nodes[1].place();
        let node = [2, 0, 0, 0, place.network, place.number];
        let packet = wrapped.packet(self.cluster.nodes.address(1, Family::V4));
        ensure!(self.wire.send(&ethernet(self.wire.mac, node, &packet))?);
        let mut buffer = [0; 64];
        match self.server.recv_from(&mut buffer) {
            Ok((length, from)) => {
                ensure!(
                    &buffer[..length] == b"inner" && from.ip() == wrapped.src,
                    "{length} bytes from {from}"
                );
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// One that is not right: counted by that name, and nothing else.
    fn dropped(&self, reason: &str, change: impl FnOnce(&mut Wrapped)) -> Result<()> {
        let mut wrapped = self.right.clone();
        change(&mut wrapped);
        let weft = &self.wefts[1];
        let before = weft.counter(reason)?;
        ensure!(!self.arrives(&wrapped)?, "{reason}: arrived");
        wait_until(reason, Duration::from_secs(1), || {
            weft.counter(reason).is_ok_and(|count| count == before + 1)
        })
        .with_context(|| said(&self.wefts))
    }
}

#[test]
fn tun01_frames_with_options_that_need_not_be_known_arrive() -> Result<()> {
    with_weft(|| {
        let bench = Bench::new()?;
        let unknown = option(0x1234, 0x05, 2, 2);
        let empty = option(0x4321, 0x7f, 0, 0);
        let changes: [(&str, Change<'_>); 6] = [
            ("plain", &|_| {}),
            ("an option", &|frame| frame.options = unknown.clone()),
            ("two options", &|frame| {
                frame.options = [unknown.clone(), empty.clone()].concat();
            }),
            ("the other way round", &|frame| {
                frame.options = [empty.clone(), unknown.clone()].concat();
            }),
            ("no inner Ethernet header", &|frame| frame.protocol = IPV4),
            ("a critical flag and nothing critical", &|frame| {
                (frame.flags, frame.options) = (0x40, unknown.clone());
            }),
        ];
        for (what, change) in changes {
            let mut frame = bench.right.clone();
            change(&mut frame);
            ensure!(bench.arrives(&frame)?, "{what}: {}", said(&bench.wefts));
        }
        audit(&bench.wefts)
    })
}

#[test]
fn tun01_tun02_tun05_frames_that_are_not_right_are_dropped_by_name() -> Result<()> {
    with_weft(|| {
        let bench = Bench::new()?;
        bench.dropped("tunnel_version", |frame| frame.version = 1)?;
        bench.dropped("geneve_oam", |frame| frame.flags = 0x80)?;
        bench.dropped("tunnel_vni", |frame| frame.vni = VNI + 1)?;
        bench.dropped("geneve_critical_option", |frame| {
            frame.options = option(0x1234, 0x85, 1, 1);
        })?;
        bench.dropped("geneve_options", |frame| {
            frame.options = option(0x1234, 0x05, 3, 1);
        })?;
        bench.dropped("tunnel_payload", |frame| frame.ethertype = ARP)?;
        bench.dropped("tunnel_payload", |frame| frame.protocol = 0x8847)?;
        bench.dropped("tunnel_checksum", |frame| frame.off_by = 1)?;
        bench.dropped("tunnel_ecn", |frame| frame.outer_class = CE)?;
        let stranger = "192.168.7.99".parse()?;
        bench.dropped("tunnel_peer", |frame| frame.from = stranger)?;
        // Of no range, of no peer's: one of node b's own pods.
        for src in ["10.244.9.9", "8.8.8.8", "10.244.2.1"] {
            let src = src.parse()?;
            bench.dropped("src_spoof", |frame| frame.src = src)?;
        }
        // No pod, no address of the overlay, the node itself, back to the peer.
        for dst in ["10.244.2.77", "8.8.8.8", "192.168.8.2", "10.244.1.2"] {
            let dst = dst.parse()?;
            bench
                .dropped("no_route", |frame| frame.dst = dst)
                .with_context(|| format!("to {dst}"))?;
        }
        ensure!(bench.arrives(&bench.right)?, "{}", said(&bench.wefts));
        audit(&bench.wefts)
    })
}
