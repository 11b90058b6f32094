//! The fuzz targets `config` and `hop` over what the fuzzer once found, their seeds, and the example configurations.

#[path = "../fuzz/src/config.rs"]
mod config;
#[path = "../fuzz/src/hop.rs"]
mod hop;
#[path = "../fuzz/src/node.rs"]
#[allow(dead_code, reason = "the simulation uses the rest of it")]
mod node;
#[path = "../fuzz/src/replay.rs"]
mod replay;

use replay::{any_bytes, replay};

#[test]
fn xds_04_config_holds_for_every_case() {
    replay("config", config::run);
    any_bytes(3, 2_000, 60, config::run);
}

#[test]
fn xds_04_config_holds_for_the_examples() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    for entry in std::fs::read_dir(examples).unwrap() {
        config::run(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}

/// U-20: from frame to HTTP.
#[test]
fn u_20_hop_holds_for_every_case() {
    replay("hop", hop::run);
    any_bytes(4, 300, 600, hop::run);
}

#[test]
fn hop_asks_and_answers() {
    let seed = include_bytes!("../fuzz/seeds/hop/request");
    assert_eq!(hop::requests(seed), 2);
}
