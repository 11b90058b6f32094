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
    for Leg { port, backend, .. } in legs {
        let _ = write!(
            text,
            "  upstream service-{port} {{ server {backend}; keepalive 20000; keepalive_requests 1000000000; \
             keepalive_timeout 1h; }}\n\
             \x20 server {{\n    listen 0.0.0.0:{port};\n    location / {{\n      proxy_pass http://service-{port};\n\
             \x20     proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n\
             \x20     proxy_set_header Host $http_host;\n    }}\n  }}\n"
        );
    }
    Ok(nginx_configuration(&own, &text))
}
