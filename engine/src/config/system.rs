//! What a configuration asks of the machine: interfaces and cores.
//!
//! These checks take a snapshot of the machine, so that they are as testable as the rest.

use std::collections::HashMap;

use super::error::{ConfigError, Errors, Location, Reason};
use super::model::Config;

/// A network interface of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceInfo {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is one end of a veth pair.
    pub is_veth: bool,
    /// Whether its other end is in another network namespace.
    pub peer_elsewhere: bool,
}

/// Checks that the interface of every pod exists, is a veth into another network namespace (or the
/// kernel would refuse to deliver there), and sends no larger packets than a frame holds
/// (`max_pod_mtu` bytes); and that every uplink exists.
pub fn check_interfaces(
    config: &Config,
    interfaces: &[InterfaceInfo],
    max_pod_mtu: u32,
) -> Result<(), Errors> {
    let by_name: HashMap<&str, &InterfaceInfo> = interfaces
        .iter()
        .map(|interface| (interface.name.as_str(), interface))
        .collect();
    let mut found = Vec::new();
    for pod in &config.pods {
        let name = format!("{:?}", pod.interface);
        let reason = match by_name.get(pod.interface.as_str()) {
            None => Reason::NoInterface { name },
            Some(interface) if !interface.is_veth => Reason::NotVeth { name },
            Some(interface) if !interface.peer_elsewhere => Reason::PeerHere { name },
            Some(interface) if interface.mtu > max_pod_mtu => Reason::MtuTooLarge {
                name,
                mtu: interface.mtu,
                max: max_pod_mtu,
            },
            Some(_) => continue,
        };
        found.push(ConfigError {
            at: pod.interface_at.clone(),
            reason,
        });
    }
    for (name, at) in &config.node.uplinks {
        if !by_name.contains_key(name.as_str()) {
            found.push(ConfigError {
                at: at.clone(),
                reason: Reason::NoInterface {
                    name: format!("{name:?}"),
                },
            });
        }
    }
    Errors::check(found)
}

/// Checks that every worker's core is one of `available`, the cores that this process may run on.
pub fn check_cores(config: &Config, available: &[usize]) -> Result<(), Errors> {
    let missing = |core: &&usize| !available.contains(core);
    let found = config.workers.cores.iter().filter(missing).map(|&core| {
        let list: Vec<String> = available.iter().map(usize::to_string).collect();
        ConfigError {
            at: Location::clone(&config.workers.cores_at),
            reason: Reason::NoSuchCore {
                core,
                available: list.join(", "),
            },
        }
    });
    Errors::check(found.collect())
}
