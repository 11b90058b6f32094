//! A small node for tests: pods, services, packets built and checked by an independent library.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod fragments;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub mod icmp;
pub mod tunnel;

use etherparse::{PacketBuilder, PacketHeaders, TcpHeader, TransportHeader};
use weft_datapath::*;

pub const WEFT0: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
/// The destination MAC of what a pod sends, and of what the kernel delivers.
pub const ORIGINAL_DST: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];

pub const CLIENT: u32 = 11;
pub const BACKEND_1: u32 = 12;
pub const BACKEND_2: u32 = 13;

/// Ports of the VIP.
pub const SERVED: u16 = 80;
pub const WITHOUT_BACKENDS: u16 = 81;
pub const BY_KERNEL: u16 = 82;
pub const ONLY_CLIENT: u16 = 83;
pub const ONE_BACKEND: u16 = 84;
pub const UNUSED: u16 = 99;
pub const TARGET: u16 = 8080;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const SECOND: u64 = 1_000_000_000;
/// The grace of a pod in grace ends here.
pub const GRACE_UNTIL: Now = Now::from_nanos(600 * SECOND);
pub const START: Now = Now::from_nanos(100 * SECOND);

/// The addresses of one family.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Net {
    V4,
    V6,
}

impl Net {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// A pod's address: 1 is the client, 2 and 3 the backends, 4 is not enrolled.
    pub fn pod(self, host: u8) -> Address {
        match self {
            Self::V4 => Address::from_v4([10, 244, 1, host]),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    pub fn vip(self, host: u8) -> Address {
        match self {
            Self::V4 => Address::from_v4([10, 96, 0, host]),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    pub fn node(self) -> Address {
        match self {
            Self::V4 => Address::from_v4([192, 168, 7, 1]),
            Self::V6 => Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// What a pod sees that reaches itself through a service.
    pub fn hairpin(self) -> Address {
        match self {
            Self::V4 => Address::from_v4([192, 0, 0, 8]),
            Self::V6 => Ipv6Addr::new(0xfd77, 0x6566, 0x74, 0, 0, 0, 0, 1).into(),
        }
    }

    pub fn internet(self) -> Address {
        match self {
            Self::V4 => Address::from_v4([1, 1, 1, 1]),
            Self::V6 => Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 0x1111).into(),
        }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Grace,
    Settled,
    Draining,
}

impl Standing {
    pub fn state(self) -> PodState {
        match self {
            Self::Grace => PodState::Enrolled {
                grace_until: GRACE_UNTIL,
            },
            Self::Settled => PodState::Enrolled {
                grace_until: Now::default(),
            },
            Self::Draining => PodState::Draining,
        }
    }
}

pub fn pod(ifindex: u32, stage: Standing) -> Pod {
    let host = (ifindex - 10) as u8;
    let addresses = Net::BOTH.map(|net| net.pod(host)).into();
    Pod {
        ifindex,
        name: Box::default(),
        addresses,
        slot: SlotRef {
            slot: ifindex,
            epoch: 1,
        },
        state: stage.state(),
        mtu: 9000, // Longer than anything that a test sends.
    }
}

pub fn enrolled_backend(net: Net, ifindex: u32, port: u16) -> Backend {
    let slot = SlotRef {
        slot: ifindex,
        epoch: 1,
    };
    let (address, path) = (net.pod((ifindex - 10) as u8), BackendPath::Pod { ifindex });
    Backend {
        address,
        port,
        path,
        slot,
        member: SlotRef::FIXED,
        state: BackendState::Ready,
        weight: 1,
        name: Some(ifindex),
    }
}

pub fn kernel_backend(address: Address, port: u16) -> Backend {
    Backend {
        address,
        port,
        path: BackendPath::Kernel,
        slot: SlotRef::FIXED,
        member: SlotRef::FIXED,
        state: BackendState::Ready,
        weight: 1,
        name: None,
    }
}

pub fn epochs() -> Vec<u32> {
    vec![1; 64]
}

/// The pods given and the services of every test: VIPs 80 and 81 with the ports above, TCP and UDP.
pub fn builder(pods: &[(u32, Standing)], algorithm: Algorithm) -> TablesBuilder {
    let mut builder = TablesBuilder::new();
    let mut id = 0;
    for net in Net::BOTH {
        let both = vec![
            enrolled_backend(net, BACKEND_1, TARGET),
            enrolled_backend(net, BACKEND_2, TARGET),
        ];
        for vip in [80, 81] {
            for proto in [Protocol::Tcp, Protocol::Udp] {
                for (port, backends) in [
                    (SERVED, both.clone()),
                    (WITHOUT_BACKENDS, vec![]),
                    (BY_KERNEL, vec![kernel_backend(net.pod(4), TARGET)]),
                    (ONLY_CLIENT, vec![enrolled_backend(net, CLIENT, TARGET)]),
                    (ONE_BACKEND, vec![enrolled_backend(net, BACKEND_1, TARGET)]),
                ] {
                    id += 1;
                    let address = net.vip(vip);
                    builder.add_service_port(ServicePortSpec {
                        id,
                        address,
                        port,
                        proto,
                        algorithm,
                        backends,
                        options: ServiceOptions::default(),
                    });
                }
            }
        }
    }
    for (ifindex, stage) in pods {
        builder.add_pod(pod(*ifindex, *stage));
    }
    builder.set_epochs(epochs());
    builder
}

pub fn tables(client: Standing, others: Standing) -> Tables {
    builder(
        &[(CLIENT, client), (BACKEND_1, others), (BACKEND_2, others)],
        Algorithm::Maglev,
    )
    .build(1)
    .unwrap()
}

/// Every pod enrolled for long.
pub fn settled() -> Tables {
    tables(Standing::Settled, Standing::Settled)
}

pub fn state(workers: u16) -> State {
    State::new(StateConfig {
        max_flows: 4096,
        seed: 7,
        worker: 0,
        workers,
        ports: Ports { weft0_mac: WEFT0 },
        hairpin: Net::BOTH.map(Net::hairpin).into(),
    })
}

/// One packet to be built.
#[derive(Clone, Debug)]
pub struct Spec {
    pub tuple: Tuple,
    pub flags: u8,
    pub payload: Vec<u8>,
    pub hops: u8,
}

impl Spec {
    pub fn tcp(src: Address, sport: u16, dst: Address, dport: u16, flags: u8) -> Self {
        Self {
            tuple: Tuple {
                src,
                dst,
                sport,
                dport,
                proto: Protocol::Tcp,
            },
            flags,
            payload: vec![],
            hops: 64,
        }
    }

    pub fn udp(src: Address, sport: u16, dst: Address, dport: u16) -> Self {
        let tuple = Tuple {
            src,
            dst,
            sport,
            dport,
            proto: Protocol::Udp,
        };
        Self {
            tuple,
            flags: 0,
            payload: b"question".to_vec(),
            hops: 64,
        }
    }

    pub fn of(tuple: Tuple, flags: u8) -> Self {
        Self {
            tuple,
            flags,
            payload: vec![],
            hops: 64,
        }
    }

    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// The frame as the BPF program at `hook` of `ifindex` punts it to worker 0.
    pub fn punted(&self, ifindex: u32, hook: Hook) -> Vec<u8> {
        self.frame(
            Ingress {
                ifindex,
                hook,
                target: 0,
            }
            .encode(),
        )
    }

    pub fn frame(&self, source_mac: [u8; 6]) -> Vec<u8> {
        let Tuple {
            src,
            dst,
            sport,
            dport,
            proto,
        } = self.tuple;
        let ethernet = PacketBuilder::ethernet2(source_mac, ORIGINAL_DST);
        let ip = match (IpAddr::from(src), IpAddr::from(dst)) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                ethernet.ipv4(src.octets(), dst.octets(), self.hops)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                ethernet.ipv6(src.octets(), dst.octets(), self.hops)
            }
            _ => panic!("two families in {}", self.tuple),
        };
        let mut frame = Vec::new();
        match proto {
            Protocol::Tcp => {
                let mut header = TcpHeader::new(sport, dport, 1000, 65000);
                header.fin = self.flags & FIN != 0;
                header.syn = self.flags & SYN != 0;
                header.rst = self.flags & RST != 0;
                header.ack = self.flags & ACK != 0;
                header.acknowledgment_number = if header.ack { 2000 } else { 0 };
                ip.tcp_header(header)
                    .write(&mut frame, &self.payload)
                    .unwrap();
            }
            Protocol::Udp => ip
                .udp(sport, dport)
                .write(&mut frame, &self.payload)
                .unwrap(),
        }
        frame
    }
}

/// The client's first packet to a port of the VIP 80.
pub fn open(net: Net, proto: Protocol, port: u16) -> Spec {
    match proto {
        Protocol::Tcp => Spec::tcp(net.pod(1), 40000, net.vip(80), port, SYN),
        Protocol::Udp => Spec::udp(net.pod(1), 40000, net.vip(80), port),
    }
}

/// Runs one frame through `process`; what the edge would transmit is left in `frame`.
pub fn run(frame: &mut Vec<u8>, now: Now, tables: &Tables, state: &mut State) -> Verdict {
    let mut before = frame.clone();
    let verdict = run_in::<2048>(frame, now, tables, state);
    if matches!(verdict, Verdict::HandOver(_)) {
        // A fragment is handed to the owner of its flow, whatever the hook made the target.
        before[10..12].copy_from_slice(&frame[10..12]);
    }
    if matches!(
        verdict,
        Verdict::HandOver(_) | Verdict::Hold | Verdict::Terminate(_) | Verdict::Drop(_)
    ) {
        assert_eq!(*frame, before, "{verdict:?} must leave the bytes alone");
    }
    verdict
}

/// The same in a frame of that many bytes, whatever becomes of what it held.
pub fn run_in<const ROOM: usize>(
    frame: &mut Vec<u8>,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let mut memory = [0u8; ROOM];
    memory[..frame.len()].copy_from_slice(frame);
    let mut buf = FrameBuf::new(&mut memory, frame.len());
    // A burst of one: whatever is in a frame, to look at it ahead changes nothing.
    let mut ahead = LookAhead::default();
    ahead.note(buf.bytes(), state);
    ahead.fetch(tables, state);
    let verdict = process(&mut buf, now, tables, state);
    *frame = buf.bytes().to_vec();
    verdict
}

/// Checks every length and checksum with another implementation, and returns the headers.
pub fn sound(frame: &[u8]) -> PacketHeaders<'_> {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let payload = headers.payload.slice();
    match (
        headers.net.clone().unwrap(),
        headers.transport.clone().unwrap(),
    ) {
        (etherparse::NetHeaders::Ipv4(ip, _), transport) => {
            assert_eq!(
                ip.header_checksum,
                ip.calc_header_checksum(),
                "IPv4 header checksum"
            );
            match transport {
                TransportHeader::Tcp(h) => {
                    assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap())
                }
                TransportHeader::Udp(h) if h.checksum == 0 => {}
                TransportHeader::Udp(h) => {
                    assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap())
                }
                TransportHeader::Icmpv4(h) => {
                    assert_eq!(h.checksum, h.icmp_type.calc_checksum(payload))
                }
                other => panic!("{other:?}"),
            }
        }
        (etherparse::NetHeaders::Ipv6(ip, _), transport) => match transport {
            TransportHeader::Tcp(h) => {
                assert_eq!(h.checksum, h.calc_checksum_ipv6(&ip, payload).unwrap())
            }
            TransportHeader::Udp(h) => {
                assert_eq!(h.checksum, h.calc_checksum_ipv6(&ip, payload).unwrap())
            }
            TransportHeader::Icmpv6(h) => {
                assert_eq!(
                    h.checksum,
                    h.icmp_type
                        .calc_checksum(ip.source, ip.destination, payload)
                        .unwrap()
                );
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    headers
}

/// The tuple of a sound TCP or UDP frame.
pub fn tuple(frame: &[u8]) -> Tuple {
    sound(frame);
    packet(frame).tuple().to_owned()
}

pub fn packet(frame: &[u8]) -> Packet {
    match parse(frame) {
        Ok(Parsed::Flow(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

pub fn egress(frame: &[u8]) -> Egress {
    Egress::decode(frame[6..12].try_into().unwrap()).expect("an injected frame")
}

pub fn destination_mac(frame: &[u8]) -> &[u8] {
    &frame[..6]
}

pub fn v4(a: u8, b: u8, c: u8, d: u8) -> Address {
    Ipv4Addr::new(a, b, c, d).into()
}

/// An IPv6 frame with extension headers before its payload: their numbers, and what follows next header and
/// length (6 bytes and then whole units of 8).
pub fn extended(mut frame: Vec<u8>, headers: &[(u8, &[u8])]) -> Vec<u8> {
    let (mut named_at, mut at) = (20, 54);
    for (number, body) in headers {
        let mut header = vec![frame[named_at], (body.len() / 8) as u8];
        header.extend_from_slice(body);
        frame[named_at] = *number;
        frame.splice(at..at, header.iter().copied());
        (named_at, at) = (at, at + header.len());
    }
    let payload = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame
}
