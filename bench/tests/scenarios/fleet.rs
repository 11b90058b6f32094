//! What scenarios with very many flows start from: services with many backends, what becomes of those, and the flows to them.

use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use weft_lab::config::{Config, Endpoint};
use weft_lab::fleet::{Crew, Faults, History, Place, Plan, Servers, Set};
use weft_lab::lab::{Family, Lab, Pod, pick, vips};
use weft_lab::random::Random;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    backends: usize,
    clients: usize,
    /// Connections of each client.
    streams: usize,
    /// Sockets of each client, with a UDP flow to each port of the first service.
    sockets: usize,
    /// And with one flow to one of the others.
    shared: usize,
}

impl Scale {
    /// 2,000 flows.
    pub const SHORT: Self = Self {
        backends: 24,
        clients: 2,
        streams: 200,
        sockets: 70,
        shared: 100,
    };
    /// 500 connections and 500 UDP flows of one client.
    pub const VICTIM: Self = Self {
        backends: 3,
        clients: 1,
        streams: 500,
        sockets: 40,
        shared: 100,
    };
    /// 10,000 flows.
    pub const MEDIUM: Self = Self {
        backends: 100,
        clients: 4,
        streams: 500,
        sockets: 175,
        shared: 250,
    };
    /// 50,000 flows.
    pub const FULL: Self = Self {
        backends: 100,
        clients: 4,
        streams: 1250,
        sockets: 1050,
        shared: 750,
    };
}

/// The first service has its backends' ports to itself; the other two share one.
const SERVICES: [(u8, &[Port]); 3] = [(10, &OWN), (11, &SHARED), (12, &SHARED)];
/// Protocol, port, and port at the backends.
type Port = (&'static str, u16, u16);
const OWN: [Port; 11] = [
    ("tcp", 7000, 7000),
    ("udp", 7100, 7100),
    ("udp", 7101, 7101),
    ("udp", 7102, 7102),
    ("udp", 7103, 7103),
    ("udp", 7104, 7104),
    ("udp", 7105, 7105),
    ("udp", 7106, 7106),
    ("udp", 7107, 7107),
    ("udp", 7108, 7108),
    ("udp", 7109, 7109),
];
const SHARED: [Port; 1] = [("udp", 8000, 7200)];

/// What a service knows of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Unready,
    Terminating,
    Gone,
}

/// The backends of each service.
#[derive(Debug, Clone)]
pub struct States(Vec<Vec<State>>);

impl States {
    /// The configurations that make the next change: one, or two where a backend flaps. At least half of the
    /// backends of a service stay ready.
    pub fn change(&mut self, random: &mut Random) -> Vec<Self> {
        let mut steps = Vec::new();
        let service = random.below(self.0.len());
        let backends = &mut self.0[service];
        let count = backends.len();
        let some = |random: &mut Random| -> Vec<usize> {
            let many = 1 + random.below(count / 8);
            (0..many).map(|_| random.below(count)).collect()
        };
        match random.below(8) {
            // One flaps: it goes, and comes back.
            0 => {
                let flapping = some(random);
                let before = backends.clone();
                for at in flapping {
                    backends[at] = State::Gone;
                }
                let back = before.clone();
                steps.push(self.clone());
                self.0[service] = back;
            }
            // A third goes at once.
            1 => {
                let first = random.below(count);
                for at in first..first + count / 3 {
                    backends[at % count] = State::Gone;
                }
            }
            // Everything is well again.
            2 => backends.fill(State::Ready),
            3 => some(random)
                .into_iter()
                .for_each(|at| backends[at] = State::Ready),
            4 => some(random)
                .into_iter()
                .for_each(|at| backends[at] = State::Terminating),
            5 => some(random)
                .into_iter()
                .for_each(|at| backends[at] = State::Unready),
            _ => some(random)
                .into_iter()
                .for_each(|at| backends[at] = State::Gone),
        }
        let backends = &mut self.0[service];
        for at in 0..count {
            let ready = backends.iter().filter(|state| **state == State::Ready);
            if ready.count() < count / 2 {
                backends[at] = State::Ready;
            }
        }
        steps.push(self.clone());
        steps
    }

    fn sets(&self) -> Vec<Set> {
        let set = |states: &Vec<State>| {
            let of = |wanted: fn(State) -> bool| {
                let bits = states.iter().enumerate();
                let bits = bits.filter(|(_, state)| wanted(**state));
                bits.fold(0, |set, (at, _)| set | 1_u128 << at)
            };
            Set {
                ready: of(|state| state == State::Ready),
                present: of(|state| state != State::Gone),
            }
        };
        self.0.iter().map(set).collect()
    }
}

/// The lab, and what is right in it.
pub struct World {
    scale: Scale,
    pub clients: Vec<Pod>,
    pub backends: Vec<Pod>,
    history: Arc<History>,
    faults: Faults,
    lossy: Arc<AtomicBool>,
    pub lab: Lab,
}

