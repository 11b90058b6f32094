//! HAProxy's configuration.

use super::{Kind, Leg};
use crate::machine;
use std::fmt::Write;

/// In the foreground, one process, with the configuration that follows.
pub const RUN: &[&str] = &["-db", "-f"];

/// Descriptors that are not those of connections: listeners, epoll, and the pipes of splicing.
const SPARE: u64 = 500;
/// Pipes for splicing; two descriptors each.
const PIPES: u64 = 100;

/// One thread, no log, as many connections as there are descriptors for; in HTTP mode any connection to a backend carries
/// anybody's requests.
pub fn render(legs: &[Leg], kind: Kind) -> String {
    let connections = (machine::open_files().saturating_sub(SPARE) / 2).min(100_000);
    let mode = match kind {
        Kind::HaproxyHttp => {
            "    mode http\n    http-reuse always\n    timeout http-keep-alive 1h\n"
        }
        Kind::HaproxySplice => {
            "    mode tcp\n    option splice-auto\n    option splice-request\n    option splice-response\n"
        }
        _ => "    mode tcp\n",
    };
    let mut text = format!(
        "global\n    nbthread 1\n    maxconn {connections}\n    maxpipes {PIPES}\n\
         defaults\n    maxconn {connections}\n\
         \x20   timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n{mode}"
    );
    for leg in legs {
        let _ = writeln!(
            text,
            "listen service-{port}\n    bind 0.0.0.0:{port}{protocol}\n    server backend {backend}{protocol}",
            port = leg.port,
            backend = leg.backend,
            protocol = if leg.h2c { " proto h2" } else { "" },
        );
    }
    text
}
