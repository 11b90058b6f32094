use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{Address, FlowKey, Hook, Now, Protocol, SlotRef, TablesBuilder, Tuple};

fn new(client: u16, server: u8) -> NewFlow {
    let tuple = Tuple {
        src: Address::from_v4([10, 244, 0, 1]),
        dst: Address::from_v4([10, 96, 0, 1]),
        sport: client,
        dport: 80,
        proto: Protocol::Tcp,
    };
    NewFlow {
        key: FlowKey { tuple, ifindex: 11 },
        end: FlowEnd {
            address: Address::from_v4([10, 244, 0, server]),
            port: 8080,
            ifindex: 12,
            slot: SlotRef::FIXED,
        },
        source: None,
        kind: FlowKind::Service,
        reply: true,
        client_slot: SlotRef::FIXED,
        service: 1,
        member: SlotRef::FIXED,
        max_flows: None,
        said: Default::default(),
        reset: false,
        backend: Some(2),
        leaves: false,
        owner: 0,
        cookie: u64::from(client),
        now: Now::default(),
    }
}

#[test]
fn a_flow_is_found_from_both_sides() {
    let mut table = FlowTable::new(4, 1);
    let id = table.insert(new(1000, 9)).unwrap();
    let flow = table.at(id).unwrap();
    assert_eq!(
        flow.tuple().to_string(),
        "tcp 10.244.0.1:1000 > 10.96.0.1:80"
    );
    assert_eq!(
        flow.backend_tuple().to_string(),
        "tcp 10.244.0.1:1000 > 10.244.0.9:8080"
    );
    let [forward, reply] =
        [Direction::Forward, Direction::Reply].map(|direction| flow.key(direction).unwrap());
    assert_eq!((forward.ifindex, reply.ifindex), (11, 12));
    assert_eq!(table.find(&forward), Some((id, Direction::Forward)));
    assert_eq!(table.find(&reply), Some((id, Direction::Reply)));
    // AMB-06: the same tuple from another interface is another packet.
    assert_eq!(
        table.find(&FlowKey {
            ifindex: 13,
            ..forward
        }),
        None
    );
    table.remove(id);
    assert_eq!(
        (table.find(&forward), table.find(&reply), table.len()),
        (None, None, 0)
    );
    assert!(table.at(id).is_none());
    assert_eq!(table.index_used(), 0);
    table.remove(id);
    assert_eq!(table.len(), 0, "removing twice is removing once");
}

#[test]
fn a_reply_by_the_kernel_is_found_at_the_clients_veth() {
    let mut table = FlowTable::new(4, 1);
    let mut flow = new(1000, 9);
    flow.end.ifindex = 0;
    let id = table.insert(flow).unwrap();
    let flow = table.at(id).unwrap();
    assert_eq!(flow.key(Direction::Reply).unwrap().ifindex, 11);
    assert_eq!(
        (flow.hook(Direction::Forward), flow.hook(Direction::Reply)),
        (Hook::FromPod, Hook::ToPod)
    );
}

/// Found by the fuzzer: a pod that sends to the very port it sends from has one key, not two.
#[test]
fn a_flow_from_a_port_to_itself_has_one_key() {
    let mut table = FlowTable::new(4, 1);
    let mut flow = new(8080, 9);
    flow.key.tuple.dst = flow.key.tuple.src;
    flow.key.tuple.dport = 8080;
    flow.end.address = flow.key.tuple.src;
    flow.end.ifindex = flow.key.ifindex;
    let id = table.insert(flow.clone()).unwrap();
    assert_eq!(table.find(&flow.key), Some((id, Direction::Forward)));
    assert_eq!(table.at(id).unwrap().key(Direction::Reply), None);
    assert_eq!(table.index_used(), 1);
    table.remove(id);
    assert_eq!(table.index_used(), 0);
}

#[test]
fn full_and_clash_change_nothing() {
    let mut table = FlowTable::new(2, 1);
    let first = table.insert(new(1, 9)).unwrap();
    assert_eq!(
        table.insert(new(1, 8)),
        Err(InsertError::Clash(first)),
        "the forward key"
    );
    let mut other_vip = new(1, 9);
    other_vip.key.tuple.dst = Address::from_v4([10, 96, 0, 2]);
    assert_eq!(
        table.insert(other_vip),
        Err(InsertError::Clash(first)),
        "the reply key"
    );
    table.insert(new(2, 9)).unwrap();
    assert_eq!(table.insert(new(3, 9)), Err(InsertError::Full));
    assert_eq!((table.len(), table.index_used()), (2, 4));
}

#[test]
fn a_listing_in_slices_sees_every_flow_once() {
    let mut table = FlowTable::new(200, 1);
    let ids: Vec<FlowId> = (0..100)
        .map(|port| table.insert(new(port, 9)).unwrap())
        .collect();
    for id in ids.iter().step_by(3) {
        table.remove(*id);
    }
    let mut seen = Vec::new();
    for start in (0..table.places()).step_by(7) {
        seen.extend(table.slice(start, 7).map(|(_, flow)| flow.tuple().sport));
    }
    let expected: Vec<u16> = (0..100).filter(|port| port % 3 != 0).collect();
    assert_eq!(seen, expected);
    assert_eq!(table.slice(1000, 7).count(), 0);
}

#[test]
fn a_moved_epoch_ends_a_flow() {
    let mut builder = TablesBuilder::new();
    builder.set_epochs(vec![0, 5]);
    let before = builder.build(1).unwrap();
    let mut builder = TablesBuilder::following(&before);
    builder.set_epochs(vec![9, 6]);
    let after = builder.build(2).unwrap();
    assert_eq!(after.epoch(0), 0, "slot 0 never moves");
    let mut table = FlowTable::new(4, 1);
    for side in 0..2 {
        let mut flow = new(side, 9);
        let slot = SlotRef { slot: 1, epoch: 5 };
        if side == 0 {
            flow.client_slot = slot
        } else {
            flow.end.slot = slot
        }
        let id = table.insert(flow).unwrap();
        assert!(table.at(id).unwrap().valid(Now::default(), &before));
        assert!(!table.at(id).unwrap().valid(Now::default(), &after));
    }
}

proptest! {
    /// The index finds exactly what a map finds, whatever is added and removed in which order.
    #[test]
    fn the_table_agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0u16..40), 1..400), seed: u64) {
        let mut table = FlowTable::new(24, seed);
        let mut model: HashMap<u16, FlowId> = HashMap::new();
        for (add, port) in steps {
            if add {
                match table.insert(new(port, 9)) {
                    Ok(id) => prop_assert!(model.insert(port, id).is_none()),
                    Err(InsertError::Clash(holder)) => prop_assert_eq!(model.get(&port), Some(&holder)),
                    Err(InsertError::Full) => prop_assert_eq!(model.len(), 24),
                    Err(InsertError::Share) => prop_assert!(false, "slot 0 has no share"),
                    Err(InsertError::ServiceShare) => prop_assert!(model.len() >= 4 * (24 - model.len())),
                    Err(InsertError::NoPort) => prop_assert!(false, "the table looks for none"),
                }
            } else if let Some(id) = model.remove(&port) {
                table.remove(id);
            }
            prop_assert_eq!((table.len(), table.index_used()), (model.len(), 2 * model.len()));
            for port in 0..40 {
                let found = table.find(&new(port, 9).key).map(|(id, _)| id);
                prop_assert_eq!(found, model.get(&port).copied());
            }
        }
    }
}
