//! Clients inside a lab's namespaces: real curl, and sockets of this process.

use crate::command::{Finished, finish};
use crate::namespace::Namespace;
use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

/// How long a client waits for one answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What a peer server said: who it is and whom it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The client's address and port as the server's socket had them.
    pub client: SocketAddr,
}

impl FromStr for Answer {
    type Err = anyhow::Error;

    /// `name address port`, as the peer server and the lab's nginx write it.
    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, address, port] = words[..] else {
            bail!("not an answer: {line:?}")
        };
        let address: IpAddr = address.parse().with_context(|| format!("in {line:?}"))?;
        let port = port.parse().with_context(|| format!("in {line:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            client: SocketAddr::new(address.to_canonical(), port),
        })
    }
}

/// A TCP connection to a peer server.
#[derive(Debug)]
pub struct Talk {
    stream: BufReader<TcpStream>,
    /// The server's greeting.
    pub greeting: Answer,
    /// The client's own end.
    pub local: SocketAddr,
}

impl Talk {
    /// Connects from inside `namespace` and reads the greeting.
    pub fn open(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        let stream = namespace.enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))?;
        Self::over(stream.with_context(|| format!("cannot connect to {to}"))?)
    }

    /// As [`Talk::open`], from a source port that no other connection has. Without a bind, Linux gives
    /// one port to connections with different destinations.
    pub fn open_apart(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        Self::open_from(namespace, 0, to)
    }

    /// As [`Talk::open`], from a port of the caller's choice that other connections may have as well.
    pub fn open_from(namespace: &Namespace, port: u16, to: SocketAddr) -> Result<Self> {
        let stream = namespace.enter(|| connect_from(port, to))?;
        Self::over(stream.with_context(|| format!("cannot connect to {to}"))?)
    }

    /// As [`Talk::open`], on a thread that is inside a namespace already.
    pub fn open_here(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, ANSWER_LIMIT);
        Self::over(stream.with_context(|| format!("cannot connect to {to}"))?)
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let mut stream = BufReader::new(stream);
        let greeting = read_answer(&mut stream)?;
        Ok(Self {
            stream,
            greeting,
            local,
        })
    }

    /// One more request and answer on the same connection.
    pub fn ask(&mut self) -> Result<Answer> {
        self.stream
            .get_mut()
            .write_all(b"?\n")
            .context("cannot send")?;
        read_answer(&mut self.stream)
    }

    /// Waits for an end that the other side makes, and says how it ended.
    pub fn wait_for_end(&mut self, limit: Duration) -> std::io::Error {
        let mut line = String::new();
        let limited = self.stream.get_mut().set_read_timeout(Some(limit));
        match limited.and_then(|()| self.stream.read_line(&mut line)) {
            Ok(_) => std::io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        }
    }
}

/// Connects from a port of the caller's choice, which an old connection may still have, on a thread that is inside a namespace.
pub fn connect_from(port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let (family, any): (_, IpAddr) = match to {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(ANSWER_LIMIT))?; // Bounds the connect.
    set_socket_reuseaddr(&socket, port != 0)?;
    rustix::net::bind(&socket, &SocketAddr::new(any, port))?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

fn read_answer(from: &mut impl BufRead) -> Result<Answer> {
    let mut line = String::new();
    from.read_line(&mut line).context("no answer")?;
    line.parse()
}

/// A UDP socket connected to a peer server; one socket is one flow.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    /// The client's own end.
    pub local: SocketAddr,
}

impl Datagrams {
    /// Opens the socket inside `namespace`.
    pub fn open(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        namespace.enter(|| Self::open_here(to))?
    }

    /// As [`Datagrams::open`], on a thread that is inside a namespace already.
    pub fn open_here(to: SocketAddr) -> Result<Self> {
        Self::open_from(0, to)
    }

    /// As [`Datagrams::open_here`], from a port of the caller's choice.
    pub fn open_from(port: u16, to: SocketAddr) -> Result<Self> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, port))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// One datagram there and one back.
    pub fn ask(&self) -> Result<Answer> {
        self.socket.send(b"?").context("cannot send")?;
        let mut buffer = [0; 256];
        let length = self.socket.recv(&mut buffer).context("no answer")?;
        std::str::from_utf8(&buffer[..length])
            .context("not text")?
            .parse()
    }
}

/// One TCP connection, one answer.
pub fn ask_tcp(namespace: &Namespace, to: SocketAddr) -> Result<Answer> {
    Talk::open(namespace, to).map(|talk| talk.greeting)
}

/// One UDP datagram from a new port, one answer.
pub fn ask_udp(namespace: &Namespace, to: SocketAddr) -> Result<Answer> {
    Datagrams::open(namespace, to)?.ask()
}

