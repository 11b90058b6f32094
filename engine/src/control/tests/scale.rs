//! Generations as changes of the one before: they are what a cold start makes, and share the rest (SVC-45).

use std::fmt::Write;

use proptest::prelude::*;
use weft_datapath::{Pod, ServicePort, ServicePortSpec, SlotRef};

use super::*;
use crate::config::tests::generate;
use crate::config::{Earlier, parse_after};

/// `services` services of `endpoints` endpoints each; `without` lacks its first one.
fn text(services: usize, endpoints: usize, ports: usize, without: Option<usize>) -> String {
    let mut text = String::from("[node]\nname = \"n\"\n");
    for service in 0..services {
        let ports: Vec<String> = (0..ports)
            .map(|port| format!("{{ name = \"p{port}\", port = {} }}", 1000 + port))
            .collect();
        let first = usize::from(without == Some(service));
        let endpoints: Vec<String> = (first..endpoints)
            .map(|endpoint| {
                let [_, a, b, c] = ((service * endpoints + endpoint) as u32).to_be_bytes();
                format!("{{ address = \"10.{a}.{b}.{c}\" }}")
            })
            .collect();
        let [_, _, a, b] = (service as u32).to_be_bytes();
        let _ = write!(
            text,
            "[[service]]\nname = \"s{service}\"\ncluster_ip = \"172.16.{a}.{b}\"\nports = [{}]\nendpoints = [{}]\n",
            ports.join(", "),
            endpoints.join(", ")
        );
    }
    text
}

fn parsed(text: String) -> Config {
    let path = PathBuf::from("n.toml");
    parse(&[Source { path, text }]).unwrap()
}

/// As a reload reads it.
fn parsed_after(earlier: &Control<FakeKernel>, text: String) -> Config {
    let path = PathBuf::from("n.toml");
    parse_after(&[Source { path, text }], Some(earlier.config().as_ref())).unwrap()
}

/// What new flows are decided by. The sizes of Maglev tables depend on what was there before, and so do the
/// places of backends.
fn decisions(tables: &Tables) -> (Vec<ServicePortSpec>, Vec<Address>, Vec<Pod>) {
    let spec = |port: &&Arc<ServicePort>| {
        let sums =
            port.maglev().is_some() == (port.serves() && port.algorithm() == Default::default());
        assert!(sums, "{port:?}");
        let mut spec = port.spec().clone();
        for backend in &mut spec.backends {
            assert!(backend.member.as_member().is_some() && tables.holds(backend.member));
            backend.member = SlotRef::FIXED;
        }
        spec
    };
    let mut vips: Vec<Address> = tables.vips().collect();
    vips.sort_unstable();
    let services = tables.services();
    // Numbers are given in the order in which names turn up.
    let specs = services
        .iter()
        .map(spec)
        .map(|spec| ServicePortSpec { id: 0, ..spec });
    (specs.collect(), vips, tables.pods().to_vec())
}

/// `config` as a reload reads it.
fn reread(control: &Control<FakeKernel>, config: &Config) -> Config {
    let mut earlier = Earlier::new(Some(control.config().as_ref()));
    let services = config.services.iter();
    Config {
        services: services
            .map(|service| earlier.keep((**service).clone()))
            .collect(),
        ..config.clone()
    }
}

/// That what control made step by step is what it would make at once: the decisions, the backends that have
/// a place, and what the kernel knows.
fn same_as_cold(control: &Control<FakeKernel>, config: &Config) {
    let (mut names, mut slots) = (control.names().clone(), Slots::default());
    let cold = Compiled::nothing(config)
        .next(
            Arc::new(config.clone()),
            control.registry(),
            (&mut names, &mut slots),
            &mut Around::default(),
        )
        .unwrap();
    let tables = control.tables().load_full();
    assert_eq!(decisions(&tables), decisions(&cold.tables));
    assert_eq!(tables.epochs(), cold.tables.epochs());
    let places = control.slots.places();
    let cold_places = slots.places();
    assert_eq!(places.len(), cold_places.len());
    assert!(
        places.keys().all(|member| cold_places.contains_key(member)),
        "{places:?}"
    );
    let distinct: BTreeSet<u32> = places.values().copied().collect();
    assert_eq!(distinct.len(), places.len(), "one place each");
    for port in tables.services() {
        for backend in port.backends() {
            let member = (backend.address, backend.port, backend.slot);
            assert_eq!(
                backend.member.as_member(),
                places.get(&(port.id(), member)).copied()
            );
        }
    }
    assert_eq!(control.kernel.services, cold.services());
    assert_eq!(control.kernel.endpoints, cold.pods.endpoints());
}

