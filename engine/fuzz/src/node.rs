//! A node in memory: a worker as a configuration's text makes it, its frames in and out, and a ledger that is looked at after
//! every step.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use weft::config::{self, Source};
use weft::control::{Around, Compiled, Link, Names, Patience, Registry, Slots};
use weft::worker::{
    Command, HandOver, HttpReport, Parts, PinSink, Shared, Snapshot, TcpReport, Waker, Worker,
};
use weft_datapath::{
    FlowKey, Hook, Ingress, MemoryIo, Now, PacketIo, PinOp, Ports, State, StateConfig, Tuple,
};
use weft_l7::observe::AccessRecord;
use weft_stack::{Limits, StackConfig};
use weft_xdp::PinOutcome;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Room in a node.
#[derive(Copy, Clone, Debug)]
pub struct Room {
    /// Frames, and places of each ring.
    pub frames: usize,
    pub ring: usize,
    /// Flows in the table.
    pub flows: usize,
}

const WEFT0: [u8; 6] = [2, 0, 0, 0, 0, 0xf0];
/// The node's own address.
pub const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 7, 1));

/// The kernel's `pins` map, as far as it tells that a worker takes back what it has put in, and only that.
#[derive(Clone, Default)]
struct Pins(Arc<Mutex<HashSet<FlowKey>>>);

impl PinSink for Pins {
    fn apply(&mut self, ops: &[PinOp]) -> PinOutcome {
        let mut pins = self.0.lock().expect("one thread");
        let mut outcome = PinOutcome::default();
        for op in ops {
            match op {
                PinOp::Insert { key, .. } => {
                    assert!(pins.insert(*key), "{key:?} written twice");
                    outcome.inserted += 1;
                }
                PinOp::Remove { key, .. } => {
                    assert!(pins.remove(key), "{key:?} was not there");
                    outcome.removed += 1;
                }
                PinOp::Leave { .. } => unreachable!("no hooks"),
            }
        }
        outcome
    }
}

/// The worker, and what is known of its frames from outside.
pub struct Node {
    worker: Worker<MemoryIo, Pins>,
    commands: Sender<Command>,
    shared: Arc<Shared>,
    pins: Pins,
    /// Requests, as they are logged.
    pub records: Receiver<AccessRecord>,
    /// Frames that it was given, and that it has sent.
    pushed: u64,
    sent: u64,
}

