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

/// HAProxy, of the distribution's package.
pub fn haproxy() -> Option<PathBuf> {
    daemon("haproxy")
}

/// nginx, of the distribution's package.
pub fn nginx() -> Option<PathBuf> {
    daemon("nginx")
}

fn daemon(name: &str) -> Option<PathBuf> {
    // Root's PATH does not have to name the directory that daemons are in.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Envoy, where `.ci/setup bench` puts it. `ENVOY_BIN` overrides it.
pub fn envoy() -> Option<PathBuf> {
    if let Some(path) = env::var_os("ENVOY_BIN") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let current = env::current_exe().ok()?;
    // From target/<profile> or target/<profile>/deps.
    let mut directories = current.ancestors().skip(2).take(2);
    directories
        .find_map(|directory| Some(directory.join("envoy/envoy")).filter(|path| path.is_file()))
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
