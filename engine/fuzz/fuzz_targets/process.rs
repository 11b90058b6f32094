//! See `src/process.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/frames.rs"]
mod frames;
#[path = "../src/process.rs"]
mod process;
#[path = "../src/stack.rs"]
mod stack;
#[path = "../../datapath/tests/support/mod.rs"]
mod support;
#[path = "../src/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| process::run(data));