/// A socket for that protocol of the family, connected to `to` from inside.
pub fn connected(
    namespace: &Namespace,
    to: IpAddr,
    kind: SocketType,
    protocol: Protocol,
) -> Result<UdpSocket> {
    let family = match to {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = namespace.enter(|| rustix::net::socket(family, kind, Some(protocol)))??;
    rustix::net::connect(&socket, &SocketAddr::new(to, 0))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(ANSWER_LIMIT / 2))?;
    Ok(socket)
}

/// Pings `to` with `size` bytes, through a socket whose kernel matches answers and checks their checksums.
pub fn ping(namespace: &Namespace, to: IpAddr, size: usize) -> Result<()> {
    namespace.sysctl(&["net.ipv4.ping_group_range=0 0"])?;
    let (protocol, request, reply) = match to {
        IpAddr::V4(_) => (ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (ipproto::ICMPV6, 128, 129),
    };
    let socket = connected(namespace, to, SocketType::DGRAM, protocol)?;
    let mut message = vec![0x5a; 8 + size];
    message[..8].copy_from_slice(&[request, 0, 0, 0, 0, 0, 0, 1]);
    socket.send(&message)?;
    let mut answer = vec![0; message.len() + 1];
    let length = socket
        .recv(&mut answer)
        .with_context(|| format!("ping {to}"))?;
    ensure!(
        length == message.len() && answer[0] == reply,
        "not the answer"
    );
    ensure!(answer[8..length] == message[8..], "other bytes came back");
    Ok(())
}

/// Downloads with the real curl, for at most so many seconds, and returns how many bytes came.
pub fn download(namespace: &Namespace, url: &str, seconds: u32) -> Result<usize> {
    let mut command = curl_command(namespace, seconds);
    command.args(["-o", "/dev/null", "-w", "%{size_download}"]);
    let limit = Duration::from_secs(u64::from(seconds) + 5);
    let finished = finish(command.arg(url), limit)?;
    if !finished.success() {
        bail!(
            "curl {url}: {} bytes: {}",
            finished.stdout,
            finished.stderr.trim()
        );
    }
    Ok(finished.stdout.parse()?)
}

/// Runs the real curl inside; at most five seconds.
pub fn curl(namespace: &Namespace, url: &str) -> Result<Finished> {
    finish(curl_command(namespace, 5).arg(url), Duration::from_secs(8))
}

/// The real curl inside, without words of its own; at most so many seconds.
pub(crate) fn curl_command(namespace: &Namespace, seconds: u32) -> Command {
    let mut command = namespace.command("curl");
    command.args(["-sS", "--noproxy", "*", "-g", "--max-time"]);
    command.arg(seconds.to_string());
    command
}

/// curl against the lab's nginx behind `to`, parsed.
pub fn curl_answer(namespace: &Namespace, to: SocketAddr) -> Result<Answer> {
    let finished = curl(namespace, &format!("http://{to}/"))?;
    if !finished.success() {
        bail!("curl http://{to}/: {}", finished.stderr.trim());
    }
    finished.stdout.parse()
}

/// How a connection attempt ended that was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A reset or an ICMP port unreachable came back.
    Rejected,
    /// Nothing came back.
    Silent,
    /// It was served after all.
    Served,
}

/// Tries TCP to `to` and says how it was turned down.
pub fn tcp_refusal(namespace: &Namespace, to: SocketAddr) -> Result<Refusal> {
    let limit = Duration::from_millis(900);
    let result = namespace.enter(|| TcpStream::connect_timeout(&to, limit))?;
    Ok(classify(result.map(drop)))
}

/// Sends UDP to `to` and says how it was turned down.
pub fn udp_refusal(namespace: &Namespace, to: SocketAddr) -> Result<Refusal> {
    let client = Datagrams::open(namespace, to)?;
    client
        .socket
        .set_read_timeout(Some(Duration::from_millis(900)))?;
    client.socket.send(b"?")?;
    Ok(classify(client.socket.recv(&mut [0; 64]).map(drop)))
}

fn classify(result: std::io::Result<()>) -> Refusal {
    match result {
        Ok(()) => Refusal::Served,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Refusal::Rejected,
        Err(_) => Refusal::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_parse_and_v4_mapped_clients_become_v4() {
        let answer: Answer = "web-a ::ffff:10.244.1.1 40000\n".parse().unwrap();
        assert_eq!(answer.name, "web-a");
        assert_eq!(answer.client, "10.244.1.1:40000".parse().unwrap());
        assert!("web-a 10.244.1.1".parse::<Answer>().is_err());
    }
}
