//! What endpoints say of themselves and what becomes of their flows, as the tables get it.

use super::*;

/// What the flows of a service port's backends depend on, by address.
fn members(control: &Control<FakeKernel>) -> BTreeMap<String, weft_datapath::SlotRef> {
    let tables = control.tables.load();
    let backends = tables.services()[0].backends().iter();
    backends
        .map(|backend| (backend.address.to_string(), backend.member))
        .collect()
}

fn holds(control: &Control<FakeKernel>, slot: weft_datapath::SlotRef) -> bool {
    control.tables.load().holds(slot)
}

fn listed(addresses: &[&str]) -> String {
    let endpoints: Vec<String> = addresses
        .iter()
        .map(|address| format!("{{ address = \"{address}\" }}"))
        .collect();
    format!(
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{{ port = 80 }}]\nendpoints = [{}]\n",
        endpoints.join(", ")
    )
}

/// SVC-27: what flows to a removed endpoint depend on moves, and nobody else's does.
#[test]
fn svc27_only_the_removed_endpoints_place_moves() {
    let mut control = control(&config(&[], &listed(&["10.0.0.1", "10.0.0.2"])));
    let before = members(&control);
    let [one, two] = ["10.0.0.1", "10.0.0.2"].map(|address| before[address]);
    let reload = |control: &mut Control<FakeKernel>, services: &str| {
        let config = config(&[], services);
        control.apply(config, &interfaces(), at(1)).unwrap();
    };
    reload(&mut control, &listed(&["10.0.0.2", "10.0.0.3"]));
    assert!(!holds(&control, one) && holds(&control, two));
    assert_eq!(members(&control)["10.0.0.2"], two);
    reload(&mut control, &listed(&["10.0.0.1", "10.0.0.2"]));
    assert!(!holds(&control, one), "its flows of before are over");
    assert_ne!(members(&control)["10.0.0.1"], one);
    reload(&mut control, "");
    assert!(!holds(&control, two));
}

/// SVC-27 d: an endpoint by address keeps the flows of its pod while that drains, and has others after.
#[test]
fn svc27_a_pod_that_drains_keeps_its_flows_as_an_endpoint_by_address() {
    let services = listed(&["10.0.0.1"]);
    let enrolled = config(&[("a", "10.0.0.1", "v1")], &services);
    let mut control = control(&enrolled);
    let before = members(&control)["10.0.0.1"];
    control
        .apply(config(&[], &services), &interfaces(), at(1))
        .unwrap();
    let after = members(&control)["10.0.0.1"];
    assert!(before != after && holds(&control, before) && holds(&control, after));
    control.end_drained(at(11)).unwrap();
    assert!(!holds(&control, before) && holds(&control, after));
    assert_eq!(members(&control)["10.0.0.1"], after);
}

/// A refused change leaves every flow valid.
#[test]
fn svc27_a_change_that_is_put_back_moves_no_place() {
    let mut control = control(&config(&[], &listed(&["10.0.0.1"])));
    let before = members(&control);
    control.kernel.refuse_services = true;
    let other = config(&[], &listed(&["10.0.0.2"]));
    control.apply(other, &interfaces(), at(1)).unwrap_err();
    assert_eq!(members(&control), before);
    assert!(holds(&control, before["10.0.0.1"]));
}

/// SVC-21, SVC-22: conditions of endpoints and of selected pods, and what the service makes of them.
#[test]
fn svc21_conditions_reach_the_tables() {
    use weft_datapath::BackendState::{Ready, Terminating, Unready};
    let states = |text: &str| {
        let control = control(&config(&[], text));
        let tables = control.tables.load_full();
        let backends = tables.services()[0].backends().iter();
        backends
            .map(|backend| (backend.state, backend.weight))
            .collect::<Vec<_>>()
    };
    let service = |keys: &str| {
        format!(
            "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{{ port = 80 }}]\n{keys}\n"
        )
    };
    let endpoints = "endpoints = [{ address = \"10.0.0.1\", ready = false }, { address = \"10.0.0.2\", ready = false, serving = true, terminating = true }, { address = \"10.0.0.3\", ready = false, terminating = true }, { address = \"10.0.0.4\", terminating = true }, { address = \"10.0.0.5\", ready = false, serving = true }]";
    assert_eq!(
        states(&service(endpoints)),
        [
            (Unready, 0),
            (Terminating, 1),
            (Unready, 0),
            (Terminating, 1),
            (Unready, 0)
        ]
    );
    let published = format!("publish_not_ready_addresses = true\n{endpoints}");
    assert_eq!(
        states(&service(&published)),
        [
            (Ready, 1),
            (Terminating, 0),
            (Terminating, 0),
            (Terminating, 0),
            (Ready, 1)
        ]
    );
    let pod = "[[pod]]\nname = \"x\"\nip = \"10.0.0.9\"\ninterface = \"v6\"\nlabels = { app = \"b\" }\nready = false\n";
    let selected = service("selector = { app = \"b\" }");
    assert_eq!(states(&format!("{selected}{pod}")), [(Unready, 0)]);
}
