//! Which backends a service port has.

use super::super::{Config, PodIndex, ResolvedEndpoint};
use super::valid;

/// `address:port weight ready pod` of every backend of the first service's port.
fn backends(config: &Config, port: usize) -> Vec<String> {
    let service = &config.services[0];
    let resolved = service.endpoints_for(&service.ports[port], &PodIndex::new(&config.pods));
    let shown = |endpoint: ResolvedEndpoint| {
        let ResolvedEndpoint {
            address,
            port,
            weight,
            conditions,
            pod,
        } = endpoint;
        let ready = conditions.ready;
        format!("{address} {port} {weight} {ready} {pod:?}")
    };
    resolved.into_iter().map(shown).collect()
}

const PODS: &str = r#"
[[pod]]
name = "a"
ips = ["10.0.0.1", "fd00::1"]
interface = "veth1"
labels = { app = "web", version = "v1" }
ports = { http = 8080 }
[[pod]]
name = "b"
ip = "10.0.0.2"
interface = "veth2"
labels = { app = "web" }
[[pod]]
name = "c"
ip = "10.0.0.3"
interface = "veth3"
labels = { app = "db", version = "v1" }
ports = { http = 80 }
"#;

#[test]
fn a_selector_takes_the_pods_that_have_all_of_its_labels() {
    let config = valid(&format!(
        "{PODS}[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{{ port = 80, target_port = 9080 }}]\nselector = {{ app = \"web\" }}\n"
    ));
    assert_eq!(
        backends(&config, 0),
        [
            "10.0.0.1 9080 1 true Some(0)",
            "10.0.0.2 9080 1 true Some(1)"
        ]
    );
    let config = valid(&format!(
        "{PODS}[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{{ port = 80 }}]\nselector = {{ app = \"web\", version = \"v1\" }}\n"
    ));
    assert_eq!(backends(&config, 0), ["10.0.0.1 80 1 true Some(0)"]);
}

/// SVC-30: each family uses its own backends only.
#[test]
fn a_dual_stack_service_has_the_backends_of_both_families() {
    let service = |ips| {
        format!(
            "{PODS}[[service]]\nname = \"s\"\ncluster_ips = {ips}\nports = [{{ port = 80 }}]\nselector = {{ app = \"web\" }}\n"
        )
    };
    let both = valid(&service("[\"10.96.0.1\", \"fd01::1\"]"));
    assert_eq!(
        backends(&both, 0),
        [
            "10.0.0.1 80 1 true Some(0)",
            "fd00::1 80 1 true Some(0)",
            "10.0.0.2 80 1 true Some(1)"
        ]
    );
    let v6 = valid(&service("[\"fd01::1\"]"));
    assert_eq!(backends(&v6, 0), ["fd00::1 80 1 true Some(0)"]);
}

/// SVC-02: an endpoint without the named port is no backend of that port, and of others it is.
#[test]
fn endpoints_that_lack_a_named_port_are_left_out_of_that_port() {
    let ports = "ports = [{ name = \"web\", port = 80, target_port = \"http\" }, { name = \"dns\", port = 53, protocol = \"udp\" }]";
    let selected = valid(&format!(
        "{PODS}[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\n{ports}\nselector = {{ app = \"web\" }}\n"
    ));
    assert_eq!(backends(&selected, 0), ["10.0.0.1 8080 1 true Some(0)"]);
    assert_eq!(backends(&selected, 1).len(), 2);
    let listed = valid(&format!(
        "{PODS}[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\n{ports}\nendpoints = [\n  {{ address = \"10.0.0.3\", weight = 7 }},\n  {{ address = \"10.9.9.9\", ready = false, ports = {{ http = 81 }} }},\n  {{ address = \"fd00::9\", ports = {{ http = 82 }} }},\n]\n"
    ));
    assert_eq!(backends(&listed, 0), ["10.9.9.9 81 1 false None"]);
    assert_eq!(
        backends(&listed, 1),
        ["10.0.0.3 53 7 true Some(2)", "10.9.9.9 53 1 false None"]
    );
}

/// SVC-04: no backends is a valid state.
#[test]
fn a_service_may_have_no_backends() {
    let config = valid(
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nendpoints = []\n",
    );
    assert!(backends(&config, 0).is_empty());
}
