//! How flows live and end.

use std::time::Duration;

use weft_datapath::*;

use crate::support::*;

fn to_vip(flags: u8) -> Vec<u8> {
    Spec::tcp(Net::V4.pod(1), 40000, Net::V4.vip(80), SERVED, flags).punted(CLIENT, Hook::FromPod)
}

/// A known flow keeps its backend, whatever the tables say now.
#[test]
fn a_flow_keeps_its_backend() {
    let (mut state, first) = (state(1), settled());
    let mut frame = to_vip(SYN);
    assert_eq!(run(&mut frame, START, &first, &mut state), Verdict::Deliver);
    let backend = tuple(&frame).dst;
    // The next generation has no service at all.
    let mut builder = TablesBuilder::following(&first);
    builder
        .add_pod(pod(CLIENT, Standing::Draining))
        .add_pod(pod(BACKEND_1, Standing::Settled))
        .set_epochs(epochs());
    let second = builder.build(2).unwrap();
    let mut frame = to_vip(ACK);
    assert_eq!(
        run(&mut frame, START, &second, &mut state),
        Verdict::Deliver
    );
    assert_eq!(tuple(&frame).dst, backend);
    assert_eq!(egress(&frame).inject, Inject::Peer);
}

/// Interface and address reuse after a pod's deletion is safe: its epoch has moved.
#[test]
fn a_moved_epoch_ends_the_flow() {
    let (tables, mut state) = (settled(), state(2));
    let mut frame = to_vip(SYN);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Deliver
    );
    let backend = egress(&frame).ifindex;
    state.pin_ops.clear();
    let mut moved = epochs();
    moved[backend as usize] = 2;
    let mut builder = builder(&[(CLIENT, Standing::Settled)], Algorithm::Maglev);
    builder.set_epochs(moved);
    let tables = builder.build(2).unwrap();
    assert_eq!(
        run(&mut to_vip(ACK), START, &tables, &mut state),
        Verdict::Drop(DropReason::UnknownFlow)
    );
    assert!(state.flows.is_empty());
    assert!(matches!(
        state.pin_ops.as_slice(),
        [PinOp::Remove { .. }, PinOp::Remove { .. }]
    ));
}

#[test]
fn a_syn_on_a_closed_flow_starts_anew_and_on_a_live_one_does_not() {
    let (tables, mut state) = (settled(), state(1));
    let cookie = |state: &State| state.flows.slice(0, 8).next().unwrap().1.cookie();
    assert_eq!(
        run(&mut to_vip(SYN), START, &tables, &mut state),
        Verdict::Deliver
    );
    let first = cookie(&state);
    assert_eq!(
        run(&mut to_vip(SYN), START, &tables, &mut state),
        Verdict::Deliver
    );
    assert_eq!(cookie(&state), first, "a retransmission");
    assert_eq!(
        run(&mut to_vip(RST), START, &tables, &mut state),
        Verdict::Deliver
    );
    assert_eq!(
        run(&mut to_vip(SYN), START, &tables, &mut state),
        Verdict::Deliver
    );
    assert_ne!(cookie(&state), first);
    assert_eq!(state.flows.len(), 1);
}

#[test]
fn a_silent_flow_times_out_on_lookup_and_under_the_hand() {
    let (tables, mut state) = (settled(), state(2));
    assert_eq!(
        run(&mut to_vip(SYN), START, &tables, &mut state),
        Verdict::Deliver
    );
    let late = START + timeouts::TCP_OPENING + Duration::from_nanos(1);
    assert_eq!(state.expire(START + timeouts::TCP_OPENING, &tables, 100), 0);
    let mut frame = to_vip(ACK);
    let mut twin = self::state(2);
    assert_eq!(
        run(&mut to_vip(SYN), START, &tables, &mut twin),
        Verdict::Deliver
    );
    assert_eq!(
        run(&mut frame, late, &tables, &mut twin),
        Verdict::Drop(DropReason::UnknownFlow)
    );
    assert!(twin.flows.is_empty());
    state.pin_ops.clear();
    assert_eq!(state.expire(late, &tables, 100), 1);
    assert!(state.flows.is_empty());
    assert_eq!(state.pin_ops.as_slice().len(), 2);
}

/// The hand goes round the slab in slices and leaves room for the next burst's owner entries.
#[test]
fn expiry_is_bounded_by_budget_and_by_pin_room() {
    let (tables, mut state) = (settled(), state(2));
    for port in 0..1000 {
        let mut frame = Spec::tcp(Net::V4.pod(1), 1000 + port, Net::V4.vip(80), SERVED, SYN)
            .punted(CLIENT, Hook::FromPod);
        assert_eq!(
            run(&mut frame, START, &tables, &mut state),
            Verdict::Deliver
        );
        state.pin_ops.clear();
    }
    let late = START + Duration::from_secs(3600);
    assert_eq!(state.expire(late, &tables, 10), 10);
    let mut removed = 10;
    for _ in 0..20 {
        removed += state.expire(late, &tables, usize::MAX);
        assert!(state.pin_ops.room() >= PIN_OPS_PER_FRAME * BURST_MAX);
        state.pin_ops.clear();
    }
    assert_eq!((removed, state.flows.len()), (1000, 0));
}

