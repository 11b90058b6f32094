use super::*;

#[test]
fn a_full_lane_takes_no_more_until_it_is_read() {
    let (mut a, mut b) = pair(4);
    assert_eq!(a.write_now(b"abcdef").unwrap(), 4);
    assert_eq!(a.write_now(b"ef").unwrap(), 0);
    assert_eq!(b.read_now().unwrap().unwrap(), b"abcd");
    assert_eq!(a.write_now(b"ef").unwrap(), 2);
    a.shutdown_now();
    assert_eq!(b.read_now().unwrap().unwrap(), b"ef");
    assert_eq!(b.read_now().unwrap(), None);
    assert_eq!(a.write_now(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn an_end_that_goes_with_unread_bytes_resets_the_other() {
    let (mut a, b) = pair(4);
    a.write_now(b"ab").unwrap();
    drop(b);
    assert_eq!(a.read_now().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (mut a, b) = pair(4);
    drop(b);
    assert_eq!(a.read_now().unwrap(), None);
}

#[test]
fn faults_stall_split_and_fail() {
    let (mut a, mut b) = opening(8);
    let faults = a.faults();
    assert_eq!(a.write_now(b"ab").unwrap(), 0);
    faults.open();
    faults.split(1);
    assert_eq!(a.write_now(b"ab").unwrap(), 2);
    faults.stall(true);
    assert_eq!(b.read_now().unwrap().unwrap(), b"");
    assert_eq!(faults.in_flight(), [0, 2]);
    faults.stall(false);
    assert_eq!(b.read_now().unwrap().unwrap(), b"ab");
    faults.fail(ErrorKind::TimedOut);
    assert_eq!(b.read_now().unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(faults.failure(), Some(ErrorKind::TimedOut));
}