proptest! {
    /// SVC-45: whatever led there, a generation decides as if it were the first.
    #[test]
    fn svc_45_a_change_makes_what_a_cold_start_makes(
        configs in prop::collection::vec(generate::config(), 2..6),
        present in prop::collection::vec(any::<[bool; 6]>(), 6),
    ) {
        let mut control = Control::new(FakeKernel::default(), &configs[0]);
        for (number, (config, present)) in configs.iter().zip(present).enumerate() {
            let time = number as u64 * 1_000_000;
            let interfaces: Vec<_> = (0..6u32)
                .filter(|index| present[*index as usize])
                .map(|index| veth(&format!("veth{index}"), index + 1))
                .collect();
            let read = reread(&control, config);
            prop_assert_eq!(&read.rehomed(), config);
            control.apply(read, &interfaces, at(time)).unwrap();
            same_as_cold(&control, config);
            // Interfaces that come and go between reloads change the same things.
            let fewer = &interfaces[..interfaces.len() / 2];
            control.follow_interfaces(fewer, at(time)).unwrap();
            same_as_cold(&control, config);
            control.follow_interfaces(&interfaces, at(time)).unwrap();
            // So do pods that leave or stand elsewhere, and what is put back leaves nothing behind.
            let mut other = config.clone();
            other.pods.truncate(config.pods.len() / 2);
            for pod in &mut other.pods {
                pod.conditions.ready ^= true;
            }
            for refuse in [true, false] {
                control.kernel.refuse_services = refuse;
                let other = reread(&control, if refuse { &configs[0] } else { &other });
                let refused = control.apply(other.clone(), &interfaces, at(time + 1));
                control.kernel.refuse_services = false;
                same_as_cold(&control, if refused.is_err() { config } else { &other });
                if refuse {
                    let read = reread(&control, config);
                    control.apply(read, &interfaces, at(time + 1)).unwrap();
                }
            }
            // And a pod that has drained, or one that has not when the next reload comes.
            if number % 2 == 0 {
                control.end_drained(at(time + 900_000)).unwrap();
                same_as_cold(&control, &other);
            }
        }
    }
}

#[test]
fn svc_45_what_a_reload_did_not_change_is_the_same_memory() {
    let before = parsed(text(50, 4, 1, None));
    let mut control = Control::new(FakeKernel::default(), &before);
    control.apply(before, &interfaces(), at(0)).unwrap();
    let old = control.tables().load_full();
    let service = Arc::clone(&control.config().services[7]);
    // One that all others stand behind, so that every line moves.
    let after = text(50, 4, 1, Some(3)).replacen("[[service]]", "\n\n[[service]]", 1);
    let after = parsed_after(&control, after);
    control.apply(after, &interfaces(), at(1)).unwrap();
    let new = control.tables().load_full();
    assert_eq!(new.generation, old.generation + 1);
    assert!(Arc::ptr_eq(&service, &control.config().services[7]));
    let ports = || old.services().into_iter().zip(new.services());
    let changed: Vec<Address> = ports()
        .filter(|(a, b)| !Arc::ptr_eq(a, b))
        .map(|(a, _)| a.address())
        .collect();
    assert_eq!(changed, ["172.16.0.3".parse().unwrap()]);

    // The old generation goes once no worker has it, and what both had stays.
    drop((service, old));
    control.collect_retired();
    assert_eq!(control.retired.len(), 0);
}

/// K-14: all ports of a service have one table.
#[test]
fn k_14_a_service_of_400_ports_has_one_maglev_table() {
    let before = parsed(text(1, 100, 400, None));
    let mut control = Control::new(FakeKernel::default(), &before);
    control.apply(before, &interfaces(), at(0)).unwrap();
    let after = parsed_after(&control, text(1, 100, 400, Some(0)));
    let began = Instant::now();
    control.apply(after, &interfaces(), at(1)).unwrap();
    let took = began.elapsed();
    let tables = control.tables().load_full();
    let services = tables.services();
    assert_eq!(services.len(), 400);
    let first = services[0].maglev().unwrap();
    assert!(
        services
            .iter()
            .all(|port| port.maglev().unwrap().shares(first))
    );
    assert!(services.iter().all(|port| port.backends().len() == 99));
    // 100 ms is the target on a quiet machine, which `cargo bench` measures.
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// A change of one endpoint among 100,000 looks at what changed: 5 ms are the target, which
/// `cargo bench` measures; a machine that builds meanwhile gets more.
#[test]
fn svc_45_one_endpoint_of_100_000_changes_without_a_walk_over_the_rest() {
    let before = parsed(text(10_000, 10, 1, None));
    let mut control = Control::new(FakeKernel::default(), &before);
    control.apply(before, &interfaces(), at(0)).unwrap();
    let mut fastest = Duration::MAX;
    for round in 0..3 {
        let after = parsed_after(&control, text(10_000, 10, 1, Some(round)));
        let began = Instant::now();
        control.apply(after, &interfaces(), at(1)).unwrap();
        fastest = fastest.min(began.elapsed());
        control.collect_retired();
    }
    assert!(fastest < Duration::from_millis(20), "{fastest:?}");
}
