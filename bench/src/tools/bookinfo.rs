//! The servers of the bookinfo application: a page that asks for details and reviews, which ask for ratings.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::serve::{accept, tcp};
use super::web::{Request, read_head};

/// How long a server waits for another.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is passed on of a request's header: who asks, and in which trace.
const PASSED_ON: [&str; 3] = ["end-user", "traceparent", "tracestate"];

/// Which of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Asks for details and reviews: `/productpage`.
    Productpage,
    /// `/details/N`.
    Details,
    /// `/reviews/N`; asks for ratings but in version v1.
    Reviews,
    /// `/ratings/N`.
    Ratings,
}

/// One of the servers.
#[derive(Debug, Clone)]
pub struct Server {
    /// Which.
    pub role: Role,
    /// Its version, which it says.
    pub version: String,
    /// Whom it asks, in this order: details and reviews, or ratings.
    pub asks: Vec<SocketAddr>,
}

impl Server {
    /// Serves on `port`. An answer is a line, or some, of `server version: what it says`.
    pub fn serve(&self, port: u16) -> Result<()> {
        accept(&tcp(port)?, |stream| {
            // A client that goes away, or a server that is not there, ends the connection.
            let _ = self.connection(stream);
            Ok(())
        })
    }

    fn connection(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        while let Some(request) = read_head(&mut reader)? {
            let (status, body) = match self.answer(&request) {
                Ok(Some(body)) => ("200 OK", body),
                Ok(None) => ("404 Not Found", "no such page\n".into()),
                Err(error) => ("502 Bad Gateway", format!("{error:#}\n")),
            };
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
            )?;
            let last = request.field("Connection");
            if last.is_some_and(|last| last.eq_ignore_ascii_case("close")) {
                break;
            }
        }
        Ok(())
    }

    /// The page that is asked for; `None` if there is none.
    fn answer(&self, request: &Request) -> Result<Option<String>> {
        let path = request.target.split('?').next().unwrap_or_default();
        let wanted = match self.role {
            Role::Productpage => path == "/productpage",
            Role::Details => path.starts_with("/details/"),
            Role::Reviews => path.starts_with("/reviews/"),
            Role::Ratings => path.starts_with("/ratings/"),
        };
        if !wanted {
            return Ok(None);
        }
        let ask = |at: usize, target: &str| -> Result<String> {
            let to = self.asks.get(at).context("nobody to ask")?;
            fetch(*to, target, request).with_context(|| format!("{target} of {to}"))
        };
        let version = &self.version;
        Ok(Some(match self.role {
            Role::Productpage => format!(
                "productpage {version}: The Comedy of Errors\n{}{}",
                ask(0, "/details/0")?,
                ask(1, "/reviews/0")?
            ),
            Role::Details => format!("details {version}: 200 pages, paperback\n"),
            Role::Reviews if version == "v1" => {
                format!("reviews {version}: An extremely entertaining play\n")
            }
            Role::Reviews => format!(
                "reviews {version}: An extremely entertaining play\n{}",
                ask(0, "/ratings/0")?
            ),
            Role::Ratings => format!("ratings {version}: 5 stars\n"),
        }))
    }
}

/// Asks another server, on a connection of its own.
fn fetch(to: SocketAddr, target: &str, by: &Request) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("GET {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for name in PASSED_ON {
        if let Some(value) = by.field(name) {
            head += &format!("{name}: {value}\r\n");
        }
    }
    write!(stream, "{head}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("no answer");
    };
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.to_owned())
}
