//! Control: the one writer of the tables and of the kernel's maps.
//!
//! A change is prepared whole ([`Registry`], [`Compiled`]), then switched in an order in which every
//! step in between is right by itself, and switched back if a step fails.

mod compile;
mod kernel;
mod peers;
mod pods;
mod registry;
mod slots;
mod sources;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use weft_datapath::{BuildError, Now, Tables};

pub use compile::{Around, Compiled, Names};
pub use kernel::KernelSide;
pub use peers::{Ends, Peers};
pub use pods::PodSet;
pub use registry::{Link, Patience, Pod, Registry};
pub use slots::{Member, Slots};
pub use sources::{Answers, Place, Sources};

use thiserror::Error;
use weft_xdp::{Choice, PodEntry, ServiceKey, netlink};

use crate::config::{self, Config, FastPath, InterfaceInfo};
use crate::layer7::Layer7;
use crate::worker::{Shared, Waker};

/// How long control waits for the workers to see new tables before it goes on. A worker is there
/// within one step; one that is stopped gets no packets anyway, once its heartbeat is stale.
const WORKER_PATIENCE: Duration = Duration::from_millis(200);

/// Addresses of pods that the kernel is asked about again at a time: 128 take some 0.6 ms, and 1,000 pods of two
/// families are through after 16 turns.
const SOURCES_AT_ONCE: usize = 128;

/// Control's view of one worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    /// What it publishes.
    pub shared: Arc<Shared>,
    /// How to wake it.
    pub waker: Waker,
}

/// Why a change was not made.
#[derive(Debug, Error)]
pub enum Error {
    /// The tables cannot hold it.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The kernel refused it.
    #[error(transparent)]
    Kernel(#[from] weft_xdp::Error),
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Pods that joined.
    pub enrolled: Vec<String>,
    /// Pods that began to drain.
    pub draining: Vec<String>,
}

/// The node's desired state and how it got into the kernel and the workers.
pub struct Control<K> {
    kernel: K,
    /// Whether the kernel's maps are known to hold what `compiled` says, so that the difference is enough.
    in_step: bool,
    /// Whether the hooks choose backends, too.
    fast_path: FastPath,
    registry: Registry,
    names: Names,
    slots: Slots,
    around: Around,
    /// Indices of all interfaces, by name: where uplinks are.
    interfaces: HashMap<String, u32>,
    tables: Arc<ArcSwap<Tables>>,
    layer7: Arc<ArcSwap<Layer7>>,
    compiled: Compiled,
    workers: Vec<WorkerHandle>,
    /// Generations whose tables a worker may still look at. They are freed here, never on a data core.
    retired: Vec<Compiled>,
}

impl<K: KernelSide> Control<K> {
    /// Control over an empty node: nothing is enrolled yet, see [`Self::apply`].
    pub fn new(kernel: K, config: &Config) -> Self {
        let compiled = Compiled::nothing(config);
        Self {
            kernel,
            in_step: false,
            fast_path: config.workers.fast_path,
            registry: Registry::default(),
            names: Names::default(),
            slots: Slots::default(),
            around: Around::default(),
            interfaces: HashMap::new(),
            tables: Arc::new(ArcSwap::from(Arc::clone(&compiled.tables))),
            layer7: Arc::new(ArcSwap::from(Arc::clone(&compiled.layer7))),
            compiled,
            workers: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// The tables that the workers read.
    pub fn tables(&self) -> Arc<ArcSwap<Tables>> {
        Arc::clone(&self.tables)
    }

    /// The HTTP stages that the workers read.
    pub fn layer7(&self) -> Arc<ArcSwap<Layer7>> {
        Arc::clone(&self.layer7)
    }

    /// Tells control which workers read the tables.
    pub fn set_workers(&mut self, workers: Vec<WorkerHandle>) {
        self.workers = workers;
    }

    /// The workers.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// The configuration in force.
    pub fn config(&self) -> &Arc<Config> {
        &self.compiled.config
    }

    /// The pods in force.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The peers in force.
    pub fn peers(&self) -> &Peers {
        self.compiled.pods.peers()
    }

    /// The names behind the numbers that flows carry.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The kernel's side.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    fn patience(config: &Config) -> Patience {
        Patience {
            grace: config.node.enrolment_grace,
            drain: config.node.drain,
        }
    }

    /// Makes `config` the configuration in force: all of it, or nothing.
    ///
    /// The caller has checked it against `interfaces` ([`config::check_interfaces`]).
    ///
    /// # Errors
    /// When the kernel refuses a step; what was there before is in force again.
    pub fn apply(
        &mut self,
        config: Config,
        interfaces: &[InterfaceInfo],
        now: Now,
    ) -> Result<Change, Error> {
        self.interfaces = indices(interfaces);
        let vips = OnceCell::new();
        let registry = self.registry.with_pods(
            &config.pods,
            |address| vips.get_or_init(|| config.vips()).contains(address),
            links(interfaces),
            Self::patience(&config),
            now,
        );
        let names = |registry: &'_ Registry, draining: bool| -> BTreeSet<String> {
            let pods = registry.pods().iter();
            pods.filter(|pod| pod.draining_until.is_some() == draining)
                .map(|pod| pod.config.name.clone())
                .collect()
        };
        let new = |draining| {
            let (before, after) = (names(&self.registry, draining), names(&registry, draining));
            after.difference(&before).cloned().collect()
        };
        let change = Change {
            enrolled: new(false),
            draining: new(true),
        };
        self.switch(Arc::new(config), registry)?;
        Ok(change)
    }

