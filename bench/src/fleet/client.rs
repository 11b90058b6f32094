//! The clients: flows of one pod that go on, and short ones besides, on one thread.

use super::message::{Answer, LENGTH, Place, Question};
use super::{Faults, History, Tally};
use crate::lab::Pod;
use crate::packet::protocol;
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an answer to a datagram may take.
const DATAGRAM_LIMIT: Duration = Duration::from_secs(2);
/// How long TCP has to get something through, and from when on that is late: a lost SYN costs a second.
const STREAM_LIMIT: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_millis(900);
/// One in so many connections is idle, and only asked at the end.
const IDLE: usize = 4;
/// After so many datagrams comes a question on a connection, and after so many of those a new flow of each kind.
const STREAM_EVERY: usize = 8;
const NEW_EVERY: usize = 4;
/// Source ports of flows of one datagram, below those that the kernel gives out. A tuple that comes again is the same flow.
const ONCE_PORTS: Range<u16> = 10_000..32_000;

/// What a pod holds.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// So many sockets, each with a UDP flow to each of the places.
    pub datagrams: Vec<(usize, Vec<Place>)>,
    /// So many connections to the place.
    pub streams: Vec<(usize, Place)>,
    /// Where new connections go.
    pub new_streams: Vec<Place>,
    /// Where flows of one datagram go.
    pub new_datagrams: Vec<Place>,
}

/// A flow from outside.
#[derive(Debug, Clone, Copy)]
pub struct Tuple {
    /// TCP or UDP.
    pub protocol: u8,
    /// The client's port.
    pub port: u16,
    /// Where it sends to.
    pub to: SocketAddr,
    /// The number of the server that answered last.
    pub server: usize,
}

/// A UDP flow.
#[derive(Debug)]
struct Datagrams {
    number: u64,
    /// The place of its socket.
    socket: usize,
    place: Place,
    turn: u64,
    /// Which server answered last, how often it has in a row, and since which configuration the last one was under way.
    server: u32,
    answers: usize,
    since: usize,
    /// The servers it has had, each with the configuration under which it first answered.
    moves: Vec<(u32, usize)>,
}

/// A TCP connection.
#[derive(Debug)]
struct Stream {
    number: u64,
    stream: TcpStream,
    place: Place,
    turn: u64,
    server: u32,
    opened: usize,
}

/// The flows of one pod.
#[derive(Debug)]
pub struct Crew {
    pod: Pod,
    next: u64,
    /// Flows of one datagram so far.
    once: usize,
    sockets: Vec<UdpSocket>,
    datagrams: Vec<Datagrams>,
    streams: Vec<Stream>,
    plan: Plan,
    history: Arc<History>,
    faults: Faults,
    random: Random,
    /// Set while packets may be lost.
    lossy: Arc<AtomicBool>,
}

impl Crew {
    /// Opens the flows of crew `number`, and asks twice on each, so that whoever is in between knows them.
    pub fn open(
        pod: &Pod,
        number: u64,
        plan: Plan,
        history: &Arc<History>,
        faults: &Faults,
        lossy: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let mut crew = Self {
            pod: pod.clone(),
            next: number << 32,
            once: 0,
            sockets: Vec::new(),
            datagrams: Vec::new(),
            streams: Vec::new(),
            plan,
            history: Arc::clone(history),
            faults: faults.clone(),
            random: Random::new(number),
            lossy: Arc::clone(lossy),
        };
        let namespace = crew.pod.namespace.clone();
        namespace.enter(|| crew.open_here())??;
        Ok(crew)
    }

