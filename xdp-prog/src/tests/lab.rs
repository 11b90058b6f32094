//! Real sockets through the hooks, with a worker that decides nothing.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use arrayvec::ArrayVec;
use etherparse::{PacketHeaders, TransportHeader};
use weft_datapath::{BURST_MAX, Egress, FlowKey, Hook, Ingress, PacketIo, PinOp, Protocol, Tuple};

use crate::{Counter, Steering, XskConfig, XskIo};

use super::support::{Node, PodNamespace, ip, monotonic_ns, node};

/// What the worker does with every frame.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Back to the kernel.
    Reingress,
    /// Into the pod of this list that has the destination address.
    Peer,
}

/// What a worker saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) frames: u64,
    pub(super) to_pod: u64,
    pub(super) longest: usize,
    pub(super) wrong_checksums: u64,
}

/// Runs `traffic` while a worker takes what is punted to queue 0.
pub(super) fn with_worker(
    steering: &Steering,
    way: Way,
    pods: &[&PodNamespace],
    traffic: impl FnOnce() + Send,
) -> Seen {
    let mut io = XskIo::open(
        "weft1",
        0,
        XskConfig {
            frames: 4096,
            ring: 1024,
        },
    )
    .unwrap();
    steering.register_socket(0, io.fd()).unwrap();
    let heartbeat = steering.heartbeat(0).unwrap();
    heartbeat.beat(monotonic_ns());
    let weft0_mac = steering.config.pair.weft0_mac;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut seen = Seen::default();
            let mut burst = ArrayVec::<_, BURST_MAX>::new();
            while !done.load(Ordering::Relaxed) {
                io.wait(Duration::from_millis(20), &[]).unwrap();
                heartbeat.beat(monotonic_ns());
                io.receive(&mut burst);
                for mut frame in burst.drain(..) {
                    io.with_frame(&mut frame, |buffer| {
                        look(buffer.bytes(), &mut seen);
                        redirect(buffer.bytes_mut(), way, pods, weft0_mac);
                    });
                    if let Err(frame) = io.send(frame) {
                        io.release(frame);
                    }
                }
                io.flush();
                assert!(io.frames().balances());
            }
            assert!(io.audit());
            seen
        });
        let result = scope.spawn(traffic).join();
        done.store(true, Ordering::Relaxed);
        let seen = worker.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    })
}

fn look(bytes: &[u8], seen: &mut Seen) {
    seen.frames += 1;
    seen.longest = seen.longest.max(bytes.len());
    let mac = bytes[6..12].try_into().unwrap();
    seen.to_pod += u64::from(Ingress::decode(&mac).unwrap().hook == Hook::ToPod);
    let packet = PacketHeaders::from_ethernet_slice(bytes).expect("a whole packet");
    let payload = packet.payload.slice();
    let net = packet.net.expect("IP");
    let (found, computed) = match packet.transport.expect("TCP or UDP") {
        TransportHeader::Tcp(tcp) => {
            let computed = match &net {
                etherparse::NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, payload),
                etherparse::NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, payload),
                other => panic!("{other:?}"),
            };
            (tcp.checksum, computed.unwrap())
        }
        TransportHeader::Udp(udp) => {
            let computed = match &net {
                etherparse::NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, payload),
                etherparse::NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, payload),
                other => panic!("{other:?}"),
            };
            (udp.checksum, computed.unwrap())
        }
        other => panic!("{other:?}"),
    };
    seen.wrong_checksums += u64::from(found != computed);
}

fn redirect(bytes: &mut [u8], way: Way, pods: &[&PodNamespace], weft0_mac: [u8; 6]) {
    let ingress = Ingress::decode(&bytes[6..12].try_into().unwrap()).unwrap();
    let egress = match (way, ingress.hook) {
        (Way::Peer, Hook::FromPod) => {
            let destination = if bytes[12] == 0x08 {
                IpAddr::from(<[u8; 4]>::try_from(&bytes[30..34]).unwrap())
            } else {
                IpAddr::from(<[u8; 16]>::try_from(&bytes[38..54]).unwrap())
            };
            let pod = pods
                .iter()
                .find(|pod| [pod.v4, pod.v6].contains(&destination))
                .unwrap();
            Egress::peer(pod.ifindex)
        }
        (Way::Reingress, Hook::FromPod) => Egress::reingress(ingress.ifindex),
        (_, Hook::ToPod) => Egress::peer(ingress.ifindex),
    };
    if egress.inject == weft_datapath::Inject::Peer {
        bytes[..6].copy_from_slice(&weft0_mac);
    }
    bytes[6..12].copy_from_slice(&egress.encode());
}

