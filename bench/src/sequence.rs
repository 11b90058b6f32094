//! Numbered datagrams over flows that begin, pause and end, and receivers that see whether one has overtaken another.

use crate::lab::Pod;
use crate::random::Random;
use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Room of a receiver for what comes while its thread has no core.
const BUFFER: usize = 32 << 20;
/// How often a receiver looks whether it is to end, and how long the last datagrams may be under way.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of a datagram that are read: the flow's number, and its own.
const HEADER: usize = 16;
/// Findings that are kept.
const KEPT: usize = 10;

/// What a sender does.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Flows at a time, to each of the destinations in turn.
    pub flows: usize,
    /// Datagrams in a row on one flow, at most.
    pub burst: usize,
    /// Payloads, at most.
    pub length: usize,
    /// Between two bursts: one of these.
    pub pauses: Vec<Duration>,
    /// So many bursts, and a flow ends and another begins.
    pub bursts_a_flow: usize,
}

/// What came of all datagrams.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Datagrams sent, and flows that they were of.
    pub sent: u64,
    /// Flows that they were of.
    pub flows: usize,
    /// Datagrams that came.
    pub received: u64,
    /// Those that came after a later one of their flow, and the first of them.
    pub overtaken: u64,
    /// The first of them.
    pub examples: Vec<String>,
    /// Flows of which datagrams came to more than one receiver.
    pub moved: usize,
}

impl Outcome {
    /// Datagrams that did not come.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// Receivers on one port of some pods, and senders to them. It ends with the value.
#[derive(Debug)]
pub struct Streams {
    stop: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Result<Sent>>>,
    receivers: Vec<JoinHandle<Received>>,
}

/// How many datagrams each flow has sent.
type Sent = BTreeMap<u64, u64>;

#[derive(Debug, Default)]
struct Received {
    /// The number of the last datagram of each flow, and when it came.
    last: BTreeMap<u64, (u64, Instant)>,
    received: u64,
    overtaken: u64,
    examples: Vec<String>,
}

impl Streams {
    /// Receives on `port` of `servers`, and sends from `client` to `targets` at this pace.
    pub fn start(
        client: &Pod,
        targets: &[SocketAddr],
        servers: &[Pod],
        port: u16,
        pace: &Pace,
    ) -> Result<Self> {
        let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut streams = Self {
            stop,
            end,
            senders: Vec::new(),
            receivers: Vec::new(),
        };
        for server in servers {
            let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
            let socket = server.namespace.enter(|| UdpSocket::bind(any))??;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
            socket.set_read_timeout(Some(TICK))?;
            let (end, name) = (Arc::clone(&streams.end), server.name.clone());
            let receiver = thread::spawn(move || receive(&socket, &name, &end));
            streams.receivers.push(receiver);
        }
        let (namespace, targets) = (client.namespace.clone(), targets.to_vec());
        let (stopped, pace) = (Arc::clone(&streams.stop), pace.clone());
        let sender = thread::spawn(move || namespace.enter(|| send(&targets, &pace, &stopped))?);
        streams.senders.push(sender);
        Ok(streams)
    }

    /// Ends the senders, waits for what is under way, and tells.
    pub fn stop(mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        for sender in self.senders.drain(..) {
            let sent = sender.join().map_err(|_| anyhow!("a sender panicked"))??;
            outcome.sent += sent.values().sum::<u64>();
            outcome.flows += sent.len();
        }
        thread::sleep(TICK);
        self.end.store(true, Ordering::Relaxed);
        let mut places: BTreeMap<u64, usize> = BTreeMap::new();
        for receiver in self.receivers.drain(..) {
            let received = receiver
                .join()
                .map_err(|_| anyhow!("a receiver panicked"))?;
            outcome.received += received.received;
            outcome.overtaken += received.overtaken;
            outcome.examples.extend(received.examples);
            for flow in received.last.into_keys() {
                *places.entry(flow).or_default() += 1;
            }
        }
        outcome.moved = places.values().filter(|places| **places > 1).count();
        Ok(outcome)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.end.store(true, Ordering::Relaxed);
    }
}

fn receive(socket: &UdpSocket, name: &str, end: &AtomicBool) -> Received {
    let mut all = Received::default();
    let mut bytes = [0; 1 << 16];
    let word = |bytes: &[u8], at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_be_bytes(word)
    };
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((HEADER.., _)) => {
                let (flow, number, now) = (word(&bytes, 0), word(&bytes, 8), Instant::now());
                all.received += 1;
                let last = all.last.entry(flow).or_insert((0, now));
                if number > last.0 {
                    *last = (number, now);
                    continue;
                }
                all.overtaken += 1;
                if all.examples.len() < KEPT {
                    all.examples.push(format!(
                        "datagram {number} of flow {flow} came to {name} {:?} after {}",
                        now - last.1,
                        last.0
                    ));
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    && end.load(Ordering::Relaxed) =>
            {
                return all;
            }
            // An ICMP error is the sender's affair.
            _ => {}
        }
    }
}

fn send(targets: &[SocketAddr], pace: &Pace, stop: &AtomicBool) -> Result<Sent> {
    struct Flow {
        socket: UdpSocket,
        number: u64,
        sent: u64,
        bursts: usize,
    }
    let (mut sent, mut random, mut next) = (Sent::new(), Random::new(1), 0);
    let mut begin = || -> Result<Flow> {
        next += 1;
        let to = targets[next as usize % targets.len()];
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket
            .connect(to)
            .with_context(|| format!("no route to {to}"))?;
        Ok(Flow {
            socket,
            number: next,
            sent: 0,
            bursts: 0,
        })
    };
    let mut flows = (0..pace.flows)
        .map(|_| begin())
        .collect::<Result<Vec<_>>>()?;
    let mut bytes = vec![0; pace.length.max(HEADER)];
    while !stop.load(Ordering::Relaxed) {
        let at = random.below(flows.len());
        let flow = &mut flows[at];
        for _ in 0..=random.below(pace.burst) {
            let length = HEADER + random.below(bytes.len() - HEADER + 1);
            bytes[..8].copy_from_slice(&flow.number.to_be_bytes());
            bytes[8..HEADER].copy_from_slice(&(flow.sent + 1).to_be_bytes());
            // What the pod itself has no room for, or was told of an earlier one, is not under way.
            if flow.socket.send(&bytes[..length]).is_ok() {
                flow.sent += 1;
            }
        }
        sent.insert(flow.number, flow.sent);
        flow.bursts += 1;
        if flow.bursts == pace.bursts_a_flow {
            flows[at] = begin()?;
        }
        thread::sleep(*random.pick(&pace.pauses));
    }
    Ok(sent)
}