    fn open_here(&mut self) -> Result<()> {
        for (count, places) in self.plan.datagrams.clone() {
            for _ in 0..count {
                let socket = self.sockets.len();
                self.sockets.push(datagram_socket(places[0].at, 0)?);
                for place in &places {
                    let number = self.number();
                    self.datagrams.push(Datagrams {
                        number,
                        socket,
                        place: *place,
                        turn: 0,
                        server: 0,
                        answers: 0,
                        since: 0,
                        moves: Vec::new(),
                    });
                }
            }
        }
        for (count, place) in self.plan.streams.clone() {
            for _ in 0..count {
                let stream = self.connect(place)?;
                self.streams.push(stream);
            }
        }
        let mut tally = Tally::default();
        (0..self.datagrams.len()).for_each(|at| self.ask_datagram(at, &mut tally));
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Flows that go on.
    pub fn flows(&self) -> usize {
        self.datagrams.len() + self.streams.len()
    }

    /// Its flows as an attacker would want to know them: protocol, the client's port, where to, and which server's they are.
    pub fn tuples(&self) -> Result<Vec<Tuple>> {
        let datagrams = self.datagrams.iter().map(|flow| {
            let port = self.sockets[flow.socket].local_addr()?.port();
            Ok(Tuple {
                protocol: protocol::UDP,
                port,
                to: flow.place.at,
                server: flow.server as usize,
            })
        });
        let streams = self.streams.iter().map(|flow| {
            Ok(Tuple {
                protocol: protocol::TCP,
                port: flow.stream.local_addr()?.port(),
                to: flow.place.at,
                server: flow.server as usize,
            })
        });
        datagrams.chain(streams).collect()
    }

    /// Asks until `stop`, over all flows in turn but those that are idle, with new ones in between.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<Tally> {
        let namespace = self.pod.namespace.clone();
        namespace.enter(|| {
            let mut tally = Tally::default();
            // Ends at the latest with the test that set it off.
            for step in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if !self.datagrams.is_empty() {
                    self.ask_datagram(step % self.datagrams.len(), &mut tally);
                }
                if step % STREAM_EVERY == 0 && !self.streams.is_empty() {
                    let at = step / STREAM_EVERY % self.streams.len();
                    if !at.is_multiple_of(IDLE) {
                        self.ask_stream(at, &mut tally);
                    }
                }
                if step % (STREAM_EVERY * NEW_EVERY) == 0 {
                    self.new_flows(&mut tally);
                }
            }
            tally
        })
    }

    /// Asks once on every flow, idle ones too.
    pub fn ask_all(&mut self, tally: &mut Tally) {
        for at in 0..self.datagrams.len() {
            self.ask_datagram(at, tally);
        }
        for at in 0..self.streams.len() {
            self.ask_stream(at, tally);
        }
    }

    fn ask_datagram(&mut self, at: usize, tally: &mut Tally) {
        if self.ask_once(at, tally) {
            // In a row: for its second packet a flow is remembered.
            self.ask_once(at, tally);
        }
    }

    /// True: the flow is with another server now.
    fn ask_once(&mut self, at: usize, tally: &mut Tally) -> bool {
        let flow = &mut self.datagrams[at];
        let socket = &self.sockets[flow.socket];
        let (start, may_lose) = (Instant::now(), self.lossy.load(Ordering::SeqCst));
        flow.turn += 1;
        let question = Question {
            flow: flow.number,
            turn: flow.turn,
            since: self.history.done(),
            service: flow.place.service,
        };
        let answer = exchange(socket, &question, flow.place.at);
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if may_lose || self.lossy.load(Ordering::SeqCst) => {
                tally.lost += 1;
                return false;
            }
            Err(error) => {
                let (server, answers) = (flow.server, flow.answers);
                self.faults.add(format!(
                    "{question:?} to {}, after {answers} answers, the last of server {server}: {error:#}",
                    flow.place.at
                ));
                return false;
            }
        };
        tally.times.push(start.elapsed());
        tally.datagrams += 1;
        let known = (flow.answers > 1).then_some((flow.server, flow.since));
        let right = judge(&self.history, &question, &answer, known);
        if let Err(wrong) = right {
            self.faults
                .add(format!("{wrong}; its servers: {:?}", flow.moves));
        }
        let local = socket.local_addr().map(|local| local.port());
        self.judge_client(&question, &answer, local.unwrap_or(0));
        let flow = &mut self.datagrams[at];
        let moved = flow.moves.last().is_none_or(|last| last.0 != answer.server);
        if moved {
            flow.moves.push((answer.server, question.since));
            flow.answers = 0;
        }
        flow.server = answer.server;
        flow.since = question.since;
        flow.answers += 1;
        moved
    }

    fn ask_stream(&mut self, at: usize, tally: &mut Tally) {
        let (start, may_lose) = (Instant::now(), self.lossy.load(Ordering::SeqCst));
        let flow = &mut self.streams[at];
        match flow.ask() {
            Ok(answer) => {
                tally.times.push(start.elapsed());
                tally.streams += 1;
                let lossy = may_lose || self.lossy.load(Ordering::SeqCst);
                if start.elapsed() > LATE && !lossy {
                    self.faults.add(format!(
                        "an answer on the connection of {:?} took {:?}",
                        answer.client,
                        start.elapsed()
                    ));
                }
                if answer.server != flow.server {
                    self.faults.add(format!(
                        "a connection moved from server {} to {answer:?}",
                        flow.server
                    ));
                }
            }
            Err(error) => self.faults.add(format!(
                "the connection from {:?} to server {} at {} broke: {error:#}",
                flow.stream.local_addr(),
                flow.server,
                flow.place.at
            )),
        }
    }

    /// A connection, and a flow of one datagram.
    fn new_flows(&mut self, tally: &mut Tally) {
        let (start, may_lose) = (Instant::now(), self.lossy.load(Ordering::SeqCst));
        let mut outcomes = Vec::new();
        if !self.plan.new_streams.is_empty() {
            let place = *self.random.pick(&self.plan.new_streams);
            outcomes.push((place, self.connect(place).map(drop)));
        }
        if !self.plan.new_datagrams.is_empty() {
            let (place, port) = self.unused();
            outcomes.push((place, self.one_datagram(place, port)));
        }
        let lossy = may_lose || self.lossy.load(Ordering::SeqCst);
        for (place, outcome) in outcomes {
            match outcome {
                Ok(()) => tally.new += 1,
                Err(_) if lossy => tally.lost += 1,
                Err(error) => self
                    .faults
                    .add(format!("a new flow to {}: {error:#}", place.at)),
            }
        }
        if start.elapsed() > LATE && !lossy {
            self.faults
                .add(format!("new flows took {:?}", start.elapsed()));
        }
    }

    fn connect(&mut self, place: Place) -> Result<Stream> {
        let opened = self.history.done();
        let stream = TcpStream::connect_timeout(&place.at, DATAGRAM_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STREAM_LIMIT))?;
        stream.set_write_timeout(Some(STREAM_LIMIT))?;
        let mut stream = Stream {
            number: self.number(),
            stream,
            place,
            turn: 0,
            server: 0,
            opened,
        };
        let answer = stream.ask()?;
        stream.server = answer.server;
        let question = stream.question();
        if let Err(wrong) = judge(&self.history, &question, &answer, None) {
            self.faults.add(wrong);
        }
        let port = stream.stream.local_addr()?.port();
        self.judge_client(&question, &answer, port);
        Ok(stream)
    }

    /// A place and a source port that have not met yet, for as many flows as there are both.
    fn unused(&mut self) -> (Place, u16) {
        let (places, ports) = (&self.plan.new_datagrams, ONCE_PORTS.len());
        let (round, port) = (self.once / ports, self.once % ports);
        let place = places[(port + round) % places.len()];
        self.once += 1;
        (place, ONCE_PORTS.start + port as u16)
    }

    fn one_datagram(&mut self, place: Place, port: u16) -> Result<()> {
        let socket = datagram_socket(place.at, port)?;
        let question = Question {
            flow: self.number(),
            turn: 1,
            since: self.history.done(),
            service: place.service,
        };
        let answer = exchange(&socket, &question, place.at)?;
        if let Err(wrong) = judge(&self.history, &question, &answer, None) {
            self.faults.add(wrong);
        }
        self.judge_client(&question, &answer, port);
        Ok(())
    }

    /// The server has to have seen the client itself.
    fn judge_client(&self, question: &Question, answer: &Answer, port: u16) {
        if !self.pod.ips.contains(&answer.client.ip()) || answer.client.port() != port {
            self.faults.add(format!(
                "{question:?} from port {port} of {:?} was seen as {answer:?}",
                self.pod.ips
            ));
        }
    }
}