impl Node {
    /// A node of this configuration.
    pub fn new(compiled: &Compiled, seed: u64, room: Room) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let waker = Waker::new(Arc::clone(&shared)).expect("a file descriptor");
        let handover = HandOver::mesh(&[waker]).remove(0);
        let (commands, asked) = bounded(4);
        let (logged, records) = unbounded();
        let pins = Pins::default();
        let worker = Worker::new(Parts {
            io: MemoryIo::new(room.frames, 2048, room.ring),
            pins: pins.clone(),
            tables: Arc::new(Arc::clone(&compiled.tables).into()),
            state: State::new(StateConfig {
                max_flows: room.flows,
                seed,
                worker: 0,
                workers: 1,
                ports: Ports { weft0_mac: WEFT0 },
                hairpin: Default::default(),
            }),
            stack: StackConfig {
                secret: [seed as u8; 32],
                limits: Limits::default(),
                timeouts: Default::default(),
            },
            layer7: Arc::new(Arc::clone(&compiled.layer7).into()),
            access_log: Some(logged),
            seed,
            handover,
            commands: asked,
            shared: Arc::clone(&shared),
            // A node that is not stepped is not dead here.
            heartbeat_limit: Duration::from_secs(3600),
        });
        Self {
            worker,
            commands,
            shared,
            pins,
            records,
            pushed: 0,
            sent: 0,
        }
    }

    /// A frame comes from a hook, as that punts it. False if there is no room for it: it is lost.
    pub fn push(&mut self, frame: &mut [u8], ifindex: u32, hook: Hook) -> bool {
        let ingress = Ingress {
            ifindex,
            hook,
            target: 0,
        };
        frame[6..12].copy_from_slice(&ingress.encode());
        let taken = self.worker.io_mut().push(frame);
        self.pushed += u64::from(taken);
        taken
    }

    /// Whether a hook on the way to a pod catches packets with these ends. What it does not, the kernel delivers.
    pub fn catches(&self, tuple: Tuple, ifindex: u32) -> bool {
        let pins = self.pins.0.lock().expect("one thread");
        pins.contains(&FlowKey { tuple, ifindex })
    }

    /// One step, whose frames go to `each`. True if anything happened.
    pub fn step(&mut self, now: Now, mut each: impl FnMut(&[u8])) -> bool {
        let handled = self.worker.step(now);
        let mut sent = 0;
        self.worker.io_mut().drain_sent(|frame| {
            sent += 1;
            each(frame);
        });
        self.sent += sent;
        self.audit();
        handled > 0 || sent > 0
    }

    /// When it wants its next step though nothing comes.
    pub fn due(&self, now: Now) -> Now {
        match self.worker.has_work() {
            true => now,
            false => now + self.worker.nap(now),
        }
    }

    /// U-08: each frame that came in has one fate, each that went out one cause, and none is in hand between two steps.
    fn audit(&mut self) {
        let waiting = self.worker.io_mut().frames();
        assert!(waiting.balances() && waiting.app == 0, "{waiting:?}");
        let seen = self.shared.read();
        assert_eq!(seen.totals.unaccounted(), 0, "{seen:?}");
    }

    /// What it has published.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.read()
    }

    /// What its HTTP stages say. It takes a step for that.
    pub fn http(&mut self, now: Now, each: impl FnMut(&[u8])) -> HttpReport {
        let (reply, answer) = bounded(1);
        self.ask(Command::Http { reply }, now, each);
        answer.recv().expect("an answer in the same step")
    }

    /// What its TCP stack says, if there has been a need of one. It takes a step for that.
    pub fn tcp(&mut self, now: Now, each: impl FnMut(&[u8])) -> Option<TcpReport> {
        let (reply, answer) = bounded(1);
        self.ask(Command::Tcp { reply }, now, each);
        answer.recv().expect("an answer in the same step")
    }

    fn ask(&mut self, command: Command, now: Now, each: impl FnMut(&[u8])) {
        self.commands.send(command).expect("the worker is there");
        self.step(now, each);
    }

    /// Whether nothing is left of any connection: no flow, no owner entry, no connection, no socket, nothing in TIME-WAIT.
    pub fn is_empty(&mut self, now: Now) -> bool {
        let mut quiet = true;
        let services = self.http(now, |_| quiet = false).services;
        let open: usize = services.iter().map(|service| service.open).sum();
        let held = self.tcp(now, |_| quiet = false).map(|tcp| tcp.holdings);
        let held = held.map_or(0, |held| {
            held.connections + held.sockets + held.half_open + held.time_wait
        });
        let pins = self.pins.0.lock().expect("one thread").len();
        quiet && open + held + pins == 0 && self.snapshot().flows == 0
    }

    /// Says what is there, for a test that fails.
    pub fn describe(&mut self, now: Now) -> String {
        let tcp = self.tcp(now, |_| {}).map(|tcp| (tcp.holdings, tcp.refused));
        let http = self.http(now, |_| {});
        format!("{:#?}\n{tcp:#?}\n{http:#?}", self.snapshot())
    }

    /// The books at the end: what was given and taken outside is what the node has counted inside.
    pub fn close_books(&mut self, now: Now) {
        self.step(now + Duration::from_millis(2), |_| {}); // Publishes.
        let seen = self.snapshot();
        let totals = &seen.totals;
        assert_eq!(totals.received, self.pushed, "frames in: {seen:?}");
        assert_eq!(totals.transmitted(), self.sent, "frames out: {seen:?}");
        assert_eq!(seen.frames.free, seen.frames.total, "{seen:?}");
        assert_eq!((seen.flows, seen.pins, seen.pin_errors), (0, 0, 0));
        let tcp = self.tcp(now + Duration::from_millis(4), |_| {});
        if let Some(tcp) = tcp {
            assert!(tcp.counters.balances(), "{:?}", tcp.counters);
        }
    }
}

/// The configuration as control compiles it. Pods' interfaces are called by their numbers: `veth11` is 11.
pub fn compile(text: &str) -> Compiled {
    let source = Source {
        path: "node.toml".into(),
        text: text.to_owned(),
    };
    let config = config::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"));
    let patience = Patience {
        grace: Duration::ZERO,
        drain: config.node.drain,
    };
    let is_vip = |address: &IpAddr| {
        let mut services = config.services.iter();
        services.any(|service| service.cluster_ips.contains(address))
    };
    let link = |name: &str| {
        let ifindex = name.strip_prefix("veth")?.parse().ok()?;
        Some(Link { ifindex, mtu: 1500 })
    };
    let registry =
        Registry::default().with_pods(&config.pods, is_vip, link, patience, Now::default());
    let mut around = Around::default();
    let pods = config.pods.iter().flat_map(|pod| {
        let ifindex = link(&pod.interface).map_or(0, |link| link.ifindex);
        pod.addresses.iter().map(move |ip| (*ip, ifindex))
    });
    (around.sources).follow(pods, |pods| vec![Some(NODE); pods.len()]);
    let (mut names, mut slots) = (Names::default(), Slots::default());
    let nothing = Compiled::nothing(&config);
    let compiled = nothing.next(
        Arc::new(config),
        &registry,
        (&mut names, &mut slots),
        &mut around,
    );
    compiled.expect("an accepted configuration compiles")
}