impl World {
    pub fn new(scale: Scale) -> Result<Self> {
        let mut lab = Lab::new()?;
        let mut pods = |count: usize, name: &str| {
            (0..count)
                .map(|number| lab.pod(&format!("{name}{number}")))
                .collect::<Result<Vec<_>>>()
        };
        let (clients, backends) = (pods(scale.clients, "c")?, pods(scale.backends, "b")?);
        let all = States(vec![vec![State::Ready; scale.backends]; SERVICES.len()]);
        Ok(Self {
            scale,
            clients,
            backends,
            history: Arc::new(History::new(all.sets())),
            faults: Faults::default(),
            lossy: Arc::default(),
            lab,
        })
    }

    /// Every backend ready for every service.
    pub fn states(&self) -> States {
        States(vec![
            vec![State::Ready; self.backends.len()];
            SERVICES.len()
        ])
    }

    /// With as much in the kernel as labs have unless they say otherwise.
    pub fn config(&self, states: &States) -> Config {
        let mut config = Config::new();
        // A process that is stopped for a while is not dead.
        config.workers.heartbeat = Some("10s".into());
        for pod in &self.clients {
            config.enrol(pod, "client");
        }
        for pod in &self.backends {
            config.enrol(pod, "backend");
        }
        for (number, (states, (vip, ports))) in states.0.iter().zip(SERVICES).enumerate() {
            let service = config.service(&format!("s{number}"), vip, ports);
            let there = states.iter().zip(&self.backends);
            let there = there.filter(|(state, _)| **state != State::Gone);
            let endpoints = there.flat_map(|(state, pod)| {
                pod.ips.map(|address| {
                    let mut endpoint = Endpoint::at(address);
                    endpoint.ready = Some(*state == State::Ready);
                    endpoint.serving = Some(*state != State::Unready);
                    endpoint.terminating = Some(*state == State::Terminating);
                    endpoint
                })
            });
            service.endpoints = Some(endpoints.collect());
        }
        config
    }

    /// The servers of all backends.
    pub fn serve(&self) -> Result<Servers> {
        let ports = |protocol: &str| -> Vec<u16> {
            let mut ports: Vec<u16> = SERVICES
                .into_iter()
                .flat_map(|(_, ports)| ports)
                .filter(|port| port.0 == protocol)
                .map(|port| port.2)
                .collect();
            ports.dedup();
            ports
        };
        let (tcp, udp) = (ports("tcp"), ports("udp"));
        let (history, faults) = (Arc::clone(&self.history), self.faults.clone());
        Servers::start(&self.backends, &tcp, &udp, history, faults)
    }

    /// The flows of all clients, each of which has been answered twice.
    pub fn crews(&self) -> Result<Vec<Crew>> {
        let crews = thread::scope(|scope| {
            let opening: Vec<_> = (0..)
                .zip(&self.clients)
                .map(|(number, pod)| scope.spawn(move || self.crew(number, pod)))
                .collect();
            let crews = opening.into_iter();
            crews
                .map(|crew| crew.join().expect("a crew panicked"))
                .collect::<Result<Vec<_>>>()
        })?;
        self.flawless().context("before any change")?;
        Ok(crews)
    }

    fn crew(&self, number: u64, pod: &Pod) -> Result<Crew> {
        let places = |service: usize, protocol: &str, family: Family| -> Vec<Place> {
            let (vip, ports) = SERVICES[service];
            let ports = ports.iter().filter(|port| port.0 == protocol);
            ports
                .map(|port| Place {
                    service,
                    at: (pick(&vips(vip), family), port.1).into(),
                })
                .collect()
        };
        let mut plan = Plan::default();
        for family in Family::BOTH {
            let (own, stream) = (places(0, "udp", family), places(0, "tcp", family));
            plan.streams.push((self.scale.streams / 2, stream[0]));
            plan.datagrams.push((self.scale.sockets / 2, own.clone()));
            for service in [1, 2] {
                let shared = places(service, "udp", family);
                plan.datagrams.push((self.scale.shared / 4, shared));
            }
            plan.new_streams.extend(stream);
            plan.new_datagrams.extend(own);
        }
        let (history, faults) = (&self.history, &self.faults);
        Crew::open(pod, number, plan, history, faults, &self.lossy)
    }

    /// A configuration is on its way.
    pub fn begin(&self, states: &States) {
        self.history.begin(states.sets());
    }

    /// It is in force, and the one before no more.
    pub fn finish(&self) {
        self.history.finish();
    }

    /// Whether packets may be lost that need user space.
    pub fn may_lose(&self, lossy: bool) {
        self.lossy.store(lossy, Ordering::SeqCst);
    }

    /// Nothing has been wrong so far.
    pub fn flawless(&self) -> Result<()> {
        let (count, faults) = self.faults.so_far();
        ensure!(count == 0, "{count} faults:\n{}", faults.join("\n"));
        Ok(())
    }

    /// TCP resets that backends have sent: to segments of connections that they do not know.
    pub fn resets(&self) -> Result<u64> {
        let of = |pod: &Pod| pod.namespace.tcp_counter("OutRsts");
        self.backends.iter().map(of).sum()
    }
}
