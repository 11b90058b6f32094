//! The packets that the oracle sends, each kind to the destinations where it says something.

use super::world::{Service, Target, To, target};
use crate::lab::{Family, pick, pod_ips};
use crate::packet::{self, Ip, L4, Seen, Tcp, flag, protocol};
use crate::random::Random;

/// The first client port; case `n` has port `FIRST_PORT + n`, by which its packets are known again.
pub const FIRST_PORT: u16 = 20_000;
/// Sequence numbers of the client's and of the server's SYN.
const CLIENT_SEQ: u32 = 1000;
const SERVER_SEQ: u32 = 9000;

/// Makes what the server sends out of what arrived there; the header has the way back.
pub type Answer = fn(&Ip, &Seen, &[u8]) -> Vec<Vec<u8>>;

/// What happens in a step.
#[derive(Debug, Clone)]
pub enum Act {
    /// The client sends these packets.
    Send(Vec<Vec<u8>>),
    /// Whoever the packet of an earlier step arrived at answers.
    Answer(Answer),
}

/// One conversation.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is sent.
    pub what: &'static str,
    /// To what kind of destination.
    pub to: To,
    /// Over which family.
    pub family: Family,
    /// Where to.
    pub target: Target,
    /// The client's port, or the identifier of its echo.
    pub port: u16,
    /// What happens, with a name for each step.
    pub steps: Vec<(&'static str, Act)>,
}

/// What a kind of case is made from.
struct Maker<'a> {
    ip: Ip,
    port: u16,
    target: &'a Target,
    payload: Vec<u8>,
}

impl Maker<'_> {
    fn tcp(&self, flags: u8, (seq, ack): (u32, u32), payload: &[u8]) -> Vec<u8> {
        let tcp = Tcp {
            sport: self.port,
            dport: self.target.port,
            flags,
            seq: CLIENT_SEQ.wrapping_add(seq),
            ack: if flags & flag::ACK != 0 {
                SERVER_SEQ.wrapping_add(ack)
            } else {
                0
            },
        };
        packet::tcp(&self.ip, tcp, payload)
    }

    fn send(&self, flags: u8, numbers: (u32, u32)) -> Act {
        Act::Send(vec![self.tcp(flags, numbers, b"")])
    }

    fn udp(&self) -> Vec<u8> {
        packet::udp(&self.ip, self.port, self.target.port, &self.payload)
    }

    /// The offset of the TCP or UDP header: there are no options here.
    fn l4(&self) -> usize {
        if self.ip.src.is_ipv4() { 20 } else { 40 }
    }
}

fn answer_tcp(
    ip: &Ip,
    seen: &Seen,
    flags: u8,
    (seq, ack): (u32, u32),
    payload: &[u8],
) -> Vec<Vec<u8>> {
    let (sport, dport) = seen.ports().unwrap_or_default();
    let tcp = Tcp {
        sport: dport,
        dport: sport,
        flags,
        seq: SERVER_SEQ.wrapping_add(seq),
        ack: CLIENT_SEQ.wrapping_add(ack),
    };
    vec![packet::tcp(ip, tcp, payload)]
}

fn answer_udp(ip: &Ip, seen: &Seen, _: &[u8]) -> Vec<Vec<u8>> {
    let (sport, dport) = seen.ports().unwrap_or_default();
    vec![packet::udp(ip, dport, sport, b"an answer")]
}

fn answer_fragments(ip: &Ip, seen: &Seen, _: &[u8]) -> Vec<Vec<u8>> {
    let (sport, dport) = seen.ports().unwrap_or_default();
    let ip = Ip {
        dont_fragment: false,
        ..ip.clone()
    };
    packet::fragments(&ip, dport, sport, &[7; 120]).to_vec()
}

fn answer_echo(ip: &Ip, seen: &Seen, _: &[u8]) -> Vec<Vec<u8>> {
    match seen.l4 {
        L4::Icmp { ident, .. } => vec![packet::echo(ip, true, ident, &seen.payload)],
        _ => Vec::new(),
    }
}

fn syn_ack(ip: &Ip, seen: &Seen, _: &[u8]) -> Vec<Vec<u8>> {
    answer_tcp(ip, seen, flag::SYN | flag::ACK, (0, 1), b"")
}

