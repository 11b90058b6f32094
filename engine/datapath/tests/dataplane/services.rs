//! Translation to backends and back (SVC-01, -02, -32, AMB-08), and who is skipped.

use weft_datapath::*;

use crate::support::*;

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// SVC-01, SVC-02, SVC-32, AMB-08: the backend sees the client's address and port, the client sees the
/// VIP, on both protocols and families; the port is mapped to the target port.
#[test]
fn svc_01_svc_02_svc_32_amb_08_there_and_back() {
    for net in Net::BOTH {
        for proto in PROTOCOLS {
            let (tables, mut state) = (settled(), state(1));
            let mut frame = open(net, proto, SERVED)
                .payload(b"hello")
                .punted(CLIENT, Hook::FromPod);
            assert_eq!(
                run(&mut frame, START, &tables, &mut state),
                Verdict::Deliver
            );
            let arrived = tuple(&frame);
            assert_eq!(
                (arrived.src, arrived.sport, arrived.dport),
                (net.pod(1), 40000, TARGET)
            );
            let backend = egress(&frame).ifindex;
            assert_eq!(egress(&frame), Egress::peer(backend));
            assert_eq!(destination_mac(&frame), WEFT0);
            assert_eq!(arrived.dst, net.pod((backend - 10) as u8));
            assert_eq!(
                packet(&frame).hops(),
                63,
                "Weft forwards and counts the hop"
            );

            let mut reply = Spec::of(arrived.reversed(), SYN | ACK)
                .payload(b"you too")
                .punted(backend, Hook::FromPod);
            assert_eq!(
                run(&mut reply, START, &tables, &mut state),
                Verdict::Deliver
            );
            assert_eq!(tuple(&reply), open(net, proto, SERVED).tuple.reversed());
            assert_eq!(egress(&reply), Egress::peer(CLIENT));
            assert_eq!(packet(&reply).hops(), 63);

            let (_, flow) = state.flows.slice(0, 8).next().unwrap();
            assert_eq!(flow.tuple(), open(net, proto, SERVED).tuple);
            assert_eq!(flow.backend_tuple(), arrived);
            assert_eq!((flow.packets(), flow.kind()), ([1, 1], FlowKind::Service));
            assert!(
                state.pin_ops.is_empty(),
                "one worker and enrolled ends need no owner entries"
            );
        }
    }
}

/// A backend that is not enrolled: the kernel carries, so it counts the hop; its reply is translated at the
/// client's own veth and needs an owner entry there.
#[test]
fn svc_01_a_backend_by_the_kernel() {
    for net in Net::BOTH {
        for proto in PROTOCOLS {
            let (tables, mut state) = (settled(), state(1));
            let mut frame = open(net, proto, BY_KERNEL)
                .hops(1)
                .punted(CLIENT, Hook::FromPod);
            assert_eq!(
                run(&mut frame, START, &tables, &mut state),
                Verdict::Deliver
            );
            let arrived = tuple(&frame);
            assert_eq!((arrived.dst, arrived.dport), (net.pod(4), TARGET));
            assert_eq!(egress(&frame), Egress::reingress(CLIENT));
            assert_eq!(
                destination_mac(&frame),
                ORIGINAL_DST,
                "re-ingress keeps the destination MAC"
            );
            assert_eq!(packet(&frame).hops(), 1);
            let key = FlowKey {
                tuple: arrived.reversed(),
                ifindex: CLIENT,
            };
            let [
                PinOp::Insert {
                    key: pinned,
                    owner: 0,
                    ..
                },
            ] = state.pin_ops.as_slice()
            else {
                panic!()
            };
            assert_eq!(*pinned, key);

            let mut reply = Spec::of(arrived.reversed(), SYN | ACK)
                .hops(1)
                .punted(CLIENT, Hook::ToPod);
            assert_eq!(
                run(&mut reply, START, &tables, &mut state),
                Verdict::Deliver
            );
            assert_eq!(tuple(&reply), open(net, proto, BY_KERNEL).tuple.reversed());
            assert_eq!(egress(&reply), Egress::peer(CLIENT));
            assert_eq!(packet(&reply).hops(), 1);
        }
    }
}

#[test]
fn a_reply_counts_only_at_the_hook_it_is_expected_at() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(1));
    let mut frame = open(net, Protocol::Tcp, BY_KERNEL).punted(CLIENT, Hook::FromPod);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Deliver
    );
    // The client claims to be the backend: its own hook is not where that reply comes from.
    let mut forged = Spec::of(tuple(&frame).reversed(), ACK).punted(CLIENT, Hook::FromPod);
    assert_eq!(
        run(&mut forged, START, &tables, &mut state),
        Verdict::Drop(DropReason::SrcSpoof)
    );
    assert_eq!(state.flows.len(), 1, "and it does not harm the flow");
}

