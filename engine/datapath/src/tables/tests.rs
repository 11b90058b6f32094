use super::*;

fn address(last: u8) -> Address {
    Address::from_v4([10, 244, 0, last])
}

fn backend(last: u8, port: u16, weight: u16) -> Backend {
    Backend {
        address: address(last),
        port,
        path: BackendPath::Kernel,
        slot: SlotRef::FIXED,
        member: SlotRef::FIXED,
        state: BackendState::Ready,
        weight,
        name: None,
    }
}

fn spec(port: u16, proto: Protocol, backends: Vec<Backend>) -> ServicePortSpec {
    let address = Address::from_v4([10, 96, 0, 80]);
    ServicePortSpec {
        id: 1,
        address,
        port,
        proto,
        algorithm: Algorithm::Maglev,
        backends,
        options: ServiceOptions::default(),
    }
}

fn pod(ifindex: u32, last: u8) -> Pod {
    let state = PodState::Enrolled {
        grace_until: Now::default(),
    };
    Pod {
        ifindex,
        name: Box::default(),
        addresses: [address(last)].into_iter().collect(),
        slot: SlotRef::FIXED,
        state,
        mtu: 1500,
    }
}

fn build(specs: Vec<ServicePortSpec>, pods: Vec<Pod>) -> Result<Tables, BuildError> {
    let mut builder = TablesBuilder::new();
    for spec in specs {
        builder.add_service_port(spec);
    }
    for pod in pods {
        builder.add_pod(pod);
    }
    builder.build(1)
}

/// SVC-01: the same port number on TCP and UDP are two service ports.
#[test]
fn svc_01_protocols_are_independent() {
    let tables = build(
        vec![
            spec(53, Protocol::Tcp, vec![backend(1, 53, 1)]),
            spec(53, Protocol::Udp, vec![backend(2, 53, 1)]),
        ],
        vec![],
    )
    .unwrap();
    let vip = Address::from_v4([10, 96, 0, 80]);
    let first = |proto| tables.service(&vip, 53, proto).unwrap().backends()[0].address;
    assert_eq!(
        (first(Protocol::Tcp), first(Protocol::Udp)),
        (address(1), address(2))
    );
    assert!(tables.vip(&vip) && !tables.vip(&address(1)));
    assert!(tables.service(&vip, 54, Protocol::Tcp).is_none());
}

#[test]
fn ports_with_the_same_backends_share_one_maglev_table() {
    let set = |port| vec![backend(2, port, 1), backend(1, port, 1)];
    let tables = build(
        vec![
            spec(80, Protocol::Tcp, set(8080)),
            spec(443, Protocol::Tcp, set(8443)),
        ],
        vec![],
    )
    .unwrap();
    let [a, b] = tables.services()[..] else {
        panic!()
    };
    assert!(a.maglev().unwrap().shares(b.maglev().unwrap()));
}

#[test]
fn an_unchanged_set_keeps_its_table_across_generations() {
    let first = build(
        vec![spec(
            80,
            Protocol::Tcp,
            vec![backend(1, 80, 1), backend(2, 80, 1)],
        )],
        vec![],
    )
    .unwrap();
    let mut builder = TablesBuilder::following(&first);
    builder.add_service_port(spec(
        80,
        Protocol::Tcp,
        vec![backend(2, 81, 1), backend(1, 81, 1)],
    ));
    let second = builder.build(2).unwrap();
    let table = |tables: &Tables| tables.services()[0].maglev().unwrap().clone();
    assert!(
        table(&first).shares(&table(&second)),
        "other ports, same addresses"
    );
    let mut builder = TablesBuilder::following(&second);
    builder.add_service_port(spec(
        80,
        Protocol::Tcp,
        vec![backend(1, 81, 1), backend(2, 81, 2)],
    ));
    assert!(
        !table(&first).shares(&table(&builder.build(3).unwrap())),
        "another weight"
    );
}

