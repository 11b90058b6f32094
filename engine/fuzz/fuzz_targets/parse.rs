//! See `src/parse.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/parse.rs"]
mod parse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| parse::run(data));