fn unreachable(ip: &Ip, _: &Seen, about: &[u8]) -> Vec<Vec<u8>> {
    vec![packet::error(ip, None, about)]
}

fn too_big(ip: &Ip, _: &Seen, about: &[u8]) -> Vec<Vec<u8>> {
    vec![packet::error(ip, Some(1400), about)]
}

/// Everything of one family and seed.
pub fn cases(random: &mut Random, services: &[Service]) -> Vec<Case> {
    use To::*;
    let everywhere = [
        Service,
        NotEnrolled,
        Itself,
        Empty,
        OtherPort,
        Unassigned,
        Pod,
        OtherPod,
    ];
    let translated = [Service, NotEnrolled, Pod];
    let common = [Service, Pod];
    let mut cases = Vec::new();
    for family in Family::BOTH {
        for (kinds, destinations) in [
            (BASIC, &everywhere[..]),
            (ANSWERED, &translated[..]),
            (ODD, &common[..]),
        ] {
            for (what, protocol, make) in kinds {
                for to in destinations {
                    for _ in 0..2 {
                        let target = target(random, services, *to, protocol, family);
                        let port = FIRST_PORT + 1 + cases.len() as u16;
                        let client = pick(&pod_ips(1), family);
                        let ip = Ip {
                            id: port - FIRST_PORT,
                            class: [0, 0x28][random.below(2)],
                            dont_fragment: random.below(2) == 0,
                            ..Ip::new(client, target.address)
                        };
                        let length = 1 + random.below(300);
                        let payload = random.bytes(length);
                        let maker = Maker {
                            ip,
                            port,
                            target: &target,
                            payload,
                        };
                        let steps = make(&maker);
                        if steps.is_empty() {
                            continue; // Says nothing about this family.
                        }
                        cases.push(Case {
                            what,
                            to: *to,
                            family,
                            target,
                            port,
                            steps,
                        });
                    }
                }
            }
        }
    }
    cases
}

