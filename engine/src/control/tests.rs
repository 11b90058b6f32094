//! Control against a kernel that is a list, and one that fails wherever a test tells it to.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use proptest::prelude::*;
use weft_datapath::{Address, Family, Now};
use weft_xdp::netlink::{NetlinkError, Way};
use weft_xdp::{Choice, ChoiceBackend, Error as KernelError, OverlayEntries, PodEntry, ServiceKey};

use super::*;
use crate::config::{Source, parse};

mod endpoints;
mod mtu;
mod scale;
mod sources;

/// A kernel in memory.
#[derive(Clone, Debug, Default)]
struct FakeKernel {
    pods: BTreeMap<u32, PodEntry>,
    attached: BTreeSet<u32>,
    services: Vec<ServiceKey>,
    endpoints: Vec<(Address, u32)>,
    /// An interface that nothing can be attached to.
    refuse_attach: Option<u32>,
    /// The next change of the services fails, once.
    refuse_services: bool,
    /// What the workers read, to be compared with what is attached.
    tables: Option<Arc<ArcSwap<Tables>>>,
    /// How often it was asked for the node's address.
    asked: Cell<usize>,
    /// The last octet of that.
    node: u8,
    choices: BTreeMap<ServiceKey, Vec<ChoiceBackend>>,
    epochs: [Vec<u32>; 2],
    overlay: OverlayEntries,
    uplinks: BTreeSet<u32>,
    /// The ways to peers.
    ways: BTreeMap<IpAddr, Way>,
}

/// What is in the kernel counts, not what a test does to it.
impl PartialEq for FakeKernel {
    fn eq(&self, other: &Self) -> bool {
        // A grace ends when a pod was enrolled, which may be earlier in one than in the other.
        let timeless = |pods: &BTreeMap<u32, PodEntry>| -> Vec<PodEntry> {
            let pods = pods.values().cloned();
            pods.map(|pod| PodEntry {
                grace_until: Now::default(),
                ..pod
            })
            .collect()
        };
        timeless(&self.pods) == timeless(&other.pods)
            && self.attached == other.attached
            && self.services == other.services
            && self.endpoints == other.endpoints
            && self.overlay == other.overlay
            && self.uplinks == other.uplinks
    }
}

impl KernelSide for FakeKernel {
    fn set_pod(&mut self, pod: &PodEntry) -> Result<(), KernelError> {
        self.pods.insert(pod.ifindex, pod.clone());
        Ok(())
    }

    fn attach_pod(&mut self, ifindex: u32) -> Result<(), KernelError> {
        if self.refuse_attach == Some(ifindex) {
            return Err(KernelError::Pod {
                ifindex,
                reason: "a test says so",
            });
        }
        assert!(
            self.pods.contains_key(&ifindex),
            "a hook without its pod would let spoofs pass"
        );
        if let Some(tables) = &self.tables {
            assert!(
                tables.load().pod_by_ifindex(ifindex).is_none(),
                "a backend that workers use already would answer untranslated"
            );
        }
        self.attached.insert(ifindex);
        Ok(())
    }

    fn detach_pod(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.attached.remove(&ifindex);
        Ok(())
    }

    fn remove_pod(&mut self, ifindex: u32) -> Result<(), KernelError> {
        assert!(
            !self.attached.contains(&ifindex),
            "a pod is forgotten only once its hooks are off"
        );
        self.pods.remove(&ifindex);
        Ok(())
    }

    fn sync_services(&mut self, services: &[ServiceKey]) -> Result<(), KernelError> {
        if std::mem::take(&mut self.refuse_services) {
            return Err(KernelError::Pod {
                ifindex: 0,
                reason: "a test says so",
            });
        }
        self.services = services.to_vec();
        Ok(())
    }

    fn change_services(
        &mut self,
        appeared: &[ServiceKey],
        vanished: &[ServiceKey],
    ) -> Result<(), KernelError> {
        let mut services: BTreeSet<ServiceKey> = self.services.iter().copied().collect();
        for key in appeared {
            assert!(services.insert(*key), "{key:?} is there already");
        }
        for key in vanished {
            assert!(services.remove(key), "{key:?} is gone already");
        }
        self.sync_services(&services.into_iter().collect::<Vec<_>>())
    }

    fn sync_endpoints(&mut self, endpoints: &[(Address, u32)]) -> Result<(), KernelError> {
        self.endpoints = endpoints.to_vec();
        Ok(())
    }

    fn set_choice(
        &mut self,
        key: ServiceKey,
        choice: Option<&Choice>,
    ) -> Result<bool, KernelError> {
        match choice {
            Some(choice) => self.choices.insert(key, choice.backends.clone()),
            None => self.choices.remove(&key),
        };
        Ok(true)
    }

