//! Endpoint states and what becomes of flows when their backend leaves (SVC-22, -23, -24, -27).

use std::time::Duration;

use weft_datapath::*;

use crate::support::fragments::{cut, text};
use crate::support::*;

/// A backend as control sees it.
#[derive(Copy, Clone)]
struct End {
    ifindex: u32,
    state: BackendState,
    member: SlotRef,
}

fn end(ifindex: u32, state: BackendState) -> End {
    let member = SlotRef::member(ifindex, 1);
    End {
        ifindex,
        state,
        member,
    }
}

fn ready(ifindex: u32) -> End {
    end(ifindex, BackendState::Ready)
}

/// Tables with one service port on these backends. `gone`: backends whose place has moved on.
fn tables(net: Net, proto: Protocol, ends: &[End], gone: &[u32], reset: bool) -> Tables {
    let mut builder = TablesBuilder::new();
    for pod in [CLIENT, BACKEND_1, BACKEND_2] {
        builder.add_pod(support_pod(pod));
    }
    let mut members = vec![1; 64];
    for place in gone {
        members[*place as usize] = 2;
    }
    builder.set_epochs(epochs()).set_members(members);
    let backends = ends
        .iter()
        .map(|end| Backend {
            state: end.state,
            member: end.member,
            ..enrolled_backend(net, end.ifindex, TARGET)
        })
        .collect();
    builder.add_service_port(ServicePortSpec {
        id: 1,
        address: net.vip(80),
        port: SERVED,
        proto,
        algorithm: Algorithm::Maglev,
        backends,
        options: ServiceOptions {
            reset_on_removal: reset,
            ..ServiceOptions::default()
        },
    });
    builder.build(1).unwrap()
}

fn support_pod(ifindex: u32) -> Pod {
    pod(ifindex, Standing::Settled)
}

fn question(net: Net, proto: Protocol, sport: u16, flags: u8) -> Spec {
    let tuple = Tuple {
        src: net.pod(1),
        dst: net.vip(80),
        sport,
        dport: SERVED,
        proto,
    };
    Spec {
        payload: b"?".to_vec(),
        ..Spec::of(tuple, flags)
    }
}

/// Sends to the VIP and says which backend got it.
fn ask(spec: &Spec, now: Now, tables: &Tables, state: &mut State) -> Result<(u32, Tuple), Verdict> {
    let mut frame = spec.punted(CLIENT, Hook::FromPod);
    let verdict = run(&mut frame, now, tables, state);
    state.pin_ops.clear();
    match verdict {
        Verdict::Deliver => Ok((egress(&frame).ifindex, tuple(&frame))),
        verdict => Err(verdict),
    }
}

fn answer(to: (u32, Tuple), flags: u8, now: Now, tables: &Tables, state: &mut State) -> Verdict {
    let mut frame = Spec::of(to.1.reversed(), flags).punted(to.0, Hook::FromPod);
    let verdict = run(&mut frame, now, tables, state);
    state.pin_ops.clear();
    verdict
}

/// Opens a connection and completes its handshake.
fn connect(net: Net, sport: u16, tables: &Tables, state: &mut State) -> (u32, Tuple) {
    let at = ask(
        &question(net, Protocol::Tcp, sport, SYN),
        START,
        tables,
        state,
    )
    .unwrap();
    assert_eq!(
        answer(at, SYN | ACK, START, tables, state),
        Verdict::Deliver
    );
    ask(
        &question(net, Protocol::Tcp, sport, ACK),
        START,
        tables,
        state,
    )
    .unwrap()
}

/// Which of the two backends new flows go to.
fn chosen(ends: &[End]) -> Vec<u32> {
    let tables = tables(Net::V4, Protocol::Udp, ends, &[], false);
    let mut state = state(1);
    let mut got: Vec<u32> = (0..64)
        .filter_map(|port| {
            let spec = question(Net::V4, Protocol::Udp, 20000 + port, 0);
            match ask(&spec, START, &tables, &mut state) {
                Ok((ifindex, _)) => Some(ifindex),
                Err(verdict) => {
                    assert_eq!(verdict, Verdict::Reply, "rejected at once");
                    None
                }
            }
        })
        .collect();
    got.sort_unstable();
    got.dedup();
    got
}

