//! Checks against a machine, and changes that wait for a restart.

use super::super::{Errors, InterfaceInfo, check_cores, check_interfaces, restart_keys};
use super::valid;

fn interface(index: u32, name: &str, mtu: u32, is_veth: bool) -> InterfaceInfo {
    InterfaceInfo {
        index,
        name: name.to_owned(),
        mtu,
        is_veth,
        peer_elsewhere: is_veth,
    }
}

const TEXT: &str = "[workers]
cores = [0, 1, 7]
[[pod]]
name = \"a\"
ip = \"10.0.0.1\"
interface = \"veth1\"
[[pod]]
name = \"b\"
ip = \"10.0.0.2\"
interface = \"eth0\"
[[pod]]
name = \"c\"
ip = \"10.0.0.3\"
interface = \"veth3\"
[[pod]]
name = \"d\"
ip = \"10.0.0.4\"
interface = \"veth4\"
";

#[test]
fn every_interface_is_checked() {
    let config = valid(TEXT);
    let interfaces = [
        interface(1, "eth0", 1500, false),
        interface(2, "veth1", 3506, true),
        interface(3, "veth4", 3507, true),
    ];
    let errors = check_interfaces(&config, &interfaces, 3506).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "node.toml:10: pod[1].interface: interface \"eth0\" is not a veth\n\
         node.toml:14: pod[2].interface: there is no interface \"veth3\"\n\
         node.toml:18: pod[3].interface: interface \"veth4\" has MTU 3507, and at most 3506 fits a frame"
    );
}

#[test]
fn a_veth_has_to_lead_into_another_namespace() {
    let text = "[[pod]]\nname = \"a\"\nip = \"10.0.0.1\"\ninterface = \"weft0\"\n";
    let here = InterfaceInfo {
        peer_elsewhere: false,
        ..interface(1, "weft0", 1500, true)
    };
    let errors = check_interfaces(&valid(text), &[here], 3506).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "node.toml:4: pod[0].interface: interface \"weft0\" is a veth whose other end is in this network namespace, not in a pod"
    );
}

#[test]
fn every_core_is_checked() {
    let config = valid(TEXT);
    assert_eq!(check_cores(&config, &[0, 1, 7]), Ok(()));
    let errors = check_cores(&config, &[0, 1]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "node.toml:2: workers.cores: core 7 is not available on this machine, which has 0, 1"
    );
    let unconfigured = valid("[node]\nname = \"a\"\n");
    let errors = check_cores(&unconfigured, &[2]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "node.toml:1: workers.cores: core 0 is not available on this machine, which has 2"
    );
}

#[test]
fn the_errors_of_several_checks_come_sorted() {
    let config = valid(TEXT);
    let interfaces = check_interfaces(&config, &[], 1500);
    let errors = Errors::all([interfaces, Ok(()), check_cores(&config, &[0, 1])]);
    let lines: Vec<usize> = errors.unwrap_err().iter().map(|e| e.at.line).collect();
    assert_eq!(lines, [2, 6, 10, 14, 18]);
    assert_eq!(Errors::all([Ok(()), Ok(())]), Ok(()));
}

#[test]
fn keys_that_wait_for_a_restart() {
    let old = valid("[workers]\n");
    for (text, keys) in [
        ("[workers]\npunt_rate = 5\n", &[][..]),
        (
            "[workers]\nheartbeat = \"1s\"\npoll = \"spin\"\n",
            &["workers.poll", "workers.heartbeat"],
        ),
        ("[workers]\ncores = [1]\n", &["workers.cores"]),
        ("[workers]\nframes = 64\n", &["workers.frames"]),
        (
            "[workers]\nmax_flows = 64\nframes = 64\n",
            &["workers.max_flows", "workers.frames"],
        ),
    ] {
        assert_eq!(restart_keys(&old, &valid(text)), keys, "{text}");
    }
}
