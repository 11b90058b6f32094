//! Whether this kernel takes the programs.

use std::mem::MaybeUninit;

use libbpf_rs::PrintLevel;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::skel::WeftSkelBuilder;

use super::{Error, log_libbpf};

/// Loads the programs over maps of their own that are as small as can be, attaches nothing, and lets go of all of it.
///
/// # Errors
/// When the kernel refuses them.
pub fn try_programs() -> Result<(), Error> {
    libbpf_rs::set_print(Some((PrintLevel::Warn, log_libbpf)));
    let mut slot = MaybeUninit::uninit();
    let mut open = WeftSkelBuilder::default()
        .open(&mut slot)
        .map_err(Error::Load)?;
    let maps = &mut open.maps;
    for map in [
        &mut maps.pins,
        &mut maps.flow_sets,
        &mut maps.flows,
        &mut maps.firsts,
        &mut maps.maglev,
        &mut maps.backends,
        &mut maps.epochs,
    ] {
        map.set_max_entries(1).map_err(Error::Load)?;
    }
    open.load().map_err(Error::Load)?;
    Ok(())
}
