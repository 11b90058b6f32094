//! Control: the one writer of the tables and of the kernel's maps.
//!
//! A change is prepared whole ([`Registry`], [`Compiled`]), then switched in an order in which every
//! step in between is right by itself, and switched back if a step fails.

mod compile;
mod kernel;
mod registry;
mod slots;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use weft_datapath::{Address, BuildError, Now, Tables};

pub use compile::{Compiled, Names};
pub use kernel::KernelSide;
pub use registry::{Patience, Pod, Registry};
pub use slots::{Member, Slots};

use thiserror::Error;
use weft_xdp::netlink;

use crate::config::{self, Config, InterfaceInfo};
use crate::worker::{Shared, Waker};

/// How long control waits for the workers to see new tables before it goes on. A worker is there
/// within one step; one that is stopped gets no packets anyway, once its heartbeat is stale.
const WORKER_PATIENCE: Duration = Duration::from_millis(200);

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
    config: Config,
    registry: Registry,
    names: Names,
    slots: Slots,
    tables: Arc<ArcSwap<Tables>>,
    compiled: Compiled,
    workers: Vec<WorkerHandle>,
    /// Replies to these are punted like those to a pod. The workers know them from the start on.
    hairpins: Vec<Address>,
    /// Tables that a worker may still look at. They are freed here, never on a data core.
    retired: Vec<Arc<Tables>>,
}

impl<K: KernelSide> Control<K> {
    /// Control over an empty node: nothing is enrolled yet, see [`Self::apply`].
    pub fn new(kernel: K, config: &Config) -> Self {
        let nothing = Config {
            pods: Vec::new(),
            services: Vec::new(),
            ..config.clone()
        };
        let compiled = Compiled {
            tables: Arc::default(),
            pods: Vec::new(),
            services: Vec::new(),
            endpoints: Vec::new(),
        };
        Self {
            kernel,
            config: nothing,
            registry: Registry::default(),
            names: Names::default(),
            slots: Slots::default(),
            tables: Arc::new(ArcSwap::from(Arc::clone(&compiled.tables))),
            compiled,
            workers: Vec::new(),
            hairpins: config
                .node
                .hairpin_ips
                .iter()
                .map(|&address| address.into())
                .collect(),
            retired: Vec::new(),
        }
    }

