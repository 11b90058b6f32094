//! The backends: one thread for the sockets of all pods.

use super::message::{Answer, LENGTH, Question};
use super::{Faults, History};
use crate::lab::Pod;
use crate::poll::Poll;
use anyhow::{Context, Result, anyhow};
use rustix::event::Timespec;
use rustix::event::epoll::EventFlags;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// How often the thread looks whether it is to end.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Connections and datagrams that are taken from one socket in a row.
const IN_A_ROW: usize = 64;

/// Running servers. They end with the value.
#[derive(Debug)]
pub struct Servers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What is watched, and of which server.
#[derive(Debug)]
enum Socket {
    Listener(TcpListener),
    Datagrams(UdpSocket),
    Connection {
        stream: TcpStream,
        client: SocketAddr,
        /// A question of which not all has come.
        part: Vec<u8>,
    },
}

impl Servers {
    /// Serves on these TCP and UDP ports of every pod; a pod's number is its place among them.
    pub fn start(
        pods: &[Pod],
        tcp: &[u16],
        udp: &[u16],
        history: Arc<History>,
        faults: Faults,
    ) -> Result<Self> {
        let any = |port: &u16| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port);
        let mut sockets = Vec::new();
        for (server, pod) in (0..).zip(pods) {
            let made = pod.namespace.enter(|| -> Result<Vec<Socket>> {
                let listeners = tcp.iter().map(|port| {
                    let listener = TcpListener::bind(any(port))?;
                    listener.set_nonblocking(true)?;
                    Ok(Socket::Listener(listener))
                });
                let datagrams = udp.iter().map(|port| {
                    let socket = UdpSocket::bind(any(port))?;
                    socket.set_nonblocking(true)?;
                    Ok(Socket::Datagrams(socket))
                });
                listeners.chain(datagrams).collect()
            })?;
            let made = made.with_context(|| format!("the servers of {}", pod.name))?;
            sockets.extend(made.into_iter().map(|socket| Some((server, socket))));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let mut serving = Serving {
                poll: Poll::new()?,
                sockets,
                free: Vec::new(),
                history,
                faults,
            };
            serving.run(&stopped)
        };
        Ok(Self {
            thread: Some(thread::spawn(serve)),
            stop,
        })
    }

    /// Ends them, and says whether they had to before.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("they have been stopped")?;
        thread.join().map_err(|_| anyhow!("the servers panicked"))?
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Serving {
    poll: Poll,
    /// By the number that the poll knows them by.
    sockets: Vec<Option<(u32, Socket)>>,
    free: Vec<usize>,
    history: Arc<History>,
    faults: Faults,
}

impl Serving {
    fn watch(&mut self) -> Result<()> {
        for (number, socket) in (0..).zip(&self.sockets) {
            match socket {
                Some((_, Socket::Listener(one))) => self.poll.watch(one, number, EventFlags::IN)?,
                Some((_, Socket::Datagrams(one))) => {
                    self.poll.watch(one, number, EventFlags::IN)?
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        self.watch()?;
        while !stop.load(Ordering::Relaxed) {
            for (number, _) in self.poll.wait(Some(&TICK))? {
                self.serve(usize::try_from(number)?)?;
            }
        }
        Ok(())
    }

    fn serve(&mut self, number: usize) -> Result<()> {
        let Some((server, mut socket)) = self.sockets[number].take() else {
            return Ok(());
        };
        let mut ended = false;
        match &mut socket {
            Socket::Listener(listener) => {
                for _ in 0..IN_A_ROW {
                    let Ok((stream, client)) = listener.accept() else {
                        break;
                    };
                    self.admit(server, stream, client)?;
                }
            }
            Socket::Datagrams(socket) => {
                let mut bytes = [0; LENGTH];
                for _ in 0..IN_A_ROW {
                    // An ICMP error of an earlier answer is the client's affair.
                    match socket.recv_from(&mut bytes) {
                        Ok((LENGTH, client)) => {
                            let answer = self.answer(server, &bytes, client);
                            let _ = socket.send_to(&answer, client);
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        _ => {}
                    }
                }
            }
            Socket::Connection {
                stream,
                client,
                part,
            } => ended = !self.converse(server, stream, *client, part),
        }
        if ended {
            self.free.push(number);
        } else {
            self.sockets[number] = Some((server, socket));
        }
        Ok(())
    }

    fn admit(&mut self, server: u32, stream: TcpStream, client: SocketAddr) -> Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let number = self.free.pop().unwrap_or(self.sockets.len());
        if number == self.sockets.len() {
            self.sockets.push(None);
        }
        self.poll
            .watch(&stream, number as u64, EventFlags::IN | EventFlags::RDHUP)?;
        let part = Vec::with_capacity(LENGTH);
        self.sockets[number] = Some((
            server,
            Socket::Connection {
                stream,
                client,
                part,
            },
        ));
        Ok(())
    }

    /// Answers what has come; false when the connection is over.
    fn converse(
        &self,
        server: u32,
        stream: &mut TcpStream,
        client: SocketAddr,
        part: &mut Vec<u8>,
    ) -> bool {
        let mut bytes = [0; LENGTH];
        match stream.read(&mut bytes[..LENGTH - part.len()]) {
            Ok(0) => return false,
            Ok(length) => part.extend(&bytes[..length]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        if part.len() < LENGTH {
            return true;
        }
        bytes.copy_from_slice(part);
        part.clear();
        stream
            .write_all(&self.answer(server, &bytes, client))
            .is_ok()
    }

    fn answer(&self, server: u32, question: &[u8; LENGTH], client: SocketAddr) -> [u8; LENGTH] {
        let question = Question::read(question);
        let right = self.history.any(question.service, question.since);
        if right.present >> server & 1 == 0 {
            self.faults.add(format!(
                "{question:?} of {client} came to server {server}, which was never right for it"
            ));
        }
        let answer = Answer {
            flow: question.flow,
            turn: question.turn,
            server,
            client: SocketAddr::new(client.ip().to_canonical(), client.port()),
        };
        answer.bytes()
    }
}
