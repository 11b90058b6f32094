//! Attaching programs by `bpf_link`, which libbpf-rs 0.25 offers neither for tcx nor for native XDP.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use libbpf_rs::{AsRawLibbpf, Link, Program};

/// What the kernel says about a link.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// The link's id.
    pub(crate) id: u32,
    /// The attached program's id.
    pub(crate) program: u32,
    /// The interface; 0 once that is gone. `None` for links of other kinds.
    pub(crate) ifindex: Option<u32>,
    /// The hook.
    pub(crate) hook: LinkHook,
}

/// Where a link attaches a program.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkHook {
    TcxIngress,
    TcxEgress,
    Xdp,
    Other,
}

/// Attaches to the tcx hook that the program's section names, behind the programs already there.
pub(crate) fn attach_tcx(program: &Program<'_>, ifindex: u32) -> io::Result<Link> {
    let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Why: libbpf-rs has no tcx attach.
    // SAFETY: the pointer comes from a loaded program that outlives the call; null options mean
    // the defaults. The result is null (errno set) or a link that nobody else owns.
    let link = unsafe {
        libbpf_sys::bpf_program__attach_tcx(
            program.as_libbpf_object().as_ptr(),
            ifindex,
            ptr::null(),
        )
    };
    let link = NonNull::new(link).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: `link` was just made and is handed over whole.
    Ok(unsafe { Link::from_ptr(link) })
}

/// Attaches to the native (driver) XDP hook and pins the link at `path`, without which it would go
/// with the returned descriptor. Fails rather than falling back to generic XDP.
pub(crate) fn attach_xdp_native(
    program: &Program<'_>,
    ifindex: u32,
    path: &Path,
) -> io::Result<OwnedFd> {
    let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
        flags: libbpf_sys::XDP_FLAGS_DRV_MODE,
        ..Default::default()
    };
    // Why: libbpf's attach_xdp takes no flags, and would fall back to generic mode silently.
    // SAFETY: the program's descriptor is open, and `options` is initialised and outlives the call.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_fd().as_raw_fd(),
            ifindex,
            libbpf_sys::BPF_XDP,
            &options,
        )
    };
    check(fd)?;
    // SAFETY: `fd` is a descriptor that the kernel just made for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an open descriptor and a NUL-terminated path that outlives the call.
    check(unsafe { libbpf_sys::bpf_obj_pin(fd.as_raw_fd(), path.as_ptr()) })?;
    Ok(fd)
}

/// What the kernel says about the link behind `fd`.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut length = size_of::<libbpf_sys::bpf_link_info>() as u32;
    // Why: libbpf-rs offers link information only by iterating over all links of the machine.
    // SAFETY: both pointers are to live locals, and `length` is the size of the first.
    check(unsafe { libbpf_sys::bpf_link_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut length) })?;
    let (ifindex, hook) = match info.type_ {
        libbpf_sys::BPF_LINK_TYPE_XDP => {
            // SAFETY: the kernel filled the union's member that the type names.
            (
                Some(unsafe { info.__bindgen_anon_1.xdp.ifindex }),
                LinkHook::Xdp,
            )
        }
        libbpf_sys::BPF_LINK_TYPE_TCX => {
            // SAFETY: as above.
            let tcx = unsafe { info.__bindgen_anon_1.tcx };
            let hook = match tcx.attach_type {
                libbpf_sys::BPF_TCX_INGRESS => LinkHook::TcxIngress,
                libbpf_sys::BPF_TCX_EGRESS => LinkHook::TcxEgress,
                _ => LinkHook::Other,
            };
            (Some(tcx.ifindex), hook)
        }
        _ => (None, LinkHook::Other),
    };
    Ok(LinkInfo {
        id: info.id,
        program: info.prog_id,
        ifindex,
        hook,
    })
}

/// libbpf 1.x returns a negative errno.
fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(())
    }
}
