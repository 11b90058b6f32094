//! What the node process says of itself.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam::channel;
use weft_datapath::{
    Address, Algorithm, BackendPath, BackendState, DropReason, KernelReason, TUNNELS,
};
use weft_xdp::{Counter, XdpStatistics, netlink};

use super::audit::{Reading, audit};
use super::{Error, Node, threads};
use crate::admin::view::{
    Backend, Counts, Frames, LbList, Ledger, Owned, Packets, Peer, Pod, ServicePort, Status, Tcp,
    Worker,
};
use crate::rundir::RunDir;
use crate::worker::{self, Command, Snapshot, TcpReport, Totals, Waker};

/// How long a worker may take to answer: it is woken, and looks after every burst. One that is stuck
/// must not take control, and with it every signal, along.
const PATIENCE: Duration = Duration::from_secs(1);

/// Everything of a run directory that is on this node now.
///
/// # Errors
/// When a pin cannot be read or netlink does not answer.
pub fn owned(dir: &RunDir) -> Result<Vec<Owned>, weft_xdp::OwnedError> {
    let mut owned: Vec<Owned> = weft_xdp::owned(dir.pins())?
        .into_iter()
        .map(|object| Owned {
            kind: object.kind.name().into(),
            name: object.name,
            detail: object.detail,
        })
        .collect();
    owned.extend(dir.existing().into_iter().map(|path| Owned {
        kind: if path.is_dir() { "directory" } else { "file" }.into(),
        name: path.display().to_string(),
        detail: "run directory".into(),
    }));
    Ok(owned)
}

impl Node {
    pub(super) async fn status(
        &mut self,
        with_audit: bool,
        with_traffic: bool,
    ) -> Result<Status, Error> {
        let first = self.reading().await?;
        let audit = match with_audit {
            true => Some(audit(&first, &self.reading().await?)),
            false => None,
        };
        let traffic = match with_traffic {
            true => self.traffic()?,
            false => Vec::new(),
        };
        let at_us = worker::now().as_nanos() / 1_000;
        let xdp_mode = netlink::xdp_mode(self.pair.weft1_ifindex).await?.name();
        let config = self.control.config();
        let http = self.http_sums()?;
        let interfaces = netlink::interfaces().await?;
        Ok(Status {
            node: config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            at_us,
            files: self
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect(),
            generation: self.control.tables().load().generation,
            fast_path: self.launched.workers.fast_path.name().into(),
            restart_needed: self.restart_needed.clone(),
            last_refusal: self.last_refusal.clone(),
            reloads: self.reloads.clone(),
            upgrade: self.upgraded.clone(),
            workers: (0..self.workers.len())
                .map(|index| self.worker(index, xdp_mode))
                .collect::<Result<_, Error>>()?,
            peers: self.peers(&interfaces),
            pods: self.pods(&interfaces),
            http: Self::http_services(&http),
            access_log_lost: http.records_lost,
            traffic,
            ledger: ledger(&first),
            audit,
        })
    }

    fn worker(&self, index: usize, xdp_mode: &str) -> Result<Worker, Error> {
        let side = &self.workers[index];
        let Snapshot {
            totals,
            frames,
            flows,
            flows_evicted,
            affinity_evicted,
            waiting,
            pins,
            pin_errors,
            generation,
        } = self.control.workers()[index].shared.read();
        let statistics = side.probe.statistics()?;
        let age = worker::now()
            .as_nanos()
            .saturating_sub(side.heartbeat.last());
        Ok(Worker {
            queue: index as u16,
            core: side.core,
            poll: self.launched.workers.poll.name().into(),
            xdp_mode: xdp_mode.into(),
            socket_mode: side.probe.mode()?.name().into(),
            heartbeat_age_ms: age / 1_000_000,
            cpu_us: threads::cpu_time_us(&format!("weft-worker-{index}")),
            generation,
            flows,
            flows_max: self.launched.workers.max_flows as u64,
            flows_evicted,
            affinity_evicted,
            fragments_waiting: waiting,
            pins,
            pin_errors,
            frames: Frames {
                total: frames.total as u64,
                free: frames.free as u64,
                fill: frames.fill as u64,
                rx: frames.rx as u64,
                app: frames.app as u64,
                tx: frames.tx as u64,
            },
            packets: packets(&totals),
            socket: socket_counts(&statistics),
            tcp: self.tcp(index)?,
        })
    }

    /// What a worker says of its TCP stack.
    pub(super) fn tcp(&self, index: usize) -> Result<Option<Tcp>, Error> {
        let (side, handle) = (&self.workers[index], &self.control.workers()[index]);
        let (reply, answer) = channel::bounded(1);
        let report = ask(
            &side.commands,
            &handle.waker,
            Command::Tcp { reply },
            &answer,
        )
        .ok_or(Error::WorkerSilent(index as u16))?;
        Ok(report.map(|report| tcp(&report)))
    }