    fn set_epochs(&mut self, pods: &[u32], members: &[u32]) -> Result<(), KernelError> {
        self.epochs = [pods.to_vec(), members.to_vec()];
        Ok(())
    }

    fn sync_overlay(&mut self, overlay: &OverlayEntries) -> Result<(), KernelError> {
        self.overlay = overlay.clone();
        Ok(())
    }

    fn attach_uplink(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.uplinks.insert(ifindex);
        Ok(())
    }

    fn detach_uplink(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.uplinks.remove(&ifindex);
        Ok(())
    }

    fn ways(&self, ends: &[Ends]) -> Result<Vec<Option<Way>>, NetlinkError> {
        Ok(ends
            .iter()
            .map(|(_, peer)| self.ways.get(peer).copied())
            .collect())
    }

    /// Pods below 10.0.0.128 see the node as 10.0.1.`node`; for the others there is nothing to see.
    fn source_towards(&self, address: IpAddr) -> Option<IpAddr> {
        self.asked.set(self.asked.get() + 1);
        match address {
            IpAddr::V4(pod) if pod.octets()[3] < 128 => Some(IpAddr::from([10, 0, 1, self.node])),
            IpAddr::V4(_) => Some(IpAddr::from([169, 254, 1, 1])),
            IpAddr::V6(_) => None,
        }
    }
}

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Now {
    Now::from_nanos(1_000 * SECOND + seconds * SECOND)
}

fn config(pods: &[(&str, &str, &str)], services: &str) -> Config {
    let mut text =
        String::from("[node]\nname = \"n\"\ndrain = \"10s\"\nenrolment_grace = \"60s\"\n");
    for (name, ip, interface) in pods {
        text += &format!(
            "[[pod]]\nname = \"{name}\"\nip = \"{ip}\"\ninterface = \"{interface}\"\nlabels = {{ app = \"a\" }}\n"
        );
    }
    parse(&[Source {
        path: PathBuf::from("n.toml"),
        text: text + services,
    }])
    .unwrap()
}

fn veth(name: &str, index: u32) -> InterfaceInfo {
    InterfaceInfo {
        index,
        name: name.into(),
        mtu: 1500,
        is_veth: true,
        peer_elsewhere: true,
    }
}

fn interfaces() -> Vec<InterfaceInfo> {
    (1..=6).map(|n| veth(&format!("v{n}"), n)).collect()
}

fn control(config: &Config) -> Control<FakeKernel> {
    let mut control = Control::new(FakeKernel::default(), config);
    control.apply(config.clone(), &interfaces(), at(0)).unwrap();
    control
}

/// CSM-07: the tables say from which address of the node a pod hears of used-up hop counts, if there is one that
/// means something to it; and SVC-44: whether VIPs answer pings.
#[test]
fn csm_07_svc_44_the_tables_know_the_nodes_address_and_whether_vips_answer() {
    let pods = [
        ("a", "10.0.0.1", "v1"),
        ("b", "fd00::1", "v2"),
        ("c", "10.0.0.200", "v3"),
    ];
    let control = control(&config(&pods, ""));
    let tables = control.tables().load_full();
    let node = Address::from_v4([10, 0, 1, 0]);
    assert_eq!(tables.node_address(1, Family::V4), Some(node));
    assert_eq!(tables.node_address(1, Family::V6), None);
    assert_eq!(tables.node_address(2, Family::V6), None, "no route");
    assert_eq!(tables.node_address(3, Family::V4), None, "link-local");
    assert!(tables.vip_echo());
    // A service may have taken the address meanwhile: then it is no longer the node's to use.
    let service = SERVICE.replace("10.96.0.1", "10.0.1.0");
    let mut taken = config(&pods, &service);
    taken.node.vip_echo = false;
    let mut control = control;
    control.apply(taken, &interfaces(), at(1)).unwrap();
    let tables = control.tables().load_full();
    assert_eq!(tables.node_address(1, Family::V4), None);
    assert!(!tables.vip_echo());
}

const SERVICE: &str = "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nselector = { app = \"a\" }\n";

/// Addresses of pods that the hooks know; those without an interface are the hairpin addresses.
fn pods_of(kernel: &FakeKernel) -> usize {
    let known = kernel.endpoints.iter();
    known.filter(|(_, ifindex)| *ifindex != 0).count()
}