/// `count` datagrams there and back, one after the other. Panics when one is lost.
fn ping(client: &PodNamespace, server: &PodNamespace, v6: bool, count: usize) {
    let (here, there) = if v6 {
        (client.v6, server.v6)
    } else {
        (client.v4, server.v4)
    };
    let echo = server.inside(|| UdpSocket::bind((there, 7)).unwrap());
    let socket = client.inside(|| UdpSocket::bind((here, 5000)).unwrap());
    for socket in [&echo, &socket] {
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
    }
    let mut buffer = [0; 2048];
    for n in 0..count {
        let message = vec![n as u8; 100 + n % 1300];
        socket.send_to(&message, SocketAddr::new(there, 7)).unwrap();
        let (length, from) = echo
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("ping {n}: {e}"));
        assert_eq!(from, SocketAddr::new(here, 5000));
        echo.send_to(&buffer[..length], from).unwrap();
        let (length, _) = socket
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("echo {n}: {e}"));
        assert_eq!(buffer[..length], message);
    }
}

/// Two enrolled pods behind a router with strict reverse path filters.
pub(super) fn two_pods(node: &Node) -> (Steering, PodNamespace, PodNamespace) {
    node.forward();
    let (a, b) = (node.pod(1), node.pod(2));
    ping(&a, &b, false, 1); // The kernel's own way works, and neighbours are known.
    ping(&a, &b, true, 1);
    let steering = node.steering(1);
    steering.attach_pair().unwrap();
    let endpoints = [a.endpoints(), b.endpoints()].concat();
    steering.sync_endpoints(&endpoints).unwrap();
    for pod in [&a, &b] {
        steering.set_pod(&pod.entry()).unwrap();
        steering.attach_pod(pod.ifindex).unwrap();
    }
    (steering, a, b)
}

#[test]
fn punted_frames_go_back_to_the_kernel_or_into_the_pod() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        let pods = [&a, &b];
        let before = steering.counters().unwrap();
        let seen = with_worker(&steering, Way::Reingress, &pods, || {
            ping(&a, &b, false, 200);
            ping(&a, &b, true, 200);
        });
        let counters = steering.counters().unwrap().since(&before);
        assert_eq!((seen.frames, seen.wrong_checksums), (800, 0), "{seen:?}");
        assert_eq!(counters[Counter::FromPodPunted], 800);
        assert_eq!(counters[Counter::XskRedirected], 800);
        assert_eq!(counters[Counter::InjectedReingress], 800);
        assert_eq!(counters[Counter::Reingressed], 800);

        let before = steering.counters().unwrap();
        let seen = with_worker(&steering, Way::Peer, &pods, || {
            ping(&a, &b, false, 200);
            ping(&a, &b, true, 200);
        });
        let counters = steering.counters().unwrap().since(&before);
        assert_eq!((seen.frames, seen.wrong_checksums), (800, 0), "{seen:?}");
        assert_eq!(counters[Counter::InjectedPeer], 800);
        // redirect_peer passes the egress hook by; what is seen there are neighbour probes.
        assert!(counters[Counter::ToPod] < 20 && counters[Counter::ToPodPunted] == 0);
    });
}

/// Steps 2 and 3: without a socket by re-ingress at weft1, with a stale heartbeat not at all.
#[test]
fn without_user_space_the_kernel_takes_over() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        let pods = [&a, &b];
        with_worker(&steering, Way::Reingress, &pods, || ping(&a, &b, false, 5));

        // The socket is closed, the heartbeat still fresh.
        steering.heartbeat(0).unwrap().beat(monotonic_ns());
        let before = steering.counters().unwrap();
        ping(&a, &b, false, 50);
        ping(&a, &b, true, 50);
        let counters = steering.counters().unwrap().since(&before);
        assert_eq!(counters[Counter::XskAbsent], 200);
        assert_eq!(counters[Counter::FailopenReingress], 200);
        assert_eq!(counters[Counter::Reingressed], 200);

        steering.heartbeat(0).unwrap().beat(1);
        let before = steering.counters().unwrap();
        ping(&a, &b, false, 50);
        let counters = steering.counters().unwrap().since(&before);
        assert_eq!(counters[Counter::Stale], 100);
        assert_eq!(counters[Counter::FromPodPunted], 0);
    });
}

