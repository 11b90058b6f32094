//! Where the programs are that a lab starts: beside the running one, as cargo puts them.

use std::env;
use std::path::PathBuf;

/// The node process. `WEFT_BIN` overrides it; `None` when it has not been built.
pub fn weft() -> Option<PathBuf> {
    match env::var_os("WEFT_BIN") {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
        None => sibling("weft"),
    }
}

/// This crate's own binary, which is also every small tool and the janitor.
pub fn weft_lab() -> Option<PathBuf> {
    sibling("weft-lab")
}

/// A program in the running one's directory, or in the one above: tests run in `deps/`.
fn sibling(name: &str) -> Option<PathBuf> {
    let current = env::current_exe().ok()?;
    let directory = current.parent()?;
    [Some(directory), directory.parent()]
        .into_iter()
        .flatten()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}
