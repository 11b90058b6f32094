//! `[[pod]]`, and what pods and services have in common.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::error::Reason;
use super::model::{Conditions, Pod};
use super::node::read_punt_rate;
use super::reader::{Table, Value};
use super::registry::{Registry, Use};
use super::scalar::{INTERFACE, NAME, PORT_NAME};

pub(super) const KEYS: &[&str] = &[
    "name",
    "ip",
    "ips",
    "interface",
    "labels",
    "ports",
    "ready",
    "serving",
    "terminating",
    "punt_rate",
];

pub(super) fn read(value: &Value<'_, '_>, registry: &mut Registry) -> Option<Pod> {
    let table = value.table(KEYS)?;
    registry.pod(value);
    let name = table.require("name").and_then(|value| {
        let name = value.name(&NAME)?;
        registry.pod_name(&value, &name);
        Some(name)
    });
    let addresses = read_addresses(&table, "ip", "ips", |value, address| {
        registry.address(value, address, Use::Pod);
    });
    let interface = table.require("interface").and_then(|value| {
        let name = value.name(&INTERFACE)?;
        registry.interface(&value, &name);
        Some((name, value.location()))
    });
    let labels = table.optional("labels", BTreeMap::new(), read_labels);
    let ports = table.optional("ports", BTreeMap::new(), read_named_ports);
    let conditions = read_conditions(&table);
    let punt_rate = read_punt_rate(&table, None);
    let (interface, interface_at) = interface?;
    Some(Pod {
        name: name?,
        addresses: addresses?,
        interface,
        labels: labels?,
        ports: ports?,
        conditions: conditions?,
        punt_rate: punt_rate?,
        at: table.location(),
        interface_at,
    })
}

/// Where a pod or an endpoint stands. What says nothing of `serving` serves while it is ready.
pub(super) fn read_conditions(table: &Table<'_, '_>) -> Option<Conditions> {
    let read = |key, default| table.optional(key, default, |value| value.boolean());
    let ready = read("ready", true);
    let serving = read("serving", ready.unwrap_or(true));
    let terminating = read("terminating", false);
    Some(Conditions {
        ready: ready?,
        serving: serving?,
        terminating: terminating?,
    })
}

/// One address under the key `one`, or one or two of different families under `several`.
pub(super) fn read_addresses(
    table: &Table<'_, '_>,
    one: &'static str,
    several: &'static str,
    mut claim: impl FnMut(&Value<'_, '_>, IpAddr),
) -> Option<Vec<IpAddr>> {
    match (table.get(one), table.get(several)) {
        (Some(value), None) => {
            let address = value.address()?;
            claim(&value, address);
            Some(vec![address])
        }
        (None, Some(value)) => read_address_list(&value, claim),
        (Some(_), Some(value)) => value.reject(Reason::Both(one, several)),
        (None, None) => {
            table.report(Reason::Neither(one, several));
            None
        }
    }
}

/// One or two addresses of different families.
pub(super) fn read_address_list(
    value: &Value<'_, '_>,
    mut claim: impl FnMut(&Value<'_, '_>, IpAddr),
) -> Option<Vec<IpAddr>> {
    let items = value.items("an array of addresses")?;
    let count = items.len();
    if count == 0 {
        return value.reject(Reason::Empty);
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for item in items {
        let Some(address) = item.address() else {
            continue;
        };
        if addresses.iter().any(|b| b.is_ipv4() == address.is_ipv4()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let _: Option<()> = item.reject(Reason::SecondOfFamily { address, family });
            continue;
        }
        claim(&item, address);
        addresses.push(address);
    }
    (addresses.len() == count).then_some(addresses)
}

/// Labels or a selector: keys that are not empty, and strings.
pub(super) fn read_labels(value: &Value<'_, '_>) -> Option<BTreeMap<String, String>> {
    let table = value.any_table("a table of strings")?;
    let mut labels = BTreeMap::new();
    let mut whole = true;
    for (key, value) in table.entries() {
        if key.is_empty() {
            whole = false;
            let _: Option<()> = value.reject(Reason::Empty);
        }
        match value.string("a string") {
            Some(text) => _ = labels.insert(key.to_owned(), text.to_owned()),
            None => whole = false,
        }
    }
    whole.then_some(labels)
}

/// The named ports of a pod or an endpoint.
pub(super) fn read_named_ports(value: &Value<'_, '_>) -> Option<BTreeMap<String, u16>> {
    let table = value.any_table("a table of port numbers")?;
    let mut ports = BTreeMap::new();
    let mut whole = true;
    for (key, value) in table.entries() {
        if let Some(reason) = PORT_NAME.fault(key) {
            whole = false;
            let _: Option<()> = value.reject(reason);
        }
        match value.port() {
            Some(port) => _ = ports.insert(key.to_owned(), port),
            None => whole = false,
        }
    }
    whole.then_some(ports)
}