#[test]
fn amb_01_a_pod_that_leaves_drains_and_is_then_forgotten() {
    let both = config(&[("a", "10.0.0.1", "v1"), ("b", "10.0.0.2", "v2")], SERVICE);
    let mut control = control(&both);
    assert_eq!(control.kernel.attached, BTreeSet::from([1, 2]));

    let one = config(&[("a", "10.0.0.1", "v1")], SERVICE);
    let change = control.apply(one, &interfaces(), at(1)).unwrap();
    assert_eq!(
        change,
        Change {
            enrolled: vec![],
            draining: vec!["b".into()]
        }
    );
    assert_eq!(
        control.kernel.attached,
        BTreeSet::from([1, 2]),
        "its flows go on"
    );
    assert!(control.kernel.pods[&2].draining);

    control.end_drained(at(10)).unwrap();
    assert_eq!(
        control.kernel.attached,
        BTreeSet::from([1, 2]),
        "not before its time"
    );
    control.end_drained(at(11)).unwrap();
    assert_eq!(control.kernel.attached, BTreeSet::from([1]));
    assert_eq!(control.kernel.pods.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(pods_of(&control.kernel), 1);
}

#[test]
fn a_pod_that_comes_back_while_draining_keeps_its_slot_and_starts_a_new_grace() {
    let both = config(&[("a", "10.0.0.1", "v1"), ("b", "10.0.0.2", "v2")], "");
    let mut control = control(&both);
    let slot = control.registry.pods()[1].slot;
    control
        .apply(config(&[("a", "10.0.0.1", "v1")], ""), &interfaces(), at(1))
        .unwrap();
    control.apply(both, &interfaces(), at(5)).unwrap();
    let pod = &control.registry.pods()[1];
    assert_eq!((pod.slot, pod.draining_until), (slot, None));
    assert_eq!(pod.grace_until, at(65));
    assert!(!control.kernel.pods[&2].draining);
}

#[test]
fn an_unchanged_pod_keeps_its_grace_across_reloads() {
    let one = config(&[("a", "10.0.0.1", "v1")], "");
    let mut control = control(&one);
    control.apply(one, &interfaces(), at(30)).unwrap();
    assert_eq!(control.registry.pods()[0].grace_until, at(60));
}

#[test]
fn a_renamed_pod_is_the_same_pod() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], ""));
    let slot = control.registry.pods()[0].slot;
    control
        .apply(config(&[("z", "10.0.0.1", "v1")], ""), &interfaces(), at(1))
        .unwrap();
    assert_eq!(control.registry.pods().len(), 1);
    assert_eq!(control.registry.pods()[0].slot, slot);
}

#[test]
fn an_address_that_moves_to_another_interface_ends_the_flows_of_the_old_one() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], ""));
    let old = control.registry.pods()[0].slot;
    control
        .apply(config(&[("a", "10.0.0.1", "v2")], ""), &interfaces(), at(1))
        .unwrap();
    assert_eq!(
        control.registry.pods().len(),
        1,
        "nothing drains: the address is taken"
    );
    let epochs = control.registry.epochs();
    assert_ne!(
        epochs[old.slot as usize], old.epoch,
        "flows of the old pod are invalid"
    );
    let new = control.registry.pods()[0].slot;
    assert_eq!(
        epochs[new.slot as usize], new.epoch,
        "flows of the new one are valid"
    );
    assert_eq!(control.kernel.attached, BTreeSet::from([2]));
}

#[test]
fn a_deleted_interface_ends_its_pod_and_its_return_enrols_it_anew() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], SERVICE));
    let old = control.registry.pods()[0].slot;
    assert!(control.follow_interfaces(&[], at(1)).unwrap());
    assert_eq!(control.registry.pods()[0].ifindex, None);
    assert!(control.kernel.attached.is_empty() && control.kernel.endpoints.is_empty());
    assert_ne!(control.registry.epochs()[old.slot as usize], old.epoch);

    assert!(control.follow_interfaces(&[veth("v1", 9)], at(2)).unwrap());
    let pod = &control.registry.pods()[0];
    assert_eq!((pod.ifindex, pod.grace_until), (Some(9), at(62)));
    assert_eq!(
        control.registry.epochs()[pod.slot.slot as usize],
        pod.slot.epoch
    );
    assert_eq!(control.kernel.attached, BTreeSet::from([9]));
    assert!(
        !control.follow_interfaces(&[veth("v1", 9)], at(3)).unwrap(),
        "nothing changed"
    );
}

#[test]
fn slots_are_reused_under_a_new_epoch() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], ""));
    let old = control.registry.pods()[0].slot;
    control
        .apply(config(&[], ""), &interfaces(), at(1))
        .unwrap();
    control.end_drained(at(100)).unwrap();
    control
        .apply(
            config(&[("b", "10.0.0.2", "v2")], ""),
            &interfaces(),
            at(101),
        )
        .unwrap();
    let new = control.registry.pods()[0].slot;
    assert_eq!(old.slot, new.slot);
    assert_ne!(old.epoch, new.epoch);
}

