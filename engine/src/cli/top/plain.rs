//! Rates as text, for scripts and for terminals that cannot do more.

use std::collections::BTreeMap;

use super::columns::{Column, Order, number, share};
use super::rates::{Rates, WorkerRates};
use crate::cli::table::{duration, table};

/// The titles of the table of workers.
pub const WORKER_TITLES: [&str; 8] = [
    "WORKER", "CORE", "BUSY", "IN/S", "OUT/S", "DROPS/S", "FLOWS", "REASONS",
];
/// Reasons of drops that are shown.
const REASONS: usize = 3;

/// The first line: whose rates these are.
pub fn heading(rates: &Rates) -> String {
    let (node, version) = (&rates.node, &rates.version);
    let (up, fast) = (duration(rates.uptime_s), number(rates.fast_path_per_s));
    format!("node {node}  weft {version}  up {up}  by the hooks alone {fast} packets/s")
}

/// What never came as far as the workers, if there is such.
pub fn lost(rates: &Rates) -> Option<String> {
    let lost = &rates.lost_per_s;
    (!lost.is_empty()).then(|| format!("lost before the workers: {}", most(lost)))
}

/// What a worker has in each column.
pub fn worker_row(worker: &WorkerRates) -> [String; 8] {
    [
        worker.queue.to_string(),
        worker.core.to_string(),
        worker.busy.map_or_else(|| "-".into(), share),
        number(worker.received_per_s),
        number(worker.sent_per_s),
        number(worker.dropped_per_s),
        format!("{} of {}", worker.flows, worker.flows_max),
        most(&worker.drops_per_s),
    ]
}

/// The largest few, as `name=3/s`.
fn most(rates: &BTreeMap<String, f64>) -> String {
    let mut all: Vec<_> = rates.iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(a.1));
    let some = all.iter().take(REASONS);
    let some = some.map(|(name, rate)| format!("{name}={}/s", number(**rate)));
    some.collect::<Vec<_>>().join(" ")
}

/// Everything.
pub fn text(rates: &mut Rates) -> String {
    Order::default().sort(&mut rates.services);
    let mut services = table(&Column::ALL.map(Column::title));
    for service in &rates.services {
        services.add_row(Column::ALL.map(|column| column.cell(service)));
    }
    let mut workers = table(&WORKER_TITLES);
    for worker in &rates.workers {
        workers.add_row(worker_row(worker));
    }
    let lost = lost(rates).map_or_else(String::new, |lost| lost + "\n");
    let heading = heading(rates);
    let text = format!("{heading}\n{lost}\n{services}\n\n{workers}\n");
    // Tables fill their last column up with spaces.
    text.lines()
        .fold(String::new(), |text, line| text + line.trim_end() + "\n")
}
