//! The loaded programs with their maps and links: what the control thread steers the kernel by.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, OpenMapMut, PrintLevel};
use weft_datapath::Address;

use crate::FlowSecret;
use crate::abi;
use crate::edge::memory::MappedArray;
use crate::links::{
    Attach, LinkError, attach_pinned, attach_tcx_unpinned, detach_pinned, parse_link_file,
};
use crate::maps::{MapError, TypedMap, into_io};
use crate::netlink::PairInfo;
use crate::owned::{OwnedError, OwnedObject};
use crate::skel::{WeftSkel, WeftSkelBuilder};
use flow_table::FlowTable;
use pinned::{check_abi, check_size, prepare_pin_dir};

mod choice;
mod counters;
mod fast;
pub(crate) mod flow_table;
mod heartbeat;
mod overlay;
mod pinned;
mod pins;
mod pods;
mod reverse;
mod sync;
mod trial;

pub use choice::{Choice, ChoiceBackend};
pub use counters::Counters;
pub use fast::{Adopted, FastFlow, FastLookup};
pub use heartbeat::Heartbeat;
pub use overlay::{OverlayEntries, ways};
pub use pins::{Pin, PinOutcome, PinWriter};
pub use pods::PodEntry;
pub use sync::{Changes, ServiceKey};
pub use trial::try_programs;

/// Names of the links, as in their files `link_<name>_<ifindex>`.
pub(crate) mod link_names {
    pub(crate) const FROM_POD: &str = "from_pod";
    pub(crate) const TO_POD: &str = "to_pod";
    pub(crate) const INJECTED: &str = "injected";
    pub(crate) const PUNTED: &str = "punted";
    pub(crate) const FAIL_OPEN: &str = "fail_open";
    pub(crate) const FROM_PEER: &str = "from_peer";
}

/// What the steering needs to know before it loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeringConfig {
    /// A directory of a BPF file system, made if missing. One for each run directory.
    pub pin_dir: PathBuf,
    /// The punt pair.
    pub pair: PairInfo,
    /// Workers, one for each queue of the pair: `1..=MAX_WORKERS`.
    pub workers: u16,
    /// How old a worker's heartbeat may be before its packets go to the kernel. Zero: as old as
    /// it likes, for tests.
    pub heartbeat_limit: Duration,
    /// Owner entries at most.
    pub max_pins: u32,
    /// What the programs do by themselves.
    pub fast_path: FastPath,
    /// Tells this process's entries from those of the one before; random.
    pub instance: u32,
    /// Where flows are in the table, if there is none yet: a secret; random.
    pub flow_secret: FlowSecret,
}

/// How much the hooks do without the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FastPath {
    /// Nothing: every packet goes through the engine.
    Off,
    /// They carry the layer-4 flows that the engine has opened.
    Flows,
    /// They open plain ones, too.
    #[default]
    Full,
}

impl FastPath {
    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Flows => "flows",
            Self::Full => "full",
        }
    }
}

