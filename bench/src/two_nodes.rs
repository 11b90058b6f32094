//! Two nodes and the underlay between them: two [`Lab`]s whose outsides are joined.
//!
//! ```text
//! node a: uplink -- eth0 | outside of a | core -- core | outside of b | eth0 -- uplink: node b
//! ```
//!
//! The outsides are what the underlay says: the nodes' gateways, each in a subnet of its own, or bridges that make one
//! subnet of both. They cost as much of the processors as the nodes do; where that is to be measured, there is
//! nothing between the uplinks ([`Underlay::Cable`]). Nodes find their neighbours as any host does. No node has a route to the other's pods: that is the
//! overlay's business, Weft's or the kernel's ([`TwoNodes::kernel_vxlan`]).

use crate::impairment::Impairment;
use crate::lab::{Family, Lab, NodePlace, UPLINK, pick};
use crate::link::{Link, whole_frames};
use crate::namespace::Namespace;
use crate::tools::link::LinkCounters;
use anyhow::{Context, Result};
use std::fmt;
use std::net::IpAddr;

/// The kernel's interface into its own overlay.
pub const VXLAN: &str = "vx";
/// A node's [second uplink](TwoNodes::second_uplink).
pub const UPLINK2: &str = "uplink2";
/// The network that it is in.
const NETWORK2: u8 = 9;
/// The interfaces between the outsides.
const CORE: &str = "core";
/// The interfaces of a link between them.
const ENDS: [&str; 2] = ["end-a", "end-b"];
/// A host number that no pod has: the kernel's overlay addresses nodes by them.
const NODE_IN_RANGE: u8 = 254;

/// What is between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// Each node is in a subnet of its own, behind its own gateway.
    Routed,
    /// Both are on one link: switches.
    Switched,
    /// Both are on one link: the uplinks are the ends of a cable. There is no gateway, though nodes have a route to it.
    Cable,
}

impl Underlay {
    /// Those that are networks.
    pub const BOTH: [Self; 2] = [Self::Routed, Self::Switched];

    const fn places(self) -> [NodePlace; 2] {
        const B: u8 = 2;
        let network = match self {
            Self::Routed => 8,
            Self::Switched | Self::Cable => NodePlace::ALONE.network,
        };
        [NodePlace::ALONE, NodePlace { number: B, network }]
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routed => "routed",
            Self::Switched => "switched",
            Self::Cable => "cable",
        })
    }
}

/// Two labs, joined. All of it is gone when this is dropped or its process ends.
#[derive(Debug)]
pub struct TwoNodes {
    link: Option<Link>,
    /// The nodes.
    pub nodes: [Lab; 2],
    underlay: Underlay,
}

impl TwoNodes {
    /// Joins them by a cable.
    pub fn new(underlay: Underlay) -> Result<Self> {
        let mut nodes = Self::unjoined(underlay)?;
        let [a, b] = &nodes.nodes;
        if underlay == Underlay::Cable {
            a.outside.ip(&format!(
                "link set eth0 netns {} name {CORE}\n",
                b.node.name()
            ))?;
        } else {
            a.outside.ip(&format!(
                "link add {CORE} type veth peer name {CORE} netns {}\n",
                b.outside.name()
            ))?;
        }
        nodes.join().context("cannot join two nodes")?;
        Ok(nodes)
    }

    /// Joins them by a link that can be made to work badly. It takes no segments to be cut, as a cable of veths does.
    pub fn over_link(underlay: Underlay) -> Result<Self> {
        let mut nodes = Self::unjoined(underlay)?;
        let [a, b] = &nodes.nodes;
        let middle = Namespace::create(&format!("{}-link", a.id()))?;
        middle.sysctl(&[
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1",
        ])?;
        for (lab, end) in [a, b].into_iter().zip(ENDS) {
            middle.ip(&format!(
                "link add {end} type veth peer name {CORE} netns {}\n\
                 link set {end} up\n",
                lab.outside.name()
            ))?;
            whole_frames(&lab.outside, CORE)?;
        }
        nodes.join().context("cannot join two nodes")?;
        let perfect = Impairment::default();
        nodes.link = Some(Link::start(&middle, ENDS, perfect, perfect)?);
        Ok(nodes)
    }

    fn unjoined(underlay: Underlay) -> Result<Self> {
        let [a, b] = underlay.places();
        Ok(Self {
            link: None,
            nodes: [Lab::at(a)?, Lab::at(b)?],
            underlay,
        })
    }

    fn join(&mut self) -> Result<()> {
        for at in 0..2 {
            let lab = &self.nodes[at];
            lab.node
                .ip(&format!("neigh flush dev {UPLINK} nud permanent\n"))?;
            match self.underlay {
                Underlay::Routed => self.route(at)?,
                Underlay::Switched => self.switch(at)?,
                Underlay::Cable if at == 0 => {}
                Underlay::Cable => lab.uplink_is(CORE)?,
            }
        }
        Ok(())
    }

    /// Makes the outside of a node a router: its gateway.
    fn route(&self, at: usize) -> Result<()> {
        let (lab, other) = (&self.nodes[at], &self.nodes[1 - at]);
        let ([ip4, ip6], [other4, other6]) = (on_core(lab), on_core(other));
        let [far4, far6] = other.place().uplink_ranges();
        lab.outside.sysctl(&[
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            // Its second address stays when the first one goes.
            "net.ipv4.conf.all.promote_secondaries=1",
            // A gateway says when its link address is another one.
            "net.ipv4.conf.all.arp_notify=1",
            "net.ipv6.conf.all.ndisc_notify=1",
        ])?;
        lab.outside.ip(&format!(
            "addr add {ip4}/24 dev {CORE}\n\
             addr add {ip6}/64 dev {CORE} nodad\n\
             link set {CORE} up\n\
             route add {far4} via {other4} dev {CORE} onlink\n\
             route add {far6} via {other6} dev {CORE} onlink\n"
        ))
    }

