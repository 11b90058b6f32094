//! A small HTTP/1.1 server that says what it was asked, for labs. It trusts its clients: what is wrong ends the connection.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::serve::{accept, tcp};

/// Bytes of a header at most.
const HEAD: u64 = 64 << 10;

/// Serves on `port`. An answer is one line of words: the server's name, the client's address and port as it sees them, method, target,
/// `host=`, `xff=` (`X-Forwarded-For`), `added=` (`X-Added`), `body=`, the length and checksum of the request's body, and
/// `trace=` (`traceparent`).
///
/// Some targets are special: `/bytes/N` is answered with as many bytes, `/cut/N` with as many of twice the length that is announced,
/// `/slow/N` after as many milliseconds; a request with `Upgrade` with 101, and after that with what comes. Each request's line
/// goes to standard output.
pub fn serve(port: u16, name: &str) -> Result<()> {
    accept(&tcp(port)?, |stream| {
        // A client that goes away, or sends what this server does not take, ends its connection.
        let _ = connection(stream, name);
        Ok(())
    })
}

/// A request as it came.
pub(super) struct Request {
    method: String,
    pub(super) target: String,
    fields: Vec<(String, String)>,
}

impl Request {
    /// The first field of this name.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

fn connection(mut stream: TcpStream, name: &str) -> Result<()> {
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_head(&mut reader)? {
        println!("{} {}", request.method, request.target);
        if request.field("Upgrade").is_some() {
            return tunnel(&mut reader, &mut stream, &request);
        }
        let (length, sum) = read_body(&mut reader, &request)?;
        let of = |field| request.field(field).unwrap_or("-");
        let line = format!(
            "{name} {} {} {} {} host={} xff={} added={} body={length}:{sum:016x} trace={}\n",
            peer.ip().to_canonical(),
            peer.port(),
            request.method,
            request.target,
            of("Host"),
            of("X-Forwarded-For"),
            of("X-Added"),
            of("traceparent"),
        );
        answer(&mut stream, &request, line.as_bytes())?;
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, request: &Request, line: &[u8]) -> Result<()> {
    let path = request.target.split('?').next().unwrap_or_default();
    let (kind, number) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or_default();
    let number = number.parse::<u64>();
    match (kind, number) {
        ("bytes", Ok(length)) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            )?;
            pattern(stream, length)
        }
        ("cut", Ok(length)) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                2 * length
            )?;
            pattern(stream, length)?;
            bail!("cut short")
        }
        (kind, number) => {
            if let ("slow", Ok(millis)) = (kind, number) {
                thread::sleep(Duration::from_millis(millis));
            }
            let length = line.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
            );
            let body = if request.method == "HEAD" { &[] } else { line };
            stream.write_all(&[head.as_bytes(), body].concat())?;
            Ok(())
        }
    }
}

/// As many bytes, of which each says where it is.
fn pattern(stream: &mut TcpStream, length: u64) -> Result<()> {
    let block: Vec<u8> = (0..=250u8).cycle().take(251 * 256).collect();
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        stream.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Whether these are the bytes of `/bytes/N`, from the first on.
pub fn is_pattern(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .zip((0..=250u8).cycle())
        .all(|(is, wanted)| *is == wanted)
}

fn tunnel(reader: &mut impl Read, stream: &mut TcpStream, request: &Request) -> Result<()> {
    let protocol = request.field("Upgrade").unwrap_or_default();
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    )?;
    std::io::copy(reader, stream)?;
    Ok(())
}

/// Reads a request's header; `None` at the end.
pub(super) fn read_head(reader: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut lines = reader.take(HEAD);
    let mut line = || -> Result<Option<String>> {
        let mut text = String::new();
        if lines.read_line(&mut text)? == 0 {
            return Ok(None);
        }
        Ok(Some(text.trim_end().to_owned()))
    };
    let Some(start) = line()? else {
        return Ok(None);
    };
    let mut words = start.split(' ');
    let (method, target) = (words.next(), words.next());
    let mut fields = Vec::new();
    loop {
        let field = line()?.context("a header without an end")?;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').context("no header field")?;
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(Some(Request {
        method: method.context("no method")?.to_owned(),
        target: target.context("no target")?.to_owned(),
        fields,
    }))
}

/// Reads the body; its length and FNV-1a checksum.
fn read_body(reader: &mut BufReader<TcpStream>, request: &Request) -> Result<(u64, u64)> {
    let mut read = Sum::default();
    if request.field("Transfer-Encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = size.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).context("no chunk")?;
            read.add(reader, size)?;
            let mut end = String::new();
            reader.read_line(&mut end)?;
            ensure!(end.trim().is_empty(), "no end of a chunk");
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.field("Content-Length") {
        read.add(reader, length.parse()?)?;
    }
    Ok((read.length, read.sum))
}

/// Length and FNV-1a checksum of what was read.
struct Sum {
    length: u64,
    sum: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            length: 0,
            sum: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Sum {
    fn add(&mut self, reader: &mut impl Read, length: u64) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        let mut left = length;
        while left > 0 {
            let part = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            reader.read_exact(&mut buffer[..part])?;
            self.take(&buffer[..part]);
            left -= part as u64;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for byte in bytes {
            self.sum = (self.sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What the server's `body=` says of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut sum = Sum::default();
    sum.take(bytes);
    format!("{}:{:016x}", sum.length, sum.sum)
}
