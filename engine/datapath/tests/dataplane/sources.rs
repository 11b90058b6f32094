//! Flows whose far end sees the client elsewhere: hairpins and tuple clashes.

use std::collections::HashSet;

use weft_datapath::*;

use crate::support::*;

/// One packet from `ifindex`, and what the edge transmits of it.
fn send(spec: &Spec, ifindex: u32, tables: &Tables, state: &mut State) -> (Verdict, Vec<u8>) {
    let mut frame = spec.punted(ifindex, Hook::FromPod);
    let verdict = run(&mut frame, START, tables, state);
    state.pin_ops.clear();
    (verdict, frame)
}

fn spec(proto: Protocol, tuple: Tuple, flags: u8) -> Spec {
    Spec {
        tuple: Tuple { proto, ..tuple },
        payload: b"some bytes".to_vec(),
        ..Spec::of(tuple, flags)
    }
}

#[test]
fn svc_31_a_pod_reaches_itself_through_its_service_by_the_hairpin_address() {
    for (net, proto) in Net::BOTH
        .into_iter()
        .flat_map(|net| [(net, Protocol::Tcp), (net, Protocol::Udp)])
    {
        let (tables, mut state) = (settled(), state(1));
        let (pod, vip, hairpin) = (net.pod(1), net.vip(80), net.hairpin());
        let tuple = Tuple {
            src: pod,
            dst: vip,
            sport: 40_000,
            dport: ONLY_CLIENT,
            proto,
        };
        let (verdict, there) = send(&spec(proto, tuple, SYN), CLIENT, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        let seen = Tuple {
            src: hairpin,
            dst: pod,
            dport: TARGET,
            ..tuple
        };
        assert_eq!(self::tuple(&there), seen);
        assert_eq!(egress(&there), Egress::peer(CLIENT));
        let reply = spec(proto, seen.reversed(), SYN | ACK);
        let (verdict, back) = send(&reply, CLIENT, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        assert_eq!(self::tuple(&back), tuple.reversed(), "from the VIP");
        assert_eq!(egress(&back), Egress::peer(CLIENT));
    }
}

#[test]
fn svc_31_without_a_hairpin_address_of_the_family_another_backend_serves_or_the_drop_is_named() {
    let tables = settled();
    let mut state = State::new(StateConfig {
        max_flows: 64,
        seed: 1,
        worker: 0,
        workers: 1,
        ports: Ports { weft0_mac: WEFT0 },
        hairpin: [Net::V6.hairpin()].into_iter().collect(),
    });
    let net = Net::V4;
    let to = |pod, port, dport| Spec::tcp(net.pod(pod), port, net.vip(80), dport, SYN);
    let (verdict, _) = send(&to(1, 4000, ONLY_CLIENT), CLIENT, &tables, &mut state);
    assert_eq!(verdict, Verdict::Drop(DropReason::Hairpin));
    for port in 0..20 {
        let (verdict, frame) = send(&to(2, port, SERVED), BACKEND_1, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        assert_eq!(tuple(&frame).dst, net.pod(3));
    }
}

#[test]
fn svc_31_backends_that_are_clients_choose_themselves_as_often_as_others() {
    let (net, tables) = (Net::V4, settled());
    let mut state = state(1);
    let mut own = 0;
    for port in 0..1000 {
        let open = Spec::tcp(net.pod(2), 30_000 + port, net.vip(80), SERVED, SYN);
        let (verdict, frame) = send(&open, BACKEND_1, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        own += u32::from(tuple(&frame).src == net.hairpin());
    }
    assert!((400..600).contains(&own), "{own} of 1000 to itself");
}

#[test]
fn a_packet_to_the_hairpin_address_without_a_flow_is_a_named_drop() {
    for net in Net::BOTH {
        let (tables, mut state) = (settled(), state(1));
        for spec in [
            Spec::tcp(net.pod(1), 5, net.hairpin(), 6, SYN),
            Spec::udp(net.pod(1), 5, net.hairpin(), 6),
        ] {
            let (verdict, _) = send(&spec, CLIENT, &tables, &mut state);
            assert_eq!(verdict, Verdict::Drop(DropReason::UnknownFlow));
        }
    }
}

/// Linux reuses a source port per destination: two VIPs over one backend, and the backend directly, give one
/// reply tuple. Each connection gets its own, and every reply goes back to where its connection began.
#[test]
fn two_vips_over_one_backend_and_one_source_port_are_three_flows_with_the_direct_one() {
    for net in Net::BOTH {
        for proto in [Protocol::Tcp, Protocol::Udp] {
            let (tables, mut state) = (settled(), state(1));
            let from = |dst, dport| Tuple {
                src: net.pod(1),
                dst,
                sport: 40_000,
                dport,
                proto,
            };
            let ends = [
                from(net.vip(80), ONE_BACKEND),
                from(net.vip(81), ONE_BACKEND),
                from(net.pod(2), TARGET),
            ];
            let mut seen = HashSet::new();
            let mut arrived = Vec::new();
            for tuple in ends {
                let (verdict, frame) = send(&spec(proto, tuple, SYN), CLIENT, &tables, &mut state);
                assert_eq!(verdict, Verdict::Deliver);
                let there = self::tuple(&frame);
                assert_eq!((there.src, there.dst), (net.pod(1), net.pod(2)));
                assert!(seen.insert(there.sport), "port {} twice", there.sport);
                arrived.push(there);
            }
            assert_eq!(arrived[0].sport, 40_000, "the first keeps its own");
            for (tuple, there) in ends.into_iter().zip(arrived) {
                let (verdict, frame) = send(
                    &spec(proto, there.reversed(), SYN | ACK),
                    BACKEND_1,
                    &tables,
                    &mut state,
                );
                assert_eq!(verdict, Verdict::Deliver);
                assert_eq!(self::tuple(&frame), tuple.reversed());
                assert_eq!(egress(&frame), Egress::peer(CLIENT));
            }
        }
    }
}

#[test]
fn a_tuple_clash_takes_another_backend_before_another_port() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(1));
    let to = |vip, port| Spec::tcp(net.pod(1), 40_000, net.vip(vip), port, SYN);
    let (_, first) = send(&to(80, ONE_BACKEND), CLIENT, &tables, &mut state);
    assert_eq!(tuple(&first).dst, net.pod(2));
    let (verdict, second) = send(&to(81, SERVED), CLIENT, &tables, &mut state);
    assert_eq!(verdict, Verdict::Deliver);
    assert_eq!(
        (tuple(&second).dst, tuple(&second).sport),
        (net.pod(3), 40_000)
    );
}

#[test]
fn a_flow_that_is_over_makes_way_and_the_port_is_kept() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(1));
    let to = |flags| Spec::tcp(net.pod(1), 40_000, net.vip(80), ONE_BACKEND, flags);
    let _ = send(&to(SYN), CLIENT, &tables, &mut state);
    let _ = send(&to(RST), CLIENT, &tables, &mut state);
    let direct = Spec::tcp(net.pod(1), 40_000, net.pod(2), TARGET, SYN);
    let (verdict, frame) = send(&direct, CLIENT, &tables, &mut state);
    assert_eq!(verdict, Verdict::Deliver);
    assert_eq!(tuple(&frame), direct.tuple);
}

