//! Flows that the engine opens and leaves to the hooks.

use std::time::Duration;

use weft_datapath::*;

use crate::support::*;

/// Hooks that carry nothing yet.
#[derive(Debug)]
struct Nothing;

impl FastFlows for Nothing {
    fn find(&self, _: &FlowKey) -> Option<FastEnds> {
        None
    }
}

fn leaving() -> State {
    let mut state = state(1);
    state.set_fast_flows(Box::new(Nothing), Opens::Engine);
    state
}

/// The flows that a frame has left to the hooks.
fn left(spec: &Spec, now: Now, tables: &Tables, state: &mut State) -> Vec<(FastEnds, Option<u32>)> {
    state.pin_ops.clear();
    let mut frame = spec.punted(CLIENT, Hook::FromPod);
    assert_eq!(run(&mut frame, now, tables, state), Verdict::Deliver);
    let ops = state.pin_ops.as_slice().iter();
    ops.filter_map(|op| match op {
        PinOp::Leave { ends, service, .. } => Some((*ends, *service)),
        _ => None,
    })
    .collect()
}

#[test]
fn whoever_chose_the_backend_a_flow_is_left_with_both_of_its_ends() {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin, Algorithm::Random] {
        let tables = builder(
            &[
                (CLIENT, Standing::Settled),
                (BACKEND_1, Standing::Settled),
                (BACKEND_2, Standing::Settled),
            ],
            algorithm,
        );
        let tables = tables.build(1).unwrap();
        for net in Net::BOTH {
            for proto in [Protocol::Tcp, Protocol::Udp] {
                let mut state = leaving();
                let spec = open(net, proto, SERVED);
                let found = left(&spec, START, &tables, &mut state);
                let [(ends, Some(_))] = found[..] else {
                    panic!("{algorithm:?} {proto}: {found:?}");
                };
                assert_eq!(ends.client.ifindex, CLIENT);
                assert_eq!(ends.client.tuple.dport, SERVED);
                assert!([BACKEND_1, BACKEND_2].contains(&ends.answers.ifindex));
                assert_eq!(ends.answers.tuple.sport, TARGET);
                assert_eq!(ends.answers.tuple.dst, ends.client.tuple.src);
            }
        }
    }
}

/// Its backend's live flows are counted by the engine, which has to see them end.
#[test]
fn svc_43_least_connections_leaves_nothing() {
    let pods = [(CLIENT, Standing::Settled), (BACKEND_1, Standing::Settled)];
    let tables = builder(&pods, Algorithm::LeastConnections)
        .build(1)
        .unwrap();
    let spec = open(Net::V4, Protocol::Tcp, SERVED);
    assert_eq!(left(&spec, START, &tables, &mut leaving()), []);
}

/// Backends that the kernel reaches, and the client itself, whose address has to be another's there.
#[test]
fn what_the_hooks_could_not_carry_stays() {
    let tables = settled();
    for port in [BY_KERNEL, ONLY_CLIENT] {
        let spec = open(Net::V4, Protocol::Udp, port);
        assert_eq!(left(&spec, START, &tables, &mut leaving()), [], "{port}");
    }
    let mut engines = state(1);
    let spec = open(Net::V4, Protocol::Udp, SERVED);
    assert_eq!(left(&spec, START, &tables, &mut engines), [], "no hooks");
}

/// A datagram that comes although its flow was left: either it follows others, or the hooks had no room.
#[test]
fn datagrams_are_left_again_after_a_pause_and_not_before() {
    let (tables, mut state) = (settled(), leaving());
    let spec = open(Net::V4, Protocol::Udp, SERVED);
    assert_eq!(left(&spec, START, &tables, &mut state).len(), 1);
    let mut now = START;
    for _ in 0..10 {
        now = now + Duration::from_millis(5);
        assert_eq!(left(&spec, now, &tables, &mut state), []);
    }
    let now = now + timeouts::LEAVING;
    assert_eq!(left(&spec, now, &tables, &mut state).len(), 1);
}

/// Hooks that have seen one datagram, and where it went.
#[derive(Debug)]
struct Went(u16);

impl FastFlows for Went {
    fn find(&self, _: &FlowKey) -> Option<FastEnds> {
        None
    }

    fn first(&self, _: &FlowKey) -> Option<u16> {
        Some(self.0)
    }
}

/// Also where the service is another algorithm's by now.
#[test]
fn svc_45_a_flow_keeps_the_backend_that_the_hooks_sent_its_first_datagram_to() {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin, Algorithm::Random] {
        let pods = [CLIENT, BACKEND_1, BACKEND_2].map(|pod| (pod, Standing::Settled));
        let tables = builder(&pods, algorithm).build(1).unwrap();
        for (net, ifindex) in Net::BOTH
            .into_iter()
            .cycle()
            .zip([BACKEND_1, BACKEND_2].repeat(4))
        {
            let address = enrolled_backend(net, ifindex, TARGET).address;
            let mut state = state(1);
            let went = Went(backend_print(&address, TARGET));
            state.set_fast_flows(Box::new(went), Opens::Engine);
            let spec = open(net, Protocol::Udp, SERVED);
            let found = left(&spec, START, &tables, &mut state);
            assert_eq!(found[0].0.answers.tuple.src, address, "{algorithm:?}");
        }
    }
}

/// A SYN that comes although its connection was left: that is over, or the hooks had no room.
#[test]
fn a_syn_opens_what_was_left_anew() {
    let (tables, mut state) = (settled(), leaving());
    let spec = open(Net::V4, Protocol::Tcp, SERVED);
    for _ in 0..3 {
        assert_eq!(left(&spec, START, &tables, &mut state).len(), 1);
        assert_eq!(state.flows.len(), 1);
    }
}

/// Hooks whose flows are all over.
#[derive(Debug)]
struct Over;

impl FastFlows for Over {
    fn find(&self, _: &FlowKey) -> Option<FastEnds> {
        None
    }

    fn is_over(&self, _: &FlowKey) -> bool {
        true
    }
}

/// Linux uses a source port again for another destination: the tuples of a connection that is over with the hooks are free,
/// although nobody has told the engine (AMB-08).
#[test]
fn amb_08_a_connection_that_ended_with_the_hooks_leaves_its_tuples() {
    let tables = settled();
    for over in [false, true] {
        let mut state = leaving();
        if over {
            state.set_fast_flows(Box::new(Over), Opens::Engine);
        }
        let direct = Spec::tcp(Net::V4.pod(1), 40000, Net::V4.pod(2), TARGET, SYN);
        left(&direct, START, &tables, &mut state);
        let service = open(Net::V4, Protocol::Tcp, ONE_BACKEND);
        let mut frame = service.punted(CLIENT, Hook::FromPod);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        assert_eq!(tuple(&frame).sport == 40000, over);
    }
}
