//! Start-up: from a checked configuration to running workers.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::{self, Sender};
use weft_datapath::{AffinityTable, ClientNames, Now, Opens, Ports, State, StateConfig, TUNNELS};
use weft_l7::observe::AccessRecord;
use weft_stack::{Limits, StackConfig};
use weft_xdp::{Adopted, BulkLane, PairInfo, Steering, XskConfig, XskIo, netlink};

use super::access_log::Writer;
use super::{Baseline, Error, WorkerSide, chain, system};
use crate::config::{self, Config, FastPath, InterfaceInfo};
use crate::control::{Control, WorkerHandle, checked};
use crate::worker::{self, HandOver, Parts, Shared, Spawn, Waker};

/// Questions to one worker that may wait.
const COMMANDS: usize = 4;
/// Received frames that may wait on a socket: 2,048 are 2-3 ms of the highest rate.
const RING: u32 = 2048;

/// What a start has made.
pub(super) struct TakenOver {
    pub(super) control: Control<Steering>,
    pub(super) workers: Vec<WorkerSide>,
    pub(super) access_log: Option<Writer>,
    pub(super) client_names: ClientNames,
    pub(super) baseline: Baseline,
    /// When the workers had the tables.
    pub(super) at: Now,
    /// What became of the flows of a former process.
    pub(super) flows: Adopted,
}

/// Interfaces of this network namespace, as the configuration check needs them.
///
/// # Errors
/// When netlink does not answer.
pub async fn interfaces() -> Result<Vec<InterfaceInfo>, Error> {
    let found = netlink::interfaces().await?;
    Ok(found
        .into_iter()
        .map(|interface| InterfaceInfo {
            index: interface.index,
            is_veth: interface.is_veth(),
            peer_elsewhere: interface.peer_elsewhere,
            name: interface.name,
            mtu: interface.mtu,
        })
        .collect())
}

/// Reads the configuration on a thread of its own ([`Config::rehomed`] says why) and checks it against this
/// machine. Gives the interfaces back.
///
/// # Errors
/// When the thread cannot be had. What is wrong with the configuration is inside.
pub(super) async fn read(
    files: &[PathBuf],
    earlier: Option<Arc<Config>>,
    interfaces: Vec<InterfaceInfo>,
) -> Result<(Vec<InterfaceInfo>, Result<Config, config::Errors>), Error> {
    let files = files.to_vec();
    let reading = tokio::task::spawn_blocking(move || {
        let read = checked(&files, earlier.as_deref(), &interfaces);
        (interfaces, read)
    });
    let (interfaces, read) = reading
        .await
        .map_err(|error| system("cannot read the configuration")(error.into()))?;
    Ok((interfaces, read.map(|config| config.rehomed())))
}

/// Takes over the hooks of a former process's pods and uplinks, and lets go of those that this configuration does
/// not have.
pub(super) fn adopt(
    steering: &Steering,
    config: &Config,
    interfaces: &[InterfaceInfo],
) -> Result<(), Error> {
    let ours = |ifindex: u32| {
        let name = interfaces
            .iter()
            .find(|interface| interface.index == ifindex);
        name.is_some_and(|found| config.pods.iter().any(|pod| pod.interface == found.name))
    };
    let attached = steering.attached_pods()?;
    let known = steering.pods()?.into_iter().map(|pod| pod.ifindex);
    for ifindex in known.chain(attached.iter().copied()) {
        if !ours(ifindex) {
            steering.detach_pod(ifindex)?;
            steering.remove_pod(ifindex)?;
        }
    }
    for ifindex in attached.into_iter().filter(|&ifindex| ours(ifindex)) {
        steering.attach_pod(ifindex)?;
    }
    let uplink = |ifindex: u32| {
        let found = (interfaces.iter()).find(|interface| interface.index == ifindex);
        let wanted = |name: &str| config.node.uplinks.iter().any(|(uplink, _)| uplink == name);
        config.overlay.is_some() && found.is_some_and(|found| wanted(&found.name))
    };
    for ifindex in steering.attached_uplinks()? {
        if uplink(ifindex) {
            steering.attach_uplink(ifindex)?;
        } else {
            steering.detach_uplink(ifindex)?;
        }
    }
    steering.clear_pins()?; // The flows that they belonged to died with their process.
    Ok(())
}

/// Lets the flows on the fast path that a former process has left go on, as far as their backends are there.
pub(super) fn adopt_flows(control: &Control<Steering>) -> Result<Adopted, Error> {
    let tables = control.tables().load_full();
    let adopted = control.kernel().adopt_flows(|client, answers| {
        let (front, back) = (&client.tuple, &answers.tuple);
        let sender = tables.sender(client.ifindex, &front.src)?; // A tunnel's number may be another peer's by now.
        let (slot, service) = tables.depends(
            (&front.dst, front.dport, front.proto),
            (back.src, back.sport),
            answers.ifindex,
        )?;
        let from_peer = client.ifindex >= TUNNELS;
        Some((if from_peer { sender.slot } else { slot }, service))
    })?;
    if adopted != Adopted::default() {
        let Adopted { kept, removed } = adopted;
        tracing::info!(kept, removed, "flows taken over");
    }
    Ok(adopted)
}

