//! Open vSwitch on a node: its userspace datapath as an overlay's other end that is not Weft.
//!
//! ```text
//! pod eth0 -- v-<name> | br-int: flows | tunnel port ... br-phy: the node's addresses | uplink
//! ```
//!
//! The database and the switch are processes of the lab inside the node's namespace, with all their files in the lab's
//! directory. Nothing of a system-wide Open vSwitch is asked or touched.

use crate::command::run;
use crate::lab::{Family, Lab, POD_MACS, Pod, UPLINK, mac};
use crate::link::whole_frames;
use crate::wait::{START_LIMIT, wait_until};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

/// The tunnel's port.
pub const TUNNEL: &str = "tunnel";
/// The bridge of the pods and the tunnel.
const PODS: &str = "br-int";
/// The bridge that has the node's addresses, as a tunnel of the userspace datapath needs them.
const UNDERLAY: &str = "br-phy";
/// What the package says a database holds.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A running Open vSwitch. Its processes end with the lab.
#[derive(Debug)]
pub struct OpenVSwitch {
    directory: PathBuf,
}

impl OpenVSwitch {
    /// Starts it on the node of `lab`, whose pods and uplink become ports and are no longer the kernel's.
    pub fn start(lab: &mut Lab) -> Result<Self> {
        let switch = Self {
            directory: lab.directory().join("ovs"),
        };
        switch.run_programs(lab).context("cannot start it")?;
        switch.take_uplink(lab).context("cannot take the uplink")?;
        let pods: Vec<Pod> = lab.pods().cloned().collect();
        switch.control(&format!(
            "add-br {PODS} -- set bridge {PODS} datapath_type=netdev fail-mode=secure"
        ))?;
        for pod in &pods {
            switch.take_pod(lab, pod).context(pod.name.clone())?;
        }
        Ok(switch)
    }

    fn run_programs(&self, lab: &mut Lab) -> Result<()> {
        fs::create_dir(&self.directory)?;
        let (database, socket) = (self.file("conf.db"), self.file("db.sock"));
        run(Command::new("ovsdb-tool")
            .arg("create")
            .arg(&database)
            .arg(SCHEMA))?;
        let mut server = self.inside(lab, "ovsdb-server");
        server
            .arg(format!("--remote=punix:{}", socket.display()))
            .arg(&database);
        lab.spawn("ovsdb-server", &mut server)?;
        wait_until("ovsdb-server", START_LIMIT, || socket.exists())?;
        run(Command::new("ovs-vsctl")
            .arg(self.database())
            .args(["--no-wait", "init"]))?;
        let mut server = self.inside(lab, "ovs-vswitchd");
        server
            .arg("--pidfile")
            .arg(format!("unix:{}", socket.display()));
        lab.spawn("ovs-vswitchd", &mut server)
    }

