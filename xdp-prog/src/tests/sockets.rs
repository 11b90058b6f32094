use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use weft_datapath::{BURST_MAX, Egress, Ingress, PacketIo};

use crate::{Counter, XskConfig, XskIo, XskMode};

use super::support::{monotonic_ns, node};

const SMALL: XskConfig = XskConfig {
    frames: 256,
    ring: 64,
};

#[test]
fn every_frame_is_somewhere_under_load() {
    node(|node| {
        node.forward();
        let (client, server) = (node.pod(1), node.pod(2));
        let steering = node.steering(1);
        steering.sync_endpoints(&server.endpoints()).unwrap();
        steering.set_pod(&client.entry()).unwrap();
        let mut io = XskIo::open("weft1", 0, SMALL).unwrap();
        assert_eq!(io.probe().unwrap().mode().unwrap(), XskMode::Copy);
        steering.attach_pair().unwrap();
        steering.register_socket(0, io.fd()).unwrap();
        steering.attach_pod(client.ifindex).unwrap();
        steering.heartbeat(0).unwrap().beat(monotonic_ns());

        let to = (server.v4, 9);
        let sender = client.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        let (mut received, mut sent, mut released, mut own) = (0_u64, 0_u64, 0_u64, 0_u64);
        let mut burst = ArrayVec::<_, BURST_MAX>::new();
        let until = Instant::now() + Duration::from_millis(800);
        while Instant::now() < until {
            for _ in 0..40 {
                sender.send_to(&[7; 300], to).unwrap();
            }
            io.receive(&mut burst);
            received += burst.len() as u64;
            for mut frame in burst.drain(..) {
                let reingress = io.with_frame(&mut frame, |buffer| {
                    let mac: [u8; 6] = buffer.bytes()[6..12].try_into().unwrap();
                    let ingress = Ingress::decode(&mac).expect("one of ours");
                    buffer.bytes_mut()[6..12]
                        .copy_from_slice(&Egress::reingress(ingress.ifindex).encode());
                    // Half of them only, so that all ways out are taken.
                    buffer.bytes()[buffer.len() - 1] == 7 && sent <= released
                });
                if !reingress {
                    io.release(frame);
                    released += 1;
                } else if let Err(frame) = io.send(frame) {
                    io.release(frame);
                    released += 1;
                } else {
                    sent += 1;
                }
            }
            if let Some(frame) = io.allocate() {
                own += 1;
                io.release(frame);
            }
            assert!(io.frames().balances() && io.audit(), "{:?}", io.frames());
            io.flush();
        }
        assert!(
            received > 1000 && sent > 400 && own > 0,
            "{received} {sent} {released}"
        );
        assert_eq!(received, sent + released);
        drop(sender);

        // What is left comes in, everything sent comes back.
        for _ in 0..1000 {
            io.flush();
            io.receive(&mut burst);
            for frame in burst.drain(..) {
                io.release(frame);
            }
            if io.frames().tx == 0 && io.occupancy().rx == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        io.flush();
        let ledger = io.frames();
        assert!(io.audit(), "{ledger:?}");
        assert_eq!((ledger.tx, ledger.app, ledger.rx), (0, 0, 0), "{ledger:?}");
        assert_eq!(ledger.free + ledger.fill, 256);
        assert_eq!(io.occupancy().fill, ledger.fill as u32);
        let counters = steering.counters().unwrap();
        let statistics = io.probe().unwrap().statistics().unwrap();
        assert_eq!(counters[Counter::InjectedReingress], sent);
        assert_eq!(counters[Counter::Reingressed], sent);
        assert_eq!(
            (statistics.tx_invalid_descs, statistics.rx_invalid_descs),
            (0, 0)
        );
    });
}

#[test]
fn all_frames_in_hand_is_no_catastrophe() {
    node(|node| {
        node.steering(1);
        let mut io = XskIo::open("weft1", 0, SMALL).unwrap();
        let mut held = Vec::new();
        while let Some(frame) = io.allocate() {
            held.push(frame);
        }
        assert_eq!(
            held.len(),
            256 - 64,
            "the rest is the kernel's to receive into"
        );
        io.flush();
        assert!(io.allocate().is_none() && io.audit());
        // The ring takes 64 and gives the others back; the kernel takes the 64 at the doorbell.
        let mut refused = 0;
        for mut frame in held {
            io.with_frame(&mut frame, |buffer| {
                buffer.resize(64).unwrap();
                buffer.bytes_mut().fill(0);
            });
            if let Err(frame) = io.send(frame) {
                refused += 1;
                io.release(frame);
            }
        }
        assert_eq!(refused, 128);
        assert!(io.audit());
        for _ in 0..100 {
            io.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(io.frames().tx, 0, "{:?}", io.frames());
        assert!(io.audit());
    });
}

#[test]
fn a_frame_too_short_for_the_kernel_comes_back() {
    node(|node| {
        node.steering(1);
        let mut io = XskIo::open("weft1", 0, SMALL).unwrap();
        let frame = io.allocate().unwrap();
        assert!(io.send(frame).is_ok());
        assert_eq!((io.frames().tx, io.strays()), (0, 1));
    });
}

#[test]
fn a_frame_holds_the_largest_packet_of_the_pair() {
    node(|node| {
        let steering = node.steering(1);
        let mut io = XskIo::open("weft1", 0, SMALL).unwrap();
        let mut frame = io.allocate().unwrap();
        let capacity = io.with_frame(&mut frame, |buffer| buffer.capacity());
        assert!(
            capacity >= steering.config.pair.mtu as usize + 14,
            "{capacity}"
        );
        io.release(frame);
    });
}

#[test]
fn a_queue_can_be_bound_again_right_after_its_close() {
    node(|node| {
        let steering = node.steering(1);
        steering.attach_pair().unwrap();
        let start = Instant::now();
        for _ in 0..20 {
            let io = XskIo::open("weft1", 0, SMALL).unwrap();
            steering.register_socket(0, io.fd()).unwrap();
        }
        eprintln!("20 binds in {:?}", start.elapsed());
        let held = XskIo::open("weft1", 0, SMALL).unwrap();
        assert!(
            XskIo::open("weft1", 0, SMALL).is_err(),
            "a queue in use, after a bounded wait"
        );
        drop(held);
        assert!(XskIo::open("weft1", 1, SMALL).is_err(), "no such queue");
        assert!(XskIo::open("weft9", 0, SMALL).is_err(), "no such interface");
    });
}

#[test]
fn wait_ends_for_a_waker_and_for_time() {
    node(|node| {
        node.steering(1);
        let mut io = XskIo::open("weft1", 0, SMALL).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let wakers = [std::os::fd::AsFd::as_fd(&reader)];
        let start = Instant::now();
        let ready = io.wait(Duration::from_millis(30), &wakers).unwrap();
        assert!(!ready.waker && !ready.socket && start.elapsed() >= Duration::from_millis(29));
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        let ready = io.wait(Duration::from_secs(10), &wakers).unwrap();
        assert!(ready.waker && start.elapsed() < Duration::from_secs(5));
        assert!(
            io.wait(Duration::ZERO, &[wakers[0]; 8]).is_err(),
            "more than it has room for"
        );
    });
}

/// A worker can be made on one thread and run on another.
#[test]
fn a_socket_can_move_to_its_workers_thread() {
    fn is_send<T: Send>() {}
    is_send::<XskIo>();
    is_send::<crate::PinWriter>();
    is_send::<crate::Heartbeat>();
}