    /// Where the packets are, since the node process took over.
    pub(super) async fn reading(&self) -> Result<Reading, Error> {
        let mut reading = Reading::of_kernel(self.control.kernel(), self.baseline).await?;
        reading.workers = self.workers.len() as u64;
        reading.bulk_lost = netlink::bulk_losses(&self.lanes()).await?;
        for (side, handle) in self.workers.iter().zip(self.control.workers()) {
            let statistics = side.probe.statistics()?;
            reading.socket_lost += statistics.rx_dropped + statistics.rx_ring_full;
            reading.invalid += statistics.tx_invalid_descs;
            let snapshot = handle.shared.read();
            reading.waiting += snapshot.waiting;
            reading.engine.add(&snapshot.totals);
        }
        Ok(reading)
    }

    fn pods(&self, interfaces: &[netlink::Interface]) -> Vec<Pod> {
        let now = worker::now();
        let carries: HashMap<u32, bool> = interfaces
            .iter()
            .map(|interface| (interface.index, interface.up && interface.carrier))
            .collect();
        let pods = self.control.registry().pods().iter();
        pods.map(|pod| Pod {
            name: pod.config.name.clone(),
            interface: pod.config.interface.clone(),
            ifindex: pod.ifindex,
            addresses: pod.config.addresses.clone(),
            state: match pod {
                _ if !pod.is_present() => "absent",
                _ if pod.draining_until.is_some() => "draining",
                _ if now < pod.grace_until => "grace",
                _ => "enrolled",
            }
            .into(),
            carrier: pod.ifindex.and_then(|index| carries.get(&index).copied()),
            enrolled_s: now.since(pod.enrolled_at).as_secs(),
        })
        .collect()
    }

    fn peers(&self, interfaces: &[netlink::Interface]) -> Vec<Peer> {
        let peers = self.control.peers();
        let name = |index: u32| {
            let found = interfaces.iter().find(|interface| interface.index == index);
            found.map(|found| found.name.clone())
        };
        let named = peers.spec.peers.iter().zip(&peers.names);
        named
            .map(|(peer, own)| Peer {
                name: own.clone(),
                address: peer.remote.into(),
                from: peer.local.into(),
                uplink: name(peer.uplink),
                mtu: peer.mtu,
                native: peer.native,
                pods: (peer.ranges.iter())
                    .map(|(range, _)| range.to_string())
                    .collect(),
            })
            .collect()
    }

    /// The services as the workers see them, read from the published tables.
    ///
    /// # Errors
    /// When a worker does not say what flows it has.
    pub(super) fn services(&self, vip: Option<IpAddr>) -> Result<LbList, Error> {
        let tables = self.control.tables().load_full();
        let mut flows: BTreeMap<(u32, Address, u16), (u64, u64)> = BTreeMap::new();
        let (own, fast) = self.both_flows()?;
        for flow in own.iter().filter(|flow| flow.kind().serves()) {
            let to = flow.backend_tuple();
            let sum = flows.entry((flow.service(), to.dst, to.dport)).or_default();
            sum.0 += 1;
            sum.1 += flow.packets().iter().sum::<u64>();
        }
        for flow in fast {
            let (Some(service), to) = (flow.service, flow.answers.tuple) else {
                continue;
            };
            let sum = flows.entry((service, to.src, to.sport)).or_default();
            sum.0 += 1;
            sum.1 += flow.packets.iter().sum::<u64>();
        }
        let (names, pods) = (self.control.names(), self.pod_names());
        let backend = |port: &weft_datapath::ServicePort, backend: &weft_datapath::Backend| {
            let key = (port.id(), backend.address, backend.port);
            let (flows, packets) = flows.get(&key).copied().unwrap_or_default();
            Backend {
                address: SocketAddr::new(backend.address.into(), backend.port),
                pod: pods.get(&backend.address.into()).map(ToString::to_string),
                state: match backend.state {
                    BackendState::Ready => "ready",
                    BackendState::Terminating => "terminating",
                    BackendState::Unready => "unready",
                }
                .into(),
                new_flows: backend.weight > 0,
                path: match backend.path {
                    BackendPath::Pod { ifindex } if ifindex >= TUNNELS => "peer",
                    BackendPath::Pod { .. } => "pod",
                    BackendPath::Kernel => "kernel",
                }
                .into(),
                weight: backend.weight,
                flows,
                packets,
            }
        };
        let ports = tables.services().into_iter();
        let mut services: Vec<ServicePort> = ports
            .filter(|port| vip.is_none_or(|vip| IpAddr::from(port.address()) == vip))
            .map(|port| {
                let (service, port_name) = names.service(port.id());
                ServicePort {
                    service: service.into(),
                    port_name: port_name.into(),
                    vip: SocketAddr::new(port.address().into(), port.port()),
                    protocol: port.proto().to_string(),
                    algorithm: match port.algorithm() {
                        Algorithm::Maglev => "maglev",
                        Algorithm::RoundRobin => "round_robin",
                        Algorithm::Random => "random",
                        Algorithm::LeastConnections => "least_connections",
                    }
                    .into(),
                    maglev_size: port.maglev().map_or(0, |table| table.size()),
                    backends: port
                        .backends()
                        .iter()
                        .map(|one| backend(port, one))
                        .collect(),
                }
            })
            .collect();
        services.sort_by(|a, b| {
            (&a.service, a.vip, &a.protocol).cmp(&(&b.service, b.vip, &b.protocol))
        });
        Ok(LbList {
            generation: tables.generation,
            services,
        })
    }
}

