use arrayvec::ArrayVec;

use super::*;

#[test]
fn every_frame_is_in_exactly_one_place() {
    let mut io = MemoryIo::new(8, 64, 4);
    let mut burst = ArrayVec::new();
    for count in 1..=4u8 {
        assert!(io.push(&[count; 20]));
    }
    assert!(!io.push(&[5; 20]), "the receive ring is full");
    assert_eq!(
        io.frames(),
        FrameLedger {
            total: 8,
            free: 4,
            rx: 4,
            ..FrameLedger::default()
        }
    );
    io.receive(&mut burst);
    assert_eq!(
        io.frames(),
        FrameLedger {
            total: 8,
            free: 4,
            app: 4,
            ..FrameLedger::default()
        }
    );
    let own = io.allocate().unwrap();
    assert!(io.frames().balances());
    io.release(own);
    for mut frame in burst.drain(..3) {
        io.with_frame(&mut frame, |buf| buf.resize(10)).unwrap();
        io.send(frame).unwrap();
    }
    io.release(burst.pop().unwrap());
    assert_eq!(
        io.take_sent(),
        Vec::<Vec<u8>>::new(),
        "nothing leaves before the doorbell"
    );
    io.flush();
    assert_eq!(io.frames().tx, 3);
    assert_eq!(io.take_sent(), [vec![1; 10], vec![2; 10], vec![3; 10]]);
    assert_eq!(
        io.frames(),
        FrameLedger {
            total: 8,
            free: 8,
            ..FrameLedger::default()
        }
    );
}

#[test]
fn a_full_transmit_ring_gives_the_frame_back() {
    let mut io = MemoryIo::new(3, 64, 2);
    for _ in 0..2 {
        let frame = io.allocate().unwrap();
        io.send(frame).unwrap();
    }
    let frame = io.allocate().unwrap();
    let frame = io.send(frame).unwrap_err();
    io.release(frame);
    assert!(io.frames().balances());
    assert!(!io.push(&[0; 65]), "larger than a frame");
    assert!(io.frames().balances());
}
