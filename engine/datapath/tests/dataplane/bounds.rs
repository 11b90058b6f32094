//! What stays bounded, and what is left after a long life: nothing.

use std::collections::HashMap;
use std::time::Duration;

use weft_datapath::*;

use crate::support::*;

const CLIENTS: [u32; 3] = [CLIENT, 15, 16];
const MAX_FLOWS: usize = 256;

fn small_state(workers: u16) -> State {
    State::new(StateConfig {
        max_flows: MAX_FLOWS,
        seed: 11,
        worker: 0,
        workers,
        ports: Ports { weft0_mac: WEFT0 },
        hairpin: Default::default(),
    })
}

fn node() -> Tables {
    let pods = [CLIENT, BACKEND_1, BACKEND_2, 15, 16].map(|ifindex| (ifindex, Standing::Settled));
    builder(&pods, Algorithm::Random).build(1).unwrap()
}

/// A UDP frame whose source port is set anew for every flow; nobody on the way looks at the checksum.
struct Template {
    bytes: Vec<u8>,
    sport: usize,
}

impl Template {
    fn new(net: Net, ifindex: u32, dport: u16) -> Self {
        let spec = Spec::udp(net.pod((ifindex - 10) as u8), 0, net.vip(80), dport);
        let bytes = spec.punted(ifindex, Hook::FromPod);
        let sport = packet(&bytes).l4();
        Self { bytes, sport }
    }

    fn run(&mut self, sport: u16, now: Now, tables: &Tables, state: &mut State) -> Verdict {
        self.bytes[self.sport..self.sport + 2].copy_from_slice(&sport.to_be_bytes());
        let mut memory = [0; 128];
        memory[..self.bytes.len()].copy_from_slice(&self.bytes);
        let mut frame = FrameBuf::new(&mut memory, self.bytes.len());
        process(&mut frame, now, tables, state)
    }
}

/// How many flows one pod may open where nobody else has any.
fn share_of_one(tables: &Tables, state: &mut State, now: Now) -> usize {
    let mut template = Template::new(Net::V4, CLIENT, SERVED);
    for port in 0..=MAX_FLOWS as u16 {
        let verdict = template.run(1000 + port, now, tables, state);
        state.pin_ops.clear();
        if verdict != Verdict::Deliver {
            assert_eq!(verdict, Verdict::Drop(DropReason::FlowShare));
            break;
        }
    }
    state.flows.len()
}

/// 1,000,000 flows through a table of 256, by pods that come and go: every owner entry is taken back, no place
/// is lost, nobody's share shrinks, and what found no room was dropped by name.
#[test]
fn a_million_flows_through_a_small_table_leak_nothing() {
    let generations = [node(), {
        let mut next = builder(
            &[(CLIENT, Standing::Settled), (BACKEND_1, Standing::Settled)],
            Algorithm::Random,
        );
        let mut moved = epochs();
        // The pods that are gone end their flows.
        for ifindex in [BACKEND_2, 15, 16] {
            moved[ifindex as usize] += 1;
        }
        next.set_epochs(moved);
        next.build(2).unwrap()
    }];
    for workers in [1, 2] {
        let mut state = small_state(workers);
        let mut templates: Vec<Template> = Net::BOTH
            .into_iter()
            .flat_map(|net| CLIENTS.map(|client| Template::new(net, client, SERVED)))
            .chain(Net::BOTH.map(|net| Template::new(net, CLIENT, BY_KERNEL)))
            .collect();
        let mut pins: HashMap<FlowKey, u64> = HashMap::new();
        let (mut counters, mut now) = (Counters::default(), START);
        for flow in 0..500_000u32 {
            // Now and then two pods are gone for a while, and sometimes the flows come too quickly.
            let tables = &generations[usize::from(flow % 10_000 > 9_000)];
            let template = &mut templates[flow as usize % 8];
            counters.record(template.run((flow / 8) as u16, now, tables, &mut state));
            now = now + Duration::from_millis(if flow % 50_000 < 48_000 { 150 } else { 1 });
            state.expire(now, tables, 2);
            for op in state.pin_ops.as_slice() {
                match *op {
                    PinOp::Insert { key, cookie, .. } => assert_eq!(pins.insert(key, cookie), None),
                    PinOp::Leave { .. } => unreachable!("no hooks"),
                    PinOp::Remove { key, cookie } => {
                        let before = pins.remove(&key);
                        assert!(before.is_some() && (cookie.is_none() || cookie == before));
                    }
                }
            }
            state.pin_ops.clear();
            assert!(state.flows.places() <= MAX_FLOWS && pins.len() <= 2 * MAX_FLOWS);
        }
        let dropped = |reason| counters.dropped[reason as usize];
        let room = [
            DropReason::FlowShare,
            DropReason::ServiceFlowShare,
            DropReason::FlowTableFull,
        ]
        .map(dropped)
        .into_iter()
        .sum::<u64>();
        assert!(counters.forwarded > 400_000 && room > 1_000, "{counters:?}");
        assert_eq!(counters.total_dropped(), room, "{counters:?}");
        now = now + Duration::from_secs(3600);
        while state.expire(now, &generations[0], MAX_FLOWS) > 0 {
            for op in state.pin_ops.as_slice() {
                let PinOp::Remove { key, .. } = op else {
                    panic!("{op:?}")
                };
                assert!(pins.remove(key).is_some());
            }
            state.pin_ops.clear();
        }
        assert_eq!((state.flows.len(), pins.len()), (0, 0));
        let fresh = share_of_one(&generations[0], &mut small_state(workers), now);
        assert_eq!(share_of_one(&generations[0], &mut state, now), fresh);
    }
}

/// An edge that never writes the owner entries stops new flows, not known ones, and not for ever.
#[test]
fn owner_entries_that_nobody_writes_are_bounded() {
    let (tables, mut state) = (node(), small_state(2));
    let mut flows = CLIENTS.map(|client| Template::new(Net::V4, client, SERVED));
    let (mut now, mut refused) = (START, 0);
    for flow in 0..2_000u16 {
        let verdict = flows[usize::from(flow) % 3].run(flow, now, &tables, &mut state);
        refused += u64::from(verdict == Verdict::Drop(DropReason::PinRoom));
        assert!(state.pin_ops.as_slice().len() <= PIN_OPS_MAX);
        now = now + Duration::from_secs(1);
        state.expire(now, &tables, 16);
    }
    assert!(refused > 1_000, "{refused}");
    // `expire` leaves room for the burst that may follow.
    assert!(state.pin_ops.room() < PIN_OPS_PER_FRAME * BURST_MAX);
    state.pin_ops.clear();
    assert_eq!(flows[0].run(7, now, &tables, &mut state), Verdict::Deliver);
}