/// The reply of a backend that is not enrolled, by the kernel: only the pinned flow is taken.
#[test]
fn a_pinned_reply_is_punted_on_its_way_to_the_pod() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        steering.detach_pod(b.ifindex).unwrap();
        steering.remove_pod(b.ifindex).unwrap();
        steering.sync_endpoints(&a.endpoints()).unwrap();
        let tuple = Tuple {
            src: b.v4.into(),
            dst: a.v4.into(),
            sport: 7,
            dport: 5000,
            proto: Protocol::Udp,
        };
        let pin = PinOp::Insert {
            key: FlowKey {
                tuple,
                ifindex: a.ifindex,
            },
            owner: 0,
            cookie: 1,
            terminated: None,
        };
        let mut writer = steering.pin_writer(None).unwrap();
        assert_eq!(writer.apply([&pin]).inserted, 1);
        let before = steering.counters().unwrap();
        let seen = with_worker(&steering, Way::Reingress, &[&a, &b], || {
            ping(&a, &b, false, 100);
            ping(&a, &b, true, 100);
        });
        assert_eq!(
            (seen.frames, seen.to_pod, seen.wrong_checksums),
            (100, 100, 0),
            "{seen:?}"
        );
        let counters = steering.counters().unwrap().since(&before);
        assert_eq!(counters[Counter::ToPodPunted], 100);
        assert_eq!(counters[Counter::FromPodPunted], 0);

        // Nobody there to translate it: the kernel was about to deliver it, so it is delivered.
        steering.heartbeat(0).unwrap().beat(monotonic_ns());
        let before = steering.counters().unwrap();
        ping(&a, &b, false, 20);
        assert_eq!(
            steering.counters().unwrap().since(&before)[Counter::FailopenPeer],
            20
        );
    });
}

/// `queue_mapping` and the redirect's target do not show in a test run.
#[test]
fn the_owner_decides_the_queue() {
    node(|node| {
        node.forward();
        let (a, b) = (node.pod(1), node.pod(2));
        ping(&a, &b, false, 1);
        let steering = node.steering(2);
        steering.attach_pair().unwrap();
        steering.set_pod(&a.entry()).unwrap();
        steering.attach_pod(a.ifindex).unwrap();
        let mut ios = [0, 1].map(|queue| {
            let io = XskIo::open(
                "weft1",
                queue,
                XskConfig {
                    frames: 256,
                    ring: 64,
                },
            )
            .unwrap();
            steering.register_socket(queue, io.fd()).unwrap();
            steering
                .heartbeat(queue as u16)
                .unwrap()
                .beat(monotonic_ns());
            io
        });
        let socket = a.inside(|| UdpSocket::bind((a.v4, 5000)).unwrap());
        let mut writer = steering.pin_writer(None).unwrap();
        for owner in [0_u16, 1, 3, 0] {
            let tuple = Tuple {
                src: a.v4.into(),
                dst: b.v4.into(),
                sport: 5000,
                dport: 7,
                proto: Protocol::Udp,
            };
            let key = FlowKey {
                tuple,
                ifindex: a.ifindex,
            };
            writer.apply([&PinOp::Insert {
                key,
                owner,
                cookie: 0,
                terminated: None,
            }]);
            socket.send_to(b"x", (b.v4, 7)).unwrap();
            let (right, wrong) = (usize::from(owner % 2), usize::from(1 - owner % 2));
            let mut burst = ArrayVec::<_, BURST_MAX>::new();
            ios[right].wait(Duration::from_secs(2), &[]).unwrap();
            ios[right].receive(&mut burst);
            assert_eq!(burst.len(), 1, "owner {owner}");
            for mut frame in burst.drain(..) {
                let target = ios[right].with_frame(&mut frame, |buffer| {
                    Ingress::decode(&buffer.bytes()[6..12].try_into().unwrap())
                        .unwrap()
                        .target
                });
                assert_eq!(target, owner);
                ios[right].release(frame);
            }
            ios[wrong].receive(&mut burst);
            assert!(burst.is_empty());
        }
    });
}

