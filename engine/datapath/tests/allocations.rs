//! Nothing on the data core's path allocates: not for warm packets, not for new flows, not for expiry.

use std::time::Duration;

#[path = "support/mod.rs"]
mod support;

use support::fragments::{cut, question};
use support::tunnel::{coming, far, joined};
use support::*;
use weft_datapath::*;

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

/// Runs the frame in place, `frame` staying as it was.
fn verdict(frame: &[u8], now: Now, tables: &Tables, state: &mut State) -> Verdict {
    let mut memory = [0; 2048];
    memory[..frame.len()].copy_from_slice(frame);
    process(
        &mut FrameBuf::new(&mut memory, frame.len()),
        now,
        tables,
        state,
    )
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn warm_packets_do_not_allocate() {
    for net in Net::BOTH {
        let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(2));
        for spec in [
            Spec::tcp(net.pod(1), 40000, net.vip(80), SERVED, SYN),
            Spec::udp(net.pod(1), 40000, net.vip(80), SERVED),
            Spec::tcp(net.pod(1), 40001, net.pod(2), 80, SYN),
        ] {
            let frame = spec.punted(CLIENT, Hook::FromPod);
            assert_eq!(
                verdict(&frame, START, &tables, &mut state),
                Verdict::Deliver
            );
            let warm = Spec { flags: ACK, ..spec }.punted(CLIENT, Hook::FromPod);
            let count = allocations(|| {
                for _ in 0..10_000 {
                    assert_eq!(verdict(&warm, START, &tables, &mut state), Verdict::Deliver);
                }
            });
            assert_eq!(count, 0);
        }
    }
}

#[test]
fn tun_01_known_flows_through_a_tunnel_do_not_allocate() {
    for encapsulation in [Encapsulation::Geneve, Encapsulation::Vxlan] {
        for (outer, net) in Net::BOTH
            .into_iter()
            .flat_map(|outer| Net::BOTH.map(|net| (outer, net)))
        {
            let (tables, mut state) = (joined(encapsulation, outer), state(1));
            // The same port at both ends, so that what comes back differs in its addresses alone.
            let asked = Spec::udp(net.pod(1), 7000, far(net), 7000).punted(CLIENT, Hook::FromPod);
            let back = coming(asked.clone(), outer, &tables, &mut state);
            let count = allocations(|| {
                for _ in 0..10_000 {
                    for frame in [&asked, &back] {
                        let verdict = verdict(frame, START, &tables, &mut state);
                        assert_eq!(verdict, Verdict::Deliver);
                    }
                }
            });
            assert_eq!((count, state.flows.len()), (0, 1));
        }
    }
}

/// What has options: packets of a flow that nobody has answered, and a peer's that opens one.
#[test]
fn u_15_naming_the_client_does_not_allocate() {
    for (outer, net) in Net::BOTH
        .into_iter()
        .flat_map(|outer| Net::BOTH.map(|net| (outer, net)))
    {
        let tables = joined(Encapsulation::Geneve, outer);
        let mut pods = tables.pods().to_vec();
        pods[0].name = "default/client-0".into();
        let mut builder = TablesBuilder::editing(&tables);
        builder.set_pods(pods);
        let tables = builder.build(2).unwrap();
        let (mut near, mut far_end) = (state(1), state(1));
        let asked = Spec::udp(net.pod(1), 7000, far(net), 7000).punted(CLIENT, Hook::FromPod);
        let opens = coming(asked.clone(), outer, &tables, &mut near);
        let count = allocations(|| {
            for _ in 0..1_000 {
                for (frame, state) in [(&asked, &mut near), (&opens, &mut far_end)] {
                    let verdict = verdict(frame, START, &tables, state);
                    assert_eq!(verdict, Verdict::Deliver);
                }
            }
        });
        let (_, flow) = far_end.flows.slice(0, 4096).next().unwrap();
        let name = flow
            .said()
            .client
            .and_then(|id| far_end.client_names.name(id));
        assert_eq!((count, name), (0, Some("default/client-0".into())));
    }
}