/// SVC-43 across generations: a set that shrinks below a size's threshold keeps its size.
#[test]
fn svc_43_a_shrinking_set_keeps_its_size() {
    let set = |count: u8| (1..=count).map(|last| backend(last, 80, 1)).collect();
    let first = build(vec![spec(80, Protocol::Tcp, set(11))], vec![]).unwrap();
    let mut builder = TablesBuilder::following(&first);
    builder.add_service_port(spec(80, Protocol::Tcp, set(10)));
    let second = builder.build(2).unwrap();
    let size = |tables: &Tables| tables.services()[0].maglev().unwrap().size();
    assert_eq!((size(&first), size(&second)), (16_381, 16_381));
}

/// SVC-42: a weighted round robin interleaves, and weight 0 takes nothing.
#[test]
fn svc_42_the_schedule_follows_the_weights_smoothly() {
    let compile = |weights: &[u16]| {
        let backends = weights
            .iter()
            .enumerate()
            .map(|(i, weight)| backend(i as u8 + 1, 80, *weight))
            .collect();
        let spec = ServicePortSpec {
            algorithm: Algorithm::RoundRobin,
            ..spec(80, Protocol::Tcp, backends)
        };
        build(vec![spec], vec![]).unwrap().services()[0]
            .schedule
            .to_vec()
    };
    assert_eq!(compile(&[7, 7, 7]), [0, 1, 2]);
    assert_eq!(compile(&[10, 20, 0]), [1, 0, 1]);
    assert_eq!(compile(&[0, 0]), Vec::<u16>::new());
    let long = compile(&[65535, 1, 32768]);
    assert!(long.len() <= 4097 && long.contains(&1), "{}", long.len());
}

#[test]
fn what_cannot_be_is_refused() {
    let tcp = |port, backends| spec(port, Protocol::Tcp, backends);
    let error = |specs, pods| build(specs, pods).unwrap_err();
    assert!(matches!(
        error(vec![tcp(80, vec![]), tcp(80, vec![])], vec![]),
        BuildError::DuplicateService { .. }
    ));
    assert!(matches!(
        error(vec![tcp(0, vec![])], vec![]),
        BuildError::PortZero { .. }
    ));
    let twice = vec![backend(1, 80, 1), backend(1, 80, 2)];
    assert!(matches!(
        error(vec![tcp(80, twice)], vec![]),
        BuildError::DuplicateBackend { .. }
    ));
    let six = Backend {
        address: "fd00::1".parse().unwrap(),
        ..backend(1, 80, 1)
    };
    assert!(matches!(
        error(vec![tcp(80, vec![six])], vec![]),
        BuildError::Family { .. }
    ));
    assert!(matches!(
        error(vec![], vec![pod(1, 1), pod(1, 2)]),
        BuildError::DuplicateInterface { .. }
    ));
    assert!(matches!(
        error(vec![], vec![pod(1, 1), pod(2, 1)]),
        BuildError::DuplicateAddress { .. }
    ));
    assert!(matches!(
        error(vec![], vec![pod(1 << 24, 1)]),
        BuildError::InterfaceRange { .. }
    ));
    assert!(matches!(
        error(vec![], vec![pod(0, 1)]),
        BuildError::InterfaceRange { .. }
    ));
    let many = (0..=u16::MAX).map(|port| backend(1, port, 1)).collect();
    assert!(matches!(
        error(vec![tcp(80, many)], vec![]),
        BuildError::TooManyBackends { .. }
    ));
}

#[test]
fn pods_are_found_by_interface_and_by_address() {
    let tables = build(vec![], vec![pod(7, 1), pod(5, 2)]).unwrap();
    assert_eq!(tables.pod_by_ifindex(7).unwrap().addresses[0], address(1));
    assert_eq!(tables.pod_by_address(&address(2)).unwrap().ifindex, 5);
    assert!(tables.pod_by_address(&address(3)).is_none() && tables.pod_by_ifindex(6).is_none());
}