/// SVC-22, K-06: ready first; terminating ones that serve only while none is ready; never those that do not.
#[test]
fn svc22_new_flows_go_to_ready_then_to_serving_and_terminating() {
    use BackendState::{Ready, Terminating, Unready};
    let (one, two) = (BACKEND_1, BACKEND_2);
    let cases: [(BackendState, BackendState, &[u32]); 9] = [
        (Ready, Ready, &[BACKEND_1, BACKEND_2]),
        (Ready, Terminating, &[BACKEND_1]),
        (Terminating, Ready, &[BACKEND_2]),
        (Ready, Unready, &[BACKEND_1]),
        (Terminating, Terminating, &[BACKEND_1, BACKEND_2]),
        (Terminating, Unready, &[BACKEND_1]),
        (Unready, Terminating, &[BACKEND_2]),
        (Unready, Ready, &[BACKEND_2]),
        (Unready, Unready, &[]),
    ];
    for (first, second, expected) in cases {
        let got = chosen(&[end(one, first), end(two, second)]);
        assert_eq!(got, expected, "{first:?} and {second:?}");
    }
    assert!(chosen(&[]).is_empty());
}

/// SVC-22: a state that flaps moves the new flows of nobody else.
#[test]
fn svc22_a_flapping_backend_leaves_the_choices_among_the_others() {
    let net = Net::V4;
    let build = |state| {
        let ends = [ready(CLIENT), ready(BACKEND_1), end(BACKEND_2, state)];
        tables(net, Protocol::Tcp, &ends, &[], false)
    };
    let (before, after) = (build(BackendState::Ready), build(BackendState::Unready));
    let table = |tables: &Tables| tables.services()[0].maglev().unwrap().entries().to_vec();
    let moved = table(&before)
        .iter()
        .zip(table(&after))
        .filter(|(old, new)| **old != 2 && **old != *new)
        .count();
    assert!(moved * 20 < table(&before).len(), "{moved}");
}

/// SVC-23, K-07: flows keep a backend that is unready or terminating, whatever the protocol.
#[test]
fn svc23_established_flows_keep_a_backend_that_is_not_ready() {
    for net in Net::BOTH {
        for state_now in [BackendState::Unready, BackendState::Terminating] {
            for proto in [Protocol::Tcp, Protocol::Udp] {
                let before = tables(net, proto, &[ready(BACKEND_1)], &[], true);
                let ends = [end(BACKEND_1, state_now), ready(BACKEND_2)];
                let after = tables(net, proto, &ends, &[], true);
                let mut state = state(1);
                let at = match proto {
                    Protocol::Tcp => connect(net, 40000, &before, &mut state),
                    Protocol::Udp => {
                        ask(&question(net, proto, 40000, 0), START, &before, &mut state).unwrap()
                    }
                };
                let reply = answer(at, ACK, START, &after, &mut state);
                assert_eq!(reply, Verdict::Deliver);
                let still = ask(&question(net, proto, 40000, ACK), START, &after, &mut state);
                assert_eq!(still, Ok(at), "{proto}");
                let other = ask(&question(net, proto, 40001, SYN), START, &after, &mut state);
                assert_eq!(other.unwrap().0, BACKEND_2);
            }
        }
    }
}

/// SVC-24: a TCP flow outlives its backend's removal.
#[test]
fn svc24_a_removed_backend_keeps_its_tcp_flows() {
    for net in Net::BOTH {
        let before = tables(net, Protocol::Tcp, &[ready(BACKEND_1)], &[], false);
        let after = tables(net, Protocol::Tcp, &[], &[BACKEND_1], false);
        let mut state = state(1);
        let at = connect(net, 40000, &before, &mut state);
        let still = ask(
            &question(net, Protocol::Tcp, 40000, ACK),
            START,
            &after,
            &mut state,
        );
        assert_eq!(still, Ok(at));
        assert_eq!(answer(at, ACK, START, &after, &mut state), Verdict::Deliver);
    }
}