pub(super) async fn workers(
    control: &mut Control<Steering>,
    config: &Config,
    pair: &PairInfo,
    access_log: Option<Sender<AccessRecord>>,
    names: &ClientNames,
) -> Result<Vec<WorkerSide>, Error> {
    let cores = &config.workers.cores;
    let mut handles = Vec::new();
    for _ in cores {
        let shared = Arc::new(Shared::default());
        let waker = Waker::new(Arc::clone(&shared)).map_err(system("cannot make an eventfd"))?;
        handles.push(WorkerHandle { shared, waker });
    }
    let wakers: Vec<Waker> = handles.iter().map(|handle| handle.waker.clone()).collect();
    let mut sides = Vec::new();
    let clients = AffinityTable::for_flows(config.workers.max_flows * cores.len(), seed());
    for ((index, &core), handover) in (0u16..).zip(cores).zip(HandOver::mesh(&wakers)) {
        let lane = match BulkLane::open(control.kernel()).await {
            Ok(lane) => Some(lane),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "no bulk lane: terminated connections carry less"
                );
                None
            }
        };
        let pins = control.kernel().pin_writer(lane.as_ref())?;
        let lane_ifindex = lane.as_ref().map(BulkLane::ifindex);
        let io = XskIo::open(
            netlink::WEFT1,
            u32::from(index),
            XskConfig {
                frames: config.workers.frames,
                ring: RING,
            },
        )?
        .with_bulk(lane);
        control
            .kernel()
            .register_socket(u32::from(index), io.fd())?;
        let probe = io.probe().map_err(system("cannot keep hold of a socket"))?;
        let heartbeat = control.kernel().heartbeat(index)?;
        let (commands, asked) = channel::bounded(COMMANDS);
        let WorkerHandle { shared, waker } = handles[usize::from(index)].clone();
        let mut state = State::sharing(
            StateConfig {
                max_flows: config.workers.max_flows,
                seed: seed(),
                worker: index,
                workers: cores.len() as u16,
                ports: Ports {
                    weft0_mac: pair.weft0_mac,
                },
                hairpin: config
                    .node
                    .hairpin_ips
                    .iter()
                    .map(|&address| address.into())
                    .collect(),
            },
            clients.shared(),
            names.clone(),
        );
        let opens = match config.workers.fast_path {
            FastPath::Off => None,
            FastPath::Flows => Some(Opens::Engine),
            FastPath::Full => Some(Opens::Hooks),
        };
        if let Some(opens) = opens {
            state.set_fast_flows(Box::new(control.kernel().fast_lookup()?), opens);
        }
        let parts = Parts {
            io,
            pins,
            tables: control.tables(),
            state,
            stack: StackConfig {
                secret: secret().map_err(system("cannot get random numbers"))?,
                limits: Limits {
                    // Two for each flow, so that the pods' shares of the flows are what binds.
                    connections: u32::try_from(2 * config.workers.max_flows).unwrap_or(u32::MAX),
                    ..Limits::default()
                },
                timeouts: Default::default(),
            },
            layer7: control.layer7(),
            access_log: access_log.clone(),
            seed: seed(),
            handover,
            commands: asked,
            shared,
            heartbeat_limit: config.workers.heartbeat,
        };
        let spawn = Spawn {
            index,
            core,
            poll: config.workers.poll,
            heartbeat: heartbeat.clone(),
            waker,
        };
        let running = worker::spawn(parts, spawn).map_err(system("cannot start a worker"))?;
        sides.push(WorkerSide {
            running,
            commands,
            probe,
            heartbeat,
            core,
            lane: lane_ifindex,
        });
    }
    control.set_workers(handles);
    Ok(sides)
}

/// What only this process knows, for sequence numbers, cookies and places that nobody can guess.
pub(super) fn secret<const LENGTH: usize>() -> std::io::Result<[u8; LENGTH]> {
    const { assert!(LENGTH <= 256) };
    let mut secret = [0; LENGTH];
    // Up to 256 bytes come whole or not at all (getrandom(2)).
    rustix::rand::getrandom(&mut secret[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(secret)
}

/// What tells this process's entries from another's: never 0.
pub(super) fn instance() -> u32 {
    seed() as u32 | 1
}

/// A seed for a flow table's hash, so that nobody outside can aim at one of its buckets.
pub(super) fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
