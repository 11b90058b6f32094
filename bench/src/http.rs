//! Clients of HTTP inside a lab's namespaces: real curl, and connections that a test writes to itself.

use crate::client::{ANSWER_LIMIT, connect_from, curl_command};
use crate::command::finish;
use crate::namespace::Namespace;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long curl may take.
const CURL_LIMIT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its header, as it came.
    pub head: String,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The word of the body at this place: what the web server says.
    pub fn word(&self, at: usize) -> String {
        let text = self.text();
        text.split_whitespace().nth(at).unwrap_or_default().into()
    }
}

/// Runs the real curl inside, with more words; an error where it has no answer.
pub fn curl(namespace: &Namespace, words: &[&str], url: &str) -> Result<Response> {
    let mut command = curl_command(namespace, 15);
    command
        .args(["-D", "/dev/stderr"])
        .args(words)
        .args(["-w", "%{stderr}status=%{http_code}\n"])
        .arg(url);
    let finished = finish(&mut command, CURL_LIMIT)?;
    ensure!(
        finished.success(),
        "curl {words:?} {url}: {}",
        finished.stderr.trim()
    );
    let (head, status) = finished
        .stderr
        .rsplit_once("status=")
        .context("no status")?;
    Ok(Response {
        status: status.trim().parse()?,
        head: head.to_owned(),
        body: finished.stdout.into_bytes(),
    })
}

/// A connection on which a test says what it likes.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects from inside `namespace`.
    pub fn open(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        let stream = namespace.enter(|| connect_from(0, to))?;
        Self::over(stream.with_context(|| format!("cannot connect to {to}"))?)
    }

    /// As [`Self::open`], on a thread that is inside a namespace already.
    pub fn open_here(to: SocketAddr) -> Result<Self> {
        Self::over(TcpStream::connect_timeout(&to, ANSWER_LIMIT)?)
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The client's own end.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.get_ref().local_addr()?)
    }

    /// The other end, as the client's socket has it.
    pub fn peer(&self) -> Result<SocketAddr> {
        Ok(self.stream.get_ref().peer_addr()?)
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// A request without a body, and its answer.
    pub fn get(&mut self, target: &str) -> Result<Response> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes())?;
        self.answer()
    }

    /// The next answer: one with a length, or without a body.
    pub fn answer(&mut self) -> Result<Response> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(
                self.stream.read_line(&mut head)? > 0,
                "ended after {head:?}"
            );
        }
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let mut lines = head.lines();
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_it = name.eq_ignore_ascii_case("content-length");
            is_it.then(|| value.trim().parse::<usize>().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream
            .read_exact(&mut body)
            .context("a body cut short")?;
        Ok(Response { status, head, body })
    }

    /// As many bytes as there are to come.
    pub fn read(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        self.stream.read_exact(&mut read)?;
        Ok(read)
    }

    /// Everything up to the end, in order or by a reset.
    pub fn rest(&mut self) -> (Vec<u8>, std::io::Result<()>) {
        let mut read = Vec::new();
        let end = self.stream.read_to_end(&mut read);
        (read, end.map(drop))
    }
}