/// SVC-24: with `rst_on_removal` the client is reset at its next packet, however late that is, with the
/// sequence number that it waits for; what the backend still sends does not reach it.
#[test]
fn svc24_rst_on_removal_resets_at_the_next_packet() {
    for net in Net::BOTH {
        let before = tables(net, Protocol::Tcp, &[ready(BACKEND_1)], &[], true);
        let after = tables(net, Protocol::Tcp, &[ready(BACKEND_2)], &[BACKEND_1], true);
        let mut state = state(1);
        let at = connect(net, 40000, &before, &mut state);
        let late = START + Duration::from_secs(3600);
        state.expire(late, &after, usize::MAX);
        let silent = Verdict::Drop(DropReason::UnknownFlow);
        assert_eq!(answer(at, ACK, late, &after, &mut state), silent);
        let spec = question(net, Protocol::Tcp, 40000, ACK);
        for _ in 0..2 {
            let mut frame = spec.punted(CLIENT, Hook::FromPod);
            assert_eq!(run(&mut frame, late, &after, &mut state), Verdict::Reply);
            assert_eq!(egress(&frame), Egress::peer(CLIENT));
            assert_eq!(tuple(&frame), spec.tuple.reversed());
            let headers = sound(&frame);
            let Some(etherparse::TransportHeader::Tcp(tcp)) = headers.transport else {
                panic!("{headers:?}")
            };
            assert!(tcp.rst && !tcp.ack);
            assert_eq!(tcp.sequence_number, 2000, "what the client acknowledges");
        }
        // A reset is not answered; a SYN is served by who is left.
        let verdict = ask(
            &question(net, Protocol::Tcp, 40000, RST),
            late,
            &after,
            &mut state,
        );
        assert_eq!(verdict, Err(silent));
        let (ifindex, _) = ask(
            &question(net, Protocol::Tcp, 40000, SYN),
            late,
            &after,
            &mut state,
        )
        .expect("a new connection");
        assert_eq!((ifindex, state.flows.len()), (BACKEND_2, 1));
    }
}

/// SVC-24: a flow that waits to be reset is forgotten in time, and soon once its client knows.
#[test]
fn svc24_a_flow_to_be_reset_does_not_wait_for_ever() {
    let net = Net::V4;
    let before = tables(net, Protocol::Tcp, &[ready(BACKEND_1)], &[], true);
    let after = tables(net, Protocol::Tcp, &[], &[BACKEND_1], true);
    let mut state = state(1);
    connect(net, 40000, &before, &mut state);
    connect(net, 40001, &before, &mut state);
    let spec = question(net, Protocol::Tcp, 40000, ACK);
    assert_eq!(ask(&spec, START, &after, &mut state), Err(Verdict::Reply));
    state.expire(START + timeouts::TCP_CLOSED, &after, usize::MAX);
    assert_eq!(state.flows.len(), 2);
    let moment = Duration::from_nanos(1);
    state.expire(START + timeouts::TCP_CLOSED + moment, &after, usize::MAX);
    assert_eq!(state.flows.len(), 1);
    state.expire(
        START + timeouts::TCP_ESTABLISHED + moment,
        &after,
        usize::MAX,
    );
    assert!(state.flows.is_empty());
}

/// SVC-27 a and e: the flows of a removed endpoint are chosen for anew at once, answered or not, and what it
/// still sends does not reach the client or stand in its way.
#[test]
fn svc27_udp_flows_of_a_removed_endpoint_are_selected_anew_at_once() {
    for net in Net::BOTH {
        for answered in [false, true] {
            let proto = Protocol::Udp;
            let before = tables(net, proto, &[ready(BACKEND_1)], &[], false);
            let after = tables(net, proto, &[ready(BACKEND_2)], &[BACKEND_1], false);
            let mut state = state(1);
            let spec = question(net, proto, 40000, 0);
            let old = ask(&spec, START, &before, &mut state).unwrap();
            if answered {
                assert_eq!(answer(old, 0, START, &before, &mut state), Verdict::Deliver);
            }
            let late = answer(old, 0, START, &after, &mut state);
            assert_eq!(late, Verdict::Drop(DropReason::UnknownFlow));
            let new = ask(&spec, START, &after, &mut state).unwrap();
            assert_eq!((new.0, state.flows.len()), (BACKEND_2, 1));
            assert_eq!(answer(new, 0, START, &after, &mut state), Verdict::Deliver);

            // Later still it is a direct datagram, which must not keep the client from that backend.
            assert_eq!(answer(old, 0, START, &after, &mut state), Verdict::Deliver);
            let mut back = ready(BACKEND_1);
            back.member = SlotRef::member(BACKEND_1, 2);
            let gone = [BACKEND_1, BACKEND_2];
            let again = tables(net, proto, &[back], &gone, false);
            let third = ask(&spec, START, &again, &mut state).unwrap();
            assert_eq!(third, old, "chosen again");
        }
    }
}

