//! SVC-11, K-11: session affinity under a virtual clock.

use std::time::Duration;

use weft_datapath::*;

use crate::support::*;

const TIMEOUT: Duration = Duration::from_secs(10_800);

/// Tables with two ports of one service on `hosts`, reached by the kernel. 1 to 9 are the pods that ask.
fn tables(net: Net, algorithm: Algorithm, hosts: &[u8], affinity: Option<Duration>) -> Tables {
    let mut builder = TablesBuilder::new();
    for host in 1..10 {
        builder.add_pod(pod(10 + host, Standing::Settled));
    }
    builder.set_epochs(epochs());
    for (id, port) in [(1, SERVED), (2, BY_KERNEL)] {
        builder.add_service_port(ServicePortSpec {
            id,
            address: net.vip(80),
            port,
            proto: Protocol::Tcp,
            algorithm,
            backends: hosts
                .iter()
                .map(|host| kernel_backend(net.pod(*host), TARGET + port))
                .collect(),
            options: ServiceOptions {
                affinity,
                ..ServiceOptions::default()
            },
        });
    }
    builder.build(1).unwrap()
}

/// The backend of a new connection of pod `host` from `sport`.
fn connect(
    net: Net,
    (host, sport, port): (u8, u16, u16),
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Address {
    let spec = Spec::tcp(net.pod(host), sport, net.vip(80), port, SYN);
    let mut frame = spec.punted(10 + u32::from(host), Hook::FromPod);
    assert_eq!(run(&mut frame, now, tables, state), Verdict::Deliver);
    state.pin_ops.clear();
    tuple(&frame).dst
}

const EACH: [Algorithm; 4] = [
    Algorithm::Maglev,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::LeastConnections,
];

/// A client stays with its backend while backends come, and until it was away for longer than the timeout,
/// counted from its last connection.
#[test]
fn svc11_a_client_stays_until_it_was_away_for_the_timeout() {
    for net in Net::BOTH {
        for algorithm in EACH {
            let few = tables(net, algorithm, &[100, 101, 102], Some(TIMEOUT));
            let hosts: Vec<u8> = (100..140).collect();
            let many = tables(net, algorithm, &hosts, Some(TIMEOUT));
            let (mut state, mut now) = (state(1), START);
            let first: Vec<Address> = (1..10)
                .map(|host| connect(net, (host, 1000, SERVED), now, &few, &mut state))
                .collect();
            for round in 1..20 {
                now = now + TIMEOUT; // Refreshed by each connection.
                for host in 1..10 {
                    let at = connect(net, (host, 1000 + round, SERVED), now, &many, &mut state);
                    assert_eq!(
                        at,
                        first[usize::from(host) - 1],
                        "{algorithm:?} {host} {round}"
                    );
                }
            }
            now = now + TIMEOUT + Duration::from_nanos(1);
            let after: Vec<Address> = (1..10)
                .map(|host| connect(net, (host, 2000, SERVED), now, &many, &mut state))
                .collect();
            assert_ne!(after, first, "{algorithm:?}: chosen anew");
            assert_eq!(state.affinity.evicted(), 0);
        }
    }
}

/// Each port of a service has its own.
#[test]
fn svc11_affinity_is_per_service_port() {
    let net = Net::V4;
    let tables = tables(net, Algorithm::RoundRobin, &[100, 101, 102], Some(TIMEOUT));
    let mut state = state(1);
    for host in 1..10 {
        let mut backends = [SERVED, BY_KERNEL].map(|port| {
            let at = connect(net, (host, 1000, port), START, &tables, &mut state);
            for sport in 1001..1010 {
                let again = connect(net, (host, sport, port), START, &tables, &mut state);
                assert_eq!(at, again);
            }
            at
        });
        backends.sort_unstable();
        assert!(
            backends
                .iter()
                .all(|at| (100..103).any(|host| net.pod(host) == *at))
        );
    }
}

/// A backend that goes, or is ready no more, is chosen for anew, and that choice stays.
#[test]
fn svc11_another_backend_when_the_endpoint_goes() {
    let net = Net::V6;
    for algorithm in EACH {
        let three = tables(net, algorithm, &[100, 101, 102], Some(TIMEOUT));
        let mut state = state(1);
        let first = connect(net, (1, 1000, SERVED), START, &three, &mut state);
        let left: Vec<u8> = (100..103).filter(|host| net.pod(*host) != first).collect();
        let two = tables(net, algorithm, &left, Some(TIMEOUT));
        let second = connect(net, (1, 1001, SERVED), START, &two, &mut state);
        assert_ne!(second, first);
        for sport in 1002..1012 {
            let at = connect(net, (1, sport, SERVED), START, &three, &mut state);
            assert_eq!(at, second, "{algorithm:?}");
        }
    }
}

/// Turned on and off at runtime: with it one backend, without it all of them.
#[test]
fn svc11_toggling_takes_effect_with_the_tables() {
    let net = Net::V4;
    let on = tables(net, Algorithm::RoundRobin, &[100, 101, 102], Some(TIMEOUT));
    let off = tables(net, Algorithm::RoundRobin, &[100, 101, 102], None);
    let mut state = state(1);
    let mut sport = 1000;
    let mut spread = |tables: &Tables| {
        let mut seen: Vec<Address> = (0..12)
            .map(|_| {
                sport += 1;
                connect(net, (1, sport, SERVED), START, tables, &mut state)
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    };
    assert_eq!([&off, &on, &off, &on].map(&mut spread), [3, 1, 3, 1]);
}

/// With Maglev a worker, a node or a process that never saw the client chooses the same backend.
#[test]
fn svc11_the_first_choice_is_the_same_everywhere() {
    let net = Net::V4;
    let hosts: Vec<u8> = (100..110).collect();
    let tables = tables(net, Algorithm::Maglev, &hosts, Some(TIMEOUT));
    for host in 1..10 {
        let at = |sport| connect(net, (host, sport, SERVED), START, &tables, &mut state(1));
        assert_eq!(at(1000), at(2000 + u16::from(host)));
    }
}

/// A full set pushes out who was silent for longest, never who is new.
#[test]
fn svc11_the_table_is_bounded_and_keeps_the_latest() {
    let mut table = AffinityTable::new(64, 7);
    let client = |n: u16| Address::from_v4([10, 1, (n >> 8) as u8, n as u8]);
    let backend = (Net::V4.pod(100), TARGET);
    let at = |n: u16| START + Duration::from_secs(n.into());
    let note = |table: &mut AffinityTable, n: u16, now| {
        assert_eq!(
            table.settle((&client(n), 1), None, backend, TIMEOUT, now),
            Ok(())
        );
    };
    for n in 0..1000 {
        note(&mut table, n, at(n));
        assert_eq!(table.find(&client(n), 1, TIMEOUT, at(n)), Some(backend));
        assert_eq!(table.find(&client(n), 2, TIMEOUT, at(n)), None);
    }
    let known = (0..1000).filter(|n| table.find(&client(*n), 1, TIMEOUT, at(1000)).is_some());
    let known: Vec<u16> = known.collect();
    assert_eq!(known.len() as u64, 1000 - table.evicted());
    assert_eq!(known.len(), 64);
    assert!(known.iter().all(|n| *n > 700), "{known:?}");
    // Who noted nothing for a day makes way without being counted.
    let before = table.evicted();
    for n in 1000..1032 {
        note(&mut table, n, at(n) + Duration::from_secs(2 * 86_400));
    }
    assert_eq!(table.evicted(), before);
}

/// Who asked before another worker gave the client a backend takes that one, and so does everybody after it.
#[test]
fn svc11_the_first_of_two_workers_decides() {
    let mut tables = [AffinityTable::new(64, 7)].map(|table| [table.shared(), table]);
    let [one, two] = &mut tables[0];
    let client = (&Net::V4.pod(1), 1);
    let [first, second, third] = [100, 101, 102].map(|host| (Net::V4.pod(host), TARGET));
    assert_eq!(one.find(client.0, 1, TIMEOUT, START), None);
    assert_eq!(two.find(client.0, 1, TIMEOUT, START), None);
    let settle = |table: &mut AffinityTable, found, backend, now| {
        table.settle(client, found, backend, TIMEOUT, now)
    };
    assert_eq!(settle(one, None, first, START), Ok(()));
    assert_eq!(settle(two, None, second, START), Err(first));
    assert_eq!(two.find(client.0, 1, TIMEOUT, START), Some(first));
    // Its backend has gone: both know that, and the first again decides.
    assert_eq!(settle(two, Some(first), second, START), Ok(()));
    assert_eq!(settle(one, Some(first), third, START), Err(second));
    // What has timed out is no objection.
    let late = START + TIMEOUT + Duration::from_nanos(1);
    assert_eq!(settle(one, None, third, late), Ok(()));
    assert_eq!(two.find(client.0, 1, TIMEOUT, late), Some(third));
    assert_eq!([one.evicted(), two.evicted()], [0, 0]);
}

/// Four threads open flows of the same clients at once: every client has one backend in the end, the one that
/// each of its flows was given.
#[test]
fn svc11_workers_that_choose_at_once_agree() {
    const CLIENTS: u16 = 2_000;
    let table = AffinityTable::new(64 * usize::from(CLIENTS), 7);
    let client = |n: u16| Address::from_v4([10, 1, (n >> 8) as u8, n as u8]);
    let start = std::sync::Barrier::new(4);
    let choices: Vec<Vec<(Address, u16)>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u8)
            .map(|worker| {
                let (mut table, start) = (table.shared(), &start);
                let own = (Net::V4.pod(100 + worker), TARGET);
                scope.spawn(move || {
                    start.wait();
                    let choices = (0..CLIENTS).map(|n| {
                        let found = table.find(&client(n), 1, TIMEOUT, START);
                        let wanted = found.unwrap_or(own);
                        loop {
                            let (client, before) = ((&client(n), 1), table.evicted());
                            let settled = table.settle(client, found, wanted, TIMEOUT, START);
                            if table.evicted() == before {
                                break settled.err().unwrap_or(wanted);
                            }
                            std::thread::yield_now(); // Another one has lost its core in there.
                        }
                    });
                    choices.collect()
                })
            })
            .collect();
        let choices = workers.into_iter().map(|worker| worker.join().unwrap());
        choices.collect()
    });
    for n in 0..CLIENTS {
        let found = table.find(&client(n), 1, TIMEOUT, START).unwrap();
        assert!(
            choices
                .iter()
                .all(|choices| choices[usize::from(n)] == found),
            "client {n}"
        );
    }
}