    /// The tables that the workers read.
    pub fn tables(&self) -> Arc<ArcSwap<Tables>> {
        Arc::clone(&self.tables)
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
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The pods in force.
    pub fn registry(&self) -> &Registry {
        &self.registry
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
        let registry = self.registry.with_pods(
            &config.pods,
            |address| {
                config
                    .services
                    .iter()
                    .any(|service| service.cluster_ips.contains(address))
            },
            |name| index_of(interfaces, name),
            Self::patience(&config),
            now,
        );
        let names = |registry: &Registry, draining: bool| -> Vec<String> {
            let pods = registry.pods().iter();
            pods.filter(|pod| pod.draining_until.is_some() == draining)
                .map(|pod| pod.config.name.clone())
                .collect()
        };
        let (before, after) = (names(&self.registry, false), names(&registry, false));
        let drained_before = names(&self.registry, true);
        let change = Change {
            enrolled: after
                .into_iter()
                .filter(|name| !before.contains(name))
                .collect(),
            draining: names(&registry, true)
                .into_iter()
                .filter(|name| !drained_before.contains(name))
                .collect(),
        };
        self.switch(config, registry)?;
        Ok(change)
    }

    /// Ends the draining of pods whose time is over.
    ///
    /// # Errors
    /// When the kernel refuses; the pods stay, to be tried again.
    pub fn end_drained(&mut self, now: Now) -> Result<(), Error> {
        match self.registry.without_drained(now) {
            Some(registry) => self.switch(self.config.clone(), registry),
            None => Ok(()),
        }
    }

    /// Follows interfaces that came, went or were replaced.
    ///
    /// # Errors
    /// When the kernel refuses a step; what was there before is in force again.
    pub fn follow_interfaces(
        &mut self,
        interfaces: &[InterfaceInfo],
        now: Now,
    ) -> Result<bool, Error> {
        let patience = Self::patience(&self.config);
        let index = |name: &str| index_of(interfaces, name);
        match self.registry.with_interfaces(index, patience, now) {
            Some(registry) => self.switch(self.config.clone(), registry).map(|()| true),
            None => Ok(false),
        }
    }

    /// Frees tables that no worker looks at any more.
    pub fn collect_retired(&mut self) {
        let oldest = self
            .workers
            .iter()
            .map(|worker| worker.shared.generation())
            .min();
        let oldest = oldest.unwrap_or(u64::MAX);
        self.retired.retain(|tables| tables.generation >= oldest);
    }

    fn switch(&mut self, config: Config, mut registry: Registry) -> Result<(), Error> {
        let before = self.compiled.clone();
        let next = match self.compile(&config, &registry) {
            Ok(next) => next,
            Err(error) => {
                self.slots.put_back();
                return Err(error);
            }
        };
        if let Err(error) = self.switch_to(&before, &next) {
            // The old state under a new generation: nothing was refused of it before.
            registry.put_back(&self.registry);
            self.slots.put_back();
            let (config, registry) = (self.config.clone(), registry);
            let back = self.compile(&config, &registry)?;
            if let Err(again) = self.switch_to(&next, &back) {
                tracing::error!(%again, "cannot go back to the state before a failed change");
                self.publish(&back); // At least the workers decide as before.
            }
            self.registry = registry;
            return Err(error);
        }
        self.slots.keep();
        self.config = config;
        self.registry = registry;
        Ok(())
    }

    fn compile(&mut self, config: &Config, registry: &Registry) -> Result<Compiled, Error> {
        let tables = Arc::clone(&self.compiled.tables);
        let generation = tables.generation + 1;
        let mut compiled = Compiled::new(
            config,
            registry,
            &mut self.names,
            &mut self.slots,
            |pod| self.kernel.source_towards(pod),
            Some(&tables),
            generation,
        )?;
        // Without a pod there is nobody to reach itself.
        if !compiled.pods.is_empty() {
            let hairpins = self.hairpins.iter().map(|&address| (address, 0));
            compiled.endpoints.extend(hairpins);
        }
        Ok(compiled)
    }

    /// The order: the hooks of new pods before the tables, so that a backend's reply is seen from its
    /// first packet on; the tables before what is punted because of them; hooks off before a pod
    /// is forgotten. A frame of a pod that the engine does not know goes back to the kernel, so the
    /// steps in between misroute nothing.
    fn switch_to(&mut self, before: &Compiled, next: &Compiled) -> Result<(), Error> {
        let old: BTreeMap<u32, _> = before.pods.iter().map(|pod| (pod.ifindex, pod)).collect();
        let new: BTreeMap<u32, _> = next.pods.iter().map(|pod| (pod.ifindex, pod)).collect();
        for (ifindex, pod) in new.iter().filter(|(ifindex, _)| !old.contains_key(ifindex)) {
            self.kernel.set_pod(pod)?;
            self.kernel.attach_pod(*ifindex)?;
        }
        self.publish(next);
        for (ifindex, pod) in &new {
            if old.get(ifindex).is_some_and(|known| known != pod) {
                self.kernel.set_pod(pod)?;
            }
        }
        self.kernel.sync_services(&next.services)?;
        self.kernel.sync_endpoints(&next.endpoints)?;
        for ifindex in old.keys().filter(|ifindex| !new.contains_key(ifindex)) {
            self.kernel.detach_pod(*ifindex)?;
            self.kernel.remove_pod(*ifindex)?;
        }
        Ok(())
    }

    fn publish(&mut self, next: &Compiled) {
        let old = self.tables.swap(Arc::clone(&next.tables));
        self.retired.push(old);
        self.compiled = next.clone();
        let generation = next.tables.generation;
        let deadline = Instant::now() + WORKER_PATIENCE;
        for worker in &self.workers {
            // Bound: WORKER_PATIENCE over all workers.
            while worker.shared.generation() < generation && Instant::now() < deadline {
                worker.waker.wake();
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        self.collect_retired();
    }
}

/// The index of a pod's interface. One that became something the pair cannot serve (its MTU was
/// raised, another kind of device took its name) counts as gone, so its packets are the kernel's.
fn index_of(interfaces: &[InterfaceInfo], name: &str) -> Option<u32> {
    let mut interfaces = interfaces.iter();
    let found = interfaces.find(|interface| interface.name == name)?;
    (found.is_veth && found.mtu <= netlink::PAIR_MTU).then_some(found.index)
}

/// Checks a configuration against the machine, as `weft check`, `weft run` and a reload do.
///
/// # Errors
/// Every error of the configuration.
pub fn checked(
    files: &[std::path::PathBuf],
    interfaces: &[InterfaceInfo],
) -> Result<Config, config::Errors> {
    let config = config::load(files)?;
    let cores: Vec<usize> = core_affinity::get_core_ids()
        .map(|cores| cores.into_iter().map(|core| core.id).collect())
        .unwrap_or_default();
    config::Errors::all([
        config::check_interfaces(&config, interfaces, netlink::PAIR_MTU),
        config::check_cores(&config, &cores),
    ])?;
    Ok(config)
}
