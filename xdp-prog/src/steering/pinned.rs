//! What is pinned already: whether it can be taken over.

use std::path::Path;
use std::{fs, io};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::abi;
use crate::bpffs::is_bpffs;
use crate::maps::{MapError, TypedMap, into_io};

use super::Error;

pub(super) fn prepare_pin_dir(path: &Path) -> Result<(), Error> {
    let error = |source| Error::PinDir {
        path: path.to_owned(),
        source,
    };
    match fs::create_dir(path) {
        Err(failed) if failed.kind() != io::ErrorKind::AlreadyExists => return Err(error(failed)),
        _ => {}
    }
    if is_bpffs(path).map_err(error)? {
        return Ok(());
    }
    let _ = fs::remove_dir(path); // Ours, made a moment ago; a full one stays.
    Err(error(io::Error::other("not on a BPF file system")))
}

/// Refuses maps of another layout before anything is loaded over them.
pub(super) fn check_abi(pin_dir: &Path) -> Result<(), Error> {
    let path = pin_dir.join("config");
    if !path.exists() {
        return Ok(());
    }
    let foreign = |found| Error::ForeignAbi {
        path: path.clone(),
        found,
        expected: abi::ABI,
    };
    let config = match TypedMap::<u32, abi::Config>::open(&path) {
        Ok(config) => config,
        Err(MapError::Layout { .. }) => return Err(foreign(abi_of(&path))),
        Err(error) => return Err(error.into()),
    };
    match config.lookup(&0)?.map_or(0, |config| config.abi) {
        // Zero: its maker died between the load and the first write.
        0 | abi::ABI => Ok(()),
        found => Err(foreign(found)),
    }
}

/// The layout version of a `config` of another size: its first word in every layout. 0 if it has none.
fn abi_of(config: &Path) -> u32 {
    let read = || {
        let map = MapHandle::from_pinned_path(config).ok()?;
        let value = map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).ok()??;
        value.first_chunk().copied().map(u32::from_ne_bytes)
    };
    read().unwrap_or_default()
}

/// A map cannot change its size. With another size configured the old entries go: the packets of owner entries
/// take the hash's way until the engine writes them again, and flows on the fast path end with it.
pub(super) fn check_size(pin_dir: &Path, name: &str, wanted: u32) -> Result<(), Error> {
    let path = pin_dir.join(name);
    if !path.exists() {
        return Ok(());
    }
    let map = MapHandle::from_pinned_path(&path).map_err(|error| MapError::Operation {
        map: path.display().to_string(),
        operation: "open",
        source: into_io(&error),
    })?;
    let size = map.max_entries();
    if size != wanted {
        tracing::info!(
            from = size,
            to = wanted,
            "`{name}` becomes a map of another size"
        );
        fs::remove_file(&path).map_err(|source| Error::PinDir {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}
