//! nftables rules shaped as kube-proxy's nftables mode writes them: one verdict map from address,
//! protocol and port to a service chain, `numgen random` to an endpoint chain, and dnat there. In
//! lab namespaces only.

use crate::command::run_with_input_for;
use crate::kubeproxy::{INSTALL_LIMIT, Rule};
use crate::namespace::Namespace;
use anyhow::Result;
use std::fmt::Write;

/// Replaces the namespace's `kube-proxy` tables, both families, by rules for `rules` and `others`.
///
/// `others` are services that no packet goes to. They have their entry in the verdict map and their
/// chains, but go to their first endpoint without a random choice: each choice is an anonymous
/// map, and the time to load those grows with the square of their number.
pub fn install(namespace: &Namespace, rules: &[Rule], others: &[Rule]) -> Result<()> {
    let text = [false, true].map(|v6| {
        let choice = rules.iter().map(|rule| (rule, true));
        let family: Vec<_> = choice
            .chain(others.iter().map(|rule| (rule, false)))
            .filter(|(rule, _)| rule.vip.is_ipv6() == v6)
            .collect();
        render(&family, v6)
    });
    run_with_input_for(
        namespace.command("nft").args(["-f", "-"]),
        &text.concat(),
        INSTALL_LIMIT,
    )
    .map(drop)
}

/// Rewrites the chains of service `number` of its family, as kube-proxy does when its endpoints change.
pub fn update(namespace: &Namespace, number: usize, rule: &Rule) -> Result<()> {
    let ip = if rule.vip.is_ipv6() { "ip6" } else { "ip" };
    let mut text = String::new();
    for (chain, body) in chains(number, rule, true) {
        let _ = writeln!(text, "flush chain {ip} kube-proxy {chain}");
        for line in body.lines() {
            let _ = writeln!(text, "add rule {ip} kube-proxy {chain} {line}");
        }
    }
    run_with_input_for(
        namespace.command("nft").args(["-f", "-"]),
        &text,
        INSTALL_LIMIT,
    )
    .map(drop)
}

/// What a service's chains are called by.
fn name(number: usize, rule: &Rule) -> String {
    let (protocol, port) = (rule.protocol, rule.vip.port());
    format!("{number:05}-lab/svc-{number}/{protocol}/{port}")
}

/// The chains of one service and their rules: the endpoints' first, since the service's go there.
fn chains(number: usize, rule: &Rule, chooses: bool) -> Vec<(String, String)> {
    let (ip, pods) = if rule.vip.is_ipv6() {
        ("ip6", "fd00:244::/32")
    } else {
        ("ip", "10.244.0.0/16")
    };
    let (vip, port, protocol) = (rule.vip.ip(), rule.vip.port(), rule.protocol);
    let name = name(number, rule);
    let mut verdicts = String::new();
    let mut chains = Vec::new();
    for (index, endpoint) in rule.endpoints.iter().enumerate() {
        let (address, chain) = (endpoint.ip(), format!("endpoint-{name}-{index}"));
        let _ = write!(verdicts, "{index} : goto {chain}, ");
        let body = format!(
            "{ip} saddr {address} jump mark-for-masquerade\n\
             meta l4proto {protocol} dnat to {endpoint}"
        );
        chains.push((chain, body));
    }
    let choice = if chooses {
        format!(
            "numgen random mod {} vmap {{ {verdicts} }}",
            rule.endpoints.len()
        )
    } else {
        format!("goto endpoint-{name}-0")
    };
    let body = format!(
        "{ip} daddr {vip} {protocol} dport {port} {ip} saddr != {pods} jump mark-for-masquerade\n\
         {choice}"
    );
    chains.push((format!("service-{name}"), body));
    chains
}

/// One family's table for `nft -f`: services, and whether they choose at random.
fn render(rules: &[(&Rule, bool)], v6: bool) -> String {
    let (ip, kind) = if v6 {
        ("ip6", "ipv6_addr")
    } else {
        ("ip", "ipv4_addr")
    };
    let (mut elements, mut chains) = (String::new(), String::new());
    for (number, (rule, chooses)) in rules.iter().enumerate() {
        let (vip, port, protocol) = (rule.vip.ip(), rule.vip.port(), rule.protocol);
        let name = name(number, rule);
        let _ = writeln!(
            elements,
            "{vip} . {protocol} . {port} : goto service-{name},"
        );
        for (chain, body) in self::chains(number, rule, *chooses) {
            let _ = writeln!(chains, "chain {chain} {{\n{body}\n}}");
        }
    }
    // An empty `elements = { }` is a syntax error.
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("elements = {{\n{elements}}}\n")
    };
    let lookup = |map: &str| format!("{ip} daddr . meta l4proto . th dport vmap @{map}");
    let map = format!("type {kind} . inet_proto . inet_service : verdict");
    // The table is made and deleted first, so that deleting it never fails.
    format!(
        "table {ip} kube-proxy\ndelete table {ip} kube-proxy\ntable {ip} kube-proxy {{\n\
         chain mark-for-masquerade {{\nmeta mark set meta mark or 0x4000\n}}\n\
         chain masquerading {{\nmeta mark and 0x4000 == 0 return\nmeta mark set meta mark xor 0x4000\nmasquerade fully-random\n}}\n\
         {chains}\
         map service-ips {{\n{map}\n{elements}}}\n\
         map no-endpoint-services {{\n{map}\n}}\n\
         map firewall-ips {{\n{map}\n}}\n\
         chain services {{\n{services}\n}}\n\
         chain service-endpoints-check {{\n{no_endpoints}\n}}\n\
         chain firewall-check {{\n{firewall}\n}}\n\
         chain filter-prerouting {{\ntype filter hook prerouting priority -110; policy accept;\nct state new jump firewall-check\n}}\n\
         chain filter-forward {{\ntype filter hook forward priority -110; policy accept;\nct state new jump service-endpoints-check\n}}\n\
         chain filter-output {{\ntype filter hook output priority -110; policy accept;\nct state new jump service-endpoints-check\nct state new jump firewall-check\n}}\n\
         chain nat-prerouting {{\ntype nat hook prerouting priority dstnat; policy accept;\njump services\n}}\n\
         chain nat-output {{\ntype nat hook output priority -100; policy accept;\njump services\n}}\n\
         chain nat-postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\njump masquerading\n}}\n\
         }}\n",
        services = lookup("service-ips"),
        no_endpoints = lookup("no-endpoint-services"),
        firewall = lookup("firewall-ips"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_map_entry_a_service_and_one_chain_an_endpoint() {
        let rule = Rule {
            vip: "[fd00:96::1]:80".parse().unwrap(),
            protocol: "tcp",
            endpoints: vec![
                "[fd00:244:1::1]:8080".parse().unwrap(),
                "[fd00:244:1::2]:8080".parse().unwrap(),
            ],
        };
        let text = render(&[(&rule, true)], true);
        assert_eq!(text.matches("fd00:96::1 . tcp . 80 : goto").count(), 1);
        assert!(
            text.contains("numgen random mod 2 vmap { 0 : goto "),
            "{text}"
        );
        assert!(text.contains("dnat to [fd00:244:1::2]:8080"), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(!render(&[(&rule, false)], true).contains("numgen"));
        assert!(!render(&[], false).contains("elements"));
    }
}
