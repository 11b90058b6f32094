//! See `src/http.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/http.rs"]
mod http;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http::run(data));
