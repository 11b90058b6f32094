//! K-22: bounds of the flow table by service, and who makes room for whom.

use std::time::Duration;

use weft_datapath::*;

use crate::support::*;

/// Two services, 1 on port 80 and 2 on port 82, each with a backend by the kernel; pods 1 to 8.
fn tables(max_flows: Option<u32>) -> Tables {
    let net = Net::V4;
    let mut builder = TablesBuilder::new();
    for host in 1..9 {
        builder.add_pod(pod(10 + host, Standing::Settled));
    }
    builder.set_epochs(epochs());
    for (id, port) in [(1, SERVED), (2, BY_KERNEL)] {
        for proto in [Protocol::Tcp, Protocol::Udp] {
            builder.add_service_port(ServicePortSpec {
                id: id + 10 * u32::from(proto.number()),
                address: net.vip(80),
                port,
                proto,
                algorithm: Algorithm::Maglev,
                backends: vec![kernel_backend(net.pod(100), TARGET + port)],
                options: ServiceOptions {
                    max_flows: (id == 1).then_some(max_flows).flatten(),
                    ..ServiceOptions::default()
                },
            });
        }
    }
    builder.build(1).unwrap()
}

fn small(max_flows: usize) -> State {
    State::new(StateConfig {
        max_flows,
        seed: 7,
        worker: 0,
        workers: 1,
        ports: Ports { weft0_mac: WEFT0 },
        hairpin: Default::default(),
    })
}

