//! Rates of made-up looks, and the screen in memory.

use std::collections::BTreeMap;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::columns::{Column, Order, number, share};
use super::draw::Screen;
use super::plain;
use super::rates::{Rates, ServiceRates, WorkerRates, between};
use crate::admin::view::Status;

/// A node process that has counted `n` of everything, `n` times 100 ms after its start.
fn look(n: u64) -> Value {
    let packets = json!({
        "received": 100 * n, "forwarded": 60 * n, "replied": 0, "handed_in": 0, "handed_out": 0, "bulk": 10 * n,
        "terminated": 20 * n, "originated": 30 * n, "unrouted": 0, "fragments": 0, "fragments_lost": 0, "held": 0, "released": 0,
        "kernel": { "no_service": 5 * n }, "dropped": { "src_spoof": 2 * n, "no_backend": 0, "ttl": n }
    });
    json!({
        "node": "lab", "version": "0.1.0", "pid": 7, "uptime_s": n / 10, "at_us": 100_000 * n,
        "files": [], "generation": 1, "fast_path": "full", "restart_needed": [], "last_refusal": [],
        "reloads": {
            "parse": { "count": 0, "sum_us": 0, "last_us": 0, "max_us": 0, "buckets": [] },
            "switch": { "count": 0, "sum_us": 0, "last_us": 0, "max_us": 0, "buckets": [] }
        },
        "workers": [{
            "queue": 0, "core": 1, "poll": "adaptive", "xdp_mode": "native", "socket_mode": "copy",
            "heartbeat_age_ms": 1, "cpu_us": 25_000 * n, "generation": 1, "flows": 5, "flows_max": 100,
            "flows_evicted": 0, "affinity_evicted": 0, "fragments_waiting": 0, "pins": 0, "pin_errors": 0,
            "frames": { "total": 0, "free": 0, "fill": 0, "rx": 0, "app": 0, "tx": 0 },
            "packets": packets, "socket": {}, "tcp": null
        }],
        "pods": [],
        "http": [{
            "service": "lab/web:80", "open": 3, "connections": n,
            "requests": { "2xx": 90 * n, "4xx": 5 * n, "5xx": 4 * n, "none": n },
            "durations": [
                { "le_us": 1000, "count": 50 * n }, { "le_us": 2000, "count": 49 * n }, { "le_us": null, "count": n }
            ],
            "received_bytes": 10 * n, "sent_bytes": 90 * n, "flags": {}, "rejected": {}, "events": {}
        }],
        "traffic": [
            { "service": "lab/dns:53", "protocol": "udp", "stage": "l4", "flows": 9, "opened": 2 * n, "packets": 4 * n, "bytes": 400 * n },
            { "service": "lab/web:80", "protocol": "tcp", "stage": "http", "flows": 4, "opened": n, "packets": 50 * n, "bytes": n }
        ],
        "ledger": {
            "engine": packets,
            "hooks": { "from_pod_forwarded": 70 * n, "punt_rate": n, "malformed": 0 },
            "path": { "punt_lost": 0, "socket_lost": 2 * n }
        }
    })
}

fn status(look: Value) -> Status {
    serde_json::from_value(look).unwrap()
}

fn rates() -> Rates {
    between(&status(look(10)), &status(look(20))).unwrap()
}

#[test]
fn rates_are_differences_by_the_second() {
    let rates = rates();
    assert_eq!((rates.interval_s, rates.fast_path_per_s), (1.0, 700.0));
    let lost = BTreeMap::from([("punt_rate".into(), 10.0), ("socket_lost".into(), 20.0)]);
    assert_eq!(rates.lost_per_s, lost);
    let [dns, web] = &rates.services[..] else {
        panic!("{rates:?}")
    };
    let plain = ServiceRates {
        service: "lab/dns:53".into(),
        protocol: "udp".into(),
        stage: "l4".into(),
        flows: 9,
        new_per_s: 20.0,
        packets_per_s: Some(40.0),
        bytes_per_s: 4000.0,
        ..ServiceRates::default()
    };
    assert_eq!(*dns, plain);
    let http = ServiceRates {
        service: "lab/web:80".into(),
        protocol: "tcp".into(),
        stage: "http".into(),
        flows: 3,
        new_per_s: 10.0,
        packets_per_s: None,
        requests_per_s: Some(1000.0),
        bytes_per_s: 1000.0,
        error_share: Some(0.05),
        p50_ms: Some(1.0),
        p99_ms: Some(2.0),
    };
    assert_eq!(*web, http);
    let worker = WorkerRates {
        queue: 0,
        core: 1,
        busy: Some(0.25),
        received_per_s: 1100.0,
        sent_per_s: 950.0,
        dropped_per_s: 30.0,
        drops_per_s: BTreeMap::from([("src_spoof".into(), 20.0), ("ttl".into(), 10.0)]),
        flows: 5,
        flows_max: 100,
    };
    assert_eq!(rates.workers, [worker]);
}