/// Whether the flow may be with that server. `known`: which server had it, and since which configuration.
fn judge(
    history: &History,
    question: &Question,
    answer: &Answer,
    known: Option<(u32, usize)>,
) -> Result<(), String> {
    let has = |set: u128, server: u32| set >> server & 1 == 1;
    let now = history.any(question.service, question.since);
    let right = match known {
        // Its server has been there all the time: it stays, ready or not (SVC-23).
        Some((server, since)) if has(history.all(question.service, since).present, server) => {
            answer.server == server
        }
        // Its server may have gone in between, and come back.
        Some((server, _)) if answer.server == server => has(now.present, server),
        _ => has(now.ready, answer.server),
    };
    if right {
        return Ok(());
    }
    let servers = match known {
        Some((server, _)) => vec![server, answer.server],
        None => vec![answer.server],
    };
    let lives: Vec<_> = servers
        .into_iter()
        .map(|server| history.life(question.service, server))
        .collect();
    Err(format!(
        "{question:?} was answered by {answer:?}; before, and since: {known:?}; {}",
        lives.join("; ")
    ))
}

impl Stream {
    fn question(&self) -> Question {
        Question {
            flow: self.number,
            turn: self.turn,
            // The server was right for it when it was opened, and stays so.
            since: self.opened,
            service: self.place.service,
        }
    }

    fn ask(&mut self) -> Result<Answer> {
        self.turn += 1;
        let question = self.question();
        self.stream.write_all(&question.bytes())?;
        let mut bytes = [0; LENGTH];
        self.stream.read_exact(&mut bytes)?;
        let answer = Answer::read(&bytes);
        ensure!(
            (answer.flow, answer.turn) == (self.number, self.turn),
            "the answer to another question: {answer:?}"
        );
        Ok(answer)
    }
}

/// An unconnected socket on `port`, of the family of `to`: many flows may begin at its port.
fn datagram_socket(to: SocketAddr, port: u16) -> Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, port))?;
    socket.set_read_timeout(Some(DATAGRAM_LIMIT))?;
    Ok(socket)
}

/// Asks by one datagram; late answers to earlier questions are passed over.
fn exchange(socket: &UdpSocket, question: &Question, to: SocketAddr) -> Result<Answer> {
    let start = Instant::now();
    socket.send_to(&question.bytes(), to)?;
    let mut bytes = [0; LENGTH];
    while start.elapsed() < DATAGRAM_LIMIT {
        let (_, from) = socket.recv_from(&mut bytes).context("no answer")?;
        let answer = Answer::read(&bytes);
        if (answer.flow, answer.turn) == (question.flow, question.turn) {
            ensure!(from == to, "answered from {from}");
            return Ok(answer);
        }
    }
    anyhow::bail!("no answer among others")
}
