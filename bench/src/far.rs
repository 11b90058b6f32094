//! A pod that is far away: behind a router of its own and a bad link.
//!
//! ```text
//! pod eth0 -- pod | link: weft-lab link | router -- wan | router: forwards | eth0 -- v-<name> | node
//! ```
//!
//! The node knows nothing of that: it routes the pod's address to the veth, as for any pod, and the router forwards. A
//! link in place of the pod's veth would not do, since frames that Weft injects pass no queue of the veth. The
//! router speaks to the node in the pod's name, as a pod that forwards has to: its ICMP errors come from the pod's address.

use crate::impairment::Impairment;
use crate::lab::{Lab, Pod, PodOptions, address, mac, quiet_ipv6};
use crate::link::{Link, whole_frames};
use crate::namespace::Namespace;
use crate::tools::link::LinkCounters;
use crate::wait::{START_LIMIT, wait_until};
use anyhow::Result;

/// A pod and the link that it is behind. The link works until this is dropped.
#[derive(Debug)]
pub struct FarPod {
    /// The pod.
    pub pod: Pod,
    /// The router between the link and the node.
    pub router: Namespace,
    /// Where the link works; its interfaces are `pod` and `router`.
    pub middle: Namespace,
    link: Link,
}

impl FarPod {
    pub(crate) fn set_up(
        lab: &Lab,
        pod: Pod,
        number: u8,
        [up, down]: [Impairment; 2],
    ) -> Result<Self> {
        let named = |what| Namespace::create(&format!("{}-{what}", pod.namespace.name()));
        let (middle, router) = (named("link")?, named("router")?);
        middle.sysctl(&[
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1",
        ])?;
        let (pod_mac, router_mac) = (mac(0x02, number), mac(0x03, number));
        middle.ip(&format!(
            "link add pod type veth peer name eth0 address {pod_mac} netns {}\n\
             link add router type veth peer name wan address {router_mac} netns {}\n\
             link set pod up\n\
             link set router up\n",
            pod.namespace.name(),
            router.name(),
        ))?;
        for (namespace, interface) in [(&pod.namespace, "eth0"), (&router, "wan")] {
            whole_frames(namespace, interface)?;
        }
        address(&pod, &router_mac)?;
        set_up_router(lab, &pod, &router, number)?;
        let link = Link::start(&middle, ["pod", "router"], up, down)?;
        Ok(Self {
            pod,
            router,
            middle,
            link,
        })
    }

    /// From now on the link does this, in both directions.
    pub fn impair(&mut self, both: Impairment) -> Result<LinkCounters> {
        self.link.ask(&format!("both {both}"))
    }

    /// From now on the link does this to frames from the pod.
    pub fn impair_up(&mut self, up: Impairment) -> Result<LinkCounters> {
        self.link.ask(&format!("up {up}"))
    }

    /// From now on the link does this to frames to the pod.
    pub fn impair_down(&mut self, down: Impairment) -> Result<LinkCounters> {
        self.link.ask(&format!("down {down}"))
    }

    /// What has become of the frames so far.
    pub fn counters(&mut self) -> Result<LinkCounters> {
        self.link.ask("counters")
    }

    /// From now on the router takes packets to the pod of at most `mtu` bytes, and says so to whoever sends longer ones.
    pub fn path_mtu(&self, mtu: u32) -> Result<()> {
        let [ip4, ip6] = self.pod.ips;
        self.router.ip(&format!(
            "route replace {ip4}/32 dev wan scope link mtu {mtu}\n\
             route replace {ip6}/128 dev wan mtu {mtu}\n"
        ))
    }
}

fn set_up_router(lab: &Lab, pod: &Pod, router: &Namespace, number: u8) -> Result<()> {
    quiet_ipv6(router)?;
    router.sysctl(&[
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv6.conf.default.forwarding=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
        "net.ipv4.conf.all.accept_local=1",
    ])?;
    lab.plug(pod, router, number, PodOptions::default())?;
    let (host_mac, pod_mac) = (mac(0xee, number), mac(0x02, number));
    let [ip4, ip6] = pod.ips;
    router.ip(&format!(
        "link set dev wan up\n\
         addr add {ip4}/32 dev eth0\n\
         addr add {ip6}/128 dev eth0 nodad noprefixroute\n\
         link set eth0 up\n\
         neigh replace 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent\n\
         neigh replace fe80::1 lladdr {host_mac} dev eth0 nud permanent\n\
         route add 169.254.1.1/32 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0 src {ip4}\n\
         route add default via fe80::1 dev eth0\n\
         neigh replace {ip4} lladdr {pod_mac} dev wan nud permanent\n\
         neigh replace {ip6} lladdr {pod_mac} dev wan nud permanent\n\
         route add {ip4}/32 dev wan scope link\n\
         route add {ip6}/128 dev wan\n"
    ))?;
    // The pod's addresses are there to speak from, but nothing is delivered to them: their local routes go, as soon as
    // the kernel has made them.
    for ip in pod.ips {
        let gone = format!("route del local {ip} dev eth0 table local");
        wait_until("a local route", START_LIMIT, || router.ip(&gone).is_ok())?;
    }
    Ok(())
}
