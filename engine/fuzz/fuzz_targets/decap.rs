//! See `src/decap/mod.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/decap/mod.rs"]
mod decap;
#[path = "../src/frames.rs"]
#[allow(dead_code, reason = "packets to services are the target `process`'s")]
mod frames;
#[path = "../src/outer.rs"]
mod outer;
#[path = "../../datapath/tests/support/mod.rs"]
mod support;
#[path = "../src/world.rs"]
#[allow(dead_code, reason = "what `frames` sends in other targets")]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decap::run(data));
