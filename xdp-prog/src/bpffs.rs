//! The BPF file system, where maps and links outlive the process.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

/// Where the BPF file system is mounted everywhere.
pub const BPFFS: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Mounts the BPF file system at [`BPFFS`] unless it is there already, as containers and minimal
/// machines lack it. Needs `CAP_SYS_ADMIN` then.
pub fn ensure_bpffs() -> io::Result<()> {
    if is_bpffs(Path::new(BPFFS))? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("bpf", BPFFS, "bpf", flags, Some(c"mode=0700")) {
        Ok(()) => {
            tracing::info!(path = BPFFS, "mounted the BPF file system");
            Ok(())
        }
        // Somebody else was faster.
        Err(_) if is_bpffs(Path::new(BPFFS))? => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether `path` lies on a BPF file system.
pub(crate) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(path)?.f_type;
    #[allow(
        clippy::useless_conversion,
        reason = "the type of f_type depends on the architecture"
    )]
    let kind = i64::try_from(kind).unwrap_or_default();
    Ok(kind & 0xffff_ffff == BPF_FS_MAGIC)
}
