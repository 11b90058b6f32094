//! What leads a service's connections to a proxy of the node.

use super::Leg;
use crate::command::run_with_input;
use crate::lab::Pod;
use crate::namespace::Namespace;
use anyhow::Result;
use std::fmt::Write;

/// REDIRECT sends to the address of the interface that a packet came in by, and a pod's veth has none in IPv4.
/// This one is the gateway that pods name; its scope keeps it from being anything's source.
const GATEWAY: &str = "169.254.1.1/32";

/// Replaces the node's nat table by one that redirects `client`'s connections to the proxy's ports.
pub fn install(node: &Namespace, client: &Pod, legs: &[Leg]) -> Result<()> {
    let interface = &client.interface;
    node.ip(&format!(
        "addr replace {GATEWAY} dev {interface} scope link\n"
    ))?;
    run_with_input(
        node.command("iptables-legacy-restore").args(["-w", "5"]),
        &render(interface, legs),
    )
    .map(drop)
}

fn render(interface: &str, legs: &[Leg]) -> String {
    let mut text = String::from(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n",
    );
    for leg in legs {
        let _ = writeln!(
            text,
            "-A PREROUTING -i {interface} -d {}/32 -p tcp -m tcp --dport {} -j REDIRECT --to-ports {}",
            leg.service.ip(),
            leg.service.port(),
            leg.port
        );
    }
    text.push_str("COMMIT\n");
    text
}