type Steps = Vec<(&'static str, Act)>;
/// A kind of case: what it is called, by which protocol's ports, and its steps.
type Kind = (&'static str, &'static str, fn(&Maker<'_>) -> Steps);

fn once(packet: Vec<u8>) -> Steps {
    vec![("it", Act::Send(vec![packet]))]
}

/// To every kind of destination.
const BASIC: &[Kind] = &[
    ("TCP SYN", "tcp", |m| once(m.tcp(flag::SYN, (0, 0), b""))),
    ("TCP ACK of no flow", "tcp", |m| {
        once(m.tcp(flag::ACK, (50, 50), &m.payload))
    }),
    ("UDP", "udp", |m| once(m.udp())),
    ("ICMP echo", "udp", |m| {
        vec![
            (
                "the request",
                Act::Send(vec![packet::echo(&m.ip, false, m.port, &m.payload)]),
            ),
            ("the reply", Act::Answer(answer_echo)),
        ]
    }),
];

/// Where somebody answers.
const ANSWERED: &[Kind] = &[
    ("TCP connection", "tcp", |m| {
        vec![
            ("SYN", m.send(flag::SYN, (0, 0))),
            ("SYN+ACK", Act::Answer(syn_ack)),
            ("ACK", m.send(flag::ACK, (1, 1))),
            (
                "request",
                Act::Send(vec![m.tcp(flag::ACK | flag::PSH, (1, 1), &m.payload)]),
            ),
            (
                "response",
                Act::Answer(|ip, seen, _| {
                    answer_tcp(
                        ip,
                        seen,
                        flag::ACK,
                        (1, 1 + seen.payload.len() as u32),
                        b"hello",
                    )
                }),
            ),
            (
                "server's FIN",
                Act::Answer(|ip, seen, _| {
                    answer_tcp(
                        ip,
                        seen,
                        flag::ACK | flag::FIN,
                        (6, 1 + seen.payload.len() as u32),
                        b"",
                    )
                }),
            ),
            (
                "client's FIN",
                m.send(flag::ACK | flag::FIN, (1 + m.payload.len() as u32, 7)),
            ),
            (
                "last ACK",
                Act::Answer(|ip, seen, _| {
                    let (seq, _) = match seen.l4 {
                        L4::Tcp { numbers, .. } => numbers,
                        _ => (0, 0),
                    };
                    let ack = seq.wrapping_sub(CLIENT_SEQ).wrapping_add(1);
                    answer_tcp(ip, seen, flag::ACK, (7, ack), b"")
                }),
            ),
        ]
    }),
    ("TCP connection refused", "tcp", |m| {
        vec![
            ("SYN", m.send(flag::SYN, (0, 0))),
            (
                "RST",
                Act::Answer(|ip, seen, _| answer_tcp(ip, seen, flag::RST | flag::ACK, (0, 1), b"")),
            ),
        ]
    }),
    ("TCP connection reset by the client", "tcp", |m| {
        vec![
            ("SYN", m.send(flag::SYN, (0, 0))),
            ("SYN+ACK", Act::Answer(syn_ack)),
            ("RST", m.send(flag::RST, (1, 0))),
        ]
    }),
    ("TCP segment too big on the server's side", "tcp", |m| {
        vec![
            ("SYN", m.send(flag::SYN, (0, 0))),
            ("SYN+ACK", Act::Answer(syn_ack)),
            (
                "segment",
                Act::Send(vec![m.tcp(flag::ACK, (1, 1), &m.payload)]),
            ),
            ("ICMP too big", Act::Answer(too_big)),
        ]
    }),
    ("UDP exchange", "udp", |m| {
        vec![
            ("request", Act::Send(vec![m.udp()])),
            ("response", Act::Answer(answer_udp)),
            ("request again", Act::Send(vec![m.udp()])),
        ]
    }),
    ("UDP to a closed port", "udp", |m| {
        vec![
            ("request", Act::Send(vec![m.udp()])),
            ("ICMP unreachable", Act::Answer(unreachable)),
        ]
    }),
    ("UDP response to a closed port", "udp", |m| {
        let response = packet::udp(&m.ip.back(), m.target.port, m.port, b"an answer");
        vec![
            ("request", Act::Send(vec![m.udp()])),
            ("response", Act::Answer(answer_udp)),
            (
                "ICMP unreachable",
                Act::Send(vec![packet::error(&m.ip, None, &response)]),
            ),
        ]
    }),
    ("UDP response in fragments", "udp", |m| {
        vec![
            ("request", Act::Send(vec![m.udp()])),
            ("fragments", Act::Answer(answer_fragments)),
        ]
    }),
];

/// Oddities, to a service and to a pod.
const ODD: &[Kind] = &[
    ("TCP SYN+ACK of no flow", "tcp", |m| {
        once(m.tcp(flag::SYN | flag::ACK, (0, 0), b""))
    }),
    ("TCP RST of no flow", "tcp", |m| {
        once(m.tcp(flag::RST, (9, 0), b""))
    }),
    ("TCP FIN+ACK of no flow", "tcp", |m| {
        once(m.tcp(flag::FIN | flag::ACK, (9, 9), b""))
    }),
    ("TCP SYN+FIN", "tcp", |m| {
        once(m.tcp(flag::SYN | flag::FIN, (0, 0), b""))
    }),
    ("TCP SYN+RST", "tcp", |m| {
        once(m.tcp(flag::SYN | flag::RST, (0, 0), b""))
    }),
    ("TCP without flags", "tcp", |m| once(m.tcp(0, (0, 0), b""))),
    ("TCP with all flags", "tcp", |m| {
        once(m.tcp(0x3f, (0, 0), b""))
    }),
    ("TCP SYN with data", "tcp", |m| {
        once(m.tcp(flag::SYN, (0, 0), &m.payload))
    }),
    ("TCP SYN, bad checksum", "tcp", |m| {
        let mut packet = m.tcp(flag::SYN, (0, 0), b"");
        packet[m.l4() + 17] ^= 1;
        once(packet)
    }),
    ("TCP SYN, bad IP checksum", "tcp", |m| {
        let mut packet = m.tcp(flag::SYN, (0, 0), b"");
        if m.l4() == 40 {
            return Vec::new();
        }
        packet[11] ^= 1;
        once(packet)
    }),
    ("TCP SYN, header cut off", "tcp", |m| {
        once(m.ip.packet(
            protocol::TCP,
            &m.tcp(flag::SYN, (0, 0), b"")[m.l4()..][..12],
        ))
    }),
    ("TCP SYN, frame cut off", "tcp", |m| {
        let mut packet = m.tcp(flag::SYN, (0, 0), &m.payload);
        packet.truncate(packet.len() - m.payload.len().min(5));
        once(packet)
    }),
    ("TCP SYN with Ethernet padding", "tcp", |m| {
        once([m.tcp(flag::SYN, (0, 0), b""), vec![0xaa; 9]].concat())
    }),
    ("TCP SYN at its last hop", "tcp", |m| {
        let ip = Ip {
            hops: 1,
            ..m.ip.clone()
        };
        once(
            Maker {
                ip,
                payload: Vec::new(),
                ..*m
            }
            .tcp(flag::SYN, (0, 0), b""),
        )
    }),
    ("UDP at its last hop", "udp", |m| {
        let ip = Ip {
            hops: 1,
            ..m.ip.clone()
        };
        once(packet::udp(&ip, m.port, m.target.port, &m.payload))
    }),
    ("UDP at its last hop but one", "udp", |m| {
        let ip = Ip {
            hops: 2,
            ..m.ip.clone()
        };
        once(packet::udp(&ip, m.port, m.target.port, &m.payload))
    }),
    ("UDP with IP options", "udp", |m| {
        // No operation four times; padding of six bytes (RFC 8200, 4.2).
        let options = if m.l4() == 20 {
            vec![1; 4]
        } else {
            vec![1, 4, 0, 0, 0, 0]
        };
        let ip = Ip {
            options,
            ..m.ip.clone()
        };
        once(packet::udp(&ip, m.port, m.target.port, &m.payload))
    }),
    ("UDP, bad checksum", "udp", |m| {
        let mut packet = m.udp();
        packet[m.l4() + 7] ^= 1;
        once(packet)
    }),
    ("UDP without checksum", "udp", |m| {
        let mut packet = m.udp();
        packet[m.l4() + 6..m.l4() + 8].fill(0);
        once(packet)
    }),
    ("UDP longer than its packet", "udp", |m| {
        let mut packet = m.udp();
        packet[m.l4() + 4] = 0x7f;
        once(packet)
    }),
    ("UDP shorter than its packet", "udp", |m| {
        let datagram = m.udp()[m.l4()..].to_vec();
        once(m.ip.packet(protocol::UDP, &[datagram, vec![0x55; 6]].concat()))
    }),
    ("UDP without payload", "udp", |m| {
        once(packet::udp(&m.ip, m.port, m.target.port, b""))
    }),
    ("UDP in fragments", "udp", |m| {
        let ip = Ip {
            dont_fragment: false,
            ..m.ip.clone()
        };
        vec![(
            "it",
            Act::Send(packet::fragments(&ip, m.port, m.target.port, &[9; 120]).to_vec()),
        )]
    }),
    ("UDP, a later fragment alone", "udp", |m| {
        let ip = Ip {
            dont_fragment: false,
            ..m.ip.clone()
        };
        let [_, second] = packet::fragments(&ip, m.port, m.target.port, &[9; 120]);
        once(second)
    }),
    ("UDP from another pod's address", "udp", |m| {
        let family = if m.l4() == 20 { Family::V4 } else { Family::V6 };
        // Neither the client nor a server of the cases: a pod that there is not.
        let ip = Ip {
            src: pick(&pod_ips(99), family),
            ..m.ip.clone()
        };
        once(packet::udp(&ip, m.port, m.target.port, &m.payload))
    }),
    ("ICMP unreachable about no flow", "udp", |m| {
        let about = packet::udp(&m.ip.back(), m.target.port, m.port, &m.payload);
        once(packet::error(&m.ip, None, &about))
    }),
    ("SCTP", "udp", |m| {
        once(m.ip.packet(protocol::SCTP, &m.payload))
    }),
    ("GRE", "udp", |m| {
        once(m.ip.packet(protocol::GRE, &[&[0, 0, 8, 0], &m.payload[..]].concat()))
    }),
    ("ESP", "udp", |m| {
        once(m.ip.packet(protocol::ESP, &m.payload))
    }),
];
