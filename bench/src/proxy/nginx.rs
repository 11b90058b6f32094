//! nginx's configuration.

use super::Leg;
use crate::servers::nginx_configuration;
use anyhow::Result;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// With the configuration that follows.
pub const RUN: &[&str] = &["-e", "stderr", "-c"];

/// One process, no log, connections to backends kept for as long as they live; what it writes, it writes in a directory of its own
/// under `directory`.
pub fn render(legs: &[Leg], directory: &Path) -> Result<String> {
    let own = directory.join("nginx");
    fs::create_dir_all(&own)?;
    let mut text = String::new();
    for leg in legs {
        let Leg { port, backend, .. } = leg;
        let (listen, pass) = match leg.h2c {
            true => (" http2", format!("grpc_pass grpc://service-{port};")),
            false => (
                "",
                format!(
                    "proxy_pass http://service-{port};\n      proxy_http_version 1.1;\n\
                     \x20     proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;"
                ),
            ),
        };
        let _ = write!(
            text,
            "  upstream service-{port} {{ server {backend}; keepalive 20000; keepalive_requests 1000000000; \
             keepalive_timeout 1h; }}\n\
             \x20 server {{\n    listen 0.0.0.0:{port}{listen};\n    location / {{\n      {pass}\n    }}\n  }}\n"
        );
    }
    Ok(nginx_configuration(&own, &text))
}
