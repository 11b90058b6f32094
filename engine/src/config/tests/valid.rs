//! Values and defaults.

use std::time::Duration;

use super::super::{
    Algorithm, Backends, Conditions, FastPath, Poll, Protocol, Stage, TargetPort, Workers,
};
use super::valid;

#[test]
fn defaults() {
    let config = valid("[node]\nname = \"a\"\n");
    assert_eq!(config.node.drain, Duration::from_secs(30));
    assert_eq!(config.node.enrolment_grace, Duration::from_secs(600));
    assert!(config.node.vip_echo);
    assert_eq!(
        config.workers,
        Workers {
            cores: vec![0],
            cores_at: config.workers.cores_at.clone(),
            poll: Poll::Adaptive,
            fast_path: FastPath::Full,
            max_flows: 262_144,
            frames: 8_192,
            heartbeat: Duration::from_millis(100),
            punt_rate: 400_000,
        }
    );
    let config = valid(
        "[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"v\"\n\
         [[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nendpoints = [{ address = \"10.0.0.2\" }]\n",
    );
    assert!(config.pods[0].labels.is_empty() && config.pods[0].ports.is_empty());
    assert_eq!(config.pods[0].punt_rate, None);
    let service = &config.services[0];
    assert_eq!(service.algorithm, Algorithm::Maglev);
    let port = &service.ports[0];
    assert_eq!((port.name.as_deref(), port.protocol), (None, Protocol::Tcp));
    assert_eq!(port.target_port, TargetPort::Number(80));
    assert_eq!(port.stage, Stage::L4);
    let Backends::Endpoints(endpoints) = &service.backends else {
        panic!("{:?}", service.backends);
    };
    assert!(endpoints[0].conditions == Conditions::default() && endpoints[0].ports.is_empty());
    assert_eq!(endpoints[0].weight, 1);
}

#[test]
fn durations_have_four_units() {
    for (text, milliseconds) in [
        ("0s", 0),
        ("100ms", 100),
        ("30s", 30_000),
        ("10m", 600_000),
        ("1h", 3_600_000),
        ("007s", 7_000),
    ] {
        let config = valid(&format!("[node]\nname = \"a\"\ndrain = \"{text}\"\n"));
        assert_eq!(config.node.drain, Duration::from_millis(milliseconds));
    }
}

#[test]
fn tables_may_be_written_in_every_way_of_toml() {
    let inline = valid(
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nselector = { app = \"a\" }\n",
    );
    let spread = valid(
        "[[service]]\nname = 's'\ncluster_ip = \"\"\"10.96.0.1\"\"\"\nselector.app = \"a\"\n[[service.ports]]\nport = 0x50\n",
    );
    assert_eq!(inline.services[0].ports, spread.services[0].ports);
    assert_eq!(inline.services[0].backends, spread.services[0].backends);
    assert_eq!(
        inline.services[0].cluster_ips,
        spread.services[0].cluster_ips
    );
    assert_eq!(valid("node.name = \"a\"\n").node.name, "a");
}

/// Kubernetes has one port number for TCP and UDP often enough: DNS.
#[test]
fn tcp_and_udp_ports_are_independent() {
    let config = valid(
        "[[service]]\nname = \"dns\"\ncluster_ip = \"10.96.0.10\"\nendpoints = []\nports = [{ name = \"tcp\", port = 53 }, { name = \"udp\", port = 53, protocol = \"udp\" }]\n",
    );
    assert_eq!(config.services[0].ports.len(), 2);
}

#[test]
fn services_may_share_an_address_on_different_ports() {
    let config = valid(
        "[[service]]\nname = \"a\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nendpoints = []\n\
         [[service]]\nname = \"b\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 81 }]\nendpoints = []\n",
    );
    assert_eq!(config.services.len(), 2);
}

#[test]
fn several_endpoints_may_be_pods_of_this_node() {
    let config = valid(
        "[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"v\"\n\
         [[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nendpoints = [{ address = \"10.0.0.1\" }]\n",
    );
    assert_eq!(config.pods[0].at.to_string(), "node.toml:1: pod[0]");
}