/// Connections that end here: opened, their packets of both ways, errors about them, closed, begun anew, forgotten.
#[test]
fn flows_that_end_here_do_not_allocate() {
    for source in [UpstreamSource::Client, UpstreamSource::Node] {
        let pods = [CLIENT, BACKEND_1, BACKEND_2].map(|pod| (pod, Standing::Settled));
        let mut builder = builder(&pods, Algorithm::LeastConnections);
        builder.set_node_address(BACKEND_1, Net::V4.node());
        builder.add_service_port(ServicePortSpec {
            id: 1000,
            address: Net::V4.vip(80),
            port: UNUSED,
            proto: Protocol::Tcp,
            algorithm: Algorithm::LeastConnections,
            backends: vec![enrolled_backend(Net::V4, BACKEND_1, TARGET)],
            options: ServiceOptions {
                stage: Stage::Tcp(source),
                ..ServiceOptions::default()
            },
        });
        let tables = builder.build(1).unwrap();
        let mut state = state(2);
        let keys: Vec<FlowKey> = (0..1000)
            .map(|port| FlowKey {
                tuple: Spec::tcp(Net::V4.pod(1), 10_000 + port, Net::V4.vip(80), UNUSED, 0).tuple,
                ifindex: CLIENT,
            })
            .collect();
        let packet = |key: FlowKey| Spec::of(key.tuple, ACK).punted(key.ifindex, Hook::FromPod);
        let warm = packet(keys[0]);
        let ends_here = Verdict::Terminate(Claim::Stack);
        let open = |key: FlowKey, now, state: &mut State| {
            let id = state.terminate(key, now, &tables).unwrap();
            state.pin_ops.clear();
            state
                .flows
                .at(id)
                .and_then(|flow| flow.key(Direction::Reply))
                .unwrap()
        };
        let back = packet(open(keys[0], START, &mut state));
        let count = allocations(|| {
            for _ in 0..10_000 {
                assert_eq!(verdict(&warm, START, &tables, &mut state), ends_here);
                assert_eq!(verdict(&back, START, &tables, &mut state), ends_here);
            }
            let mut now = START;
            for _ in 0..3 {
                for key in &keys {
                    let old = open(*key, now, &mut state);
                    let new = open(*key, now, &mut state);
                    for over in [old, new, *key] {
                        state.connection_over(&over, now);
                    }
                }
                now = now + Duration::from_secs(60);
                state.expire(now, &tables, 10_000);
                state.pin_ops.clear();
            }
        });
        assert_eq!(count, 0);
    }
}

#[test]
fn new_flows_refusals_full_tables_and_expiry_do_not_allocate() {
    for algorithm in [Algorithm::Maglev, Algorithm::RoundRobin, Algorithm::Random] {
        let pods = [
            (CLIENT, Standing::Settled),
            (BACKEND_1, Standing::Settled),
            (BACKEND_2, Standing::Settled),
        ];
        let tables = builder(&pods, algorithm).build(1).unwrap();
        let mut state = state(2);
        let frames: Vec<Vec<u8>> = (0..5000)
            .map(|flow| Spec::tcp(Net::V4.pod(1), 10000 + flow, Net::V4.vip(80), SERVED, SYN))
            .map(|spec| spec.punted(CLIENT, Hook::FromPod))
            .collect();
        let refused =
            Spec::udp(Net::V6.pod(1), 4, Net::V6.vip(80), UNUSED).punted(CLIENT, Hook::FromPod);
        let mut counters = Counters::default();
        let mut now = START;
        let count = allocations(|| {
            for _ in 0..3 {
                for (nth, frame) in frames.iter().enumerate() {
                    counters.record(verdict(frame, now, &tables, &mut state));
                    if nth % 10 == 0 {
                        // As fast as ICMP errors to one pod may go.
                        counters.record(verdict(&refused, now, &tables, &mut state));
                    }
                    state.pin_ops.clear();
                    now = now + Duration::from_micros(100);
                }
                now = now + Duration::from_secs(3600);
                while !state.flows.is_empty() {
                    state.expire(now, &tables, 1000);
                    state.pin_ops.clear();
                }
            }
        });
        assert_eq!(count, 0);
        assert_eq!((counters.forwarded, counters.replied), (3 * 3277, 3 * 500));
        // One pod's share of 4,096 flows.
        assert_eq!(counters.dropped[DropReason::FlowShare as usize], 3 * 1723);
    }
}

/// Fragments in order, held and released, and given up: all in memory taken at the start.
#[test]
fn k_18_fragments_do_not_allocate() {
    let tables = tables(Standing::Settled, Standing::Settled);
    let mut state = state(1);
    for net in Net::BOTH {
        let datagrams: Vec<Vec<Vec<u8>>> = (0..200)
            .map(|id| {
                let asked = question(net, 10_000 + id, SERVED, 5000);
                cut(&asked.punted(CLIENT, Hook::FromPod), id.into(), 1000)
            })
            .collect();
        let mut counters = Counters::default();
        let mut now = START;
        let mut memory = [0; 2048];
        let count = allocations(|| {
            for (nth, pieces) in datagrams.iter().enumerate() {
                for at in 0..pieces.len() {
                    // In order, reversed, and without the first.
                    let at = match nth % 3 {
                        0 => at,
                        _ => pieces.len() - 1 - at,
                    };
                    if nth % 3 == 2 && at == 0 {
                        continue;
                    }
                    counters.record(verdict(&pieces[at], now, &tables, &mut state));
                }
                while state.fragments.released() > 0 {
                    let mut buf = FrameBuf::new(&mut memory, 0);
                    state.fragments.take(&mut buf).unwrap();
                    counters.record(process(&mut buf, now, &tables, &mut state));
                }
                state.pin_ops.clear();
                now = now + Duration::from_millis(100);
                state.fragments.expire(now, 256);
            }
        });
        assert_eq!(count, 0);
        assert_eq!(counters.forwarded, 6 * 67 + 6 * 67);
        assert!(state.fragments.timed_out() > 200);
        assert_eq!(counters.total_dropped(), 0);
        state.fragments.expire(now + Duration::from_secs(2), 4096);
    }
}