    /// Tells routers the way to the pods of both nodes, which they need where nothing is wrapped.
    pub fn pods_are_known(&self) -> Result<()> {
        for at in 0..2 {
            let (lab, other) = (&self.nodes[at], &self.nodes[1 - at]);
            let (own, node) = (lab.place().pod_ranges(), lab.place().ips());
            let (far, core) = (other.place().pod_ranges(), on_core(other));
            for at in 0..2 {
                lab.outside.ip(&format!(
                    "route add {} via {} dev eth0\n\
                     route add {} via {} dev {CORE}\n",
                    own[at], node[at], far[at], core[at]
                ))?;
            }
        }
        Ok(())
    }

    /// Gives a node another uplink to its router, which nothing goes by as yet, and says where that puts it.
    pub fn second_uplink(&self, at: usize) -> Result<NodePlace> {
        let lab = &self.nodes[at];
        let place = NodePlace {
            network: NETWORK2,
            ..lab.place()
        };
        let ([node4, node6], [gateway4, gateway6]) = (place.ips(), place.gateway());
        lab.node.ip(&format!(
            "link add {UPLINK2} type veth peer name eth1 netns {}\n\
             addr add {node4}/24 dev {UPLINK2}\n\
             addr add {node6}/64 dev {UPLINK2} nodad\n\
             link set {UPLINK2} up\n",
            lab.outside.name()
        ))?;
        lab.outside.ip(&format!(
            "addr add {gateway4}/24 dev eth1\n\
             addr add {gateway6}/64 dev eth1 nodad\n\
             link set eth1 up\n"
        ))?;
        // What comes by one of them may be answered by the other.
        lab.outside
            .sysctl(&["all", "eth0", "eth1"].map(|of| format!("net.ipv4.conf.{of}.rp_filter=0")))?;
        Ok(place)
    }

    /// Makes the outside of a node a switch. That of the first one is also the gateway of both.
    fn switch(&self, at: usize) -> Result<()> {
        let lab = &self.nodes[at];
        let port = format!("02:00:00:00:5c:{:02x}", lab.place().number);
        lab.outside.ip(&format!(
            "link add br0 type bridge\n\
             addr flush dev eth0\n\
             link set eth0 address {port}\n\
             link set eth0 master br0\n\
             link set {CORE} up\n\
             link set {CORE} master br0\n"
        ))?;
        let gateway = if at == 0 {
            let [gateway4, gateway6] = lab.place().gateway();
            format!(
                "link set br0 address {}\n\
                 addr add {gateway4}/24 dev br0\n\
                 addr add {gateway6}/64 dev br0 nodad\n",
                lab.gateway_mac()
            )
        } else {
            String::new()
        };
        lab.outside.ip(&format!("{gateway}link set br0 up\n"))
    }

    /// The address of a node on the underlay.
    pub fn address(&self, node: usize, family: Family) -> IpAddr {
        pick(&self.nodes[node].place().ips(), family)
    }

    /// Sets the MTU of the links between nodes and gateways.
    pub fn uplink_mtu(&self, mtu: u32) -> Result<()> {
        for lab in &self.nodes {
            lab.node.ip(&format!("link set {UPLINK} mtu {mtu}\n"))?;
            lab.outside.ip(&format!("link set eth0 mtu {mtu}\n"))?;
        }
        Ok(())
    }

    /// Sets the MTU between the gateways, of which nodes learn by errors only.
    pub fn core_mtu(&self, mtu: u32) -> Result<()> {
        for lab in &self.nodes {
            lab.outside.ip(&format!("link set {CORE} mtu {mtu}\n"))?;
        }
        Ok(())
    }

    /// From now on the link does this, in both directions.
    pub fn impair(&mut self, both: Impairment) -> Result<LinkCounters> {
        let link = self.link.as_mut().context("a cable is never bad")?;
        link.ask(&format!("both {both}"))
    }

    /// Joins the pods by the kernel's own VXLAN, as flannel does: what Weft's overlay is compared with. Its MTU follows
    /// from the uplink's.
    pub fn kernel_vxlan(&self, outer: Family) -> Result<()> {
        for at in 0..2 {
            let (place, other) = (self.nodes[at].place(), self.nodes[1 - at].place());
            let mac = |place: NodePlace| format!("02:00:00:00:77:{:02x}", place.number);
            let (local, remote) = (self.address(at, outer), self.address(1 - at, outer));
            let (own, far) = (place.pod_ips(NODE_IN_RANGE), other.pod_ips(NODE_IN_RANGE));
            self.nodes[at].node.ip(&format!(
                "link add {VXLAN} address {} type vxlan id 77 local {local} remote {remote} dev {UPLINK} dstport 4789\n\
                 addr add {}/32 dev {VXLAN}\n\
                 addr add {}/128 dev {VXLAN} nodad\n\
                 link set {VXLAN} up\n",
                mac(place),
                own[0],
                own[1],
            ))?;
            for (gateway, range) in far.into_iter().zip(other.pod_ranges()) {
                self.nodes[at].node.ip(&format!(
                    "neigh replace {gateway} lladdr {} dev {VXLAN} nud permanent\n\
                     route add {range} via {gateway} dev {VXLAN} onlink\n",
                    mac(other)
                ))?;
            }
        }
        Ok(())
    }
}

/// The addresses of a node's router between the routers.
fn on_core(lab: &Lab) -> [String; 2] {
    let number = lab.place().number;
    [format!("172.30.0.{number}"), format!("fd30::{number}")]
}