/// What a test run cannot show: frames that end within the IP header, sent by a pod for real.
#[test]
fn truncated_frames_of_a_pod_are_dropped_and_counted() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        steering.heartbeat(0).unwrap().beat(monotonic_ns());
        let whole = super::packets::frame(a.v4, b.v4, super::packets::L4::Udp(1, 2));
        let whole6 = super::packets::frame(a.v6, b.v6, super::packets::L4::Udp(1, 2));
        let mut io = a.inside(|| XskIo::open("eth0", 0, XskConfig::default()).unwrap());
        let before = steering.counters().unwrap();
        let mut sent = 0;
        for packet in [&whole, &whole6] {
            for length in 15..packet.len() {
                let mut frame = io.allocate().unwrap();
                io.with_frame(&mut frame, |buffer| {
                    buffer.resize(length).unwrap();
                    buffer.bytes_mut().copy_from_slice(&packet[..length]);
                });
                io.send(frame).unwrap();
                sent += 1;
            }
        }
        io.flush();
        let counted = || steering.counters().unwrap().since(&before);
        for _ in 0..200 {
            if counted()[Counter::Malformed] == sent {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(counted()[Counter::Malformed], sent);
        assert_eq!(counted()[Counter::FromPodPunted], 0);
    });
}

/// The kernel takes priority tags (VLAN 0) off behind the hook, so a tagged packet gets the look that an untagged
/// one gets (AMB-06). Only a real veth puts the tag where it is found on the way in.
#[test]
fn amb06_a_priority_tag_hides_nothing() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        let udp = super::packets::L4::Udp(1, 2);
        let spoofed = super::packets::frame(b.v6, b.v6, udp);
        let own = super::packets::frame(a.v6, b.v6, udp);
        let mut io = a.inside(|| XskIo::open("eth0", 0, XskConfig::default()).unwrap());
        let mut expect = |packet: &[u8], tags: usize, counter| {
            steering.heartbeat(0).unwrap().beat(monotonic_ns());
            let before = steering.counters().unwrap();
            let mut tagged = packet[..12].to_vec();
            tagged.extend([0x81, 0, 0, 0].repeat(tags));
            tagged.extend(&packet[12..]);
            let mut frame = io.allocate().unwrap();
            io.with_frame(&mut frame, |buffer| {
                buffer.resize(tagged.len()).unwrap();
                buffer.bytes_mut().copy_from_slice(&tagged);
            });
            io.send(frame).unwrap();
            io.flush();
            let counted = || steering.counters().unwrap().since(&before)[counter];
            for _ in 0..200 {
                if counted() == 1 {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(counted(), 1, "{tags} tags: {counter:?}");
        };
        for tags in 0..=4 {
            expect(&spoofed, tags, Counter::SrcSpoof);
            expect(&own, tags, Counter::FromPodPunted);
        }
        expect(&own, 5, Counter::Malformed);
    });
}

/// Pods with an MTU as large as the pair's: whole packets of that size go the whole way.
#[test]
fn the_largest_packets_fit() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        let mtu = steering.config.pair.mtu;
        for pod in [&a, &b] {
            ip(&format!("link set {} mtu {mtu}", pod.veth));
            pod.inside(|| ip(&format!("link set eth0 mtu {mtu}")));
        }
        for way in [Way::Reingress, Way::Peer] {
            let seen = with_worker(&steering, way, &[&a, &b], || {
                let receiver = b.inside(|| UdpSocket::bind((b.v4, 7)).unwrap());
                receiver
                    .set_read_timeout(Some(Duration::from_secs(2)))
                    .unwrap();
                let sender = a.inside(|| UdpSocket::bind((a.v4, 5000)).unwrap());
                let message = vec![7; mtu as usize - 28];
                sender.send_to(&message, (b.v4, 7)).unwrap();
                let mut buffer = vec![0; 1 << 16];
                let (length, _) = receiver.recv_from(&mut buffer).expect("the whole of it");
                assert_eq!(buffer[..length], message);
            });
            assert_eq!(
                (seen.longest, seen.wrong_checksums),
                (mtu as usize + 14, 0),
                "{seen:?}"
            );
        }
    });
}
