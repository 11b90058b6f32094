//! The fuzz targets `parse`, `process` and `decap` over what the fuzzer once found, and over any bytes.

#[path = "../../fuzz/src/decap/mod.rs"]
mod decap;
#[path = "../../fuzz/src/frames.rs"]
mod frames;
#[path = "../../fuzz/src/outer.rs"]
mod outer;
#[path = "../../fuzz/src/parse.rs"]
mod parse;
#[path = "../../fuzz/src/process.rs"]
mod process;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/stack.rs"]
mod stack;
mod support;
#[path = "../../fuzz/src/world.rs"]
mod world;

use replay::{any_bytes, replay};

#[test]
fn parse_holds_for_every_case() {
    replay("parse", parse::run);
    any_bytes(1, 20_000, 100, parse::run);
}

#[test]
fn process_holds_for_every_case() {
    replay("process", process::run);
    any_bytes(2, 2_000, 1_000, process::run);
}

#[test]
fn decap_holds_for_every_case() {
    replay("decap", decap::run);
    any_bytes(3, 4_000, 1_000, decap::run);
}