#[test]
fn several_workers_pin_both_directions_and_hand_over() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(2));
    let spec = open(net, Protocol::Tcp, SERVED);
    let stray = Ingress {
        ifindex: CLIENT,
        hook: Hook::FromPod,
        target: 0xffff,
    };
    let mut frame = spec.frame(stray.encode());
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::HandOver(1)
    );
    let mut frame = spec.punted(CLIENT, Hook::FromPod);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Deliver
    );
    let id = state.flows.slice(0, 1).next().unwrap().0;
    let flow = state.flows.at(id).unwrap();
    let keys: Vec<_> = [Direction::Forward, Direction::Reply]
        .map(|d| flow.key(d).unwrap())
        .into();
    let pinned: Vec<_> = state
        .pin_ops
        .as_slice()
        .iter()
        .map(|op| match op {
            PinOp::Insert {
                key,
                owner: 0,
                cookie,
                terminated: None,
            } if *cookie == flow.cookie() => *key,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pinned, keys);
}

/// An unflushed buffer of owner entries drops new flows by name, and never known ones.
#[test]
fn pin_room_is_a_named_drop() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(2));
    let mut verdicts = vec![];
    for port in 0..1000 {
        let mut frame = Spec::tcp(net.pod(1), 1000 + port, net.vip(80), SERVED, SYN)
            .punted(CLIENT, Hook::FromPod);
        verdicts.push(run(&mut frame, START, &tables, &mut state));
    }
    assert_eq!(
        *verdicts.last().unwrap(),
        Verdict::Drop(DropReason::PinRoom)
    );
    assert!(state.pin_ops.as_slice().len() <= PIN_OPS_MAX);
    let mut known =
        Spec::tcp(net.pod(1), 1000, net.vip(80), SERVED, ACK).punted(CLIENT, Hook::FromPod);
    assert_eq!(
        run(&mut known, START, &tables, &mut state),
        Verdict::Deliver
    );
    state.pin_ops.clear();
    let mut frame =
        Spec::tcp(net.pod(1), 9999, net.vip(80), SERVED, SYN).punted(CLIENT, Hook::FromPod);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Deliver
    );
}

#[test]
fn a_hop_count_that_is_used_up_is_a_named_drop_without_a_flow() {
    for net in Net::BOTH {
        let (tables, mut state) = (settled(), state(1));
        for hops in [0, 1] {
            let mut frame = open(net, Protocol::Tcp, SERVED)
                .hops(hops)
                .punted(CLIENT, Hook::FromPod);
            assert_eq!(
                run(&mut frame, START, &tables, &mut state),
                Verdict::Drop(DropReason::TtlExpired)
            );
            let mut frame = Spec::tcp(net.pod(1), 5, net.pod(2), 80, SYN)
                .hops(hops)
                .punted(CLIENT, Hook::FromPod);
            assert_eq!(
                run(&mut frame, START, &tables, &mut state),
                Verdict::Drop(DropReason::TtlExpired)
            );
        }
        assert!(state.flows.is_empty());
    }
}

#[test]
fn udp_without_a_checksum_is_translated_without_one() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(1));
    let mut frame = open(net, Protocol::Udp, SERVED).punted(CLIENT, Hook::FromPod);
    frame[40..42].fill(0);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Deliver
    );
    assert_eq!(frame[40..42], [0, 0]);
    assert_eq!(tuple(&frame).dport, TARGET);
}

#[test]
fn foreign_frames_and_foreign_pods() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(1));
    let mut frame = open(net, Protocol::Tcp, SERVED).frame([0x52, 0, 0, 0, 0, 1]);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Drop(DropReason::ForeignFrame)
    );
    let mut frame = open(net, Protocol::Tcp, SERVED).punted(77, Hook::FromPod);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Kernel(KernelReason::UnknownPod)
    );
    assert_eq!(egress(&frame), Egress::reingress(77));
}

/// AMB-06: the interface decides who sends; another pod's address is a spoof, and its flow out of reach.
#[test]
fn amb_06_a_spoofed_source_is_dropped() {
    for net in Net::BOTH {
        let (tables, mut state) = (settled(), state(1));
        let mut frame = open(net, Protocol::Tcp, SERVED).punted(CLIENT, Hook::FromPod);
        assert_eq!(
            run(&mut frame, START, &tables, &mut state),
            Verdict::Deliver
        );
        for flags in [SYN, ACK, RST] {
            let spec = Spec::tcp(net.pod(1), 40000, net.vip(80), SERVED, flags);
            let mut frame = spec.punted(BACKEND_1, Hook::FromPod);
            assert_eq!(
                run(&mut frame, START, &tables, &mut state),
                Verdict::Drop(DropReason::SrcSpoof)
            );
        }
        let flow = state.flows.slice(0, 1).next().unwrap().1;
        assert_eq!((flow.packets(), flow.state()), ([1, 0], FlowState::SynSent));
    }
}
