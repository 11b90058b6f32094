//! Small servers: UDP echo, TCP echo, and the peer server that says whom it sees.

use super::crowd;
use super::crr::MESSAGE;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

/// Echoes datagrams, in one loop that never allocates.
pub fn udp_echo(port: u16) -> Result<()> {
    let socket = udp(port)?;
    let mut buffer = vec![0; 65536];
    loop {
        // An ICMP error of an earlier answer shows up here; it is the client's affair.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// Echoes TCP streams, a thread a connection.
pub fn tcp_echo(port: u16) -> Result<()> {
    accept(&tcp(port)?, |mut stream| {
        let mut buffer = vec![0; 65536];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length])?;
        }
        Ok(())
    })
}

/// Answers one request of 64 bytes a connection with as many, then closes; one connection at a time.
pub fn tcp_once(port: u16) -> Result<()> {
    answer_once(&tcp(port)?)
}

/// As [`tcp_once`], any number of connections at once; see [`crowd`].
pub fn tcp_crowd(port: u16) -> Result<()> {
    crowd::serve(&tcp(port)?)
}

/// As [`tcp_once`], on a listener that is there.
pub(super) fn answer_once(listener: &TcpListener) -> ! {
    let mut message = [0; MESSAGE];
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        // A client that says nothing must not hold up the others for long.
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        if stream.read_exact(&mut message).is_ok() {
            let _ = stream.write_all(&message);
        }
    }
}

/// Answers every connection, and every line or datagram, with `name address port` of the client.
pub fn peer(port: u16, name: &str) -> Result<()> {
    let (listener, socket) = (tcp(port)?, udp(port)?);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            loop {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(answer(name, from).as_bytes(), from);
                }
            }
        });
        accept(&listener, |mut stream| {
            let line = answer(name, stream.peer_addr()?);
            stream.write_all(line.as_bytes())?;
            let mut lines = BufReader::new(stream.try_clone()?);
            let mut request = String::new();
            while lines.read_line(&mut request)? > 0 {
                stream.write_all(line.as_bytes())?;
                request.clear();
            }
            Ok(())
        })
    })
}

fn answer(name: &str, client: SocketAddr) -> String {
    format!("{name} {} {}\n", client.ip().to_canonical(), client.port())
}

/// Hands each connection to a thread of its own.
pub(super) fn accept(
    listener: &TcpListener,
    serve: impl Fn(TcpStream) -> std::io::Result<()> + Sync,
) -> ! {
    let serve = &serve;
    thread::scope(|scope| {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                continue;
            };
            scope.spawn(move || {
                let _ = stream.set_nodelay(true);
                // A client that goes away ends its connection, not the server.
                let _ = serve(stream);
            });
        }
    })
}

/// `[::]`, which takes IPv4 too.
const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn udp(port: u16) -> Result<UdpSocket> {
    UdpSocket::bind((ANY, port)).with_context(|| format!("cannot listen on UDP port {port}"))
}

pub(super) fn tcp(port: u16) -> Result<TcpListener> {
    TcpListener::bind((ANY, port)).with_context(|| format!("cannot listen on TCP port {port}"))
}
