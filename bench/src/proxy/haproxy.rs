//! HAProxy's configuration.

use super::Leg;
use crate::machine;
use std::fmt::Write;

/// In the foreground, one process, with the configuration that follows.
pub const RUN: &[&str] = &["-db", "-f"];

/// Descriptors that are not those of connections: listeners, epoll, and the pipes of splicing.
const SPARE: u64 = 500;
/// Pipes for splicing; two descriptors each.
const PIPES: u64 = 100;

/// One thread, no log, as many connections as there are descriptors for.
pub fn render(legs: &[Leg], splice: bool) -> String {
    let connections = (machine::open_files().saturating_sub(SPARE) / 2).min(100_000);
    let splicing = if splice {
        "    option splice-auto\n    option splice-request\n    option splice-response\n"
    } else {
        ""
    };
    let mut text = format!(
        "global\n    nbthread 1\n    maxconn {connections}\n    maxpipes {PIPES}\n\
         defaults\n    mode tcp\n    maxconn {connections}\n\
         \x20   timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n{splicing}"
    );
    for leg in legs {
        let _ = writeln!(
            text,
            "listen service-{port}\n    bind 0.0.0.0:{port}\n    server backend {backend}",
            port = leg.port,
            backend = leg.backend
        );
    }
    text
}