    /// A program of it that runs until the lab ends.
    fn inside(&self, lab: &Lab, program: &str) -> Command {
        let mut command = lab.node.command(program);
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
            command.env(variable, &self.directory);
        }
        let control = self.file(&format!("{program}.ctl"));
        command.arg(format!("--unixctl={}", control.display()));
        command.args(["--no-chdir", "-vsyslog:off"]);
        command
    }

    /// Moves the node's addresses and routes to a bridge that the uplink is a port of.
    fn take_uplink(&self, lab: &Lab) -> Result<()> {
        // Frames are seen by the kernel, too, which must neither forward nor answer them. What is to the node's own
        // IPv4 address its strict reverse path filter drops at the uplink.
        lab.node.sysctl(&[
            "net.ipv4.ip_forward=0",
            "net.ipv6.conf.all.forwarding=0",
            &format!("net.ipv6.conf.{UPLINK}.disable_ipv6=1"),
        ])?;
        // A switch takes frames off the wire, not what a kernel has not cut up yet.
        whole_frames(&lab.outside, "eth0")?;
        self.control(&format!(
            "add-br {UNDERLAY} -- set bridge {UNDERLAY} datapath_type=netdev other-config:hwaddr={} -- \
             add-port {UNDERLAY} {UPLINK}",
            lab.uplink_mac()
        ))?;
        let [ip4, ip6] = lab.place().ips();
        let [gateway4, gateway6] = lab.place().gateway();
        lab.node.ip(&format!(
            "addr flush dev {UPLINK}\n\
             addr add {ip4}/24 dev {UNDERLAY}\n\
             addr add {ip6}/64 dev {UNDERLAY} nodad\n\
             link set {UNDERLAY} up\n\
             route add default via {gateway4} dev {UNDERLAY}\n\
             route add default via {gateway6} dev {UNDERLAY}\n"
        ))
    }

    fn take_pod(&self, lab: &Lab, pod: &Pod) -> Result<()> {
        let interface = &pod.interface;
        let off = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
        lab.node.sysctl(&[&off])?;
        // The datapath completes no checksums.
        whole_frames(&pod.namespace, "eth0")?;
        self.control(&format!("add-port {PODS} {interface}"))
    }

    /// The tunnel to `remote`, in place of an earlier one; `kind` is `geneve` or `vxlan`. Pods' packets fit into it and one small
    /// option.
    pub fn tunnel(
        &self,
        lab: &Lab,
        kind: &str,
        [local, remote]: [IpAddr; 2],
        vni: u32,
    ) -> Result<()> {
        self.control(&format!(
            "--if-exists del-port {TUNNEL} -- add-port {PODS} {TUNNEL} -- \
             set interface {TUNNEL} type={kind} options:local_ip={local} options:remote_ip={remote} options:key={vni}"
        ))?;
        let mtu = pod_mtu(if local.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        });
        for pod in lab.pods() {
            lab.node
                .ip(&format!("link set {} mtu {mtu}\n", pod.interface))?;
            pod.namespace.ip(&format!("link set eth0 mtu {mtu}\n"))?;
        }
        Ok(())
    }

    /// What becomes of packets: those to pods get the pod's MAC, those to the ranges of `peer` go into the tunnel after
    /// the `actions`, such as `set_field:1->tun_metadata0,`. `more` are flows besides.
    pub fn flows(&self, lab: &Lab, peer: &Lab, actions: &str, more: &str) -> Result<()> {
        let mut flows = more.to_owned();
        for pod in lab.pods() {
            for (to, ip) in DESTINATIONS.into_iter().zip(pod.ips) {
                flows += &format!("priority=10,{to}={ip},actions={}\n", to_pod(pod)?);
            }
        }
        for (to, range) in DESTINATIONS.into_iter().zip(peer.place().pod_ranges()) {
            flows +=
                &format!("priority=10,{to}={range},actions=dec_ttl,{actions}output:{TUNNEL}\n");
        }
        let file = self.file("flows");
        fs::write(&file, flows)?;
        run(self
            .flow_command()
            .args(["--bundle", "replace-flows", PODS])
            .arg(file))
        .map(drop)
    }

    /// The options of GENEVE that flows can name, in place of earlier ones, each as `{class=..,type=..,len=..}->tun_metadata0`.
    pub fn options(&self, options: &[&str]) -> Result<()> {
        run(self.flow_command().args(["del-flows", PODS]))?;
        // Flows that are gone hold on to what they name for a moment.
        wait_until("options that no flow names", START_LIMIT, || {
            run(self.flow_command().args(["del-tlv-map", PODS])).is_ok()
        })?;
        for option in options {
            run(self.flow_command().args(["add-tlv-map", PODS, option]))?;
        }
        Ok(())
    }

    /// How many packets have matched the flows with that cookie.
    pub fn matched(&self, cookie: u64) -> Result<u64> {
        let text = run(self.flow_command().args([
            "dump-aggregate",
            PODS,
            &format!("cookie={cookie}/-1"),
        ]))?;
        let count = (text.split_whitespace()).find_map(|word| word.strip_prefix("packet_count="));
        Ok(count.context(text.clone())?.parse()?)
    }

    /// What it has to say for itself, for an error.
    pub fn said(&self) -> String {
        let target = self.file("ovs-vswitchd.ctl");
        let ask = |words: &[&str]| {
            let mut command = Command::new("ovs-appctl");
            run(command.arg("-t").arg(&target).args(words))
                .unwrap_or_else(|error| error.to_string())
        };
        let flows = run(self.flow_command().args(["dump-flows", PODS]));
        [
            ask(&["dpif/show"]),
            ask(&["dpctl/dump-flows"]),
            ask(&["tnl/neigh/show"]),
            flows.unwrap_or_else(|error| error.to_string()),
        ]
        .join("\n")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn database(&self) -> String {
        format!("--db=unix:{}", self.file("db.sock").display())
    }

    /// One `ovs-vsctl`, which waits until the switch has done it.
    fn control(&self, words: &str) -> Result<()> {
        run(Command::new("ovs-vsctl")
            .args([&self.database(), "--timeout=10"])
            .args(words.split_whitespace()))
        .map(drop)
    }

    fn flow_command(&self) -> Command {
        let mut command = Command::new("ovs-ofctl");
        command.env("OVS_RUNDIR", &self.directory);
        command.arg("--protocols=OpenFlow13");
        command
    }
}

/// How flows match the destination, by family.
const DESTINATIONS: [&str; 2] = ["ip,nw_dst", "ipv6,ipv6_dst"];

/// The actions that put a packet into a pod.
pub fn to_pod(pod: &Pod) -> Result<String> {
    let IpAddr::V4(ip) = pod.ip(Family::V4) else {
        bail!("{:?} begin with no IPv4 address", pod.ips)
    };
    let (mac, interface) = (mac(POD_MACS, ip.octets()[3]), &pod.interface);
    Ok(format!("set_field:{mac}->eth_dst,output:{interface}"))
}

/// What pods may send through a tunnel over that underlay: it leaves 10 bytes for an option.
pub const fn pod_mtu(outer: Family) -> u32 {
    match outer {
        Family::V4 => 1440,
        Family::V6 => 1420,
    }
}
