//! The fuzz target `config` over what the fuzzer once found, its seeds, and the example configurations.

#[path = "../fuzz/src/config.rs"]
mod config;
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