/// More clashes than source ports are tried: the named drop, and nothing left behind.
#[test]
fn where_no_port_is_free_the_clash_is_named() {
    let net = Net::V4;
    let (tables, mut state) = (settled(), state(1));
    let to = |vip, sport| Spec::tcp(net.pod(1), sport, net.vip(vip), ONE_BACKEND, SYN);
    // A reserved port stands for 424 others; take them all, then one more.
    for sport in 600..1024 {
        let (verdict, _) = send(&to(80, sport), CLIENT, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
    }
    let flows = state.flows.len();
    let (verdict, _) = send(&to(81, 700), CLIENT, &tables, &mut state);
    assert_eq!(verdict, Verdict::Drop(DropReason::TupleClash));
    assert_eq!(state.flows.len(), flows);
}

/// With several workers the port given out is one whose own flows the same worker owns, so two workers can
/// never give one reply tuple to two flows.
#[test]
fn source_ports_given_out_stay_with_their_worker() {
    let (net, tables, workers) = (Net::V4, settled(), 4u16);
    for worker in 0..workers {
        let mut state = State::new(StateConfig {
            max_flows: 4096,
            seed: 3,
            worker,
            workers,
            ports: Ports { weft0_mac: WEFT0 },
            hairpin: Default::default(),
        });
        for sport in 20_000..20_050 {
            for vip in [80, 81] {
                let mut frame = Spec::tcp(net.pod(1), sport, net.vip(vip), ONE_BACKEND, SYN).frame(
                    Ingress {
                        ifindex: CLIENT,
                        hook: Hook::FromPod,
                        target: worker,
                    }
                    .encode(),
                );
                let verdict = run(&mut frame, START, &tables, &mut state);
                assert_eq!(verdict, Verdict::Deliver);
                state.pin_ops.clear();
                let port = tuple(&frame).sport;
                if port != sport {
                    let owner = source_hash(&net.pod(1), port, Protocol::Tcp) % workers;
                    assert_eq!(owner, worker);
                }
            }
        }
    }
}
