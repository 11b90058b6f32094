//! Errors and their texts.

use super::super::{ConfigError, parse};
use super::cases::CASES;
use super::{parse_one, source, valid};

#[test]
fn each_has_its_exact_text() {
    let mut wrong = String::new();
    for (text, expected) in CASES {
        let found = match parse_one(text) {
            Ok(config) => format!("accepted as {config:?}"),
            Err(errors) => errors.to_string(),
        };
        if found != *expected {
            wrong += &format!("{text}\nfound:\n{found}\nexpected:\n{expected}\n\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn too_many_workers() {
    let cores: Vec<String> = (0..65).map(|core: u32| core.to_string()).collect();
    let text = format!("[workers]\ncores = [{}]\n", cores.join(", "));
    let errors = parse_one(&text).unwrap_err().to_string();
    assert_eq!(
        errors,
        "node.toml:2: workers.cores: 65 elements, and there may be 64"
    );
}

#[test]
fn tables_of_one_file_only_name_both_places() {
    let errors = parse(&[
        source("a.toml", "[workers]\n\n[node]\nname = \"a\"\n"),
        source("b.toml", "\n[node]\nname = 3\n[workers]\n"),
    ]);
    assert_eq!(
        errors.unwrap_err().to_string(),
        "b.toml:2: node: may stand in one file only, and stands at a.toml:3 already\n\
         b.toml:3: node.name: expected a string, found a whole number\n\
         b.toml:4: workers: may stand in one file only, and stands at a.toml:1 already"
    );
}

#[test]
fn a_clash_over_two_files_names_both() {
    let pod = "[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"veth7\"\n";
    let errors = parse(&[
        source("a.toml", &format!("[node]\nname = \"a\"\n{pod}")),
        source(
            "b.toml",
            "[[pod]]\nname = \"x\"\nip = \"10.0.0.2\"\ninterface = \"veth8\"\n",
        ),
    ]);
    assert_eq!(
        errors.unwrap_err().to_string(),
        "b.toml:2: pod[0].name: \"x\" is already taken by pod[0].name at a.toml:4"
    );
}

#[test]
fn a_damaged_file_hides_no_errors_of_others_and_invents_none() {
    let errors = parse(&[
        source("a.toml", "[node\nname = \"a\"\n"),
        source("b.toml", "[workers]\nframes = 1\n"),
    ]);
    assert_eq!(
        errors.unwrap_err().to_string(),
        "a.toml:1: syntax: unclosed table, expected `]`\n\
         b.toml:2: workers.frames: 1 is not in 64..=16384"
    );
}

#[test]
fn no_files_are_no_configuration() {
    let errors = parse(&[]).unwrap_err().to_string();
    assert_eq!(errors, "(no file):1: node: required, but missing");
}

#[test]
fn as_json() {
    let errors = parse_one("[workers]\n\nframes = 0\n").unwrap_err();
    assert_eq!(
        serde_json::to_string(&errors).unwrap(),
        r#"[{"file":"node.toml","line":3,"key":"workers.frames","reason":"0 is not in 64..=16384"}]"#
    );
}

#[test]
fn long_texts_are_cut_and_stay_on_one_line() {
    let text = format!("[node]\nname = \"\\n{}\"\n", "x".repeat(1_000_000));
    let errors = parse_one(&text).unwrap_err();
    for ConfigError { reason, .. } in &errors {
        let reason = reason.to_string();
        assert!(reason.len() < 200 && !reason.contains('\n'), "{reason}");
    }
}

/// SVC-40, after the address list of Kubernetes' `funny_ips.go`.
#[test]
fn leading_zeros_are_refused_wherever_they_stand() {
    for address in [
        "010.0.0.1",
        "10.00.0.1",
        "10.0.000.1",
        "10.0.0.01",
        "10.0.0.08",
        "0127.0.0.1",
        "::ffff:010.0.0.1",
        "64:ff9b::10.0.0.01",
        "10.0.0.010/24",
    ] {
        for text in [
            format!("[[pod]]\nname = \"x\"\ninterface = \"v\"\nip = \"{address}\"\n"),
            format!("[[pod]]\nname = \"x\"\ninterface = \"v\"\nips = [\"{address}\"]\n"),
            format!(
                "[[service]]\nname = \"x\"\nports = [{{ port = 1 }}]\nendpoints = []\ncluster_ip = \"{address}\"\n"
            ),
            format!(
                "[[service]]\nname = \"x\"\nports = [{{ port = 1 }}]\ncluster_ip = \"10.96.0.1\"\nendpoints = [{{ address = \"{address}\" }}]\n"
            ),
        ] {
            let errors = parse_one(&text).unwrap_err();
            assert_eq!(errors.iter().len(), 1, "{errors}");
            let reason = errors.iter().next().unwrap().reason.to_string();
            assert_eq!(
                reason,
                format!(
                    "\"{address}\" has leading zeros, which are refused because they are ambiguous: some programs read them as octal"
                )
            );
        }
    }
}

#[test]
fn leading_zeros_of_hexadecimal_groups_are_plain() {
    let config = valid(
        "[[pod]]\nname = \"x\"\ninterface = \"v\"\nips = [\"fd00:0db8::0001\", \"10.0.0.1\"]\n",
    );
    assert_eq!(config.pods[0].addresses[0].to_string(), "fd00:db8::1");
}
