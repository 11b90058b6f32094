//! A pod that forges the tuples of another one's flows, floods the node with new ones, or opens more than there is room for, cannot
//! reach, evict or slow what the other one has established on the fast path (AMB-06, SVC-28).

use crate::fixture::{REAL_TIME, soak, with_weft};
use crate::fleet::{Scale, World};
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use weft_lab::binaries;
use weft_lab::command::{run, wait};
use weft_lab::config::Config;
use weft_lab::fleet::{Crew, Servers, Tally};
use weft_lab::lab::{Family, Pod, pick, vips};
use weft_lab::packet::{self, Ip, Tcp, flag, protocol};
use weft_lab::raw::Wire;
use weft_lab::weft::Weft;

/// A service on the victim's backends that only the attacker asks, so that what it floods are not the servers' own queues.
const BAIT: u8 = 20;
/// UDP ports of it from there on, of which each has room for 50,000 flows of the generator, and one of TCP.
const BAIT_PORT: u16 = 9100;
const BAIT_PORTS: u16 = 10;
const BAIT_TCP: u16 = 9200;
/// Flows of the flood over UDP. The table has 524,288 entries, two a flow.
const FLOWS: u32 = 500_000;
/// Flows over TCP that nobody ends, in each family to the service and to one backend itself.
const HALF_OPEN: u16 = 40_000;
/// Slower than so many times what it was: the flood has one of the two cores, and shares the other.
const SLOWDOWN: u32 = 5;
/// Below that it is no slowdown, but how threads take turns on a core.
const FINE: Duration = Duration::from_millis(1);

fn length() -> Duration {
    Duration::from_secs(if soak() { 20 } else { 3 })
}

/// A victim with its flows, and an attacker.
struct Siege {
    world: World,
    crews: Vec<Crew>,
    attacker: Pod,
    weft: Weft,
    /// Sockets of the bait, which nobody reads.
    _bait: Vec<(TcpListener, Vec<UdpSocket>)>,
}

impl Siege {
    fn new(change: impl FnOnce(&mut Config)) -> Result<(Self, Servers)> {
        let mut world = World::new(Scale::VICTIM)?;
        let attacker = world.lab.pod("x")?;
        // Its stack must not end what it opens.
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            let drop = ["-w", "5", "-P", "INPUT", "DROP"];
            run(attacker.namespace.command(program).args(drop))?;
        }
        let mut config = config(&world, &attacker);
        change(&mut config);
        let weft = Weft::start_under(&world.lab, &config, &REAL_TIME)?;
        let servers = world.serve()?;
        let bait = world.backends.iter().map(bait).collect::<Result<_>>()?;
        let siege = Self {
            crews: world.crews()?,
            world,
            attacker,
            weft,
            _bait: bait,
        };
        Ok((siege, servers))
    }

    /// Lets the victim ask on its flows while `attack` goes on.
    fn under(&mut self, attack: impl FnOnce(&Self) -> Result<()>) -> Result<Tally> {
        let stop = AtomicBool::new(false);
        let mut crews = std::mem::take(&mut self.crews);
        let mut tally = Tally::default();
        let outcome = thread::scope(|scope| -> Result<()> {
            let running: Vec<_> = crews
                .iter_mut()
                .map(|crew| scope.spawn(|| crew.run(&stop)))
                .collect();
            let outcome = attack(self);
            stop.store(true, Ordering::Relaxed);
            for crew in running {
                tally.add(crew.join().expect("a crew panicked")?);
            }
            outcome
        });
        self.crews = crews;
        outcome?;
        self.world.flawless()?;
        Ok(tally)
    }

    /// Every flow, idle ones too, is as it was.
    fn still_there(&mut self) -> Result<()> {
        let mut tally = Tally::default();
        self.crews
            .iter_mut()
            .for_each(|crew| crew.ask_all(&mut tally));
        self.world.flawless()
    }
}

fn config(world: &World, attacker: &Pod) -> Config {
    let mut config = world.config(&world.states());
    config.enrol(attacker, "attacker");
    let mut ports = vec![("tcp", BAIT_TCP, BAIT_TCP)];
    ports.extend((0..BAIT_PORTS).map(|n| ("udp", BAIT_PORT + n, BAIT_PORT + n)));
    let backends = world.backends.iter().flat_map(|pod| pod.ips);
    config.service("bait", BAIT, &ports).serve_at(backends);
    config
}

fn bait(pod: &Pod) -> Result<(TcpListener, Vec<UdpSocket>)> {
    let any = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    pod.namespace.enter(|| {
        let datagrams = (0..BAIT_PORTS).map(|n| Ok(UdpSocket::bind(any(BAIT_PORT + n))?));
        let datagrams = datagrams.collect::<Result<_>>()?;
        Ok((TcpListener::bind(any(BAIT_TCP))?, datagrams))
    })?
}

/// Starts a flood of UDP flows that goes on for longer than anybody looks.
fn flood(pod: &Pod, family: Family) -> Result<Child> {
    let program = binaries::weft_lab().context("weft-lab is not built")?;
    let to = SocketAddr::new(pick(&vips(BAIT), family), BAIT_PORT).to_string();
    let [ports, flows, packets] = [
        BAIT_PORTS.to_string(),
        FLOWS.to_string(),
        u32::MAX.to_string(),
    ];
    let words = ["udp-flows", &to, "--ports", &ports, "--flows", &flows];
    let mut command = pod.namespace.command(program);
    command.args(words).args(["--packets", &packets]);
    Ok(command.stdout(Stdio::null()).spawn()?)
}

