//! See `src/hop.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/hop.rs"]
mod hop;
#[path = "../src/node.rs"]
#[allow(dead_code, reason = "the simulation uses the rest of it")]
mod node;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hop::run(data));
