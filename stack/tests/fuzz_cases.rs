//! The fuzz target `ingest` over what the fuzzer once found, and over any bytes.

#[path = "../../engine/fuzz/src/ingest.rs"]
mod ingest;
#[path = "../../engine/fuzz/src/replay.rs"]
mod replay;

use replay::{any_bytes, replay};

#[test]
fn ingest_holds_for_every_case() {
    replay("ingest", ingest::run);
    any_bytes(4, 3_000, 3_000, ingest::run);
}
