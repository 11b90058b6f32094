//! See `src/http1.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/http1.rs"]
mod http1;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http1::run(data));