    /// Ends the draining of pods whose time is over.
    ///
    /// # Errors
    /// When the kernel refuses; the pods stay, to be tried again.
    pub fn end_drained(&mut self, now: Now) -> Result<(), Error> {
        match self.registry.without_drained(now) {
            Some(registry) => self.switch(Arc::clone(&self.compiled.config), registry),
            None => Ok(()),
        }
    }

    /// Follows interfaces that came, went, were replaced, or have another MTU.
    ///
    /// # Errors
    /// When the kernel refuses a step; what was there before is in force again.
    pub fn follow_interfaces(
        &mut self,
        interfaces: &[InterfaceInfo],
        now: Now,
    ) -> Result<bool, Error> {
        self.interfaces = indices(interfaces);
        self.around.ways.doubt(); // An interface's MTU may be another one.
        let config = Arc::clone(&self.compiled.config);
        let (links, patience) = (links(interfaces), Self::patience(&config));
        let registry = self.registry.with_interfaces(links, patience, now);
        let moved = self.uplinks(&config) != *self.compiled.uplinks;
        match registry.or_else(|| moved.then(|| self.registry.clone())) {
            Some(registry) => self.switch(config, registry).map(|()| true),
            None => Ok(false),
        }
    }

    /// The interfaces of the node's uplinks that are there.
    fn uplinks(&self, config: &Config) -> Vec<u32> {
        let wanted = config.node.uplinks.iter();
        let wanted = wanted.filter(|_| config.overlay.is_some());
        wanted
            .filter_map(|(name, _)| self.interfaces.get(name).copied())
            .collect()
    }

    /// Says that the node's addresses or routes have changed, see [`Self::follow_routes`].
    pub fn routes_changed(&mut self) {
        self.around.sources.doubt();
        self.around.ways.doubt();
    }

    /// Asks the kernel again which address of the node pods see and which way leads to peers, after a change of addresses or
    /// routes: about as many at a time as take a few milliseconds. True if there were other answers.
    ///
    /// # Errors
    /// When the kernel refuses a step of the switch; the next change of anything tries again.
    pub fn follow_routes(&mut self) -> Result<bool, Error> {
        let kernel = &self.kernel;
        let sources =
            (self.around.sources).ask_again(SOURCES_AT_ONCE, |pods| sources(kernel, pods));
        let ways = (self.around.ways).ask_again(SOURCES_AT_ONCE, |ends| ways(kernel, ends));
        let changed = sources || ways;
        if changed {
            self.switch(Arc::clone(&self.compiled.config), self.registry.clone())?;
        }
        Ok(changed)
    }

