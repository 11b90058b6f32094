//! Any text as a configuration: it is refused with a place and a reason, or a node can start with it.

use std::net::IpAddr;
use std::sync::Arc;

use weft::config::{self, Config, Errors, Source};
use weft::control::{Around, Compiled, Link, Names, Patience, Registry, Slots};
use weft_datapath::{Address, Now, ServicePort};

/// A line of this divides the text into files.
const NEXT_FILE: &str = "#---\n";
const FILES_MAX: usize = 3;

/// What a node runs before a reload brings the text: pods and services that the text may keep, change or drop.
const BEFORE: &str = r#"
[node]
name = "a"
[[pod]]
name = "x"
ip = "10.0.0.1"
interface = "veth0"
labels = { app = "web" }
[[pod]]
name = "y"
ips = ["10.0.0.2", "fd00::2"]
interface = "veth1"
labels = { app = "web" }
[[service]]
name = "s"
cluster_ips = ["10.96.0.1", "fd00:96::1"]
ports = [{ port = 80 }]
selector = { app = "web" }
"#;

/// One case.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let sources: Vec<Source> = text
        .splitn(FILES_MAX, NEXT_FILE)
        .zip(["a.toml", "b.toml", "c.toml"])
        .map(|(text, path)| Source {
            path: path.into(),
            text: text.to_owned(),
        })
        .collect();
    match config::parse(&sources) {
        Ok(config) => starts(&config),
        Err(errors) => refused(&errors, &sources),
    }
}

/// XDS-04: a configuration that is accepted works, on a node that starts and on one that runs.
fn starts(config: &Config) {
    let nothing = Compiled::nothing(config);
    let registry = enrol(config, &Registry::default());
    let (mut names, mut slots) = Default::default();
    let cold = compile(config, &registry, &nothing, (&mut names, &mut slots)).tables;
    assert_eq!(cold.pods().len(), config.pods.len());
    let before = config::parse(&[Source {
        path: "before.toml".into(),
        text: BEFORE.to_owned(),
    }])
    .expect("a valid configuration");
    let running = enrol(&before, &Registry::default());
    let (mut names, mut slots) = Default::default();
    let old = Compiled::nothing(&before);
    let old = compile(&before, &running, &old, (&mut names, &mut slots));
    let registry = enrol(config, &running);
    let warm = compile(config, &registry, &old, (&mut names, &mut slots)).tables;
    assert_eq!(warm.services().len(), cold.services().len());
    for (cold, warm) in cold.services().iter().zip(warm.services()) {
        let key = |port: &ServicePort| (port.address(), port.port(), port.proto());
        assert_eq!(key(cold), key(warm));
        assert_eq!(cold.serves(), warm.serves());
        let ends = |port: &ServicePort| -> Vec<(Address, u16, u16)> {
            let backends = port.backends().iter();
            backends.map(|b| (b.address, b.port, b.weight)).collect()
        };
        assert_eq!(ends(cold), ends(warm));
    }
}

/// Every interface exists, each name under its own index.
fn enrol(config: &Config, registry: &Registry) -> Registry {
    let patience = Patience {
        grace: config.node.enrolment_grace,
        drain: config.node.drain,
    };
    let is_vip = |address: &IpAddr| {
        let mut services = config.services.iter();
        services.any(|service| service.cluster_ips.contains(address))
    };
    let link = |name: &str| {
        let configured = config.pods.iter().map(|pod| pod.interface.as_str());
        let mut names = ["veth0", "veth1"].into_iter().chain(configured);
        names.position(|known| known == name).map(|at| Link {
            ifindex: at as u32 + 1,
            mtu: 1500,
        })
    };
    registry.with_pods(&config.pods, is_vip, link, patience, Now::from_nanos(1))
}

fn compile(
    config: &Config,
    registry: &Registry,
    before: &Compiled,
    (names, slots): (&mut Names, &mut Slots),
) -> Compiled {
    match before.next(
        Arc::new(config.clone()),
        registry,
        (names, slots),
        &mut Around::default(),
    ) {
        Ok(compiled) => {
            slots.keep();
            compiled
        }
        Err(error) => panic!("accepted, but: {error}"),
    }
}

/// Each error stands on one line, as `file:line: key: reason`, and names a line that there is.
fn refused(errors: &Errors, sources: &[Source]) {
    assert!(errors.iter().len() > 0);
    assert!(errors.iter().is_sorted_by_key(|error| &error.at));
    for error in errors {
        let shown = error.to_string();
        assert!(!shown.contains('\n'), "{shown:?}");
        let source = sources.iter().find(|source| *source.path == *error.at.file);
        let text = &source.expect("a file that there is").text;
        let lines = text.matches('\n').count() + 1;
        assert!((1..=lines).contains(&error.at.line), "{shown}");
        let place = format!(
            "{}:{}: {}: ",
            error.at.file.display(),
            error.at.line,
            error.at.key
        );
        assert!(!error.at.key.is_empty(), "{shown}");
        assert!(
            shown
                .strip_prefix(&place)
                .is_some_and(|reason| !reason.is_empty()),
            "{shown}"
        );
    }
}
