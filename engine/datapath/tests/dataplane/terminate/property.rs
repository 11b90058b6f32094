//! Whatever happens in whatever order: index, owner entries and table agree, and no connection is forgotten.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    /// The stack has accepted a connection of a pod's; a few ports, so that they come again.
    Accepted {
        v6: bool,
        host: u8,
        sport: u16,
    },
    /// A connection is over: one of those that there are.
    Over(prop::sample::Index),
    /// A packet of a pod's, to the service or to a backend.
    Packet {
        host: u8,
        sport: u16,
        direct: bool,
        flags: u8,
    },
    /// A pod is gone, or is another one.
    Pod(u8),
    /// A backend leaves the service, or comes back.
    Backend(bool),
    /// The port has a stage or none, and whose address backends see.
    Stage(u8),
    Wait(u32),
    Expire(u8),
    /// Entries are written, and severed connections reset.
    Write,
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop_oneof![
        Just(SYN),
        Just(ACK),
        Just(RST),
        Just(FIN | ACK),
        Just(SYN | ACK)
    ];
    let sport = 1000u16..1004;
    prop_oneof![
        6 => (any::<bool>(), 1u8..4, sport.clone())
            .prop_map(|(v6, host, sport)| Event::Accepted { v6, host, sport }),
        4 => any::<prop::sample::Index>().prop_map(Event::Over),
        4 => (1u8..4, sport, any::<bool>(), flags)
            .prop_map(|(host, sport, direct, flags)| Event::Packet { host, sport, direct, flags }),
        1 => (1u8..4).prop_map(Event::Pod),
        1 => any::<bool>().prop_map(Event::Backend),
        1 => (0u8..3).prop_map(Event::Stage),
        1 => (0u32..100_000).prop_map(Event::Wait),
        1 => any::<u8>().prop_map(Event::Expire),
        1 => Just(Event::Write),
    ]
}

struct Node {
    world: World,
    tables: Tables,
    state: State,
    pins: Pins,
    now: Now,
    /// By the key of packets from their peers.
    connections: HashSet<FlowKey>,
}

impl Node {
    fn happen(&mut self, event: &Event) {
        match event {
            Event::Accepted { v6, host, sport } => {
                let net = if *v6 { Net::V6 } else { Net::V4 };
                let client = key(net, *host, *sport);
                self.write();
                if self.connections.contains(&client) {
                    return; // The stack has one of that tuple at a time.
                }
                if let Ok(id) = self.state.terminate(client, self.now, &self.tables) {
                    let backend = reply(id, &self.state);
                    // Those of a flow that has just made way are still to be reset.
                    self.sever();
                    assert!(self.connections.insert(client) && self.connections.insert(backend));
                }
            }
            Event::Over(nth) => {
                self.write(); // It takes more than a burst, between which the stack is told.
                let mut keys: Vec<FlowKey> = self.connections.iter().copied().collect();
                keys.sort_by_key(|key| format!("{key:?}"));
                if !keys.is_empty() {
                    let key = keys[nth.index(keys.len())];
                    self.connections.remove(&key);
                    self.state.connection_over(&key, self.now);
                }
            }
            Event::Packet {
                host,
                sport,
                direct,
                flags,
            } => {
                let to = if *direct {
                    (Net::V4.pod(2), TARGET)
                } else {
                    (Net::V4.vip(80), SERVED)
                };
                let spec = Spec::tcp(Net::V4.pod(*host), *sport, to.0, to.1, *flags);
                let mut frame = spec.punted(10 + u32::from(*host), Hook::FromPod);
                let _ = run(&mut frame, self.now, &self.tables, &mut self.state);
            }
            Event::Pod(host) => self.world.epochs[10 + usize::from(*host)] += 1,
            Event::Backend(leaves) => {
                self.world.backends = vec![BACKEND_2, BY_KERNEL_ONLY];
                if *leaves {
                    self.world.members[BACKEND_1 as usize] += 1;
                } else {
                    self.world.backends.push(BACKEND_1);
                }
            }
            Event::Stage(stage) => {
                self.world.options.stage = match stage {
                    0 => Stage::L4,
                    1 => Stage::Tcp(UpstreamSource::Client),
                    _ => Stage::Tcp(UpstreamSource::Node),
                }
            }
            Event::Wait(seconds) => {
                self.now = self.now + Duration::from_secs(u64::from(*seconds));
            }
            Event::Expire(budget) => {
                self.state
                    .expire(self.now, &self.tables, usize::from(*budget));
            }
            Event::Write => self.write(),
        }
        if matches!(event, Event::Pod(_) | Event::Backend(_) | Event::Stage(_)) {
            self.tables = self.world.tables();
        }
    }

    fn write(&mut self) {
        self.pins.write(&mut self.state);
        self.sever();
    }

    /// A connection that is to be reset is one, and so is the other of the flow that it was of, unless that is over.
    fn sever(&mut self) {
        for severed in self.state.severed.drain(..) {
            assert!(self.connections.remove(&severed.key), "{severed:?} is none");
        }
        let known = |key: &FlowKey| {
            let (id, _) = self.state.flows.find(key)?;
            let flow = self.state.flows.at(id)?;
            (flow.kind() == FlowKind::Terminated && flow.state() != FlowState::Closed).then_some(())
        };
        self.connections.retain(|key| known(key).is_some());
    }

    fn live(&self) -> usize {
        let flows = self.state.flows.slice(0, self.state.flows.places());
        flows
            .filter(|(_, flow)| flow.kind() == FlowKind::Terminated)
            .filter(|(_, flow)| flow.state() != FlowState::Closed)
            .count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn index_entries_and_table_agree(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new(Stage::Tcp(UpstreamSource::Client), &[BACKEND_1, BACKEND_2, BY_KERNEL_ONLY]);
        world.algorithm = Algorithm::LeastConnections;
        world.options.reset_on_removal = true;
        let state = State::new(StateConfig {
            max_flows: 24,
            seed: 7,
            worker: 0,
            workers: 1,
            ports: Ports { weft0_mac: WEFT0 },
            hairpin: Net::BOTH.map(Net::hairpin).into(),
        });
        let tables = world.tables();
        let pins = Pins::default();
        let mut node = Node { world, tables, state, pins, now: START, connections: HashSet::new() };
        for event in &events {
            node.happen(event);
            // Each live flow has a connection at least, and none is left of those that have no flow.
            let live = node.live();
            prop_assert!(node.connections.len() >= live);
        }
        node.write();
        prop_assert!(node.connections.len() <= 2 * node.live());
        for key in std::mem::take(&mut node.connections) {
            node.state.connection_over(&key, node.now);
        }
        node.now = node.now + timeouts::TCP_ESTABLISHED + Duration::from_secs(1);
        for _ in 0..3 {
            node.state.expire(node.now, &node.tables, 1000);
            node.write();
        }
        prop_assert!(node.state.flows.is_empty() && node.pins.0.is_empty());
    }
}
