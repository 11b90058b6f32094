//! The MTU of a pod's veth, which may change at any time (K-01).

use super::*;

fn link(mtu: u32) -> InterfaceInfo {
    InterfaceInfo {
        mtu,
        ..veth("v1", 1)
    }
}

#[test]
fn k_01_the_workers_know_the_mtu_of_a_pods_veth() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], SERVICE));
    let mtu = |control: &Control<FakeKernel>| {
        let tables = control.tables().load_full();
        tables.pod_by_ifindex(1).map(|pod| pod.mtu)
    };
    let pod = control.registry.pods()[0].clone();
    assert_eq!(mtu(&control), Some(1500));
    assert!(control.follow_interfaces(&[link(1400)], at(1)).unwrap());
    assert_eq!(mtu(&control), Some(1400));
    let now = &control.registry.pods()[0];
    assert_eq!((now.slot, now.grace_until), (pod.slot, pod.grace_until));
    assert!(!control.follow_interfaces(&[link(1400)], at(2)).unwrap());
    // A reload looks, too.
    let reloaded = config(&[("a", "10.0.0.1", "v1")], SERVICE);
    control.apply(reloaded, &[link(1300)], at(3)).unwrap();
    assert_eq!(mtu(&control), Some(1300));
    // So does what happens to a pod that drains.
    control
        .apply(config(&[], ""), &[link(1300)], at(4))
        .unwrap();
    assert!(control.follow_interfaces(&[link(1200)], at(5)).unwrap());
    assert_eq!(mtu(&control), Some(1200));
}

#[test]
fn a_pod_whose_mtu_outgrows_the_pair_is_the_kernels() {
    let mut control = control(&config(&[("a", "10.0.0.1", "v1")], SERVICE));
    assert!(control.follow_interfaces(&[link(9000)], at(1)).unwrap());
    assert!(control.kernel.attached.is_empty());
    assert!(control.follow_interfaces(&[veth("v1", 1)], at(2)).unwrap());
    assert_eq!(control.kernel.attached, BTreeSet::from([1]));
}