/// Why the steering could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pinned maps are another version's.
    #[error(
        "{}: pinned by a Weft with map layout {found}, this one has {expected}: \
         stop that one, then run `weft cleanup`", path.display()
    )]
    ForeignAbi {
        /// The pinned map.
        path: PathBuf,
        /// Its layout version, 0 if it has none.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The pin directory.
    #[error("{}: cannot be a pin directory (is the BPF file system mounted there?)", path.display())]
    PinDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A value out of range.
    #[error("{what}: {value} is not in 1..={max}")]
    Range {
        /// The setting.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The most it may be.
        max: u64,
    },
    /// The kernel refused the programs.
    #[error("cannot load the BPF programs (root or CAP_BPF + CAP_NET_ADMIN, Linux 6.6 or newer)")]
    Load(#[source] libbpf_rs::Error),
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Memory of the programs could not be mapped.
    #[error("cannot map the heartbeats and flows of the BPF programs")]
    Mapping(#[source] io::Error),
    /// A pod that the BPF maps cannot hold.
    #[error("pod at interface {ifindex}: {reason}")]
    Pod {
        /// The pod's veth.
        ifindex: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The programs, their maps and their links.
///
/// Everything is pinned, so dropping this detaches nothing: the programs go on, and let pass what
/// nobody decides. [`cleanup`](crate::cleanup) takes it all away.
pub struct Steering {
    pub(crate) skel: WeftSkel<'static>,
    pub(crate) config: SteeringConfig,
    pods: TypedMap<u32, abi::Pod>,
    pod_state: TypedMap<u32, abi::PodState>,
    endpoints: TypedMap<[u8; 16], abi::Endpoint>,
    overlay: TypedMap<u32, abi::Overlay>,
    peers: TypedMap<[u8; 16], abi::Tunnel>,
    tunnels: TypedMap<u32, abi::Peer>,
    ranges: TypedMap<abi::Range, abi::Tunnel>,
    services: TypedMap<abi::ServiceKey, abi::Service>,
    pins: TypedMap<abi::FlowKey, abi::FlowValue>,
    reverse: TypedMap<abi::ServiceKey, abi::Reverse>,
    pub(crate) table: Arc<FlowTable>,
    maglev: TypedMap<u32, abi::Maglev>,
    backends: TypedMap<u32, abi::Backend>,
    epochs: TypedMap<u32, u32>,
    choices: choice::Choices,
    instance: u32,
    heartbeats: Arc<MappedArray>,
}

impl Steering {
    /// Loads the programs. Maps that are pinned already are taken over with what is in them; nothing
    /// is attached yet, and what is attached already goes on unchanged.
    pub fn open(config: SteeringConfig) -> Result<Self, Error> {
        let range = |what, value: u64, max: u64| {
            if (1..=max).contains(&value) {
                Ok(())
            } else {
                Err(Error::Range { what, value, max })
            }
        };
        let queues = config.pair.queues.min(crate::MAX_WORKERS.into());
        range("workers", config.workers.into(), queues.into())?;
        range("max_pins", config.max_pins.into(), u32::MAX.into())?;
        range(
            "weft0",
            config.pair.weft0_ifindex.into(),
            u64::from(weft_datapath::MAX_IFINDEX),
        )?;
        libbpf_rs::set_print(Some((PrintLevel::Warn, log_libbpf)));
        prepare_pin_dir(&config.pin_dir)?;
        check_abi(&config.pin_dir)?;
        // No memory is taken for what nobody uses.
        let flows = |size: u32| {
            if config.fast_path == FastPath::Off {
                1
            } else {
                size
            }
        };
        let full = |size: u32| {
            if config.fast_path == FastPath::Full {
                size
            } else {
                1
            }
        };
        let sets = flows(abi::MAX_FLOW_SETS);
        let flows = sets * abi::FLOW_WAYS;
        let firsts = full(abi::FIRST_REGIONS * abi::FIRST_LINES);
        let maglev = full(abi::MAX_MAGLEV_PACKS);
        let backends = full(abi::MAX_BACKENDS);
        for (name, size) in [
            ("pins", config.max_pins),
            ("flow_sets", sets),
            ("flows", flows),
            ("firsts", firsts),
            ("maglev", maglev),
            ("backends", backends),
        ] {
            check_size(&config.pin_dir, name, size)?;
        }

        // Leaked on purpose: the skeleton borrows this slot of two words for as long as it lives,
        // and a process opens one steering.
        let slot = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = WeftSkelBuilder::default().open(slot).map_err(Error::Load)?;
        let pin = |map: &mut OpenMapMut<'_>, name: &str| {
            map.set_pin_path(config.pin_dir.join(name))
                .map_err(Error::Load)
        };
        let size =
            |map: &mut OpenMapMut<'_>, size: u32| map.set_max_entries(size).map_err(Error::Load);
        size(&mut open.maps.pins, config.max_pins)?;
        size(&mut open.maps.flow_sets, sets)?;
        size(&mut open.maps.flows, flows)?;
        size(&mut open.maps.firsts, firsts)?;
        size(&mut open.maps.maglev, maglev)?;
        size(&mut open.maps.backends, backends)?;
        pin(&mut open.maps.config, "config")?;
        pin(&mut open.maps.heartbeat, "heartbeat")?;
        pin(&mut open.maps.pods, "pods")?;
        pin(&mut open.maps.pod_state, "pod_state")?;
        pin(&mut open.maps.endpoints, "endpoints")?;
        pin(&mut open.maps.overlay, "overlay")?;
        pin(&mut open.maps.peers, "peers")?;
        pin(&mut open.maps.tunnels, "tunnels")?;
        pin(&mut open.maps.ranges, "ranges")?;
        pin(&mut open.maps.services, "services")?;
        pin(&mut open.maps.pins, "pins")?;
        pin(&mut open.maps.xsks, "xsks")?;
        pin(&mut open.maps.flow_sets, "flow_sets")?;
        pin(&mut open.maps.flows, "flows")?;
        pin(&mut open.maps.firsts, "firsts")?;
        pin(&mut open.maps.reverse, "reverse")?;
        pin(&mut open.maps.maglev, "maglev")?;
        pin(&mut open.maps.backends, "backends")?;
        pin(&mut open.maps.epochs, "epochs")?;
        let skel = open.load().map_err(Error::Load)?;

        let heartbeats = mapped::<abi::Heartbeat>(&skel.maps.heartbeat)?;
        let kept = typed::<u32, abi::Config>(&skel.maps.config)?.lookup(&0)?;
        let secret = kept
            .map(|config| config.flow_secret)
            .filter(|secret| secret.iter().any(|byte| *byte != 0))
            .unwrap_or(config.flow_secret);
        let table = FlowTable {
            sets: mapped::<abi::FlowSet>(&skel.maps.flow_sets)?,
            flows: mapped::<abi::Flow>(&skel.maps.flows)?,
            firsts: mapped::<abi::Firsts>(&skel.maps.firsts)?,
            backends: mapped::<abi::Backend>(&skel.maps.backends)?,
            secret,
        };
        let steering = Self {
            pods: typed(&skel.maps.pods)?,
            pod_state: typed(&skel.maps.pod_state)?,
            endpoints: typed(&skel.maps.endpoints)?,
            overlay: typed(&skel.maps.overlay)?,
            peers: typed(&skel.maps.peers)?,
            tunnels: typed(&skel.maps.tunnels)?,
            ranges: typed(&skel.maps.ranges)?,
            services: typed(&skel.maps.services)?,
            pins: typed(&skel.maps.pins)?,
            reverse: typed(&skel.maps.reverse)?,
            table: Arc::new(table),
            maglev: typed(&skel.maps.maglev)?,
            backends: typed(&skel.maps.backends)?,
            epochs: typed(&skel.maps.epochs)?,
            choices: choice::Choices::default(),
            instance: config.instance,
            heartbeats: Arc::new(heartbeats),
            config,
            skel,
        };
        steering.write_config()?;
        Ok(steering)
    }

    /// The directory of the pins.
    pub fn pin_dir(&self) -> &Path {
        &self.config.pin_dir
    }

    /// Attaches to the punt pair, or exchanges the programs there.
    pub fn attach_pair(&self) -> Result<(), Error> {
        let PairInfo {
            weft0_ifindex: weft0,
            weft1_ifindex: weft1,
            ..
        } = self.config.pair;
        let (dir, progs) = (&self.config.pin_dir, &self.skel.progs);
        use link_names::{FAIL_OPEN, INJECTED, PUNTED};
        // What takes frames off the pair comes before what puts them on.
        attach_pinned(
            dir,
            FAIL_OPEN,
            Attach::TcxIngress,
            weft1,
            &progs.weft_fail_open,
        )?;
        attach_pinned(
            dir,
            INJECTED,
            Attach::TcxIngress,
            weft0,
            &progs.weft_injected,
        )?;
        attach_pinned(dir, PUNTED, Attach::Xdp, weft1, &progs.weft_punted)?;
        self.forget_former_pairs()
    }

    /// Unpins the links of pairs that somebody has deleted; their interfaces took them along.
    fn forget_former_pairs(&self) -> Result<(), Error> {
        use link_names::{FAIL_OPEN, INJECTED, PUNTED};
        let dir = &self.config.pin_dir;
        let error = |source| Error::PinDir {
            path: dir.clone(),
            source,
        };
        let pair = [
            self.config.pair.weft0_ifindex,
            self.config.pair.weft1_ifindex,
        ];
        for entry in fs::read_dir(dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            let file = entry.file_name();
            if let Some((name, ifindex)) = file.to_str().and_then(parse_link_file)
                && [FAIL_OPEN, INJECTED, PUNTED].contains(&name)
                && !pair.contains(&ifindex)
            {
                detach_pinned(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Lets what is sent into a bulk lane's device go where it says, for as long as the link lives.
    pub(crate) fn attach_bulk(&self, ifindex: u32) -> Result<Link, Error> {
        Ok(attach_tcx_unpinned(
            &self.skel.progs.weft_injected,
            ifindex,
        )?)
    }

    /// Lets a queue's punted frames go into `socket`. The kernel takes the entry away with the socket.
    pub fn register_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let map = &self.skel.maps.xsks;
        map.update(
            &queue.to_ne_bytes(),
            &(socket.as_raw_fd() as u32).to_ne_bytes(),
            MapFlags::ANY,
        )
        .map_err(|error| MapError::Operation {
            map: "xsks".to_owned(),
            operation: "insert",
            source: into_io(&error),
        })?;
        Ok(())
    }

    /// What this run directory holds of the kernel.
    pub fn owned(&self) -> Result<Vec<OwnedObject>, OwnedError> {
        crate::owned::owned(&self.config.pin_dir)
    }

    /// What these programs counted, over all CPUs. Not pinned: every load starts at zero, and a
    /// packet is counted by one load's program or by another's, so sums hold across a restart.
    pub fn counters(&self) -> Result<Counters, Error> {
        counters::read(&self.skel.maps.counters).map_err(Error::from)
    }

    fn write_config(&self) -> Result<(), Error> {
        let config = abi::Config {
            abi: abi::ABI,
            workers: self.config.workers.into(),
            weft0_ifindex: self.config.pair.weft0_ifindex,
            lanes: 0,
            fast_path: match self.config.fast_path {
                FastPath::Off => 0,
                FastPath::Flows => abi::FAST_FLOWS,
                FastPath::Full => abi::FAST_FULL,
            },
            instance: self.instance,
            flow_secret: self.table.secret,
            heartbeat_limit_ns: u64::try_from(self.config.heartbeat_limit.as_nanos())
                .unwrap_or(u64::MAX),
        };
        typed::<u32, abi::Config>(&self.skel.maps.config)?.insert(&0, &config)?;
        Ok(())
    }
}

/// libbpf's own words, for the reader of our log.
fn log_libbpf(_: PrintLevel, text: String) {
    tracing::warn!(target: "libbpf", "{}", text.trim_end());
}

/// The memory of an array whose values are `V`.
fn mapped<V>(map: &libbpf_rs::Map<'_>) -> Result<MappedArray, Error> {
    MappedArray::new(map.as_fd(), size_of::<V>(), map.max_entries() as usize)
        .map_err(Error::Mapping)
}

fn typed<K: crate::maps::Plain, V: crate::maps::Plain>(
    map: &libbpf_rs::Map<'_>,
) -> Result<TypedMap<K, V>, MapError> {
    let handle = MapHandle::try_from(map).map_err(|error| MapError::Operation {
        map: map.name().to_string_lossy().into_owned(),
        operation: "duplicate",
        source: into_io(&error),
    })?;
    TypedMap::new(handle)
}

/// The address as the maps hold it.
fn key(address: &Address) -> [u8; 16] {
    address.0
}
