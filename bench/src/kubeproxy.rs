//! iptables rules shaped as kube-proxy writes them: KUBE-SERVICES, one KUBE-SVC chain per service
//! port, one KUBE-SEP chain per endpoint, conntrack and the masquerade mark. In lab namespaces only.

use crate::command::run_with_input_for;
use crate::namespace::Namespace;
use anyhow::Result;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long the kernel may take to load the rules of tens of thousands of services.
pub const INSTALL_LIMIT: Duration = Duration::from_secs(120);

/// One port of a service, and the endpoints that serve it.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Cluster address and port.
    pub vip: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Endpoints of the cluster address's family, chosen at random with equal weight.
    pub endpoints: Vec<SocketAddr>,
}

/// Replaces the namespace's nat and filter tables, both families, by rules for `rules`.
pub fn install(namespace: &Namespace, rules: &[Rule]) -> Result<()> {
    for (program, v6) in [
        ("iptables-legacy-restore", false),
        ("ip6tables-legacy-restore", true),
    ] {
        let family: Vec<&Rule> = rules
            .iter()
            .filter(|rule| rule.vip.is_ipv6() == v6)
            .collect();
        run_with_input_for(
            namespace.command(program).args(["-w", "5"]),
            &render(&family),
            INSTALL_LIMIT,
        )?;
    }
    Ok(())
}

/// Rewrites the chains of service `number` of its family, as kube-proxy does when its endpoints change
/// but not their number. (kube-proxy then writes the chain of all services anew as well; this does not.)
pub fn update(namespace: &Namespace, number: usize, rule: &Rule) -> Result<()> {
    let program = if rule.vip.is_ipv6() {
        "ip6tables-legacy-restore"
    } else {
        "iptables-legacy-restore"
    };
    let (mut chains, mut body) = (String::new(), String::new());
    service(number, rule, &mut chains, &mut body);
    run_with_input_for(
        namespace
            .command(program)
            .args(["-w", "5", "--noflush", "--counters"]),
        &format!("*nat\n{chains}{body}COMMIT\n"),
        INSTALL_LIMIT,
    )
    .map(drop)
}

/// The text for iptables-restore.
fn render(rules: &[&Rule]) -> String {
    let (mut chains, mut body) = (String::new(), String::new());
    let mut portals = String::new();
    for (number, rule) in rules.iter().enumerate() {
        portals.push_str(&portal(number, rule));
        service(number, rule, &mut chains, &mut body);
    }
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n{portals}{body}\
         -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports\" -m addrtype --dst-type LOCAL -j RETURN\n\
         COMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :KUBE-FORWARD - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
         -A FORWARD -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n"
    )
}

/// What leads to a service, for the chain of all of them.
fn portal(number: usize, rule: &Rule) -> String {
    format!(
        "-A KUBE-SERVICES {} -j KUBE-SVC-{number:05}\n",
        matches(number, rule)
    )
}

/// What a rule's packets are known by.
fn matches(number: usize, rule: &Rule) -> String {
    let (vip, port, protocol) = (rule.vip.ip(), rule.vip.port(), rule.protocol);
    format!(
        "-d {} -p {protocol} {} -m {protocol} --dport {port}",
        host(vip),
        comment(number)
    )
}

fn comment(number: usize) -> String {
    format!("-m comment --comment \"lab/svc-{number} cluster IP\"")
}

/// The chains of one service and its endpoints: their names, and what is in them.
fn service(number: usize, rule: &Rule, chains: &mut String, body: &mut String) {
    let (service, protocol) = (format!("KUBE-SVC-{number:05}"), rule.protocol);
    let (to, comment) = (matches(number, rule), comment(number));
    let pods = if rule.vip.is_ipv6() {
        "fd00:244::/32"
    } else {
        "10.244.0.0/16"
    };
    let _ = writeln!(chains, ":{service} - [0:0]");
    let _ = writeln!(body, "-A {service} ! -s {pods} {to} -j KUBE-MARK-MASQ");
    for (index, endpoint) in rule.endpoints.iter().enumerate() {
        let chain = format!("KUBE-SEP-{number:05}-{index:03}");
        let left = rule.endpoints.len() - index;
        // The last endpoint takes what the others left, as kube-proxy writes it.
        let share = if left > 1 {
            format!(
                "-m statistic --mode random --probability {:.10} ",
                1.0 / left as f64
            )
        } else {
            String::new()
        };
        let _ = writeln!(chains, ":{chain} - [0:0]");
        let _ = writeln!(body, "-A {service} {comment} {share}-j {chain}");
        let _ = writeln!(
            body,
            "-A {chain} -s {} {comment} -j KUBE-MARK-MASQ",
            host(endpoint.ip())
        );
        let _ = writeln!(
            body,
            "-A {chain} -p {protocol} {comment} -m {protocol} -j DNAT --to-destination {endpoint}"
        );
    }
}

/// An address as a host prefix.
fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_share_a_service_evenly_and_the_last_takes_the_rest() {
        let rule = Rule {
            vip: "10.96.0.1:80".parse().unwrap(),
            protocol: "tcp",
            endpoints: vec![
                "10.244.1.1:8080".parse().unwrap(),
                "10.244.1.2:8080".parse().unwrap(),
            ],
        };
        let text = render(&[&rule]);
        assert_eq!(text.matches("--probability 0.5").count(), 1, "{text}");
        assert_eq!(text.matches("-j DNAT").count(), 2, "{text}");
        assert!(
            text.contains("-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp"),
            "{text}"
        );
    }
}
