//! The node process: puts kernel, workers and control together, then serves until it is told to stop.

mod access_log;
mod audit;
mod error;
mod flows;
mod http;
mod metrics;
mod reload;
mod signals;
mod start;
mod status;
mod threads;
mod traffic;
mod upgrade;

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crossbeam::channel;
use tokio::sync::mpsc;
use weft_datapath::ClientNames;
use weft_xdp::{Heartbeat, PairInfo, SocketProbe, Steering, SteeringConfig, netlink};

use crate::admin::{Answer, Call, Listener, Request, view};
use crate::config::{AccessLog, Config, InterfaceInfo};
use crate::control::Control;
use crate::guard::{self, Guard};
use crate::rundir::{Lock, RunDir};
use crate::upgrade::{Handover, Inherited, inherit, started_from};
use crate::worker::{self, Command, Running};
use audit::Baseline;
use error::system;
use signals::{Signals, force_on_second_signal};
use start::TakenOver;
use upgrade::{Ending, Upgrading, take_leave, under_way};

pub use error::{Error, chain};
pub use start::interfaces;
pub use status::owned;

/// How often control looks after draining pods, retired tables and the workers' health.
const TICK: Duration = Duration::from_millis(100);
/// How often flows that have run out are kept in the past: clocks of the fast path come round after hours.
const PAST: Duration = Duration::from_mins(10);
/// Questions to control that may wait.
const CALLS: usize = 16;

/// Runs a node process until a signal ends it. `log_format` is for its guard.
///
/// # Errors
/// When it cannot start, or cannot go on. Whatever it had taken over is the kernel's then: either
/// because it was given back, or because its heartbeat has stopped.
pub fn run(files: &[PathBuf], dir: &RunDir, log_format: &'static str) -> Result<(), Error> {
    let inherited = inherit();
    let program = started_from().map_err(system("cannot find this program"))?;
    let _ = rustix::thread::set_name(c"weft"); // Executed again, it has the name of a link.
    weft_xdp::map_large_blocks(); // The TCP stack's buffers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(|| {
            let _ = weft_xdp::hold_ends(); // Signals are this thread's, so that an upgrade can hold them.
        })
        .build()
        .map_err(system("cannot start the control thread"))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let signals = Signals::new().map_err(system("cannot handle signals"))?;
        weft_xdp::ensure_bpffs().map_err(system("cannot mount the BPF file system"))?;
        let (lock, handover, socket) = match inherited {
            None => (dir.lock()?, None, None),
            Some(Inherited {
                handover,
                lock,
                socket,
                pins,
            }) => (dir.keep(lock, pins)?, Some(handover), Some(socket)),
        };
        dir.await_guard();
        // By the programs and the pair of a process that is dead, before either is exchanged.
        guard::reset_orphans(dir);
        let guard = Guard::start(dir, log_format);
        match Node::start(files, dir, program, handover).await {
            Ok(node) => node.serve(signals, lock, guard, socket).await,
            Err(error) => {
                guard.dismiss(); // Nothing has ended here yet.
                lock.remove();
                Err(error)
            }
        }
    })
}

fn clean_up(dir: &RunDir) {
    if let Err(error) = weft_xdp::cleanup(dir.pins()) {
        let error = chain(&error);
        tracing::warn!(
            error,
            "cannot remove everything; `weft cleanup` tries again"
        );
    }
}

/// One worker's parts that stay on the control side.
struct WorkerSide {
    running: Running,
    commands: channel::Sender<Command>,
    probe: SocketProbe,
    heartbeat: Heartbeat,
    core: usize,
    /// The device of its bulk lane.
    lane: Option<u32>,
}

struct Node {
    files: Vec<PathBuf>,
    /// Where this program is, to be read again by an upgrade.
    program: PathBuf,
    dir: RunDir,
    control: Control<Steering>,
    pair: PairInfo,
    workers: Vec<WorkerSide>,
    access_log: Option<access_log::Writer>,
    /// Names of peers' pods, as the workers know them.
    client_names: ClientNames,
    metrics: Option<metrics::Server>,
    baseline: Baseline,
    links: netlink::Monitor,
    /// None once it has failed, which costs no packet anything.
    routes: Option<netlink::Monitor>,
    started: Instant,
    /// When flows that had run out were last looked at.
    past: Instant,
    /// What the workers were started with; a reload cannot change it.
    launched: Config,
    restart_needed: Vec<String>,
    last_refusal: Vec<String>,
    reloads: view::Reloads,
    accounts: traffic::Accounts,
    upgrading: Upgrading,
    /// The upgrade that this program came by.
    upgraded: Option<view::Upgraded>,
}

