//! What the matrix found: medians, and their ratios to Linux.

use super::world::{FAR, NEAR};
use crate::machine::Machine;
use crate::measure::median;
use crate::tools::transfer::Mode;
use comfy_table::{Table, presets};
use serde::Serialize;

/// Where Weft is in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The far client sends to a near server: Weft receives over the link.
    Receiver,
    /// The near server sends to the far client: Weft sends over the link.
    Sender,
    /// A far server sends to the far client: Weft receives over one link and sends over another.
    Middle,
}

impl Side {
    /// Every side.
    pub const ALL: [Self; 3] = [Self::Receiver, Self::Sender, Self::Middle];

    /// Its name.
    pub fn id(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Sender => "sender",
            Self::Middle => "middle",
        }
    }

    /// The service that is asked, and what for.
    pub(super) fn transfer(self) -> (u8, Mode) {
        match self {
            Self::Receiver => (NEAR, Mode::Upload),
            Self::Sender => (NEAR, Mode::Download),
            Self::Middle => (FAR, Mode::Download),
        }
    }
}

/// One transfer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Run {
    /// Mbit/s.
    pub goodput: f64,
    /// From the first SYN to the last byte's report.
    pub seconds: f64,
    /// Milliseconds between two arrivals at the receiver, at most.
    pub longest_stall: f64,
}

/// All runs of a case on a side.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// The case.
    pub case: &'static str,
    /// The side.
    pub side: Side,
    /// From Linux to Linux, in the same topology.
    pub linux: Vec<Run>,
    /// Through Weft.
    pub weft: Vec<Run>,
}

impl Cell {
    pub(super) fn new(case: &'static str, side: Side) -> Self {
        Self {
            case,
            side,
            linux: Vec::new(),
            weft: Vec::new(),
        }
    }

    /// Medians of Linux and of Weft.
    pub fn medians(&self) -> [Run; 2] {
        [&self.linux, &self.weft].map(|runs| {
            let of = |field: fn(&Run) -> f64| median(runs.iter().map(field).collect());
            Run {
                goodput: of(|run| run.goodput),
                seconds: of(|run| run.seconds),
                longest_stall: of(|run| run.longest_stall),
            }
        })
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Bytes of a transfer, before a case takes its part.
    pub bytes: u64,
    /// Transfers of each kind.
    pub reps: usize,
    /// The stage of the services.
    pub stage: String,
    /// The figures.
    pub cells: Vec<Cell>,
}

impl Report {
    /// As a table for people: medians as `Linux / Weft`, and Weft's ratio to Linux.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header([
            "link", "Weft is", "Mbit/s", "ratio", "time s", "ratio", "stall ms", "ratio",
        ]);
        for cell in &self.cells {
            let [linux, weft] = cell.medians();
            let pair = |one: f64, other: f64, digits: usize| {
                [
                    format!("{one:.digits$} / {other:.digits$}"),
                    format!("{:.2}", other / one),
                ]
            };
            let mut row = vec![cell.case.to_owned(), cell.side.id().to_owned()];
            row.extend(pair(linux.goodput, weft.goodput, 0));
            row.extend(pair(linux.seconds, weft.seconds, 2));
            row.extend(pair(linux.longest_stall, weft.longest_stall, 1));
            table.add_row(row);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_medians_of_both_and_their_ratio() {
        let run = |goodput| Run {
            goodput,
            seconds: 10.0 / goodput,
            longest_stall: 1.0,
        };
        let mut cell = Cell::new("none", Side::Sender);
        cell.linux = vec![run(10.0), run(1.0), run(5.0)];
        cell.weft = vec![run(2.0), run(3.0), run(2.5)];
        let report = Report {
            machine: Machine::this(),
            bytes: 1,
            reps: 3,
            stage: "l4".into(),
            cells: vec![cell],
        };
        let table = report.table().to_string();
        assert!(table.contains("5 / 2") && table.contains("0.50"), "{table}");
    }
}
