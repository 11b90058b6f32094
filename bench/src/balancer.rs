//! The eBPF load balancer that Weft is measured against (`bpf/balancer.bpf.c`), at the tcx ingress of a
//! lab's pods. In lab namespaces only; it goes with the value, or with the process.

use crate::kubeproxy::Rule;
use crate::lab::{Family, Pod};
use crate::namespace::Namespace;
use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{Link, Map, MapCore, MapFlags, Object, ObjectBuilder};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use weft_xdp::attach_tcx_unpinned;

/// `bpf/balancer.bpf.c`, compiled by the build script.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/balancer.bpf.o"));

/// A running load balancer. Dropping it detaches and forgets everything, flows included.
#[derive(Debug)]
pub struct Balancer {
    /// The veths of local pods, by pod address.
    interfaces: BTreeMap<IpAddr, u32>,
    /// Backends entered so far, by family.
    entered: BTreeMap<Family, u32>,
    links: Vec<Link>,
    object: Object,
}

impl Balancer {
    /// Balances what `pods` of `node` send to the services of `rules`.
    pub fn start(node: &Namespace, pods: &[&Pod], rules: &[Rule]) -> Result<Self> {
        let object = ObjectBuilder::default()
            .open_memory(OBJECT)?
            .load()
            .context("cannot load the balancer")?;
        let mut balancer = Self {
            interfaces: BTreeMap::new(),
            entered: BTreeMap::new(),
            links: Vec::new(),
            object,
        };
        let indices = node.enter(|| -> Result<Vec<u32>> {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            pods.iter()
                .map(|pod| Ok(name_to_index(&socket, &pod.interface)?))
                .collect()
        })??;
        for (pod, ifindex) in pods.iter().zip(&indices) {
            balancer.interfaces.extend(pod.ips.map(|ip| (ip, *ifindex)));
        }
        for rule in rules {
            balancer.add(rule)?;
        }
        // The services first: a packet must not be the kernel's in between.
        let object = &mut balancer.object;
        balancer.links = node.enter(|| -> Result<Vec<Link>> {
            let program = object.progs_mut().next().context("no program")?;
            let attach = |ifindex| Ok(attach_tcx_unpinned(&program, ifindex)?);
            indices.into_iter().map(attach).collect()
        })??;
        Ok(balancer)
    }

    /// Flows opened so far.
    pub fn opened(&self) -> Result<u64> {
        crate::tools::sink::total(&self.map("opened")?)
    }

    /// Exchanges the endpoint at `index` of the backends' array of `family`.
    pub fn set_endpoint(&self, family: Family, index: u32, to: SocketAddr) -> Result<()> {
        ensure!(
            to.is_ipv6() == (family == Family::V6),
            "{to}: the other family"
        );
        let map = self.map(&format!("backends{}", digit(family)))?;
        map.update(&index.to_ne_bytes(), &self.backend(to), MapFlags::ANY)
            .with_context(|| format!("backend {index}: {to}"))
    }

    /// Enters a service and its endpoints behind those already there.
    fn add(&mut self, rule: &Rule) -> Result<()> {
        let family = family_of(rule.vip);
        let first = self.entered.get(&family).copied().unwrap_or(0);
        for (index, endpoint) in (first..).zip(&rule.endpoints) {
            self.set_endpoint(family, index, *endpoint)?;
        }
        let count = u32::try_from(rule.endpoints.len())?;
        self.entered.insert(family, first + count);
        let protocol = match rule.protocol {
            "tcp" => 6,
            "udp" => 17,
            other => bail!("{other}: neither tcp nor udp"),
        };
        // struct service_key: address and port in network order, protocol, padding.
        let key = [
            octets(rule.vip.ip()),
            rule.vip.port().to_be_bytes().to_vec(),
            vec![protocol, 0],
        ]
        .concat();
        let value = [first, count].map(u32::to_ne_bytes).concat();
        self.map(&format!("services{}", digit(family)))?
            .update(&key, &value, MapFlags::ANY)
            .with_context(|| format!("service {}", rule.vip))
    }

    /// `struct backend`: address and port in network order, padding, interface; 0 where it is not local.
    fn backend(&self, endpoint: SocketAddr) -> Vec<u8> {
        let ifindex = self.interfaces.get(&endpoint.ip()).copied().unwrap_or(0);
        [
            octets(endpoint.ip()),
            endpoint.port().to_be_bytes().to_vec(),
            vec![0; 2],
            ifindex.to_ne_bytes().to_vec(),
        ]
        .concat()
    }

    fn map(&self, name: &str) -> Result<Map<'_>> {
        self.object
            .maps()
            .find(|map| map.name() == name)
            .with_context(|| format!("the balancer has no map {name}"))
    }
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv6() {
        Family::V6
    } else {
        Family::V4
    }
}

/// The end of the names of a family's maps.
fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
