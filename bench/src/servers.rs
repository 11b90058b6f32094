//! Real servers inside a lab's namespaces.

use crate::binaries;
use crate::lab::{Lab, Pod};
use crate::namespace::Namespace;
use crate::wait::{START_LIMIT, wait_until};
use anyhow::{Context, Result};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// The port nginx listens on in a pod.
pub const HTTP_PORT: u16 = 8080;
/// The port on which nginx speaks HTTP/2, from the first byte and without TLS.
pub const H2C_PORT: u16 = 8081;
/// The port of the peer server, TCP and UDP.
pub const PEER_PORT: u16 = 7000;
/// The port of the UDP and TCP echo servers.
pub const ECHO_PORT: u16 = 7001;
/// The port of the server of one request a connection.
pub const ONCE_PORT: u16 = 7002;
/// The port of the server of transfers.
pub const TRANSFER_PORT: u16 = 7003;
/// The port of the server that says over HTTP what it was asked.
pub const WEB_PORT: u16 = 7004;
/// The port of the gRPC server.
pub const GRPC_PORT: u16 = 7005;
/// The port of iperf3.
pub const IPERF_PORT: u16 = 5201;

/// Bytes of nginx's `/blob`.
pub const BLOB: usize = 16 << 20;

/// nginx in one process; every answer is the server's name and the client it saw.
///
/// `/blob` is a file of [`BLOB`] bytes, for transfers that last; `/protocol` says by which version of HTTP it was asked.
pub fn nginx(lab: &mut Lab, namespace: &Namespace, name: &str) -> Result<()> {
    let directory = lab.directory().join(format!("nginx-{name}"));
    fs::create_dir_all(&directory)?;
    let blob = fs::File::create(directory.join("blob"))?;
    blob.set_len(BLOB as u64)?;
    let root = directory.display();
    let server = format!(
        "  server {{\n    listen {HTTP_PORT} reuseport;\n    listen [::]:{HTTP_PORT} reuseport;\n\
         \x20   listen {H2C_PORT} http2;\n    listen [::]:{H2C_PORT} http2;\n    root {root};\n\
         \x20   location = / {{ default_type text/plain; return 200 \"{name} $remote_addr $remote_port\\n\"; }}\n\
         \x20   location = /protocol {{ default_type text/plain; return 200 \"{name} $server_protocol\\n\"; }}\n\
         \x20   location = /blob {{ default_type application/octet-stream; }}\n  }}\n"
    );
    spawn_nginx(lab, namespace, &directory, &server, &[])?;
    listening(namespace, HTTP_PORT, "nginx")
}

/// What [`origin`] answers with 1,024 bytes.
pub const SMALL: &str = "/small";
/// What it answers with 1,000,000.
pub const LARGE: &str = "/large";

/// nginx in one process on one port, for measurements, under a wrapper such as `chrt -f 10`: says as little as it can.
pub fn origin(lab: &mut Lab, pod: &Pod, port: u16, wrapper: &[&str]) -> Result<()> {
    let directory = lab.directory().join(format!("nginx-{port}"));
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(&LARGE[1..]), vec![b'x'; 1_000_000])?;
    let (root, body) = (directory.display(), "x".repeat(1024));
    let server = format!(
        "  sendfile on;\n  open_file_cache max=10;\n  server {{\n    listen {port};\n    root {root};\n\
         \x20   location = {SMALL} {{ default_type text/plain; return 200 \"{body}\"; }}\n  }}\n"
    );
    spawn_nginx(lab, &pod.namespace, &directory, &server, wrapper)?;
    listening(&pod.namespace, port, "nginx")
}

fn spawn_nginx(
    lab: &mut Lab,
    namespace: &Namespace,
    directory: &Path,
    servers: &str,
    wrapper: &[&str],
) -> Result<()> {
    let file = directory.join("nginx.conf");
    fs::write(&file, nginx_configuration(directory, servers))?;
    let words = [wrapper, &["nginx", "-e", "stderr", "-c"]].concat();
    let mut command = namespace.command(words[0]);
    command.args(&words[1..]).arg(&file);
    let name = directory.file_name().context("no name")?;
    lab.spawn(&name.to_string_lossy(), &mut command)
}