/// What pods do not need does not end an upgrade: the process goes on without, and says so. A start fails.
fn unless_upgrading<T>(
    made: Result<Option<T>, Error>,
    upgrading: bool,
) -> Result<Option<T>, Error> {
    made.or_else(|error| {
        if !upgrading {
            return Err(error);
        }
        tracing::error!("going on without: {error}");
        Ok(None)
    })
}

impl Node {
    async fn start(
        files: &[PathBuf],
        dir: &RunDir,
        program: PathBuf,
        handover: Option<Handover>,
    ) -> Result<Self, Error> {
        let links = netlink::monitor().await?; // Before the list, so that no change is missed.
        let routes = netlink::monitor_routes().await?;
        let interfaces = interfaces().await?;
        let (interfaces, config) = start::read(files, None, interfaces).await?;
        let config = config.map_err(Error::Config)?;
        let count = config.workers.cores.len() as u16;
        let upgrading = handover.is_some();
        let metrics = match config.node.metrics {
            Some(address) => {
                let bound = metrics::Server::bind(address).await;
                let what = format!("cannot listen for metrics at {address} (node.metrics)");
                unless_upgrading(bound.map_err(system(what)).map(Some), upgrading)?
            }
            None => None,
        };
        if weft_xdp::pair_is_foreign(dir.pins())? {
            return Err(Error::PairTaken);
        }
        let pair = netlink::ensure_pair(count).await?;
        let steering = Steering::open(SteeringConfig {
            pin_dir: dir.pins().to_path_buf(),
            pair: pair.clone(),
            workers: count,
            heartbeat_limit: config.workers.heartbeat,
            max_pins: u32::try_from(2 * config.workers.max_flows)
                .unwrap_or(u32::MAX)
                .saturating_mul(u32::from(count)),
            fast_path: config.workers.fast_path,
            instance: start::instance(),
            flow_secret: start::secret().map_err(system("cannot get random numbers"))?,
        })?;
        let taken = Self::take_over(steering, &config, &interfaces, &pair, upgrading);
        let taken = match taken.await {
            Ok(taken) => taken,
            Err(error) => {
                // Nothing half made stays behind a failed start, but flows of the program before go on in what there is.
                if !upgrading {
                    clean_up(dir);
                }
                return Err(error);
            }
        };
        let upgraded = handover.map(|handover| {
            let upgraded = handover.outcome(&program, taken.at.as_nanos(), taken.flows);
            upgrade::tell(&upgraded);
            upgraded
        });
        Ok(Self {
            files: files.to_vec(),
            program,
            dir: dir.clone(),
            control: taken.control,
            pair,
            workers: taken.workers,
            access_log: taken.access_log,
            client_names: taken.client_names,
            metrics,
            baseline: taken.baseline,
            links,
            routes: Some(routes),
            started: Instant::now(),
            past: Instant::now(),
            launched: config,
            restart_needed: Vec::new(),
            last_refusal: Vec::new(),
            reloads: view::Reloads::default(),
            accounts: traffic::Accounts::default(),
            upgrading: Upgrading::default(),
            upgraded,
        })
    }

    /// Hooks that are there already run our programs before a heartbeat lets them punt; new ones
    /// come last, when somebody is there to decide.
    async fn take_over(
        steering: Steering,
        config: &Config,
        interfaces: &[InterfaceInfo],
        pair: &PairInfo,
        upgrading: bool,
    ) -> Result<TakenOver, Error> {
        let baseline = Baseline::read().await?;
        steering.attach_pair()?;
        start::adopt(&steering, config, interfaces)?;
        let mut control = Control::new(steering, config);
        let log = access_log::open(&config.node.access_log, control.layer7());
        let log = log.map_err(system(match &config.node.access_log {
            AccessLog::File(path) => {
                format!(
                    "cannot open the access log {} (node.access_log)",
                    path.display()
                )
            }
            _ => "cannot write the access log (node.access_log)".into(),
        }));
        let log = unless_upgrading(log, upgrading)?;
        let (records, access_log) = log.unzip();
        let client_names = ClientNames::for_flows(config.workers.max_flows, start::seed());
        let workers = start::workers(&mut control, config, pair, records, &client_names).await?;
        control.apply(config.clone(), interfaces, worker::now())?;
        let at = worker::now();
        let flows = start::adopt_flows(&control)?;
        Ok(TakenOver {
            control,
            workers,
            access_log,
            client_names,
            baseline,
            at,
            flows,
        })
    }

