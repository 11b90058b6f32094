//! What became of a case's packets, in words that are the same on every node.

use super::cases::{Case, FIRST_PORT};
use super::world::{CLIENT, OUTSIDE};
use crate::lab::{Family, NODE_IPS, pick, pod_ips};
use crate::packet::{L4, Seen, Sum, flag, protocol};
use std::net::IpAddr;

/// The number of the case that a packet belongs to, counted from 1, out of `cases`.
///
/// The IPv4 identification or the flow label says it, which every packet of a case has, and where a
/// packet was made on the way the one that it quotes, or its ports. (Ports alone would not do: a
/// masqueraded packet has any.)
pub fn case_of(seen: &Seen, cases: usize) -> Option<usize> {
    if let L4::Icmp {
        about: Some(about), ..
    } = &seen.l4
    {
        return case_of(about, cases);
    }
    let among = |number: usize| (1..=cases).contains(&number).then_some(number);
    let by_port = |port: u16| among(usize::from(port.checked_sub(FIRST_PORT)?));
    among(seen.id.into()).or_else(|| match &seen.l4 {
        L4::Tcp { ports, .. } | L4::Udp { ports } => by_port(ports.0).or(by_port(ports.1)),
        L4::Icmp { ident, .. } => by_port(*ident),
        L4::Other => None,
    })
}

/// Whether a packet is no test's: neighbour discovery, multicast listeners.
pub fn is_chatter(seen: &Seen) -> bool {
    matches!(seen.l4, L4::Icmp { kind: 130..=143, .. } if seen.dst.is_ipv6())
}

/// One arrival: who got what, and all in which it is not what forwarding leaves of what was sent.
pub fn describe(
    case: &Case,
    place: usize,
    from: Option<usize>,
    seen: &Seen,
    sent: Option<&Seen>,
) -> String {
    let who = match place {
        CLIENT => "client",
        OUTSIDE => "outside",
        _ if case.target.servers.contains(&place) => "server",
        _ => "wrong pod",
    };
    let mut text = format!("{who}: {}", packet(case, seen));
    let mut note = |what: &str| {
        text.push_str(", ");
        text.push_str(what);
    };
    // Forwarded, if it is of the protocol that was sent and has not come back to its sender.
    let alike = |sent: &&Seen| sent.protocol == seen.protocol && from != Some(place);
    if let Some(sent) = sent.filter(alike) {
        match i16::from(sent.hops) - i16::from(seen.hops) {
            1 => {}
            hops => note(&format!("TTL -{hops}")),
        }
        let whole = seen.fragment.is_none() && sent.fragment.is_none();
        if whole && seen.payload != sent.payload && !quotes(seen) {
            note("another payload");
        }
        if sent.class != seen.class || sent.options != seen.options || sent.id != seen.id {
            note("another header");
        }
        if let (L4::Tcp { numbers: a, .. }, L4::Tcp { numbers: b, .. }) = (&sent.l4, &seen.l4)
            && a != b
        {
            note("other sequence numbers");
        }
    }
    if seen.header_sum == Sum::Bad {
        note("bad IP checksum");
    }
    if seen.sum == Sum::Bad {
        note("bad checksum");
    }
    text
}

fn quotes(seen: &Seen) -> bool {
    matches!(seen.l4, L4::Icmp { about: Some(_), .. })
}

/// `what from -> to`, in words.
fn packet(case: &Case, seen: &Seen) -> String {
    let what = match &seen.l4 {
        L4::Tcp { flags, .. } => format!("TCP {}", flags_text(*flags)),
        L4::Udp { .. } => "UDP".into(),
        L4::Icmp { kind, code, .. } => icmp_text(seen.protocol == protocol::ICMP, *kind, *code),
        L4::Other => format!("protocol {}", seen.protocol),
    };
    let fragment = match seen.fragment {
        Some(part) if part.offset == 0 => ", first fragment",
        Some(_) => ", later fragment",
        None => "",
    };
    let (from, to) = match seen.ports() {
        Some((sport, dport)) => (port_text(case, sport), port_text(case, dport)),
        None => ("", ""),
    };
    let about = match &seen.l4 {
        L4::Icmp {
            about: Some(about), ..
        } => {
            let sum = match about.header_sum {
                Sum::Bad => ", its IP checksum bad",
                _ => "",
            };
            format!(" about ({}{sum})", packet(case, about))
        }
        _ => String::new(),
    };
    format!(
        "{what}{fragment} {}{from} > {}{to}{about}",
        address_text(case, seen.src),
        address_text(case, seen.dst),
    )
}

fn address_text(case: &Case, address: IpAddr) -> &'static str {
    let pod = |number: usize| pick(&pod_ips(number as u8 + 1), case.family);
    let is_server = case
        .target
        .servers
        .iter()
        .any(|server| pod(*server) == address);
    match address {
        _ if address == pod(CLIENT) => "client",
        // Before the VIP: a pod that is asked directly is both.
        _ if is_server => "server",
        _ if address == case.target.address => "VIP",
        _ if NODE_IPS.contains(&address) => "node",
        // The address of a node's interface that has no other: of a pod's veth.
        IpAddr::V6(address) if address.segments()[0] == 0xfe80 && case.family == Family::V6 => {
            "node"
        }
        _ => "stranger",
    }
}

fn port_text(case: &Case, port: u16) -> &'static str {
    match port {
        _ if port == case.port => ":c",
        _ if port == case.target.port && port == case.target.target => ":p=t",
        _ if port == case.target.port => ":p",
        _ if port == case.target.target => ":t",
        _ => ":other",
    }
}

fn flags_text(flags: u8) -> String {
    let names = [
        (flag::SYN, "SYN"),
        (flag::FIN, "FIN"),
        (flag::RST, "RST"),
        (flag::PSH, "PSH"),
        (flag::ACK, "ACK"),
        (flag::URG, "URG"),
    ];
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if set.is_empty() {
        "without flags".into()
    } else {
        set.join("+")
    }
}

fn icmp_text(v4: bool, kind: u8, code: u8) -> String {
    let name = match (v4, kind, code) {
        (true, 8, _) | (false, 128, _) => "echo",
        (true, 0, _) | (false, 129, _) => "echo reply",
        (true, 3, 3) | (false, 1, 4) => "port unreachable",
        (true, 3, 2) => "protocol unreachable",
        (true, 3, 1) | (false, 1, 3) => "host unreachable",
        (true, 3, 0) | (false, 1, 0) => "net unreachable",
        (true, 3, 9 | 10 | 13) | (false, 1, 1) => "prohibited",
        (true, 3, 4) | (false, 2, _) => "too big",
        (true, 11, 0) | (false, 3, 0) => "time exceeded",
        (true, 12, _) | (false, 4, _) => "parameter problem",
        _ => return format!("ICMP {kind}/{code}"),
    };
    format!("ICMP {name}")
}
