//! Runs a target's body over its committed cases and seeds, and over seeded bytes.

use std::path::Path;

/// Every file of `cases/<target>` and `seeds/<target>` through `run`. A failure prints the file's name.
pub fn replay(target: &str, run: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fuzz = root.ancestors().map(|dir| dir.join("engine/fuzz"));
    let fuzz = fuzz
        .into_iter()
        .find(|dir| dir.is_dir())
        .expect("engine/fuzz");
    let mut files = Vec::new();
    for kind in ["cases", "seeds"] {
        let directory = fuzz.join(kind).join(target);
        let entries = std::fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    assert!(!files.is_empty(), "no seeds of {target}");
    files.sort();
    for file in files {
        let data = std::fs::read(&file).unwrap();
        named(&file.display().to_string(), || run(&data));
    }
}

/// `count` texts of up to `longest` seeded bytes through `run`. A failure prints the bytes.
pub fn any_bytes(seed: u64, count: u32, longest: usize, run: fn(&[u8])) {
    let mut state = seed;
    let mut next = move || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    for _ in 0..count {
        let len = next() as usize % (longest + 1);
        let data: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        named(&format!("{data:?}"), || run(&data));
    }
}

/// Runs `work`; when it panics, says what on.
fn named(name: &str, work: impl FnOnce()) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    if let Err(panic) = outcome {
        eprintln!("the case was {name}");
        std::panic::resume_unwind(panic);
    }
}