#[test]
fn another_process_has_no_rates_yet() {
    let before = status(look(10));
    assert!(between(&before, &before).is_none());
    let mut restarted = look(20);
    restarted["pid"] = 8.into();
    assert!(between(&before, &status(restarted)).is_none());
    let mut upgraded = look(20);
    upgraded["uptime_s"] = 0.into();
    assert!(between(&before, &status(upgraded)).is_none());
}

#[test]
fn a_service_that_is_new_or_quiet_has_no_rates_and_no_quantiles() {
    let (mut before, mut now) = (look(10), look(20));
    before["traffic"] = json!([]);
    before["http"] = json!([]);
    let fresh = between(&status(before.clone()), &status(now.clone())).unwrap();
    let web = &fresh.services[1];
    assert_eq!((web.new_per_s, web.requests_per_s), (0.0, Some(0.0)));
    assert_eq!((web.error_share, web.p50_ms), (None, None));
    // A node process of an earlier version, which counts no durations.
    now["http"][0]["durations"] = json!([]);
    assert_eq!(
        between(&status(before), &status(now)).unwrap().services[1].p99_ms,
        None
    );
}

#[test]
fn beyond_the_last_bound_the_bound_is_shown() {
    let mut now = look(20);
    now["http"][0]["durations"][2]["count"] = 5_000.into();
    let rates = between(&status(look(10)), &status(now)).unwrap();
    assert_eq!(rates.services[1].p99_ms, Some(2.0));
}

#[test]
fn each_column_gives_an_order() {
    let mut services = rates().services;
    services.push(ServiceRates {
        service: "lab/a:1".into(),
        stage: "tcp".into(),
        flows: 100,
        error_share: Some(0.5),
        ..ServiceRates::default()
    });
    let mut first = |column, reversed| {
        Order { column, reversed }.sort(&mut services);
        services[0].service.clone()
    };
    assert_eq!(first(Column::Service, false), "lab/a:1");
    assert_eq!(first(Column::Service, true), "lab/web:80");
    assert_eq!(first(Column::Flows, false), "lab/a:1");
    assert_eq!(first(Column::Requests, false), "lab/web:80");
    assert_eq!(first(Column::Errors, false), "lab/a:1");
    assert_eq!(first(Column::Errors, true), "lab/dns:53");
    let mut order = Order::default();
    order.turn(-1);
    assert_eq!(order.column, Column::P99);
    order.turn(1);
    assert_eq!(order, Order::default());
}

#[test]
fn numbers_are_short() {
    let short = [0.0, 0.04, 9.94, 9.96, 9_999.0, 10_000.0, 1_234_567.0, 2e9].map(number);
    assert_eq!(
        short,
        ["0", "0.0", "9.9", "10", "9999", "10.0k", "1.2M", "2.0G"]
    );
    assert_eq!(
        [0.0, 0.001, 0.5, 1.0].map(share),
        ["0%", "0.1%", "50%", "100%"]
    );
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    let lines = cells.chunks(usize::from(width)).map(|line| line.concat());
    lines.map(|line| line.trim_end().to_owned()).collect()
}