    /// Frees what no worker looks at any more. Not part of a change: it can take longer than that.
    pub fn collect_retired(&mut self) {
        let oldest = self
            .workers
            .iter()
            .map(|worker| worker.shared.generation())
            .min();
        let oldest = oldest.unwrap_or(u64::MAX);
        self.retired
            .retain(|retired| retired.tables.generation >= oldest);
    }

    fn switch(&mut self, config: Arc<Config>, mut registry: Registry) -> Result<(), Error> {
        let before = self.compiled.clone();
        let next = self.compile(&before, config, &registry);
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                self.slots.put_back();
                return Err(error.into());
            }
        };
        if let Err(error) = self.switch_to(&before, &next) {
            // The old state under a new generation: nothing was refused of it before.
            registry.put_back(&self.registry);
            self.slots.put_back();
            let config = Arc::clone(&before.config);
            let back = self.compile(&next, config, &registry)?;
            if let Err(again) = self.switch_to(&next, &back) {
                tracing::error!(%again, "cannot go back to the state before a failed change");
                self.publish(&back); // At least the workers decide as before.
            }
            self.registry = registry;
            return Err(error);
        }
        self.slots.keep();
        self.registry = registry;
        Ok(())
    }

    fn compile(
        &mut self,
        before: &Compiled,
        config: Arc<Config>,
        registry: &Registry,
    ) -> Result<Compiled, BuildError> {
        self.around.uplinks = self.uplinks(&config);
        let Self {
            kernel,
            names,
            slots,
            around,
            ..
        } = self;
        (around.sources).follow(compile::present(registry), |pods| sources(kernel, pods));
        (around.ways).follow(Peers::ends(&config), |ends| ways(kernel, ends));
        before.next(config, registry, (names, slots), around)
    }

    /// The order: the hooks of new pods before the tables, so that a backend's reply is seen from its
    /// first packet on; the tables before what is punted because of them; hooks off before a pod
    /// is forgotten. A frame of a pod that the engine does not know goes back to the kernel, so the
    /// steps in between misroute nothing.
    fn switch_to(&mut self, before: &Compiled, next: &Compiled) -> Result<(), Error> {
        let in_step = std::mem::replace(&mut self.in_step, false); // Until it has worked.
        let by_ifindex = |compiled: &Compiled| -> BTreeMap<u32, PodEntry> {
            let pods = compiled.pods.entries().iter();
            pods.map(|pod| (pod.ifindex, pod.clone())).collect()
        };
        let (old, new) = (by_ifindex(before), by_ifindex(next));
        for (ifindex, pod) in new.iter().filter(|(ifindex, _)| !old.contains_key(ifindex)) {
            self.kernel.set_pod(pod)?;
            self.kernel.attach_pod(*ifindex)?;
        }
        for ifindex in next.uplinks.iter() {
            if !in_step || !before.uplinks.contains(ifindex) {
                self.kernel.attach_uplink(*ifindex)?;
            }
        }
        self.publish(next);
        let overlay = next.pods.peers().entries();
        if !in_step || before.pods.peers().entries() != overlay {
            self.kernel.sync_overlay(&overlay)?;
        }
        for ifindex in before.uplinks.iter() {
            if !next.uplinks.contains(ifindex) {
                self.kernel.detach_uplink(*ifindex)?;
            }
        }
        for (ifindex, pod) in &new {
            if old.get(ifindex).is_some_and(|known| known != pod) {
                self.kernel.set_pod(pod)?;
            }
        }
        if in_step {
            self.kernel
                .change_services(&next.appeared, &next.vanished)?;
        } else {
            self.kernel.sync_services(&next.services())?;
        }
        // The choices before the epochs: what was chosen under an epoch that is to come is the engine's until it is there.
        if self.fast_path == FastPath::Full {
            self.set_choices(next, in_step)?;
        }
        if self.fast_path != FastPath::Off {
            let tables = &next.tables;
            self.kernel.set_epochs(tables.epochs(), tables.members())?;
        }
        if !in_step || before.pods.endpoints() != next.pods.endpoints() {
            self.kernel.sync_endpoints(next.pods.endpoints())?;
        }
        for ifindex in old.keys().filter(|ifindex| !new.contains_key(ifindex)) {
            self.kernel.detach_pod(*ifindex)?;
            self.kernel.remove_pod(*ifindex)?;
        }
        self.in_step = true;
        Ok(())
    }

    fn set_choices(&mut self, next: &Compiled, in_step: bool) -> Result<(), Error> {
        let all = || {
            let keys = next.tables.service_keys();
            keys.map(|(vip, port, proto)| ServiceKey::port(vip, port, proto))
        };
        let keys: Vec<ServiceKey> = match in_step {
            true => next.changed.clone(),
            false => all().chain(next.vanished.iter().copied()).collect(),
        };
        let mut without = 0;
        for key in keys {
            let Some((port, proto)) = key.port else {
                continue;
            };
            let service = next.tables.service(&key.address, port, proto);
            let choice = service.and_then(Choice::of);
            let placed = self.kernel.set_choice(key, choice.as_ref())?;
            without += usize::from(choice.is_some() && !placed);
        }
        if without > 0 {
            tracing::warn!(
                ports = without,
                "no room for more tables in the kernel: flows to these service ports go through user space"
            );
        }
        Ok(())
    }

    fn publish(&mut self, next: &Compiled) {
        // A worker reads them when it sees other tables.
        self.layer7.store(Arc::clone(&next.layer7));
        self.tables.store(Arc::clone(&next.tables));
        let before = std::mem::replace(&mut self.compiled, next.clone());
        self.retired.push(before);
        let generation = next.tables.generation;
        let deadline = Instant::now() + WORKER_PATIENCE;
        for worker in &self.workers {
            // Bound: WORKER_PATIENCE over all workers.
            while worker.shared.generation() < generation && Instant::now() < deadline {
                worker.waker.wake();
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

/// The indices of interfaces by name.
fn indices(interfaces: &[InterfaceInfo]) -> HashMap<String, u32> {
    let named = interfaces.iter();
    named.map(|one| (one.name.clone(), one.index)).collect()
}

/// Which address of the node each pod sees.
fn sources(kernel: &impl KernelSide, pods: &[Place]) -> Vec<Option<IpAddr>> {
    let pods = pods.iter();
    pods.map(|pod| kernel.source_towards(pod.0)).collect()
}

/// Which way leads to each peer. Nothing, if the kernel does not answer: then all is as it was.
fn ways(kernel: &impl KernelSide, ends: &[Ends]) -> Vec<Option<netlink::Way>> {
    kernel.ways(ends).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot look up the routes to peers");
        Vec::new()
    })
}

/// The interfaces of pods by name. One that became something the pair cannot serve (its MTU was
/// raised, another kind of device took its name) counts as gone, so its packets are the kernel's.
fn links(interfaces: &[InterfaceInfo]) -> impl Fn(&str) -> Option<Link> {
    let usable = interfaces
        .iter()
        .filter(|found| found.is_veth && found.mtu <= netlink::PAIR_MTU);
    let links: HashMap<&str, Link> = usable
        .map(|found| {
            let link = Link {
                ifindex: found.index,
                mtu: found.mtu.try_into().unwrap_or(u16::MAX), // At most the pair's.
            };
            (found.name.as_str(), link)
        })
        .collect();
    move |name| links.get(name).copied()
}

/// Reads a configuration and checks it against the machine, as `weft check`, `weft run` and a reload do. It
/// shares its services with `earlier`, the one in force, where they are the same.
///
/// # Errors
/// Every error of the configuration.
pub fn checked(
    files: &[std::path::PathBuf],
    earlier: Option<&Config>,
    interfaces: &[InterfaceInfo],
) -> Result<Config, config::Errors> {
    let config = config::load(files, earlier)?;
    let cores: Vec<usize> = core_affinity::get_core_ids()
        .map(|cores| cores.into_iter().map(|core| core.id).collect())
        .unwrap_or_default();
    config::Errors::all([
        config::check_interfaces(&config, interfaces, netlink::PAIR_MTU),
        config::check_cores(&config, &cores),
    ])?;
    Ok(config)
}