/// A configuration of nginx in one process with these `servers`, with what it writes in `directory`; nothing that ends a connection
/// by itself.
pub(crate) fn nginx_configuration(directory: &Path, servers: &str) -> String {
    let root = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {root}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {root}/pid;\nerror_log stderr warn;\n\
         worker_rlimit_nofile 60000;\nevents {{ worker_connections 50000; }}\n\
         http {{\n  access_log off;\n{temporary}  keepalive_requests 1000000000;\n  keepalive_timeout 1h;\n{servers}}}\n"
    )
}

/// iperf3 as a server, for any number of runs one after another.
pub fn iperf3(lab: &mut Lab, pod: &Pod) -> Result<()> {
    let mut command = pod.namespace.command("iperf3");
    command.args(["--server", "--port", &IPERF_PORT.to_string()]);
    lab.spawn(&format!("iperf3-{}", pod.name), &mut command)?;
    listening(&pod.namespace, IPERF_PORT, "iperf3")
}

/// The peer server: says its name and the client address and port that it saw.
pub fn peer(lab: &mut Lab, namespace: &Namespace, name: &str) -> Result<()> {
    let port = PEER_PORT.to_string();
    serve(
        lab,
        namespace,
        &format!("peer-{name}"),
        &["peer", "--name", name, "--port", &port],
    )?;
    listening(namespace, PEER_PORT, "the peer server")
}

/// The server that says over HTTP what it was asked, on [`WEB_PORT`].
pub fn web(lab: &mut Lab, namespace: &Namespace, name: &str) -> Result<()> {
    let port = WEB_PORT.to_string();
    let words = ["web", "--name", name, "--port", &port];
    serve(lab, namespace, &web_name(name), &words)?;
    listening(namespace, WEB_PORT, "the web server")
}

/// What the process of [`web`] is called, and its log.
pub fn web_name(name: &str) -> String {
    format!("web-{name}")
}

/// The gRPC server of [`crate::tools::grpc`], on [`GRPC_PORT`].
pub fn grpc(lab: &mut Lab, namespace: &Namespace, name: &str) -> Result<()> {
    let port = GRPC_PORT.to_string();
    let words = ["grpc", "--name", name, "--port", &port];
    serve(lab, namespace, &format!("grpc-{name}"), &words)?;
    listening(namespace, GRPC_PORT, "the gRPC server")
}

/// TCP and UDP echo on [`ECHO_PORT`], pinned to `core` when given.
pub fn echo(lab: &mut Lab, pod: &Pod, core: Option<usize>) -> Result<()> {
    let (port, core) = (ECHO_PORT.to_string(), core.map(|core| core.to_string()));
    for kind in ["tcp-echo", "udp-echo"] {
        let mut words = vec![kind, "--port", &port];
        if let Some(core) = &core {
            words.extend(["--core", core]);
        }
        serve(lab, &pod.namespace, &format!("{kind}-{}", pod.name), &words)?;
    }
    listening(&pod.namespace, ECHO_PORT, "the echo server")
}

/// A server of one request a connection on [`ONCE_PORT`], for `weft-lab crr`; under a wrapper such as
/// `chrt -f 10`, if there is one.
pub fn once(lab: &mut Lab, pod: &Pod, wrapper: &[&str]) -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    let program = program.to_string_lossy();
    let port = ONCE_PORT.to_string();
    let words = [wrapper, &[&program, "serve", "tcp-once", "--port", &port]].concat();
    let name = format!("tcp-once-{}", pod.name);
    lab.spawn(&name, pod.namespace.command(words[0]).args(&words[1..]))?;
    listening(&pod.namespace, ONCE_PORT, "the server")
}

/// The other end of `weft-lab transfer`, on [`TRANSFER_PORT`]; under a wrapper, if there is one.
pub fn transfer(lab: &mut Lab, pod: &Pod, wrapper: &[&str]) -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    let program = program.to_string_lossy();
    let port = TRANSFER_PORT.to_string();
    let words = [wrapper, &[&program, "serve", "transfer", "--port", &port]].concat();
    let name = format!("transfer-{}", pod.name);
    lab.spawn(&name, pod.namespace.command(words[0]).args(&words[1..]))?;
    listening(&pod.namespace, TRANSFER_PORT, "the server of transfers")
}

fn serve(lab: &mut Lab, namespace: &Namespace, name: &str, words: &[&str]) -> Result<()> {
    let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
    lab.spawn(name, namespace.command(program).arg("serve").args(words))
}

/// Waits until a TCP port answers on the namespace's own loopback.
pub(crate) fn listening(namespace: &Namespace, port: u16, what: &str) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    namespace.enter(|| {
        wait_until(what, START_LIMIT, || {
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        })
    })?
}
