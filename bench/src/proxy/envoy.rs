//! Envoy's configuration.

use super::Leg;
use anyhow::Result;
use serde_json::{Value, json};

/// One worker thread and nothing to hand over to a next process, with the configuration that follows.
pub const RUN: &[&str] = &[
    "--concurrency",
    "1",
    "--disable-hot-restart",
    "--log-level",
    "error",
    "--config-path",
];

/// Connections a service may have: more than any scenario makes. By default 1,024.
const MAX_CONNECTIONS: u32 = 1_000_000;

/// Static listeners and clusters, no access log, no admin interface.
pub fn render(legs: &[Leg]) -> Result<String> {
    let listeners: Vec<Value> = legs.iter().map(listener).collect();
    let clusters: Vec<Value> = legs.iter().map(cluster).collect();
    Ok(serde_json::to_string_pretty(&json!({
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }))?)
}

fn name(leg: &Leg) -> String {
    format!("service-{}", leg.port)
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn listener(leg: &Leg) -> Value {
    json!({
        "name": name(leg),
        "address": address("0.0.0.0", leg.port),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name(leg),
                "cluster": name(leg),
                "idle_timeout": "3600s",
            },
        }]}],
    })
}

fn cluster(leg: &Leg) -> Value {
    let backend = address(&leg.backend.ip().to_string(), leg.backend.port());
    json!({
        "name": name(leg),
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": MAX_CONNECTIONS,
            "max_pending_requests": MAX_CONNECTIONS,
        }]},
        "load_assignment": {
            "cluster_name": name(leg),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": backend}}]}],
        },
    })
}