/// Asks one worker, and waits for the answer. `None` when it does not come in time.
pub(super) fn ask<A>(
    commands: &channel::Sender<Command>,
    waker: &Waker,
    asked: Command,
    answer: &channel::Receiver<A>,
) -> Option<A> {
    // A full queue holds what a silent worker was asked before.
    commands.try_send(asked).ok()?;
    waker.wake();
    answer.recv_timeout(PATIENCE).ok()
}

fn tcp(report: &TcpReport) -> Tcp {
    let (holdings, counters) = (&report.holdings, &report.counters);
    let named = |names: &[&str], counts: &[u64]| -> Counts {
        let pairs = names.iter().zip(counts).filter(|(_, count)| **count > 0);
        pairs
            .map(|(name, count)| ((*name).to_string(), *count))
            .collect()
    };
    Tcp {
        connections: holdings.connections as u64,
        sockets: holdings.sockets as u64,
        half_open: holdings.half_open as u64,
        time_wait: holdings.time_wait as u64,
        delivered: counters.delivered,
        answered: counters.answered,
        dropped: named(
            &weft_stack::DropReason::ALL.map(weft_stack::DropReason::name),
            &counters.dropped,
        ),
        events: named(
            &weft_stack::Event::ALL.map(weft_stack::Event::name),
            &counters.events,
        ),
        refused: named(&DropReason::ALL.map(DropReason::name), &report.refused[..]),
    }
}

fn ledger(reading: &Reading) -> Ledger {
    Ledger {
        engine: packets(&reading.engine),
        hooks: Counter::ALL
            .iter()
            .map(|&counter| (counter.name().to_string(), reading.hooks[counter]))
            .collect(),
        path: reading
            .lost()
            .into_iter()
            .map(|(name, n)| (name.to_string(), n))
            .collect(),
    }
}

fn socket_counts(statistics: &XdpStatistics) -> Counts {
    let XdpStatistics {
        rx_dropped,
        rx_invalid_descs,
        tx_invalid_descs,
        rx_ring_full,
        rx_fill_ring_empty_descs,
        tx_ring_empty_descs,
    } = *statistics;
    let counts = [
        ("rx_dropped", rx_dropped),
        ("rx_invalid_descs", rx_invalid_descs),
        ("tx_invalid_descs", tx_invalid_descs),
        ("rx_ring_full", rx_ring_full),
        ("rx_fill_ring_empty_descs", rx_fill_ring_empty_descs),
        ("tx_ring_empty_descs", tx_ring_empty_descs),
    ];
    counts
        .into_iter()
        .map(|(name, n)| (name.to_string(), n))
        .collect()
}

fn packets(totals: &Totals) -> Packets {
    let fates = &totals.fates;
    let kernel: Counts = KernelReason::ALL
        .iter()
        .map(|&reason| (reason.name().to_string(), fates.kernel[reason as usize]))
        .collect();
    let dropped: Counts = DropReason::ALL
        .iter()
        .map(|&reason| (reason.name().to_string(), fates.dropped[reason as usize]))
        .collect();
    Packets {
        received: totals.received,
        forwarded: fates.forwarded,
        replied: fates.replied,
        bulk: totals.bulk,
        terminated: fates.terminated,
        originated: totals.originated,
        unrouted: totals.unrouted,
        fragments: totals.fragments,
        fragments_lost: totals.fragments_lost,
        handed_in: totals.handed_in,
        handed_out: fates.handed_over,
        held: fates.held,
        released: totals.released,
        kernel,
        dropped,
    }
}