fn press(screen: &mut Screen, code: KeyCode) -> bool {
    screen.press(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn the_screen_has_services_and_workers() {
    let mut screen = Screen::default();
    assert_eq!(
        drawn(&mut screen, 100, 12)[1],
        "waiting for the second look"
    );
    screen.take(rates());
    let lines = drawn(&mut screen, 100, 12);
    assert!(
        lines[0].starts_with("node lab  weft 0.1.0  up 2s"),
        "{lines:#?}"
    );
    assert!(
        lines[1].ends_with("workers: socket_lost=20/s punt_rate=10/s"),
        "{lines:#?}"
    );
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&lines[3])[..3], ["SERVICE\u{25be}", "STAGE", "FLOWS"]);
    let dns = [
        "lab/dns:53",
        "l4",
        "udp",
        "9",
        "20",
        "40",
        "-",
        "4000",
        "-",
        "-",
        "-",
    ];
    assert_eq!(words(&lines[4]), dns);
    let web = [
        "lab/web:80",
        "http",
        "3",
        "10",
        "-",
        "1000",
        "1000",
        "5.0%",
        "1.00",
        "2.00",
    ];
    assert_eq!(words(&lines[5]), web);
    assert_eq!(
        words(&lines[9])[..5],
        ["WORKER", "CORE", "BUSY", "IN/S", "OUT/S"]
    );
    assert!(
        lines[10].ends_with("5 of 100           src_spoof=20/s ttl=10/s"),
        "{lines:#?}"
    );
    assert!(lines[11].starts_with("q quit"), "{lines:#?}");
    for (width, height) in [(1, 1), (20, 5), (200, 3)] {
        drawn(&mut screen, width, height); // Does not panic, which is all that can be asked for.
    }
}

#[test]
fn keys_sort_scroll_pause_and_quit() {
    let mut screen = Screen::default();
    let mut many = rates();
    let some = (0..50).map(|n| ServiceRates {
        service: format!("lab/s{n:02}:80"),
        flows: n,
        ..ServiceRates::default()
    });
    many.services = some.collect();
    screen.take(many.clone());
    let first = |screen: &mut Screen| drawn(screen, 100, 20)[4][..10].to_owned();
    assert_eq!(first(&mut screen), "lab/s00:80");
    press(&mut screen, KeyCode::Down);
    assert_eq!(first(&mut screen), "lab/s01:80");
    press(&mut screen, KeyCode::End);
    assert_eq!(first(&mut screen), "lab/s38:80");
    press(&mut screen, KeyCode::Home);
    press(&mut screen, KeyCode::Right);
    press(&mut screen, KeyCode::Char('>'));
    assert_eq!(first(&mut screen), "lab/s49:80");
    press(&mut screen, KeyCode::Char('r'));
    assert_eq!(first(&mut screen), "lab/s00:80");
    press(&mut screen, KeyCode::Char('p'));
    screen.take(rates());
    let lines = drawn(&mut screen, 100, 20);
    assert!(
        lines[1].starts_with("paused") && lines[4].starts_with("lab/s00:80"),
        "{lines:#?}"
    );
    press(&mut screen, KeyCode::Char(' '));
    screen.take(rates());
    assert!(drawn(&mut screen, 100, 20)[4].starts_with("lab/web:80"));
    press(&mut screen, KeyCode::Char('?'));
    let help = drawn(&mut screen, 100, 30).concat();
    assert!(help.contains("what half, and 99 of 100"), "{help}");
    assert!(
        press(&mut screen, KeyCode::Char('q')),
        "it closes the help only"
    );
    assert!(!press(&mut screen, KeyCode::Char('q')));
    assert!(!press(&mut screen, KeyCode::Esc));
    assert!(!screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn trouble_is_shown_above_the_last_rates_until_there_are_new_ones() {
    let mut screen = Screen::default();
    screen.take(rates());
    screen.trouble = Some("no node process answers".into());
    let lines = drawn(&mut screen, 100, 12);
    assert_eq!(lines[1], "no node process answers");
    assert!(lines[4].starts_with("lab/dns:53"), "{lines:#?}");
    screen.take(rates());
    assert!(drawn(&mut screen, 100, 12)[1].starts_with("lost"));
}

#[test]
fn the_text_has_the_same_cells() {
    let text = plain::text(&mut rates());
    let line = |start: &str| {
        text.lines()
            .find(|line| line.trim_start().starts_with(start))
    };
    let cells =
        |start| line(start).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(
        cells("lab/web").unwrap(),
        "lab/web:80 http 3 10 - 1000 1000 5.0% 1.00 2.00"
    );
    assert_eq!(
        cells("0 ").unwrap(),
        "0 1 25% 1100 950 30 5 of 100 src_spoof=20/s ttl=10/s"
    );
}