#[test]
fn xds_04_a_change_that_the_kernel_refuses_leaves_everything_as_it_was() {
    let before = config(&[("a", "10.0.0.1", "v1")], SERVICE);
    let mut control = control(&before);
    control.kernel.refuse_attach = Some(3);
    let kernel = control.kernel.clone();
    let registry = control.registry.clone();
    let after = config(&[("b", "10.0.0.2", "v2"), ("c", "10.0.0.3", "v3")], "");
    control.apply(after, &interfaces(), at(1)).unwrap_err();
    assert_eq!(control.kernel, kernel);
    assert_eq!(control.registry.pods(), registry.pods());
    assert_eq!(control.registry.epochs(), registry.epochs());
    assert_eq!(**control.config(), before);
    let tables = control.tables.load();
    assert!(
        tables.vip(&"10.96.0.1".parse().unwrap()),
        "the old tables are published again"
    );
}

/// Flows may have been made under an epoch that was then put back.
#[test]
fn a_change_that_was_put_back_leaves_no_epoch_to_be_given_again() {
    let one = config(&[("a", "10.0.0.1", "v1")], "");
    let mut control = control(&one);
    let two = config(&[("a", "10.0.0.1", "v1"), ("b", "10.0.0.2", "v2")], "");
    let again = |control: &Control<FakeKernel>, seconds| {
        control.registry.with_pods(
            &two.pods,
            |_| false,
            links(&interfaces()),
            Control::<FakeKernel>::patience(&two),
            at(seconds),
        )
    };
    let refused = again(&control, 1).pods()[1].slot;
    control.kernel.refuse_services = true;
    control
        .apply(two.clone(), &interfaces(), at(1))
        .unwrap_err();
    let given = again(&control, 2).pods()[1].slot;
    assert_eq!(given.slot, refused.slot);
    assert_ne!(given.epoch, refused.epoch);
}

#[test]
fn a_new_interface_under_the_name_of_a_draining_pod_is_left_alone() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], ""));
    control
        .apply(config(&[], ""), &interfaces(), at(1))
        .unwrap();
    assert!(control.follow_interfaces(&[veth("v1", 9)], at(2)).unwrap());
    assert!(control.registry.pods().is_empty());
    assert!(control.kernel.attached.is_empty() && control.kernel.pods.is_empty());
}

/// AMB-02: a reply of a backend that just joined is translated from its first packet on.
#[test]
fn the_hooks_of_a_new_pod_are_on_before_the_workers_know_it() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], SERVICE));
    control.kernel.tables = Some(control.tables());
    control
        .apply(
            config(&[("a", "10.0.0.1", "v1"), ("b", "10.0.0.2", "v2")], SERVICE),
            &interfaces(),
            at(1),
        )
        .unwrap();
    assert_eq!(control.kernel.attached, BTreeSet::from([1, 2]));
}

prop_compose! {
    /// Pods on some of six interfaces, and perhaps a service over them.
    fn any_config()(
        pods in prop::collection::btree_map(1u32..=6, 1u8..=6, 0..5),
        service in any::<bool>(),
    ) -> Config {
        let mut used = BTreeSet::new();
        let pods: Vec<(String, String, String)> = pods
            .into_iter()
            .filter(|(_, address)| used.insert(*address))
            .map(|(v, address)| (format!("p{address}"), format!("10.0.0.{address}"), format!("v{v}")))
            .collect();
        let borrowed: Vec<(&str, &str, &str)> =
            pods.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
        config(&borrowed, if service { SERVICE } else { "" })
    }
}

proptest! {
    /// XDS-04: a reload is accepted if and only if a cold start with it works, and once the pods
    /// that left have drained, both leave the same behind.
    #[test]
    fn xds_04_a_reload_ends_where_a_cold_start_does(
        configs in prop::collection::vec(any_config(), 1..6),
        refuse in prop::option::of(1u32..=6),
    ) {
        let mut reloaded = Control::new(FakeKernel::default(), &configs[0]);
        let mut time = 0;
        for config in &configs {
            time += 1;
            let mut cold = Control::new(
                FakeKernel { refuse_attach: refuse, ..FakeKernel::default() },
                config,
            );
            // The fault is in the kernel, so it is there for both.
            reloaded.kernel.refuse_attach = refuse;
            let cold_start = cold.apply(config.clone(), &interfaces(), at(time));
            let was = reloaded.kernel.clone();
            let reload = reloaded.apply(config.clone(), &interfaces(), at(time));
            prop_assert_eq!(cold_start.is_ok(), reload.is_ok());
            if reload.is_err() {
                prop_assert_eq!(&reloaded.kernel, &was);
                continue;
            }
            time += 100;
            reloaded.end_drained(at(time)).unwrap();
            prop_assert_eq!(&reloaded.kernel, &cold.kernel);
        }
    }
}