    async fn serve(
        mut self,
        mut signals: Signals,
        lock: Lock,
        mut guard: Guard,
        inherited: Option<UnixListener>,
    ) -> Result<(), Error> {
        signals.release().map_err(system("cannot take signals"))?;
        let path = self.dir.socket();
        let listener = match inherited {
            None => Listener::bind(&path),
            Some(listener) => Listener::keep(listener, &path),
        };
        let listener = Rc::new(listener.map_err(system("cannot open the admin socket"))?);
        let (calls, mut questions) = mpsc::channel(CALLS);
        let metrics = self.metrics.take().map(|serving| {
            let calls = calls.clone();
            tokio::task::spawn_local(async move { serving.serve(calls).await })
        });
        let serving = Rc::clone(&listener);
        let server = tokio::task::spawn_local(async move { serving.serve(calls).await });
        tracing::info!(
            node = self.control.config().node.name,
            pods = self.control.config().pods.len(),
            services = self.control.config().services.len(),
            workers = self.workers.len(),
            socket = %self.dir.socket().display(),
            "ready: the traffic of the enrolled pods is ours"
        );
        // On an error everything stays as after a crash: stale heartbeats send packets to the
        // kernel, the guard looks after terminated connections, and the next start re-adopts what is pinned.
        let ending = self.turn(&mut signals, &mut questions, &mut guard).await?;
        for server in [Some(server), metrics].into_iter().flatten() {
            server.abort();
            let _ = server.await; // Nobody is accepted any more.
        }
        if let Ending::Upgrade(candidate, reply) = ending {
            let id = worker::now().as_nanos();
            let begins = (reply, candidate.announced(id));
            if take_leave(begins, &listener, &mut questions, &mut signals.ends).await {
                return Err(self.replace(&candidate, id, &lock, guard, &listener));
            }
        }
        drop(listener); // While the run directory is still ours.
        force_on_second_signal();
        self.stop(lock, guard).await;
        Ok(())
    }

    /// Serves until a signal to end or another program (`Ok`), or until it cannot go on.
    async fn turn(
        &mut self,
        signals: &mut Signals,
        questions: &mut mpsc::Receiver<Call>,
        guard: &mut Guard,
    ) -> Result<Ending, Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = signals.ends.asked() => return Ok(Ending::Stop),
                // Until a check is over: the next program reads the files anyway.
                _ = signals.hangup.recv(), if !self.upgrading.is_under_way() => {
                    // Whatever becomes of the configuration: logs may have been moved away.
                    if let Some(log) = &self.access_log {
                        log.reopen();
                    }
                    if let Answer::Failed(reason) = self.reload().await {
                        tracing::error!("{reason}");
                    }
                }
                Some(call) = questions.recv() => self.take(call).await,
                ending = self.upgrading.checked() => return Ok(ending),
                changed = self.links.changed() => {
                    changed?;
                    self.follow_interfaces().await?;
                }
                changed = follow(&mut self.routes) => match changed {
                    Ok(()) => self.control.routes_changed(), // The next tick asks.
                    Err(error) => {
                        tracing::error!(
                            error = chain(&error),
                            "ICMP errors come from the node's addresses of now, until a restart"
                        );
                        self.routes = None;
                    }
                },
                _ = tick.tick() => {
                    guard.look_after();
                    self.look_after()?;
                }
            }
        }
    }

    /// Gives everything back: first the hooks, so that no packet is punted any more, then the rest.
    async fn stop(mut self, lock: Lock, guard: Guard) {
        self.drain_http().await;
        tracing::info!("stopping: giving the traffic back to the kernel");
        let pods: Vec<u32> = self
            .control
            .registry()
            .pods()
            .iter()
            .filter_map(|pod| pod.ifindex)
            .collect();
        for ifindex in pods {
            if let Err(error) = self.control.kernel().detach_pod(ifindex) {
                tracing::warn!(error = chain(&error), ifindex, "cannot detach");
            }
        }
        // The overlay ends with the process: what peers send is dropped by the hook until it is gone, too.
        for worker in &mut self.workers {
            worker.running.stop();
        }
        drop(self.workers);
        if let Some(log) = self.access_log {
            log.finish();
        }
        drop(self.control);
        clean_up(&self.dir);
        guard.dismiss();
        lock.remove();
        tracing::info!("stopped");
    }
}