/// Sends from pod `host`; the reply comes by the kernel.
fn send(
    (host, sport, port): (u8, u16, u16),
    flags: u8,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Verdict {
    let net = Net::V4;
    let spec = Spec::tcp(net.pod(host), sport, net.vip(80), port, flags);
    let mut frame = spec.punted(10 + u32::from(host), Hook::FromPod);
    let verdict = run(&mut frame, now, tables, state);
    state.pin_ops.clear();
    verdict
}

fn establish(at: (u8, u16, u16), now: Now, tables: &Tables, state: &mut State) {
    let (host, sport, port) = at;
    assert_eq!(send(at, SYN, now, tables, state), Verdict::Deliver);
    let net = Net::V4;
    let answer = Spec::tcp(net.pod(100), TARGET + port, net.pod(host), sport, SYN | ACK);
    let mut frame = answer.punted(10 + u32::from(host), Hook::ToPod);
    assert_eq!(run(&mut frame, now, tables, state), Verdict::Deliver);
    assert_eq!(send(at, ACK, now, tables, state), Verdict::Deliver);
}

fn established(state: &State) -> usize {
    let flows = state.flows.slice(0, state.flows.places());
    flows
        .filter(|(_, flow)| flow.state() == FlowState::Established)
        .count()
}

const LATER: Duration = Duration::from_secs(2);

#[test]
fn k22_a_service_has_no_more_flows_than_its_max_flows() {
    let (tables, mut state) = (tables(Some(10)), small(1024));
    for port in 0..10 {
        establish((1, 1000 + port, SERVED), START, &tables, &mut state);
    }
    let verdict = send((2, 1000, SERVED), SYN, START, &tables, &mut state);
    assert_eq!(verdict, Verdict::Drop(DropReason::ServiceFlowShare));
    establish((2, 1000, BY_KERNEL), START, &tables, &mut state);
    assert_eq!((established(&state), state.evicted()), (11, 0));
    // One that ends makes room, at once and not when it would have been forgotten.
    let verdict = send((1, 1000, SERVED), RST, START, &tables, &mut state);
    assert_eq!(verdict, Verdict::Deliver);
    establish((2, 1000, SERVED), START, &tables, &mut state);
    assert_eq!((established(&state), state.evicted()), (11, 1));
}

/// The flood of one service by two pods ends at their shares; a third pod still gets flows to it and to others.
#[test]
fn k22_a_flood_of_one_service_by_two_pods_leaves_room_in_it_for_the_others() {
    let (tables, mut state) = (tables(None), small(1000));
    let mut refused = 0;
    for flow in 0..3000u16 {
        let host = 1 + (flow % 2) as u8;
        let verdict = send((host, 1000 + flow, SERVED), SYN, START, &tables, &mut state);
        if verdict != Verdict::Deliver {
            assert_eq!(verdict, Verdict::Drop(DropReason::FlowShare));
            refused += 1;
        }
    }
    assert_eq!((state.flows.len(), refused), (889, 2111));
    for port in 0..20 {
        establish((3, 10_000 + port, SERVED), START, &tables, &mut state);
        establish((3, 10_000 + port, BY_KERNEL), START, &tables, &mut state);
    }
    assert_eq!(state.evicted(), 0, "there was room");
}

/// The flood of one service by many pods takes its share; another service still gets flows.
#[test]
fn k22_a_flood_of_one_service_leaves_room_for_the_others() {
    let (tables, mut state) = (tables(None), small(1000));
    let mut refused = 0;
    for flow in 0..3000u16 {
        let host = 1 + (flow % 8) as u8;
        let verdict = send((host, 1000 + flow, SERVED), SYN, START, &tables, &mut state);
        if verdict != Verdict::Deliver {
            assert_eq!(verdict, Verdict::Drop(DropReason::ServiceFlowShare));
            refused += 1;
        }
    }
    assert_eq!((state.flows.len(), refused), (942, 2058));
    for port in 0..20 {
        establish((1, 10_000 + port, BY_KERNEL), START, &tables, &mut state);
    }
    assert_eq!(state.evicted(), 0, "there was room");
}

/// A full table: what nobody answered makes room, oldest first; what is established never does.
#[test]
fn k22_half_open_flows_make_room_and_established_ones_never_do() {
    let (tables, mut state) = (tables(None), small(200));
    let mut now = START;
    for port in 0..40 {
        establish((2, 1000 + port, BY_KERNEL), now, &tables, &mut state);
    }
    // A flood of SYNs that nobody answers, for an hour, of one pod on one service.
    for flow in 0..3600u16 {
        now = now + Duration::from_secs(1);
        let _ = send((1, 1000 + flow, SERVED), SYN, now, &tables, &mut state);
        state.expire(now, &tables, 8);
        if flow.is_multiple_of(60) {
            for port in 0..40 {
                let still = send((2, 1000 + port, BY_KERNEL), ACK, now, &tables, &mut state);
                assert_eq!(still, Verdict::Deliver);
            }
        }
    }
    assert_eq!(established(&state), 40);
}

#[test]
fn k22_the_table_is_given_to_new_flows_by_evicting_the_oldest_half_open_ones() {
    let (tables, mut state) = (tables(None), small(200));
    for port in 0..300 {
        let _ = send((1, 1000 + port, SERVED), SYN, START, &tables, &mut state);
    }
    let full = state.flows.len();
    assert_eq!(full, 160, "its share");
    let young = START + Duration::from_millis(999);
    let verdict = send((1, 5000, SERVED), SYN, young, &tables, &mut state);
    assert_eq!(
        verdict,
        Verdict::Drop(DropReason::FlowShare),
        "all may be answered yet"
    );
    for port in 0..160 {
        establish((1, 6000 + port, SERVED), START + LATER, &tables, &mut state);
    }
    assert_eq!(
        (state.evicted(), established(&state), state.flows.len()),
        (160, 160, full)
    );
    // Now all of them are established: nobody makes room.
    let verdict = send((1, 7000, SERVED), SYN, START + LATER, &tables, &mut state);
    assert_eq!(verdict, Verdict::Drop(DropReason::FlowShare));
    // And a pod at its bound does not take from what another has half open.
    let verdict = send((2, 1000, BY_KERNEL), SYN, START, &tables, &mut state);
    assert_eq!(verdict, Verdict::Deliver);
    let late = START + 10 * LATER;
    for port in 0..20 {
        let verdict = send((1, 7000 + port, SERVED), SYN, late, &tables, &mut state);
        assert_eq!(verdict, Verdict::Drop(DropReason::FlowShare));
    }
    assert_eq!(state.evicted(), 160);
}
