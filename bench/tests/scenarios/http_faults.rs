//! What goes wrong behind the HTTP stage, and in it: endpoints that talk nonsense, servers that are killed, a panic. It stays where it happened.

use crate::fixture::with_weft;
use crate::http_fixture::{Site, to};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use weft_lab::http::{Connection, Response, curl};
use weft_lab::lab::{Family, Pod, pick, vips};
use weft_lab::process::Process;
use weft_lab::servers::WEB_PORT;
use weft_lab::wait::wait_until;
use weft_lab::weft::Weft;
use weft_lab::{binaries, namespace::Namespace};

/// An endpoint that does not answer as it should.
struct Bad {
    name: &'static str,
    says: &'static [u8],
    end: End,
    /// What the access log calls it.
    flag: &'static str,
}

/// What becomes of its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Stay,
    Close,
    /// A reset, as soon as there is a request.
    Reset,
}

const BAD: [Bad; 6] = [
    Bad {
        name: "garbage",
        says: b"\x16\x03\x01\x02\0\x01\0 not HTTP at all\r\n\r\n",
        end: End::Stay,
        flag: "upstream_protocol",
    },
    Bad {
        name: "smuggler",
        says:
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        end: End::Stay,
        flag: "upstream_protocol",
    },
    Bad {
        name: "endless",
        says: &[b'H'; 40_000],
        end: End::Stay,
        flag: "upstream_protocol",
    },
    Bad {
        name: "mute",
        says: b"",
        end: End::Close,
        flag: "upstream_closed",
    },
    Bad {
        name: "half",
        says: b"HTTP/1.1 200 OK\r\nContent-Le",
        end: End::Close,
        flag: "upstream_closed",
    },
    Bad {
        name: "deaf",
        says: b"",
        end: End::Reset,
        flag: "upstream_closed",
    },
];

/// The first port of these endpoints, and the first number of their services.
const PORT: u16 = 7100;
const SERVICE: u8 = 40;

impl Bad {
    /// Serves any number of connections, until the test's process ends.
    fn serve(&'static self, pod: &Pod, port: u16) -> Result<()> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = pod.namespace.enter(|| TcpListener::bind(any))??;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || self.answer(stream));
            }
        });
        Ok(())
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = [0; 4096];
        if self.end == End::Reset {
            // What is not read is lost, which its sender is told by a reset.
            return stream.peek(&mut request).map(drop);
        }
        while stream.read(&mut request)? > 0 {
            stream.write_all(self.says)?;
            if self.end == End::Close {
                break;
            }
        }
        Ok(())
    }
}

/// What `weft status` says of a service.
fn status_of(weft: &Weft, service: &str) -> Result<Value> {
    let status = weft.json(&["status"])?;
    let mut services = status["http"].as_array().context("no services")?.iter();
    let found = services.find(|found| found["service"] == service);
    found.cloned().with_context(|| status["http"].to_string())
}

#[test]
fn env05_an_endpoint_that_does_not_answer_in_http_is_answered_for_with_502() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config("")?;
        let pod = &site.fixture.backends[0];
        for ((bad, port), number) in BAD.iter().zip(PORT..).zip(SERVICE..) {
            bad.serve(pod, port)?;
            let service = config.service(bad.name, number, &[("tcp", 80, port)]);
            service
                .serve_at(pod.ips)
                .http("backend = { protocol = \"http1\" }")?;
        }
        // What answers in HTTP/1.1 does not speak HTTP/2.
        let wrong = SERVICE + BAD.len() as u8;
        let service = config.service("wrong", wrong, &[("tcp", 80, WEB_PORT)]);
        service
            .serve_at(pod.ips)
            .http("backend = { protocol = \"h2c\" }")?;
        let weft = Weft::start(&site.fixture.lab, &config)?;
        let client = &site.fixture.client.namespace;
        for family in Family::BOTH {
            let at = |number| SocketAddr::new(pick(&vips(number), family), 80);
            let mut neighbour = Connection::open(client, to(family))?;
            for (bad, number) in BAD.iter().zip(SERVICE..) {
                let mut connection = Connection::open(client, at(number))?;
                for _ in 0..3 {
                    // The client's connection is none the worse.
                    let answer = connection.get("/").context(bad.name)?;
                    ensure!(
                        answer.status == 502 && answer.text().contains(bad.flag),
                        "{}: {answer:?}",
                        bad.name
                    );
                }
                let url = format!("http://{}/", at(number));
                let answer = curl(client, &["--http2-prior-knowledge"], &url)?;
                ensure!(answer.head.starts_with("HTTP/2 502"), "{answer:?}");
                assert_eq!(neighbour.get("/")?.status, 200);
            }
            let mut connection = Connection::open(client, at(wrong))?;
            assert_eq!(connection.get("/")?.status, 502);
        }
        for bad in &BAD {
            let status = status_of(&weft, &format!("lab/{}:80", bad.name))?;
            assert_eq!(status["flags"][bad.flag], 8, "{status}");
        }
        weft.audit().map(drop)
    })
}

