//! What can be measured.

use super::Sample;
use anyhow::{Context, Result};

/// A kind of traffic. Scenarios that differ only in what they read from it share one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// One flow of 64-byte UDP at full speed, the generator on a core of its own.
    Flood,
    /// The same with everything on one core.
    FloodOneCore,
    /// One byte there and back over one TCP connection.
    RoundTrip,
}

/// A row of the report.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line and in the report.
    pub id: &'static str,
    /// What it measures, for people.
    pub about: &'static str,
    /// The unit of its figures.
    pub unit: &'static str,
    /// True for rates, false for times.
    pub higher_is_better: bool,
    /// The traffic it needs.
    pub probe: Probe,
    /// Its figure in a sample.
    pub figure: fn(&Sample) -> f64,
}

/// Every scenario there is.
pub static SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "l4-established",
        about: "64-byte UDP of one established flow, pod -> VIP -> pod, generator on one core, forwarding on the other",
        unit: "Mpps",
        higher_is_better: true,
        probe: Probe::Flood,
        figure: |sample| sample.mpps,
    },
    Scenario {
        id: "l4-established-1core",
        about: "the same with generator and forwarding on one core",
        unit: "Mpps",
        higher_is_better: true,
        probe: Probe::FloodOneCore,
        figure: |sample| sample.mpps,
    },
    Scenario {
        id: "l4-rr-p50",
        about: "one byte there and back over an established TCP connection, median",
        unit: "us",
        higher_is_better: false,
        probe: Probe::RoundTrip,
        figure: |sample| sample.p50,
    },
    Scenario {
        id: "l4-rr-p99",
        about: "the same, 99th percentile",
        unit: "us",
        higher_is_better: false,
        probe: Probe::RoundTrip,
        figure: |sample| sample.p99,
    },
];

impl Scenario {
    /// The scenario called `id`.
    pub fn find(id: &str) -> Result<&'static Self> {
        let known = || {
            SCENARIOS
                .iter()
                .map(|s| s.id)
                .collect::<Vec<_>>()
                .join(", ")
        };
        SCENARIOS
            .iter()
            .find(|scenario| scenario.id == id)
            .with_context(|| format!("no scenario {id}; there are {}", known()))
    }
}
