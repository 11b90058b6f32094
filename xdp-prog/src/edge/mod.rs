//! The only unsafe code of Weft: calls that the safe crates do not offer, each behind a safe function.
//!
//! - [`batch`]: map operations in batches without allocation, and complete scans.
//! - [`link`]: tcx and native XDP links, and what the kernel says about a link.
//! - [`memory`]: a BPF array mapped into this process.
//! - [`packet`]: sockets that send whole frames.
//! - [`program`]: another program in this process's place, or beside it.
//! - [`rings`]: AF_XDP rings over xsk-rs, with a ledger that makes its contract checkable.
//! - [`signals`]: those to be ignored, or to wait.
//! - [`sockopt`]: socket options of AF_XDP that xsk-rs and rustix lack.
//! - [`tap`]: TAP devices, and how large blocks of memory are had.
#![allow(
    unsafe_code,
    reason = "this is the edge; every block says why it is needed and sound"
)]

pub(crate) mod batch;
pub(crate) mod link;
pub(crate) mod memory;
pub(crate) mod packet;
pub(crate) mod program;
pub(crate) mod rings;
pub(crate) mod signals;
pub(crate) mod sockopt;
pub(crate) mod tap;
