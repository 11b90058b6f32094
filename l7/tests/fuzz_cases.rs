//! The fuzz target `http` over what the fuzzer once found, its seeds, and any bytes.

#[path = "../../engine/fuzz/src/http.rs"]
mod http;
#[path = "../../engine/fuzz/src/replay.rs"]
mod replay;

use replay::{any_bytes, replay};

#[test]
fn http_holds_for_every_case() {
    replay("http", http::run);
    any_bytes(5, 3_000, 300, http::run);
}
