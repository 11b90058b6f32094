use std::net::IpAddr;
use std::sync::Arc;

use weft_datapath::Now;

use super::Layer7;
use crate::config::{self, Source};
use crate::control::{Around, Compiled, Link, Names, Patience, Registry, Slots};

const POD: [u8; 4] = [10, 244, 1, 1];
const IFINDEX: u32 = 7;

/// A pod, an address of nobody's and a pod of another node behind a service, with the node's address towards the pod.
fn compiled(source: &str, node: Option<IpAddr>) -> Arc<Layer7> {
    let text = format!(
        "[node]\nname = \"a\"\naddress = \"192.168.7.1\"\nuplink = \"eth0\"\n\
         [overlay]\npeer = [{{ name = \"b\", address = \"192.168.7.2\", pods = [\"10.244.2.0/24\"] }}]\n[[pod]]\nname = \"p\"\nip = \"10.244.1.1\"\ninterface = \"veth7\"\n\
         [[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = [{{ address = \"10.244.1.1\" }}, {{ address = \"10.9.9.9\" }}, {{ address = \"10.244.2.1\" }}]\n\
         ports = [{{ port = 80, stage = \"http\", source = \"{source}\" }}]\n"
    );
    let path = "node.toml".into();
    let config = Arc::new(config::parse(&[Source { path, text }]).unwrap());
    let patience = Patience {
        grace: config.node.enrolment_grace,
        drain: config.node.drain,
    };
    let link = |_: &str| {
        Some(Link {
            ifindex: IFINDEX,
            mtu: 1500,
        })
    };
    let now = Now::from_nanos(1);
    let registry =
        Registry::default().with_pods(&config.pods, |_: &IpAddr| false, link, patience, now);
    let mut around = Around::default();
    around
        .sources
        .follow([(POD.into(), IFINDEX)], |_| vec![node]);
    let (mut names, mut slots) = (Names::default(), Slots::default());
    let nothing = Compiled::nothing(&config);
    let next = nothing.next(config, &registry, (&mut names, &mut slots), &mut around);
    next.unwrap().layer7
}

#[test]
fn pods_without_an_address_of_the_node_are_told_of() {
    let node = || Some([10, 244, 1, 254].into());
    for (source, node, expected) in [
        ("node", None, &["10.244.1.1:80"][..]),
        ("node", node(), &[]),
        ("client", None, &[]),
    ] {
        let layer7 = compiled(source, node);
        let (_, service) = layer7.services().first_key_value().unwrap();
        let told: Vec<String> = service
            .addressless
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told, expected, "{source} {node:?}");
        let backend = service.config.backends.values().next().unwrap();
        let seeing = backend.endpoints.iter().filter(|one| one.sees_client);
        assert_eq!(seeing.count(), 2 + usize::from(node.is_none()));
    }
}
