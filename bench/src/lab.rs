//! A lab: one node namespace, one outside namespace, and pods routed the way Calico routes them.
//!
//! A pod has a /32 and a /128, a default route through a link-local address that exists nowhere,
//! and permanent neighbours on both sides; the node has one route per pod. Offloads of the veths
//! stay as the kernel makes them. The node forwards both families and filters reverse paths
//! strictly. Its default route leads to the outside namespace, where whatever leaves the node
//! untranslated can be counted. Several labs can be nodes of one cluster ([`crate::two_nodes`]).

use crate::far::FarPod;
use crate::impairment::Impairment;
use crate::janitor::Janitor;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::sweep;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The node's own addresses, as servers in the host network have them.
pub const NODE_IPS: [IpAddr; 2] = NodePlace::ALONE.ips();
/// The node's interface towards the outside namespace.
pub const UPLINK: &str = "uplink";

/// Of link addresses: those of pods' own interfaces.
pub(crate) const POD_MACS: u8 = 0x01;

/// Labs made by this process so far; part of their names.
static LABS: AtomicU32 = AtomicU32::new(0);

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order tests go through them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// Cluster addresses number `n` (1..=250), one per family.
pub fn vips(n: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, 96, 0, n)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, n.into())),
    ]
}

/// The address of `family` out of a pair.
pub fn pick(addresses: &[IpAddr; 2], family: Family) -> IpAddr {
    addresses[match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }]
}

/// Where a node is in its cluster, which makes its addresses and those of its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePlace {
    /// The node's number, from 1 on.
    pub number: u8,
    /// The number of the network that its uplink is in.
    pub network: u8,
}

impl NodePlace {
    /// Of the only node.
    pub const ALONE: Self = Self {
        number: 1,
        network: 7,
    };

    /// The node's own addresses.
    pub const fn ips(self) -> [IpAddr; 2] {
        self.on_uplink(self.number)
    }

    /// Those of what is behind its default routes.
    pub const fn gateway(self) -> [IpAddr; 2] {
        self.on_uplink(254)
    }

    /// The ranges that the addresses of its uplink are in.
    pub fn uplink_ranges(self) -> [String; 2] {
        let [ip4, ip6] = self.on_uplink(0);
        [format!("{ip4}/24"), format!("{ip6}/64")]
    }

    const fn on_uplink(self, host: u8) -> [IpAddr; 2] {
        let (network, low) = (self.network as u16, host as u16);
        [
            IpAddr::V4(Ipv4Addr::new(192, 168, self.network, host)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, low)),
        ]
    }

    /// The addresses of pod `number` of the node.
    pub const fn pod_ips(self, number: u8) -> [IpAddr; 2] {
        let (node, low) = (self.number, number as u16);
        [
            IpAddr::V4(Ipv4Addr::new(10, 244, node, number)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, node as u16, 0, 0, 0, 0, low)),
        ]
    }

    /// The ranges that the addresses of all its pods are in.
    pub fn pod_ranges(self) -> [String; 2] {
        let [ip4, ip6] = self.pod_ips(0);
        [format!("{ip4}/24"), format!("{ip6}/64")]
    }
}

/// What a pod's link looks like.
#[derive(Debug, Clone, Copy)]
pub struct PodOptions {
    /// Transmit and receive queues on both ends of the veth.
    pub queues: u32,
    /// The pod's number, which makes its addresses; the next free one when `None`.
    pub number: Option<u8>,
    /// Interface index on the node, for tests of index reuse; the kernel's choice when `None`.
    pub ifindex: Option<u32>,
}

impl Default for PodOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            number: None,
            ifindex: None,
        }
    }
}

/// A pod of a lab. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its network namespace.
    pub namespace: Namespace,
    /// The host side of its veth.
    pub interface: String,
    /// Its IPv4 and IPv6 address.
    pub ips: [IpAddr; 2],
}

impl Pod {
    /// Its address of `family`.
    pub fn ip(&self, family: Family) -> IpAddr {
        pick(&self.ips, family)
    }

    /// A socket address on it.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}

/// Namespaces, pods and a state directory, all gone when this is dropped or its process ends.
#[derive(Debug)]
pub struct Lab {
    // The janitor goes last: fields drop in the order of their declaration.
    pods: BTreeMap<String, Pod>,
    next_pod: u8,
    processes: Vec<Process>,
    /// The node's namespace.
    pub node: Namespace,
    /// What lies behind the node's default route. Answers nothing, unless there are two nodes.
    pub outside: Namespace,
    place: NodePlace,
    id: String,
    janitor: Janitor,
}

impl Lab {
    /// Makes the node and the outside. Needs root.
    pub fn new() -> Result<Self> {
        Self::at(NodePlace::ALONE)
    }

