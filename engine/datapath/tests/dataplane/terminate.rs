//! Flows whose connections end here, as the TCP stack opens and closes them.

use std::collections::HashMap;

use weft_datapath::*;

use crate::support::*;

mod bounds;
mod ends;
mod errors;
mod legs;
mod life;
mod property;

/// The backend that the kernel brings packets to.
const BY_KERNEL_ONLY: u32 = 14;

/// What control wants: a TCP port at the VIP 80 of each family, and who serves it.
struct World {
    options: ServiceOptions,
    algorithm: Algorithm,
    backends: Vec<u32>,
    pods: Vec<u32>,
    epochs: Vec<u32>,
    members: Vec<u32>,
}

impl World {
    fn new(stage: Stage, backends: &[u32]) -> Self {
        Self {
            options: ServiceOptions {
                stage,
                ..ServiceOptions::default()
            },
            algorithm: Algorithm::Maglev,
            backends: backends.to_vec(),
            pods: vec![CLIENT, BACKEND_1, BACKEND_2],
            epochs: epochs(),
            members: vec![1; 64],
        }
    }

    fn slot(&self, ifindex: u32) -> SlotRef {
        SlotRef {
            slot: ifindex,
            epoch: self.epochs[ifindex as usize],
        }
    }

    fn tables(&self) -> Tables {
        let mut builder = TablesBuilder::new();
        for pod in &self.pods {
            builder.add_pod(Pod {
                slot: self.slot(*pod),
                ..support_pod(*pod)
            });
        }
        for (id, net) in (1..).zip(Net::BOTH) {
            for pod in &self.pods {
                builder.set_node_address(*pod, net.node());
            }
            let backend = |ifindex: &u32| Backend {
                member: SlotRef::member(*ifindex, self.members[*ifindex as usize]),
                ..match *ifindex {
                    BY_KERNEL_ONLY => kernel_backend(net.pod(4), TARGET),
                    ifindex => Backend {
                        slot: self.slot(ifindex),
                        ..enrolled_backend(net, ifindex, TARGET)
                    },
                }
            };
            builder.add_service_port(ServicePortSpec {
                id,
                address: net.vip(80),
                port: SERVED,
                proto: Protocol::Tcp,
                algorithm: self.algorithm,
                backends: self.backends.iter().map(backend).collect(),
                options: self.options,
            });
        }
        builder.set_epochs(self.epochs.clone());
        builder.set_members(self.members.clone());
        builder.build(1).unwrap()
    }
}

fn support_pod(ifindex: u32) -> Pod {
    pod(ifindex, Standing::Settled)
}

/// The key of what pod `host` sends to the service.
fn key(net: Net, host: u8, sport: u16) -> FlowKey {
    FlowKey {
        tuple: Spec::tcp(net.pod(host), sport, net.vip(80), SERVED, 0).tuple,
        ifindex: 10 + u32::from(host),
    }
}

/// A flow that is opened, or must be.
fn open(key: FlowKey, tables: &Tables, state: &mut State) -> FlowId {
    state.terminate(key, START, tables).unwrap()
}

/// Between which ends the connection to the backend is.
fn ends(id: FlowId, state: &State) -> Tuple {
    state.flows.at(id).unwrap().backend_tuple()
}

/// The key of what the backend sends.
fn reply(id: FlowId, state: &State) -> FlowKey {
    let flow = state.flows.at(id).unwrap();
    flow.key(Direction::Reply).unwrap()
}

/// One packet at a veth, and what the edge would transmit of it.
fn send(spec: &Spec, ifindex: u32, tables: &Tables, state: &mut State) -> (Verdict, Vec<u8>) {
    let mut frame = spec.punted(ifindex, Hook::FromPod);
    let verdict = run(&mut frame, START, tables, state);
    (verdict, frame)
}

/// The kernel's map of owner entries.
#[derive(Default)]
struct Pins(HashMap<FlowKey, (u64, Option<Inject>)>);

impl Pins {
    /// Writes what is to be written, and says that index, table and entries agree: both keys of each flow that ends
    /// here, and what the kernel delivers.
    fn write(&mut self, state: &mut State) {
        for op in state.pin_ops.as_slice() {
            match *op {
                PinOp::Insert {
                    key,
                    cookie,
                    terminated,
                    ..
                } => {
                    let before = self.0.insert(key, (cookie, terminated));
                    assert_eq!(before, None, "{key:?} was somebody's");
                }
                PinOp::Leave { .. } => unreachable!("no hooks"),
                PinOp::Remove { key, cookie } => {
                    let (before, _) = self.0.remove(&key).expect("somebody's");
                    assert!(cookie.is_none_or(|cookie| cookie == before));
                }
            }
        }
        state.pin_ops.clear();
        let mut count = 0;
        for (id, flow) in state.flows.slice(0, state.flows.places()) {
            for direction in [Direction::Forward, Direction::Reply] {
                let Some(key) = flow.key(direction) else {
                    continue;
                };
                assert_eq!(state.flows.find(&key), Some((id, direction)));
                // With one worker, those of the others are its own whatever is said of them.
                if flow.kind().ends_here() || flow.hook(direction) == Hook::ToPod {
                    count += 1;
                    let expected = (flow.cookie(), flow.answer(direction));
                    assert_eq!(self.0.get(&key), Some(&expected), "{key:?}");
                }
            }
        }
        assert_eq!(self.0.len(), count, "entries of no flow");
    }
}
