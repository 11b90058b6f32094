//! The columns of services: their titles, their cells, and the order that each of them gives.

use std::cmp::Ordering;

use super::rates::ServiceRates;

/// A column of the table of services.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Column {
    /// Name.
    Service,
    /// `l4`, `tcp` or `http`, and the protocol.
    Stage,
    /// Flows or connections.
    Flows,
    /// New ones a second.
    New,
    /// Packets a second.
    Packets,
    /// Requests a second.
    Requests,
    /// Bytes a second.
    Bytes,
    /// Share of errors.
    Errors,
    /// Median of durations.
    P50,
    /// 99th percentile of durations.
    P99,
}

impl Column {
    /// From left to right.
    pub const ALL: [Self; 10] = [
        Self::Service,
        Self::Stage,
        Self::Flows,
        Self::New,
        Self::Packets,
        Self::Requests,
        Self::Bytes,
        Self::Errors,
        Self::P50,
        Self::P99,
    ];

    /// What stands above it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Service => "SERVICE",
            Self::Stage => "STAGE",
            Self::Flows => "FLOWS",
            Self::New => "NEW/S",
            Self::Packets => "PACKETS/S",
            Self::Requests => "REQUESTS/S",
            Self::Bytes => "BYTES/S",
            Self::Errors => "ERRORS",
            Self::P50 => "P50 MS",
            Self::P99 => "P99 MS",
        }
    }

    /// Whether it holds text, which stands on the left and is ordered from A to Z.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Service | Self::Stage)
    }

    /// What a service has in it.
    pub fn cell(self, service: &ServiceRates) -> String {
        match self {
            Self::Service => service.service.clone(),
            Self::Stage if service.stage == "l4" => format!("l4 {}", service.protocol),
            Self::Stage => service.stage.clone(),
            Self::Flows => service.flows.to_string(),
            Self::New => number(service.new_per_s),
            Self::Packets => service.packets_per_s.map_or_else(none, number),
            Self::Requests => service.requests_per_s.map_or_else(none, number),
            Self::Bytes => number(service.bytes_per_s),
            Self::Errors => service.error_share.map_or_else(none, share),
            Self::P50 => service.p50_ms.map_or_else(none, milliseconds),
            Self::P99 => service.p99_ms.map_or_else(none, milliseconds),
        }
    }

    fn compare(self, a: &ServiceRates, b: &ServiceRates) -> Ordering {
        let number = |service: &ServiceRates| match self {
            Self::Service | Self::Stage => None,
            Self::Flows => Some(service.flows as f64),
            Self::New => Some(service.new_per_s),
            Self::Packets => service.packets_per_s,
            Self::Requests => service.requests_per_s,
            Self::Bytes => Some(service.bytes_per_s),
            Self::Errors => service.error_share,
            Self::P50 => service.p50_ms,
            Self::P99 => service.p99_ms,
        };
        if self.is_text() {
            return self.cell(a).cmp(&self.cell(b));
        }
        // The largest first, those without a value last.
        let value = |service| number(service).unwrap_or(-1.0);
        value(b).total_cmp(&value(a))
    }
}

/// By what services are ordered.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// By this column.
    pub column: Column,
    /// The other way round.
    pub reversed: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            column: Column::Service,
            reversed: false,
        }
    }
}

impl Order {
    /// By the column `by` places further, round and round.
    pub fn turn(&mut self, by: isize) {
        let all = Column::ALL;
        let at = all.iter().position(|column| *column == self.column);
        let next = (at.unwrap_or(0) as isize + by).rem_euclid(all.len() as isize);
        self.column = all[next as usize];
    }

    /// Puts services in this order; those that are equal in that of their names.
    pub fn sort(self, services: &mut [ServiceRates]) {
        services.sort_by(|a, b| {
            let order = self.column.compare(a, b);
            let order = if self.reversed {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| (&a.service, &a.protocol).cmp(&(&b.service, &b.protocol)))
        });
    }
}

fn none() -> String {
    "-".into()
}

/// Three digits at least, and a unit of 1,000.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        ..9.95 => format!("{value:.1}"),
        ..9_999.5 => format!("{value:.0}"),
        ..999_950.0 => format!("{:.1}k", value / 1e3),
        ..999_950_000.0 => format!("{:.1}M", value / 1e6),
        _ => format!("{:.1}G", value / 1e9),
    }
}

/// A share as percent.
pub fn share(value: f64) -> String {
    match value * 100.0 {
        0.0 => "0%".into(),
        percent @ ..9.95 => format!("{percent:.1}%"),
        percent => format!("{percent:.0}%"),
    }
}

fn milliseconds(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