/// Waits for a change; for ever without a monitor.
async fn follow(monitor: &mut Option<netlink::Monitor>) -> Result<(), netlink::NetlinkError> {
    match monitor {
        Some(monitor) => monitor.changed().await,
        None => std::future::pending().await,
    }
}

impl Node {
    async fn take(&mut self, Call { request, reply }: Call) {
        let answer = match request {
            Request::Upgrade { binary } => {
                let binary = binary.unwrap_or_else(|| self.program.clone());
                return self.upgrading.begin(binary, self.files.clone(), reply);
            }
            Request::Reload if self.upgrading.is_under_way() => under_way(),
            request => self.answer(request).await,
        };
        let _ = reply.send(answer); // The asker may have left.
    }

    async fn answer(&mut self, request: Request) -> Answer {
        let answer = match request {
            Request::Status { audit, traffic } => {
                let status = self.status(audit, traffic).await;
                status.map(|status| Answer::Status(Box::new(status)))
            }
            Request::LbList { vip } => self.services(vip).map(Answer::LbList),
            Request::Flows => self.flows().map(Answer::Flows),
            Request::Routes { service } => Ok(self.routes(service.as_deref())),
            Request::Explain {
                method,
                url,
                headers,
                service,
            } => Ok(self.explain(&method, &url, &headers, service.as_deref())),
            Request::Metrics => self.metrics().await.map(Answer::Metrics),
            Request::Owned => owned(&self.dir).map(Answer::Owned).map_err(Error::from),
            Request::Reload => Ok(self.reload().await),
            Request::Upgrade { .. } => Ok(under_way()),
        };
        answer.unwrap_or_else(|error| Answer::Failed(chain(&error)))
    }

    /// The devices of the workers' bulk lanes.
    fn lanes(&self) -> Vec<u32> {
        self.workers.iter().filter_map(|side| side.lane).collect()
    }

    /// Fails when the pair is gone: what is punted then goes nowhere, so this process has to end
    /// for the kernel to take over.
    async fn follow_interfaces(&mut self) -> Result<(), Error> {
        for works in [
            netlink::pair_works(&self.pair).await,
            netlink::bulk_works(&self.lanes()).await,
        ] {
            match works {
                Ok(true) => {}
                Ok(false) => return Err(Error::PairGone),
                Err(error) => tracing::warn!(error = chain(&error), "cannot look up the pair"),
            }
        }
        let interfaces = match interfaces().await {
            Ok(interfaces) => interfaces,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot list interfaces");
                return Ok(());
            }
        };
        match self.control.follow_interfaces(&interfaces, worker::now()) {
            Ok(true) => tracing::info!("pods' interfaces changed"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = chain(&error), "cannot follow a pod's interface"),
        }
        Ok(())
    }

    fn look_after(&mut self) -> Result<(), Error> {
        if let Err(error) = self.control.end_drained(worker::now()) {
            tracing::error!(error = chain(&error), "cannot end a pod's draining");
        }
        if let Err(error) = self.control.follow_routes() {
            tracing::error!(error = chain(&error), "cannot follow the node's addresses");
        }
        match self.control.follow_paths(worker::now()) {
            Ok(true) => tracing::info!("the way to a peer carries other lengths than before"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = chain(&error), "cannot follow the ways to peers"),
        }
        self.control.collect_retired();
        self.accounts.look_after();
        if self.past.elapsed() >= PAST {
            self.past = Instant::now();
            self.control.kernel().keep_past();
        }
        if !self.dir.pins().join("config").exists() {
            return Err(Error::PinsGone(self.dir.pins().to_path_buf()));
        }
        for (index, worker) in (0u16..).zip(&self.workers) {
            if worker.running.is_finished() {
                return Err(Error::WorkerDied(index));
            }
        }
        Ok(())
    }
}