    /// As [`Lab::new`], of a node among others.
    pub fn at(place: NodePlace) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run this with sudo"
        );
        let id = format!(
            "wl{}-{}",
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        fs::create_dir_all(sweep::state_dir(&id)).context("cannot make the state directory")?;
        let janitor = Janitor::start(&id)?;
        sweep::record_owner(&id)?;
        let node = Namespace::create(&format!("{id}-node"))?;
        let outside = Namespace::create(&format!("{id}-outside"))?;
        let lab = Self {
            pods: BTreeMap::new(),
            next_pod: 1,
            processes: Vec::new(),
            node,
            outside,
            place,
            id,
            janitor,
        };
        lab.set_up_node().context("cannot set up the node")?;
        Ok(lab)
    }

    /// Where its node is.
    pub fn place(&self) -> NodePlace {
        self.place
    }

    /// The lab's name: the prefix of its namespaces and the name of its directory.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where configurations and logs go.
    pub fn directory(&self) -> PathBuf {
        sweep::state_dir(&self.id)
    }

    /// The node process's run directory.
    pub fn run_dir(&self) -> PathBuf {
        sweep::run_dir(&self.id)
    }

    /// The node process's pin directory.
    pub fn pin_dir(&self) -> PathBuf {
        sweep::pin_dir(&self.id)
    }

    /// Adds a pod with a one-queue veth.
    pub fn pod(&mut self, name: &str) -> Result<Pod> {
        self.pod_with(name, PodOptions::default())
    }

    /// Adds a pod.
    pub fn pod_with(&mut self, name: &str, options: PodOptions) -> Result<Pod> {
        ensure!(
            !self.pods.contains_key(name),
            "the lab has a pod {name} already"
        );
        let number = options.number.unwrap_or(self.next_pod);
        if options.number.is_none() {
            self.next_pod = self.next_pod.checked_add(1).context("too many pods")?;
        }
        let pod = self.name_pod(name, number)?;
        self.set_up_pod(&pod, number, options)
            .with_context(|| format!("cannot set up {name}"))?;
        self.pods.insert(pod.name.clone(), pod.clone());
        Ok(pod)
    }

    /// A pod behind a link of its own ([`far`](crate::far)), which does to frames from it what `up` says and to those
    /// to it what `down` says.
    pub fn far_pod(&mut self, name: &str, up: Impairment, down: Impairment) -> Result<FarPod> {
        ensure!(
            !self.pods.contains_key(name),
            "the lab has a pod {name} already"
        );
        let number = self.next_pod;
        self.next_pod = number.checked_add(1).context("too many pods")?;
        let pod = self.name_pod(name, number)?;
        let far = FarPod::set_up(self, pod, number, [up, down])
            .with_context(|| format!("cannot set up {name}"))?;
        self.pods.insert(name.to_owned(), far.pod.clone());
        Ok(far)
    }

    /// A pod's namespace, with nothing in it.
    fn name_pod(&self, name: &str, number: u8) -> Result<Pod> {
        let interface = format!("v-{name}");
        ensure!(
            interface.len() <= 15,
            "{name}: an interface name holds 15 characters"
        );
        Ok(Pod {
            name: name.to_owned(),
            namespace: Namespace::create(&format!("{}-{name}", self.id))?,
            interface,
            ips: self.place.pod_ips(number),
        })
    }

    /// Deletes a pod with its processes and its interface, as a container runtime does.
    pub fn delete_pod(&mut self, name: &str) -> Result<()> {
        let Some(pod) = self.pods.remove(name) else {
            bail!("the lab has no pod {name}")
        };
        // The interface first: the kernel deletes namespaces' interfaces some time later.
        self.node.ip(&format!("link del {}", pod.interface))?;
        pod.namespace.delete()
    }

    /// Every pod, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Starts a program that runs until the lab ends, its output in the lab's directory.
    pub fn spawn(&mut self, name: &str, command: &mut std::process::Command) -> Result<()> {
        let process = Process::start(name, command, &self.directory())?;
        self.processes.push(process);
        Ok(())
    }

    /// Leaves everything up and running; [`sweep::sweep`] removes it.
    pub fn keep(mut self) -> Result<()> {
        self.janitor.keep()?;
        for process in self.processes.drain(..) {
            process.leave();
        }
        Ok(())
    }

    fn set_up_node(&self) -> Result<()> {
        self.node.sysctl(&[
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.default.forwarding=1",
            "net.ipv4.conf.all.rp_filter=1",
            "net.ipv4.conf.default.rp_filter=1",
            "net.ipv6.conf.default.accept_dad=0",
            "net.ipv6.conf.default.accept_ra=0",
        ])?;
        quiet_ipv6(&self.outside)?;
        let [gateway4, gateway6] = self.place.gateway();
        let gateway_mac = self.gateway_mac();
        self.node.ip(&format!(
            "link add {UPLINK} type veth peer name eth0 address {gateway_mac} netns {outside}\n",
            outside = self.outside.name(),
        ))?;
        self.outside.ip(&format!(
            "addr add {gateway4}/24 dev eth0\n\
             addr add {gateway6}/64 dev eth0 nodad\n\
             link set eth0 up\n"
        ))?;
        self.set_up_uplink()
    }

