//! `[service.http]` and `[service.backend]`.

use weft_l7::upstream::{BackendLimits, BackendProtocol};
use weft_l7::{HeadLimits, ServiceLimits, ServiceTimeouts};

use super::http::{Back, Balance, Front};
use super::reader::Value;
use super::route::bound;
use super::scalar::DurationRange;

pub(super) const FRONT_KEYS: &[&str] = &[
    "access_log",
    "create_trace",
    "tcp",
    "connections",
    "streams",
    "target_bytes",
    "head_bytes",
    "head_fields",
    "detect_timeout",
    "head_timeout",
    "idle_timeout",
    "stall_timeout",
];
pub(super) const BACK_KEYS: &[&str] = &[
    "balance",
    "protocol",
    "connections",
    "pending",
    "requests",
    "streams",
    "connect_timeout",
    "response_timeout",
    "idle_timeout",
];

const PATIENCE: DurationRange = DurationRange {
    min: "10ms",
    max: "24h",
};

/// `[service.http]`.
pub(super) fn read_front(value: &Value<'_, '_>) -> Option<Front> {
    let table = value.table(FRONT_KEYS)?;
    let plain = Front::default();
    let flag = |key, plain| table.optional(key, plain, |value| value.boolean());
    let time = |key, plain| table.optional(key, plain, |value| value.duration(&PATIENCE));
    // What is in one head is in memory at once; the parser takes 100 fields.
    let within = |key, plain: usize, most| {
        table.optional(key, plain, |value| {
            usize::try_from(value.integer(1..=most)?).ok()
        })
    };
    let access_log = flag("access_log", plain.access_log);
    let create_trace = flag("create_trace", plain.create_trace);
    let tcp = flag("tcp", plain.tcp);
    let connections = bound(&table, "connections", plain.limits.connections);
    let streams = within("streams", plain.limits.streams as usize, 1_000);
    let target = within("target_bytes", plain.limits.head.target, 65_536);
    let bytes = within("head_bytes", plain.limits.head.bytes, 65_536);
    let fields = within("head_fields", plain.limits.head.fields, 100);
    let detect = time("detect_timeout", plain.timeouts.detect);
    let head = time("head_timeout", plain.timeouts.head);
    let idle = time("idle_timeout", plain.timeouts.idle);
    let stall = time("stall_timeout", plain.timeouts.stall);
    Some(Front {
        access_log: access_log?,
        create_trace: create_trace?,
        tcp: tcp?,
        limits: ServiceLimits {
            connections: connections?,
            streams: u32::try_from(streams?).ok()?,
            head: HeadLimits {
                target: target?,
                bytes: bytes?,
                fields: fields?,
            },
            ..plain.limits
        },
        timeouts: ServiceTimeouts {
            detect: detect?,
            head: head?,
            idle: idle?,
            stall: stall?,
            ..plain.timeouts
        },
    })
}

/// `[service.backend]`.
pub(super) fn read_back(value: &Value<'_, '_>) -> Option<Back> {
    let table = value.table(BACK_KEYS)?;
    let plain = Back::default();
    let time = |key, plain| table.optional(key, plain, |value| value.duration(&PATIENCE));
    let balance = table.optional("balance", plain.balance, |value| {
        let words = [
            ("least_request", Balance::LeastRequest),
            ("round_robin", Balance::RoundRobin),
            ("maglev", Balance::Maglev),
        ];
        value.word(&words, &[])
    });
    let protocol = table.optional("protocol", plain.protocol, |value| {
        let words = [
            ("client", BackendProtocol::AsClient),
            ("http1", BackendProtocol::Http1),
            ("h2c", BackendProtocol::H2c),
        ];
        value.word(&words, &[])
    });
    let connections = bound(&table, "connections", plain.limits.connections);
    let pending = bound(&table, "pending", plain.limits.pending);
    let requests = bound(&table, "requests", plain.limits.requests);
    let streams = bound(&table, "streams", plain.limits.streams);
    let connect_timeout = time("connect_timeout", plain.connect_timeout);
    let response_timeout = time("response_timeout", plain.response_timeout);
    let idle_timeout = time("idle_timeout", plain.idle_timeout);
    Some(Back {
        balance: balance?,
        protocol: protocol?,
        limits: BackendLimits {
            connections: connections?,
            pending: pending?,
            requests: requests?,
            streams: streams?,
        },
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        idle_timeout: idle_timeout?,
    })
}