/// SVC-27, SVC-28: what a removed endpoint still sends, in one piece or in fragments, does not reach the client, however
/// often the clock hand has come by, until the flow could not have been its client's any more.
#[test]
fn svc27_svc28_late_replies_of_a_removed_endpoint_never_arrive_untranslated() {
    for net in Net::BOTH {
        for answered in [false, true] {
            let proto = Protocol::Udp;
            let before = tables(net, proto, &[ready(BACKEND_1)], &[], false);
            let after = tables(net, proto, &[ready(BACKEND_2)], &[BACKEND_1], false);
            let mut state = state(1);
            let old = ask(&question(net, proto, 40000, 0), START, &before, &mut state).unwrap();
            let mut limit = timeouts::UDP_ONE_WAY;
            if answered {
                assert_eq!(answer(old, 0, START, &before, &mut state), Verdict::Deliver);
                limit = timeouts::UDP_TWO_WAY;
            }
            let silent = Verdict::Drop(DropReason::UnknownFlow);
            for time in [START, START + limit] {
                state.expire(time, &after, usize::MAX);
                assert_eq!(answer(old, 0, time, &after, &mut state), silent);
                let late = Spec::of(old.1.reversed(), 0).payload(&text(3000));
                let id = time.as_nanos() as u32;
                let pieces = cut(&late.punted(old.0, Hook::FromPod), id, 1472);
                let verdicts: Vec<Verdict> = pieces
                    .into_iter()
                    .map(|mut piece| run(&mut piece, time, &after, &mut state))
                    .collect();
                let refused = Verdict::Drop(DropReason::FragmentRefused);
                assert_eq!(verdicts, [silent, refused, refused]);
            }
            let over = START + limit + Duration::from_nanos(1);
            assert_eq!(state.expire(over, &after, usize::MAX), 1);
        }
    }
}

/// SVC-27 b and c, SVC-04: the last endpoint gone, flows that there are are rejected like new ones; with the
/// first one back they are served.
#[test]
fn svc27_none_left_rejects_known_flows_and_one_back_serves_them() {
    for net in Net::BOTH {
        let proto = Protocol::Udp;
        let before = tables(net, proto, &[ready(BACKEND_1)], &[], false);
        let none = tables(net, proto, &[], &[BACKEND_1], false);
        let after = tables(net, proto, &[ready(BACKEND_2)], &[BACKEND_1], false);
        let mut state = state(1);
        let spec = question(net, proto, 40000, 0);
        ask(&spec, START, &before, &mut state).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&spec, START, &none, &mut state), Err(Verdict::Reply));
        }
        assert!(state.flows.is_empty());
        assert_eq!(ask(&spec, START, &after, &mut state).unwrap().0, BACKEND_2);
    }
}

/// SVC-27 d: a process without memory chooses as the one before did.
#[test]
fn svc27_a_restart_changes_no_choice() {
    let net = Net::V6;
    let ends = [ready(BACKEND_1), ready(BACKEND_2)];
    let tables = tables(net, Protocol::Udp, &ends, &[], false);
    let (mut old, mut new) = (state(1), state(1));
    for port in 0..200 {
        let spec = question(net, Protocol::Udp, 20000 + port, 0);
        let before = ask(&spec, START, &tables, &mut old).unwrap();
        assert_eq!(ask(&spec, START, &tables, &mut new), Ok(before));
    }
}
