//! How often the kernel is asked which address of the node a pod sees: when that may have changed (CSM-07).

use super::*;

const PODS: usize = 1000;

/// As many pods behind veths of their own, from the `first` on.
fn many(first: usize) -> (Config, Vec<InterfaceInfo>) {
    let mut text = String::from("[node]\nname = \"n\"\ndrain = \"10s\"\n");
    let mut interfaces = Vec::new();
    for number in first..first + PODS {
        let (high, low) = (number / 100, number % 100);
        text += &format!(
            "[[pod]]\nname = \"p{number}\"\nip = \"10.1.{high}.{low}\"\ninterface = \"v{number}\"\n"
        );
        interfaces.push(veth(&format!("v{number}"), number as u32 + 1));
    }
    let path = PathBuf::from("n.toml");
    (parse(&[Source { path, text }]).unwrap(), interfaces)
}

fn node(control: &Control<FakeKernel>, ifindex: u32) -> Option<Address> {
    let tables = control.tables().load_full();
    tables.node_address(ifindex, Family::V4)
}

#[test]
fn csm_07_the_kernel_is_asked_only_where_something_changed() {
    let (config, mut interfaces) = many(0);
    let mut control = Control::new(FakeKernel::default(), &config);
    let mut asked = 0;
    let mut questions = |control: &Control<FakeKernel>| {
        let before = std::mem::replace(&mut asked, control.kernel.asked.get());
        asked - before
    };
    control.apply(config.clone(), &interfaces, at(0)).unwrap();
    assert_eq!(questions(&control), PODS, "each once");
    // Reloads with and without a change of something else, and ticks of an idle node.
    for second in 1..10 {
        let mut config = config.clone();
        config.node.vip_echo = second % 2 == 0;
        control.apply(config, &interfaces, at(second)).unwrap();
        assert!(!control.follow_routes().unwrap());
    }
    assert_eq!(questions(&control), 0);
    // One new pod in the place of another, which drains and is known already.
    let (next, more) = many(1);
    interfaces.extend(more.into_iter().skip(PODS - 1));
    control.apply(next, &interfaces, at(10)).unwrap();
    assert_eq!(questions(&control), 1);
    // A pod's veth is replaced.
    interfaces[500].index = 5_000;
    control.follow_interfaces(&interfaces, at(11)).unwrap();
    assert_eq!(questions(&control), 1);
    assert_eq!(node(&control, 5_000), Some(Address::from_v4([10, 0, 1, 0])));
}

#[test]
fn csm_07_a_new_address_of_the_node_reaches_every_pod_in_bounded_steps() {
    let (config, interfaces) = many(0);
    let mut control = Control::new(FakeKernel::default(), &config);
    control.apply(config, &interfaces, at(0)).unwrap();
    let generation = |control: &Control<FakeKernel>| control.tables().load().generation;
    let first = generation(&control);
    // Routes come and go, and no answer is another: no new tables.
    control.routes_changed();
    for _ in 0..20 {
        let before = control.kernel.asked.get();
        assert!(!control.follow_routes().unwrap());
        assert!(control.kernel.asked.get() - before <= SOURCES_AT_ONCE);
    }
    assert_eq!(control.kernel.asked.get(), 2 * PODS, "each once more");
    assert_eq!(generation(&control), first);

    control.kernel.node = 9;
    let new = Some(Address::from_v4([10, 0, 1, 9]));
    let steps = PODS.div_ceil(SOURCES_AT_ONCE);
    for _ in 0..steps {
        control.routes_changed(); // Again and again: who was not asked yet has its turn all the same.
        assert!(control.follow_routes().unwrap());
    }
    assert!((1..=PODS as u32).all(|ifindex| node(&control, ifindex) == new));
    assert_eq!(generation(&control), first + steps as u64);
}