/// Opens connections that nobody ends: SYNs to the bait, and to a backend directly.
fn half_open(wire: &Wire, siege: &Siege) -> Result<u64> {
    let mut sent = 0;
    for family in Family::BOTH {
        let backend = siege.world.backends[0].ip(family);
        for to in [pick(&vips(BAIT), family), backend] {
            let ip = Ip::new(siege.attacker.ip(family), to);
            for number in 0..HALF_OPEN {
                let tcp = Tcp {
                    sport: 20_000 + number,
                    dport: BAIT_TCP,
                    flags: flag::SYN,
                    seq: 1,
                    ack: 0,
                };
                let packet = packet::tcp(&ip, tcp, b"");
                let frame = packet::ethernet(wire.mac, wire.gateway, &packet);
                sent += u64::from(wire.send(&frame)?);
            }
        }
    }
    Ok(sent)
}

#[test]
fn amb06_hostile_packets_with_every_tuple_of_another_pod_reach_none_of_its_flows() -> Result<()> {
    with_weft(|| {
        let (mut siege, _servers) = Siege::new(|_| {})?;
        let wire = Wire::open(&siege.attacker.namespace, "eth0")?;
        let resets = siege.world.resets()?;
        let mut forged = 0;
        let tuples = siege.crews[0].tuples()?;
        siege.under(|siege| {
            for tuple in tuples {
                let family = if tuple.to.is_ipv4() {
                    Family::V4
                } else {
                    Family::V6
                };
                let client = siege.world.clients[0].ip(family);
                let server = siege.world.backends[tuple.server].ip(family);
                let own = siege.attacker.ip(family);
                let (port, there) = (tuple.port, tuple.to.port());
                // As the client, as its backend, as the service; and with the attacker's own address, which is its right.
                for (src, sport, dst, dport) in [
                    (client, port, tuple.to.ip(), there),
                    (client, port, server, there),
                    (server, there, client, port),
                    (tuple.to.ip(), there, client, port),
                    (own, port, tuple.to.ip(), there),
                    (own, there, client, port),
                ] {
                    let ip = Ip::new(src, dst);
                    let packets = if tuple.protocol == protocol::UDP {
                        vec![packet::udp(&ip, sport, dport, b"forged")]
                    } else {
                        let kinds = [flag::SYN, flag::RST, flag::FIN | flag::ACK];
                        let segment = |flags| Tcp {
                            sport,
                            dport,
                            flags,
                            seq: 1,
                            ack: 1,
                        };
                        kinds
                            .map(|flags| packet::tcp(&ip, segment(flags), b""))
                            .into()
                    };
                    for packet in packets {
                        let frame = packet::ethernet(wire.mac, wire.gateway, &packet);
                        ensure!(wire.send(&frame)?, "the frame was not sent");
                        forged += u64::from(src != own);
                    }
                }
            }
            Ok(())
        })?;
        siege.still_there()?;
        ensure!(forged > 4000, "{forged}");
        assert_eq!(siege.weft.counter("src_spoof")?, forged);
        eprintln!("{} resets", siege.world.resets()? - resets);
        siege.weft.audit().map(drop)
    })
}

#[test]
fn amb06_a_hostile_flood_of_new_flows_evicts_none_of_another_pod_and_hardly_slows_them()
-> Result<()> {
    with_weft(|| {
        // It is the kernel's table that is besieged.
        let (mut siege, _servers) = Siege::new(|config| config.workers.fast_path = "full".into())?;
        let mut before = siege.under(|_| {
            thread::sleep(length());
            Ok(())
        })?;
        let wire = Wire::open(&siege.attacker.namespace, "eth0")?;
        let mut during = siege.under(|siege| {
            let start = Instant::now();
            let mut flooding = flood(&siege.attacker, Family::V4)?;
            let opened = half_open(&wire, siege);
            thread::sleep(length().saturating_sub(start.elapsed()));
            flooding.kill()?;
            wait(&mut flooding, Duration::from_secs(2))?;
            eprintln!("{} SYNs in {:?}", opened?, start.elapsed());
            Ok(())
        })?;
        siege.still_there()?;
        let status = siege.weft.json(&["status"])?;
        let of = |name: &str| weft_lab::weft::sum_of(&status, name);
        let names = [
            "flows_opened",
            "flows_no_room",
            "punt_rate",
            "flow_share",
            "flow_table_full",
            "from_pod_forwarded",
            "from_pod_punted",
        ];
        for name in names {
            eprintln!("{name}: {}", of(name));
        }
        let (then, now) = (before.median(), during.median());
        eprintln!(
            "{then:?} before, {now:?} during the flood, {} answers",
            during.times.len()
        );
        ensure!(
            now < (then * SLOWDOWN).max(FINE),
            "{now:?} instead of {then:?}"
        );
        // There was no room for all of it, and that has a name.
        ensure!(of("flows_no_room") > 0, "{status}");
        siege.weft.audit().map(drop)
    })
}
