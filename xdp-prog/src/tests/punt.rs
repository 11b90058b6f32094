//! When a packet that would be punted is not: a silent worker, a pod above its rate.

use std::time::Duration;

use crate::{Counter, PodEntry, Steering};

use super::hooks::*;
use super::packets::*;
use super::support::{monotonic_ns, node};

#[test]
fn a_stale_or_silent_worker_leaves_its_packets_to_the_kernel() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let mut config = steering.config.clone();
        config.heartbeat_limit = Duration::from_millis(100);
        drop(steering);
        let steering = Steering::open(config).unwrap();
        let heartbeat = steering.heartbeat(0).unwrap();
        let from_pod = &steering.skel.progs.weft_from_pod;
        let packet = syn4();
        let punted = || {
            let outcome = run(from_pod, &packet, Context::at(ifindex));
            assert!(
                outcome.action == REDIRECT || outcome.data == packet,
                "untouched"
            );
            assert!([NEXT, REDIRECT].contains(&outcome.action));
            outcome.action == REDIRECT
        };
        heartbeat.beat(monotonic_ns());
        assert!(punted());
        heartbeat.beat(monotonic_ns() + 50_000_000); // Another CPU's clock may be ahead.
        assert!(punted());
        heartbeat.beat(monotonic_ns() - 200_000_000);
        assert!(!punted());
        heartbeat.stop();
        assert!(!punted());
        heartbeat.beat(monotonic_ns());
        assert!(punted());
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::Stale], 2);
        assert_eq!(counters[Counter::FromPodKernel], 2);
    });
}

#[test]
fn a_pod_above_its_rate_is_cut_to_its_burst() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        // One packet a minute: the clock adds nothing while this runs.
        let limit = PodEntry {
            punt_rate: 1,
            punt_burst: 9,
            ..entry(ifindex)
        };
        steering.set_pod(&limit).unwrap();
        assert_eq!(steering.pods().unwrap(), [limit]);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let context = Context::at(ifindex);
        let actions: Vec<i32> = (0..20)
            .map(|_| run(from_pod, &ack4(), context).action)
            .collect();
        let punted = actions.iter().filter(|action| **action == REDIRECT).count();
        assert_eq!(punted, 10, "the burst and the one that is due: {actions:?}");
        assert_eq!(steering.counters().unwrap()[Counter::PuntRate], 10);
        // Another pod's bucket, and packets that are not punted, are no concern of it.
        let direct = frame(at(POD4), at("192.0.2.1"), L4::Syn(1, 2));
        assert_eq!(run(from_pod, &direct, context).action, NEXT);
    });
}

#[test]
fn a_syn_costs_as_much_as_sixteen_packets_and_counts_as_one() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        let limit = PodEntry {
            punt_rate: 1,
            punt_burst: 39,
            ..entry(ifindex)
        };
        steering.set_pod(&limit).unwrap();
        let from_pod = &steering.skel.progs.weft_from_pod;
        let context = Context::at(ifindex);
        // 16 and 16 and 8 make 40: a burst of 39 and the one that is due.
        let packets = [vec![syn4(); 2], vec![ack4(); 9], vec![syn4()]].concat();
        let actions: Vec<i32> = packets
            .iter()
            .map(|packet| run(from_pod, packet, context).action)
            .collect();
        assert_eq!(actions[..10], [REDIRECT; 10]);
        assert_eq!(actions[10..], [DROP; 2]);
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::FromPodPunted], 10);
        assert_eq!(counters[Counter::PuntRate], 2);
    });
}

#[test]
fn a_gso_packet_costs_and_counts_its_segments() {
    node(|node| {
        let (steering, ifindex) = bench(node);
        steering
            .set_pod(&PodEntry {
                punt_rate: 1,
                punt_burst: 9,
                ..entry(ifindex)
            })
            .unwrap();
        let from_pod = &steering.skel.progs.weft_from_pod;
        let mut packet = ack4();
        packet.extend([0; 268]); // 300 bytes of payload.
        let total = (packet.len() - 14) as u16;
        packet[16..18].copy_from_slice(&total.to_be_bytes());
        let with_count = Context {
            ifindex,
            gso_segs: 8,
            gso_size: 40,
            ..Context::default()
        };
        assert_eq!(run(from_pod, &packet, with_count).action, REDIRECT);
        // 300 bytes in 150s, the count left for us to find.
        let without = Context {
            ifindex,
            gso_segs: 0,
            gso_size: 150,
            ..Context::default()
        };
        assert_eq!(run(from_pod, &packet, without).action, REDIRECT);
        assert_eq!(
            run(from_pod, &packet, without).action,
            DROP,
            "8 + 2 + 2 are above 10"
        );
        let huge = Context {
            gso_segs: 300,
            gso_size: 1,
            ..with_count
        };
        assert_eq!(
            run(from_pod, &packet, huge).action,
            DROP,
            "no one packet may be a flood"
        );
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::FromPodPunted], 10);
        assert_eq!(counters[Counter::PuntRate], 302);
        assert_eq!(counters[Counter::FromPod], 312);
    });
}
