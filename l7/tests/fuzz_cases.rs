//! The fuzz targets over HTTP alone, over what the fuzzer once found, their seeds, and any bytes.

#[path = "../../engine/fuzz/src/h2.rs"]
mod h2;
#[path = "../../engine/fuzz/src/http.rs"]
mod http;
#[path = "../../engine/fuzz/src/http1.rs"]
mod http1;
#[path = "../../engine/fuzz/src/replay.rs"]
mod replay;

use replay::{any_bytes, replay};

#[test]
fn http_holds_for_every_case() {
    replay("http", http::run);
    any_bytes(5, 3_000, 300, http::run);
}

#[test]
fn http1_holds_for_every_case() {
    replay("http1", http1::run);
    any_bytes(7, 3_000, 300, http1::run);
}

#[test]
fn h2_holds_for_every_case() {
    replay("h2", h2::run);
    any_bytes(9, 1_000, 600, h2::run);
}
