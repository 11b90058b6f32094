//! The documentation and the example say what the code does.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};

use super::super::{ACCEPTED, PodIndex, RESTART_KEYS, Reason};
use super::cases::CASES;
use super::{parse_one, valid};

const DOCUMENTATION: &str = include_str!("../../../../docs/config.md");
const QUICKSTART: &str = include_str!("../../../../configs/quickstart.toml");

/// The part of the documentation under the headline that names `table`.
fn section(table: &str) -> &'static str {
    let (headline, level) = match table.split_once('.') {
        Some(("overlay", _)) => (format!("\n### `[[{table}]]`\n"), "\n##"),
        Some((service, key)) => (format!("\n### `{key}` of a {service}\n"), "\n##"),
        None if matches!(table, "pod" | "service") => (format!("\n## `[[{table}]]`"), "\n##"),
        None => (format!("\n## `[{table}]`"), "\n##"),
    };
    let start = DOCUMENTATION.find(&headline);
    let start = start.unwrap_or_else(|| panic!("no headline {headline:?}")) + headline.len();
    let text = &DOCUMENTATION[start..];
    &text[..text.find(level).unwrap_or(text.len())]
}

#[test]
fn every_key_has_a_row_and_every_row_a_key() {
    for (table, keys) in ACCEPTED.iter().filter(|(table, _)| !table.is_empty()) {
        let rows: HashSet<&str> = section(table)
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(key, _)| key)
            .collect();
        assert_eq!(rows, keys.iter().copied().collect(), "[{table}]");
    }
}

#[test]
fn the_keys_that_wait_for_a_restart_are_marked() {
    let marked: HashSet<String> = ["node", "workers"]
        .into_iter()
        .flat_map(|table| section(table).lines().map(move |line| (table, line)))
        .filter(|(_, line)| line.ends_with("| **restart** |"))
        .map(|(table, line)| format!("{table}.{}", line.split('`').nth(1).unwrap()))
        .collect();
    assert_eq!(marked, RESTART_KEYS.map(str::to_owned).into());
}

/// Lines of the `text` blocks under "Errors".
fn documented_errors() -> HashSet<&'static str> {
    let (_, errors) = DOCUMENTATION.split_once("\n## Errors\n").unwrap();
    errors
        .split("```text\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap().lines())
        .collect()
}

/// Errors of files, of the machine and of long lists, whose texts are tested with their checks.
const ELSEWHERE: [&str; 11] = [
    "node.toml:2: workers.cores: 65 elements, and there may be 64",
    "node.toml:16385: pod[4096]: up to here there are 4097 pods, and there may be 4096",
    "node.toml:13: service[2]: up to here there are 65538 cluster IPs and ports of cluster IPs, and there may be 65536",
    "node.toml:2: workers.cores: core 7 is not available on this machine, which has 0, 1",
    "node.toml:10: pod[1].interface: interface \"eth0\" is not a veth",
    "node.toml:4: pod[0].interface: interface \"weft0\" is a veth whose other end is in this network namespace, not in a pod",
    "node.toml:14: pod[2].interface: there is no interface \"veth3\"",
    "node.toml:18: pod[3].interface: interface \"veth4\" has MTU 3507, and at most 3506 fits a frame",
    "a.toml:1: file: cannot be read: No such file or directory (os error 2)",
    "c.toml:2: file: not UTF-8 text",
    "b.toml:2: node: may stand in one file only, and stands at a.toml:3 already",
];

#[test]
fn every_kind_of_error_has_an_example_that_is_true() {
    let mut documented = documented_errors();
    for line in ELSEWHERE {
        assert!(documented.remove(line), "not in the documentation: {line}");
    }
    let mut kinds: HashSet<Discriminant<Reason>> = HashSet::new();
    let mut shown: HashSet<Discriminant<Reason>> = HashSet::new();
    let mut seen = HashSet::new();
    for (text, _) in CASES {
        for error in &parse_one(text).unwrap_err() {
            kinds.insert(discriminant(&error.reason));
            if let Some(&line) = documented.get(error.to_string().as_str()) {
                shown.insert(discriminant(&error.reason));
                seen.insert(line);
            }
        }
    }
    let untrue: Vec<_> = documented.difference(&seen).collect();
    assert!(untrue.is_empty(), "no such error: {untrue:#?}");
    let missing = CASES.iter().flat_map(|(text, _)| {
        let errors = parse_one(text).unwrap_err();
        let missing = errors
            .iter()
            .filter(|e| !shown.contains(&discriminant(&e.reason)));
        missing.map(ToString::to_string).collect::<Vec<_>>()
    });
    assert_eq!(
        shown.len(),
        kinds.len(),
        "without example: {:#?}",
        missing.collect::<Vec<_>>()
    );
}

/// The labs run `weft check` on them besides, on a machine that has their interfaces.
#[test]
fn every_example_is_valid_and_linked_to() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    let layer7 = include_str!("../../../../docs/l7.md");
    let mut read = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        let config = valid(&std::fs::read_to_string(&path).unwrap());
        let http = config.services.iter().any(|service| service.is_http());
        let page = if http { layer7 } else { DOCUMENTATION };
        assert!(page.contains(&format!("](../configs/{name})")), "{name}");
        read += 1;
    }
    assert!(read >= 2);
}

/// What is written as TOML in the documentation is a piece of a valid configuration.
#[test]
fn the_routes_of_the_documentation_are_valid() {
    let (_, rest) = DOCUMENTATION.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let others = ["v1", "v2", "v3"].map(|version| {
        format!("[[service]]\nname = \"default/reviews-{version}\"\ncluster_ip = \"10.96.1.{}\"\nendpoints = []\nports = [{{ port = 80 }}]\n", &version[1..])
    });
    let config = valid(&format!("{text}\n{}", others.concat()));
    assert!(config.services[0].is_http());
}

#[test]
fn the_quickstart_is_valid() {
    let config = valid(QUICKSTART);
    assert_eq!(config.pods.len(), 3);
    let service = &config.services[0];
    let backends = service.endpoints_for(&service.ports[0], &PodIndex::new(&config.pods));
    let shown: Vec<String> = backends
        .iter()
        .map(|backend| format!("{} {}", backend.address, backend.port))
        .collect();
    assert_eq!(
        shown,
        [
            "10.244.1.10 8080",
            "fd00:244:1::10 8080",
            "10.244.1.11 8081",
            "fd00:244:1::11 8081"
        ]
    );
}