#[test]
fn u06_a_server_that_is_killed_in_the_middle_of_a_response_leaves_no_whole_one() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let [a, b, _] = &site.fixture.backends;
        // A server of its own, so that it can be killed.
        let (port, program) = (7200, binaries::weft_lab().context("weft-lab is not built")?);
        let start = |pod: &Pod| -> Result<Process> {
            let mut command = pod.namespace.command(&program);
            command.args([
                "serve",
                "web",
                "--name",
                &pod.name,
                "--port",
                &port.to_string(),
            ]);
            let name = format!("mortal-{}", pod.name);
            let server = Process::start(&name, &mut command, &site.fixture.lab.directory())?;
            let here = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            pod.namespace.enter(|| {
                wait_until("the server", Duration::from_secs(5), || {
                    TcpStream::connect(here).is_ok()
                })
            })??;
            Ok(server)
        };
        let mut config = site.config("")?;
        for ((name, pods), number) in [("both", vec![a, b]), ("only", vec![a])]
            .iter()
            .zip(SERVICE..)
        {
            let service = config.service(name, number, &[("tcp", 80, port)]);
            let addresses = pods.iter().flat_map(|pod| pod.ips);
            service
                .serve_at(addresses)
                .http("backend = { balance = \"round_robin\" }")?;
        }
        let weft = Weft::start(&site.fixture.lab, &config)?;
        let client = &site.fixture.client.namespace;
        let _b = start(b)?;
        for family in Family::BOTH {
            let mut server = start(a)?;
            let at = |number| SocketAddr::new(pick(&vips(number), family), 80);
            let mut neighbour = Connection::open(client, to(family))?;
            let mut cut = Connection::open(client, at(SERVICE + 1))?;
            cut.send(b"GET /bytes/200000000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
            cut.read(1_000_000)?;
            let mut waiting = Connection::open(client, at(SERVICE + 1))?;
            waiting.send(b"GET /slow/9000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
            // One that is idle, so that connections to both servers are there.
            let mut idle = Connection::open(client, at(SERVICE))?;
            for _ in 0..4 {
                assert_eq!(idle.get("/")?.status, 200);
            }
            server.signal(rustix::process::Signal::KILL)?;
            server.wait(Duration::from_secs(2))?;
            let (rest, end) = cut.rest();
            let end = end.map_err(|error| error.kind());
            ensure!(
                rest.len() < 199_000_000 && end == Err(ErrorKind::ConnectionReset),
                "{} bytes more, {end:?}",
                rest.len()
            );
            assert_eq!(waiting.answer()?.status, 502);
            // The same connection goes on; the server that is left has its share, and for the other there is an answer.
            let mut answers = [0; 2];
            for _ in 0..20 {
                let answer = idle.get("/")?;
                match answer.status {
                    200 => ensure!(answer.word(0) == "b", "{answer:?}"),
                    status => ensure!(status == 503, "{answer:?}"),
                }
                answers[usize::from(answer.status == 200)] += 1;
            }
            ensure!(answers[1] >= 9, "[503, 200]: {answers:?}");
            assert_eq!(neighbour.get("/")?.status, 200);
        }
        weft.audit().map(drop)
    })
}

/// Requests one after another on a connection at a time, until they are to end; each must be answered.
fn flawless(namespace: &Namespace, to: SocketAddr, done: &AtomicBool) -> Result<u64> {
    namespace.enter(|| {
        let mut asked = 0;
        while !done.load(Ordering::Relaxed) {
            let mut connection = Connection::open_here(to)?;
            for _ in 0..100 {
                let answer: Response = connection.get("/")?;
                ensure!(answer.status == 200, "{answer:?}");
                asked += 1;
            }
        }
        Ok(asked)
    })?
}

#[test]
fn amb12_a_panic_resets_one_services_connections_and_no_others() -> Result<()> {
    with_weft(|| {
        let site = Site::new()?;
        let mut config = site.config("")?;
        let ports = [("tcp", 80, WEB_PORT)];
        config
            .service("broken", SERVICE, &ports)
            .select("web")
            .http("")?;
        let trigger = site.fixture.lab.directory().join("panic");
        let variable = format!("WEFT_TEST_PANIC={}", trigger.display());
        let weft = Weft::start_under(&site.fixture.lab, &config, &["env", &variable])?;
        let client = &site.fixture.client.namespace;
        let broken = SocketAddr::new(pick(&vips(SERVICE), Family::V4), 80);
        let open = || Connection::open(client, broken);
        let done = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let loads = Family::BOTH.map(|family| {
                let (to, done) = (to(family), &done);
                scope.spawn(move || flawless(client, to, done))
            });
            let mut lost = vec![open()?, open()?, open()?];
            for connection in &mut lost {
                assert_eq!(connection.get("/")?.status, 200);
            }
            lost[0].send(b"GET /slow/3000 HTTP/1.1\r\nHost: web\r\n\r\n")?;
            thread::sleep(Duration::from_millis(200)); // The server has it, and the loads run.
            fs::write(&trigger, broken.to_string())?;
            // A connection of its own to an endpoint is what this one needs.
            lost.push(open()?);
            lost[3].send(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
            for connection in &mut lost {
                let (rest, end) = connection.rest();
                let end = end.map_err(|error| error.kind());
                ensure!(
                    rest.is_empty() && end == Err(ErrorKind::ConnectionReset),
                    "{end:?}; is this a build with debug assertions?"
                );
            }
            ensure!(!trigger.exists(), "nobody took it");
            // The service begins anew.
            let mut again = open()?;
            for _ in 0..20 {
                assert_eq!(again.get("/")?.status, 200);
            }
            thread::sleep(Duration::from_millis(200));
            done.store(true, Ordering::Relaxed);
            for load in loads {
                let asked = load.join().map_err(|_| anyhow!("a load panicked"))??;
                ensure!(asked > 20, "only {asked} requests");
            }
            Ok(())
        })?;
        for (service, panics, lost) in [("lab/broken:80", 1, 4), ("lab/web:80", 0, 0)] {
            let status = status_of(&weft, service)?;
            let events = &status["events"];
            ensure!(
                events["panics"].as_u64().unwrap_or(0) == panics
                    && events["connections_lost"].as_u64().unwrap_or(0) == lost,
                "{status}"
            );
        }
        let log = weft.log();
        ensure!(log.contains("WEFT_TEST_PANIC"), "{log}");
        weft.audit().map(drop)
    })
}
