use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_getfd};

use crate::{execute, hold_ends, inherited, release_ends, try_programs};

use super::support::node;

#[test]
fn what_cannot_be_executed_leaves_this_program_as_it_is() {
    let arguments = [OsString::from("weft")];
    let missing = execute(Path::new("/nowhere/weft"), &arguments, &[]);
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let odd = [OsString::from_vec(b"a\0b".to_vec())];
    let refused = execute(Path::new("/nowhere/weft"), &odd, &[]);
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

#[test]
fn only_what_was_left_open_is_taken_over_and_once() {
    let path = "/dev/null";
    let own = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let refused = inherited(own.as_raw_fd()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert_eq!(inherited(1).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(inherited(1_000_000).is_err());
    let left = open(path, OFlags::RDONLY, Mode::empty()).unwrap();
    let left = left.into_raw_fd();
    let taken = inherited(left).unwrap();
    assert!(fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
    assert!(inherited(left).is_err(), "somebody has it");
}

#[test]
fn signals_are_held_and_released_by_the_thread() {
    let held = || -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    let bit = |signal: libc::c_int| 1 << (signal - 1);
    let ends = bit(libc::SIGTERM) | bit(libc::SIGINT) | bit(libc::SIGHUP);
    let before = held();
    hold_ends().unwrap();
    assert_eq!(held(), before | ends);
    release_ends().unwrap();
    assert_eq!(held(), before & !ends);
}

#[test]
fn programs_are_tried_without_a_trace() {
    node(|node| {
        try_programs().unwrap();
        assert!(!node.pin_dir.exists());
    });
}
