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

/// Passes bytes on.
pub const TCP: fn(&str) -> Value = tcp_proxy;
/// Passes requests on, with nothing added to them.
pub const HTTP: fn(&str) -> Value = connection_manager;

/// Static listeners with `filter` and clusters, no access log, no admin interface.
pub fn render(legs: &[Leg], filter: fn(&str) -> Value) -> Result<String> {
    let listeners: Vec<Value> = legs.iter().map(|leg| listener(leg, filter)).collect();
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

fn listener(leg: &Leg, filter: fn(&str) -> Value) -> Value {
    json!({
        "name": name(leg),
        "address": address("0.0.0.0", leg.port),
        "filter_chains": [{"filters": [filter(&name(leg))]}],
    })
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster,
            "cluster": cluster,
            "idle_timeout": "3600s",
        },
    })
}

fn connection_manager(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": cluster,
            "generate_request_id": false,
            "common_http_protocol_options": {"idle_timeout": "3600s"},
            "route_config": {"virtual_hosts": [{
                "name": cluster,
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": true,
                },
            }],
        },
    })
}

fn cluster(leg: &Leg) -> Value {
    let backend = address(&leg.backend.ip().to_string(), leg.backend.port());
    let mut cluster = json!({
        "name": name(leg),
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": MAX_CONNECTIONS,
            "max_pending_requests": MAX_CONNECTIONS,
            "max_requests": MAX_CONNECTIONS,
        }]},
        "load_assignment": {
            "cluster_name": name(leg),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": backend}}]}],
        },
    });
    if leg.h2c {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    cluster
}
