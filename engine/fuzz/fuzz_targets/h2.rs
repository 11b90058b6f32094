//! See `src/h2.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/h2.rs"]
mod h2;

libfuzzer_sys::fuzz_target!(|data: &[u8]| h2::run(data));