/// Several workers: one client's flows spread over them and keep their backend all the same.
#[test]
fn svc11_a_client_keeps_its_backend_on_every_worker() {
    for net in Net::BOTH {
        for algorithm in EACH {
            let hosts: Vec<u8> = (100..110).collect();
            let tables = tables(net, algorithm, &hosts, Some(TIMEOUT));
            let clients = AffinityTable::for_flows(4096, 7);
            let names = ClientNames::for_flows(4096, 7);
            let mut states = [0, 1, 2, 3].map(|worker| {
                let config = StateConfig {
                    max_flows: 4096,
                    seed: 7 + u64::from(worker),
                    worker,
                    workers: 4,
                    ports: Ports { weft0_mac: WEFT0 },
                    hairpin: Default::default(),
                };
                State::sharing(config, clients.shared(), names.clone())
            });
            for host in 1..10 {
                let mut seen: Vec<Address> = (0..40)
                    .map(|nth| {
                        let spec = Spec::tcp(net.pod(host), 1000 + nth, net.vip(80), SERVED, SYN);
                        let (ifindex, target) = (10 + u32::from(host), nth % 4);
                        let hook = Hook::FromPod;
                        let ingress = Ingress {
                            ifindex,
                            hook,
                            target,
                        };
                        let mut frame = spec.frame(ingress.encode());
                        let state = &mut states[usize::from(target)];
                        assert_eq!(run(&mut frame, START, &tables, state), Verdict::Deliver);
                        state.pin_ops.clear();
                        tuple(&frame).dst
                    })
                    .collect();
                seen.dedup();
                assert_eq!(seen.len(), 1, "{algorithm:?} {host}");
            }
        }
    }
}