#[test]
fn a_full_table_is_a_named_drop() {
    let tables = settled();
    let config = StateConfig {
        max_flows: 2,
        seed: 1,
        worker: 0,
        workers: 1,
        ports: Ports::default(),
        hairpin: Default::default(),
    };
    let mut state = State::new(config);
    let mut verdicts = vec![];
    for port in 0..3 {
        let mut frame = Spec::tcp(Net::V4.pod(1), 1000 + port, Net::V4.vip(80), SERVED, SYN)
            .punted(CLIENT, Hook::FromPod);
        verdicts.push(run(&mut frame, START, &tables, &mut state));
    }
    assert_eq!(
        verdicts,
        [
            Verdict::Deliver,
            Verdict::Deliver,
            Verdict::Drop(DropReason::FlowTableFull)
        ]
    );
}

/// One pod's flood of new flows takes its share of the table and no more: others still open theirs.
#[test]
fn a_flood_of_one_pod_leaves_room_for_the_others() {
    let (tables, mut state) = (settled(), state(1));
    let mut refused = 0;
    for port in 0..5000 {
        let spec = Spec::udp(Net::V4.pod(1), 1000 + port, Net::V4.pod(2), 9);
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        match run(&mut frame, START, &tables, &mut state) {
            Verdict::Deliver => {}
            verdict => {
                assert_eq!(verdict, Verdict::Drop(DropReason::FlowShare));
                refused += 1;
            }
        }
    }
    // Of 4,096: held < 4 x free until 3,277 are held.
    assert_eq!((state.flows.len(), refused), (3277, 5000 - 3277));
    for port in 0..600 {
        let spec = Spec::tcp(Net::V4.pod(3), 1000 + port, Net::V4.vip(80), SERVED, SYN);
        let mut frame = spec.punted(BACKEND_2, Hook::FromPod);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver, "flow {port}");
    }
    // What was given back can be taken again.
    let late = START + Duration::from_secs(3600);
    state.expire(late, &tables, usize::MAX);
    let mut frame = Spec::udp(Net::V4.pod(1), 9, Net::V4.pod(2), 9).punted(CLIENT, Hook::FromPod);
    assert_eq!(run(&mut frame, late, &tables, &mut state), Verdict::Deliver);
}

/// A SYN flood whose client ignores the answers holds its flows for the handshake's time, not a day.
#[test]
fn a_handshake_that_never_ends_is_forgotten_soon() {
    let (tables, mut state) = (settled(), state(1));
    let mut syn = to_vip(SYN);
    assert_eq!(run(&mut syn, START, &tables, &mut state), Verdict::Deliver);
    let (answer, ifindex) = (tuple(&syn).reversed(), egress(&syn).ifindex);
    let mut reply = Spec::of(answer, SYN | ACK).punted(ifindex, Hook::FromPod);
    assert_eq!(
        run(&mut reply, START, &tables, &mut state),
        Verdict::Deliver
    );
    let late = START + Duration::from_secs(61);
    state.expire(late, &tables, usize::MAX);
    assert_eq!(state.flows.len(), 0);
}

/// A flow older than the enrolment goes on by the kernel after the grace, in both directions.
#[test]
fn an_older_flow_stays_the_kernels_after_the_grace() {
    for net in Net::BOTH {
        let (tables, mut state) = (tables(Standing::Grace, Standing::Settled), state(1));
        let tuple = Tuple {
            src: net.pod(1),
            dst: net.pod(2),
            sport: 40000,
            dport: 80,
            proto: Protocol::Tcp,
        };
        let older = Verdict::Kernel(KernelReason::OlderThanEnrolment);
        let mut frame = Spec::of(tuple, ACK).hops(1).punted(CLIENT, Hook::FromPod);
        let original = frame.clone();
        assert_eq!(run(&mut frame, START, &tables, &mut state), older);
        assert_eq!(frame[..6], original[..6]);
        assert_eq!(frame[12..], original[12..], "as if never touched");
        assert_eq!(egress(&frame), Egress::reingress(CLIENT));
        let late = GRACE_UNTIL + Duration::from_secs(1000);
        let mut reply = Spec::of(tuple.reversed(), ACK).punted(BACKEND_1, Hook::FromPod);
        assert_eq!(run(&mut reply, late, &tables, &mut state), older);
        assert_eq!(egress(&reply), Egress::reingress(BACKEND_1));
        // A SYN is a new connection: ours.
        let mut syn = Spec::of(tuple, SYN).punted(CLIENT, Hook::FromPod);
        assert_eq!(run(&mut syn, late, &tables, &mut state), Verdict::Deliver);
    }
}
