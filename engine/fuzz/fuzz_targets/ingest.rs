//! See `src/ingest.rs`, which the ordinary tests run too.
#![no_main]

#[path = "../src/ingest.rs"]
mod ingest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingest::run(data));