    /// Makes `interface` of the node, which is down, the uplink instead of the one that is.
    pub(crate) fn uplink_is(&self, interface: &str) -> Result<()> {
        self.node.ip(&format!(
            "link del {UPLINK}\n\
             link set {interface} name {UPLINK}\n"
        ))?;
        self.set_up_uplink()
    }

    fn set_up_uplink(&self) -> Result<()> {
        let [node4, node6] = self.place.ips();
        let [gateway4, gateway6] = self.place.gateway();
        let (node_mac, gateway_mac) = (self.uplink_mac(), self.gateway_mac());
        self.node.ip(&format!(
            "link set {UPLINK} address {node_mac}\n\
             addr add {node4}/24 dev {UPLINK}\n\
             addr add {node6}/64 dev {UPLINK} nodad\n\
             link set {UPLINK} up\n\
             neigh replace {gateway4} lladdr {gateway_mac} dev {UPLINK} nud permanent\n\
             neigh replace {gateway6} lladdr {gateway_mac} dev {UPLINK} nud permanent\n\
             route add default via {gateway4} dev {UPLINK}\n\
             route add default via {gateway6} dev {UPLINK}\n"
        ))
    }

    /// The address of the node's end of its uplink.
    pub fn uplink_mac(&self) -> String {
        mac(self.place.network, self.place.number)
    }

    /// That of the other end.
    pub fn gateway_mac(&self) -> String {
        mac(self.place.network, 0xfe)
    }

    fn set_up_pod(&self, pod: &Pod, number: u8, options: PodOptions) -> Result<()> {
        self.plug(pod, &pod.namespace, number, options)?;
        address(pod, &mac(0xee, number))
    }

    /// The pod's veth, its far end `eth0` inside `into`, and the node's routes to the pod.
    pub(crate) fn plug(
        &self,
        pod: &Pod,
        into: &Namespace,
        number: u8,
        options: PodOptions,
    ) -> Result<()> {
        let (host_mac, pod_mac) = (mac(0xee, number), mac(POD_MACS, number));
        let (interface, [ip4, ip6]) = (&pod.interface, pod.ips);
        let queues = format!("numtxqueues {q} numrxqueues {q}", q = options.queues);
        let index = options
            .ifindex
            .map_or_else(String::new, |index| format!("index {index} "));
        self.node.ip(&format!(
            "link add {interface} {index}{queues} address {host_mac} type veth peer name eth0 {queues} address {pod_mac} netns {into}\n\
             addr add fe80::1/64 dev {interface} nodad\n\
             link set {interface} up\n\
             neigh replace {ip4} lladdr {pod_mac} dev {interface} nud permanent\n\
             neigh replace {ip6} lladdr {pod_mac} dev {interface} nud permanent\n\
             route add {ip4}/32 dev {interface} scope link\n\
             route add {ip6}/128 dev {interface}\n",
            into = into.name(),
        ))
    }
}

/// The pod's own addresses and its default routes, over its `eth0` to the gateway at `gateway_mac`.
pub(crate) fn address(pod: &Pod, gateway_mac: &str) -> Result<()> {
    quiet_ipv6(&pod.namespace)?;
    let [ip4, ip6] = pod.ips;
    pod.namespace.ip(&format!(
        "addr add {ip4}/32 dev eth0\n\
         addr add {ip6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         neigh replace 169.254.1.1 lladdr {gateway_mac} dev eth0 nud permanent\n\
         neigh replace fe80::1 lladdr {gateway_mac} dev eth0 nud permanent\n\
         route add 169.254.1.1/32 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::1 dev eth0\n"
    ))
}

/// The addresses of pod `number` of the only node.
pub fn pod_ips(number: u8) -> [IpAddr; 2] {
    NodePlace::ALONE.pod_ips(number)
}

/// No duplicate address detection and no router discovery: nothing a lab has to wait for.
pub(crate) fn quiet_ipv6(namespace: &Namespace) -> Result<()> {
    namespace.sysctl(&[
        "net.ipv6.conf.default.accept_dad=0",
        "net.ipv6.conf.default.accept_ra=0",
    ])
}

pub(crate) fn mac(kind: u8, number: u8) -> String {
    format!("02:00:00:00:{kind:02x}:{number:02x}")
}

/// Takes the lock that lets one lab test run at a time on a machine, across processes.
///
/// Labs do not disturb each other, but two of them share two cores, and tests measure time.
pub fn exclusive() -> Result<File> {
    fs::create_dir_all(sweep::STATE_DIR)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(Path::new(sweep::STATE_DIR).join("lock"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(file)
}
