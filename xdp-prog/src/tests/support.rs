//! Network namespaces without names, so that nothing is left behind however a test ends.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use weft_datapath::Address;

use crate::netlink::{NetlinkError, ensure_pair};
use crate::{FastPath, PairInfo, PodEntry, Steering, SteeringConfig};

/// The network namespace of a test, entered by the thread that runs it.
pub(super) struct Node {
    pub(super) pin_dir: PathBuf,
}

/// Runs `test` on a thread in a new network namespace. A panic in it is the caller's.
pub(super) fn node(test: impl FnOnce(&Node) + Send) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if !root() {
        return;
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let run = || {
        enter_new_namespace();
        crate::ensure_bpffs().expect("a BPF file system");
        let name = format!("weft-test-{}-{number}", std::process::id());
        let node = Node {
            pin_dir: Path::new(crate::BPFFS).join(name),
        };
        test(&node);
    };
    thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = crate::cleanup(&self.pin_dir) {
            eprintln!("clean-up of {}: {error}", self.pin_dir.display());
        }
    }
}

impl Node {
    /// The steering over a new punt pair.
    pub(super) fn steering(&self, workers: u16) -> Steering {
        let pair = block_on(ensure_pair(workers)).expect("a punt pair");
        Steering::open(self.config(pair, workers)).expect("the programs load")
    }

    pub(super) fn config(&self, pair: PairInfo, workers: u16) -> SteeringConfig {
        SteeringConfig {
            pin_dir: self.pin_dir.clone(),
            pair,
            workers,
            heartbeat_limit: Duration::from_secs(60),
            max_pins: 4096,
            fast_path: FastPath::Off,
            flow_secret: std::array::from_fn(|n| (n * 101 + 7) as u8),
            instance: 1,
        }
    }

    /// A pod in a namespace of its own, its veth's host side here, addresses 10.9.`n`.2 and
    /// fd09:`n`::2, its gateway the .1 and ::1 of the host side.
    pub(super) fn pod(&self, n: u8) -> PodNamespace {
        let fd = new_namespace();
        let veth = format!("veth{n}");
        let pod = PodNamespace {
            v4: IpAddr::from([10, 9, n, 2]),
            v6: format!("fd09:{n}::2").parse().expect("an address"),
            ifindex: {
                let netns = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
                ip(&format!(
                    "link add {veth} type veth peer name eth0 netns {netns}"
                ));
                // A tentative link-local address would keep neighbours from being found.
                sysctl(&format!("ipv6/conf/{veth}/accept_dad"), "0");
                ip(&format!("addr add 10.9.{n}.1/24 dev {veth}"));
                ip(&format!("addr add fd09:{n}::1/64 dev {veth} nodad"));
                ip(&format!("link set {veth} up"));
                ifindex(&veth)
            },
            veth,
            fd,
        };
        pod.inside(|| {
            sysctl("ipv6/conf/eth0/accept_dad", "0");
            ip("link set lo up");
            ip(&format!("addr add 10.9.{n}.2/24 dev eth0"));
            ip(&format!("addr add fd09:{n}::2/64 dev eth0 nodad"));
            ip("link set eth0 up");
            ip(&format!("route add default via 10.9.{n}.1"));
            ip(&format!("-6 route add default via fd09:{n}::1"));
        });
        sysctl(&format!("ipv4/conf/{}/rp_filter", pod.veth), "1");
        pod
    }

    /// A router with strict reverse path filters.
    pub(super) fn forward(&self) {
        sysctl("ipv4/ip_forward", "1");
        sysctl("ipv6/conf/all/forwarding", "1");
        sysctl("ipv4/conf/all/rp_filter", "1");
        sysctl("ipv4/conf/default/rp_filter", "1");
    }
}

/// A pod's network namespace.
pub(super) struct PodNamespace {
    fd: OwnedFd,
    pub(super) veth: String,
    pub(super) ifindex: u32,
    pub(super) v4: IpAddr,
    pub(super) v6: IpAddr,
}

impl PodNamespace {
    /// Runs `work` on a thread in this namespace. Sockets made there stay there.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let run = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.fd.as_fd(), kind).expect("a namespace to enter");
            work()
        };
        thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(super) fn entry(&self) -> PodEntry {
        PodEntry {
            ifindex: self.ifindex,
            addresses: vec![self.v4.into(), self.v6.into()],
            draining: false,
            punt_rate: 0,
            punt_burst: 0,
            grace_until: Default::default(),
        }
    }

    pub(super) fn endpoints(&self) -> [(Address, u32); 2] {
        [
            (self.v4.into(), self.ifindex),
            (self.v6.into(), self.ifindex),
        ]
    }
}

/// Whether this is root. In CI there is no other way.
pub(super) fn root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "this test needs root, and CI must not skip it");
    eprintln!("skipped: needs root (network namespaces, BPF, AF_XDP)");
    false
}

fn new_namespace() -> OwnedFd {
    let make = || {
        enter_new_namespace();
        fs::File::open("/proc/thread-self/ns/net")
            .expect("the namespace just made")
            .into()
    };
    thread::scope(|scope| scope.spawn(make).join().expect("a namespace"))
}

#[allow(
    unsafe_code,
    reason = "unshare is unsafe for the file table alone, which stays shared"
)]
fn enter_new_namespace() {
    // SAFETY: NEWNET changes nothing about memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("a new namespace");
}

/// Runs `ip` in the namespace of this thread.
#[track_caller]
pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(super) fn sysctl(key: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{key}"), value).unwrap_or_else(|e| panic!("{key}: {e}"));
}

#[track_caller]
pub(super) fn ifindex(name: &str) -> u32 {
    let found = block_on(crate::netlink::interfaces()).expect("interfaces");
    found
        .iter()
        .find(|i| i.name == name)
        .unwrap_or_else(|| panic!("no {name}"))
        .index
}

pub(super) fn block_on<T>(
    work: impl Future<Output = Result<T, NetlinkError>>,
) -> Result<T, NetlinkError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

/// `CLOCK_MONOTONIC`, as the heartbeats want it.
pub(super) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
