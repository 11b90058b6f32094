//! The report: medians, extremes, all runs, and ratios between the paths.

use super::scenario::{Scenario, Workload};
use super::{PathKind, Sample};
use crate::machine::Machine;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// All samples of a run, by workload, path and placement.
pub type Samples = BTreeMap<(Workload, PathKind, &'static str), Vec<Sample>>;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// What.
    pub scenarios: Vec<ScenarioReport>,
}

/// One scenario's figures.
#[derive(Debug, Serialize)]
pub struct ScenarioReport {
    /// Its name.
    pub id: String,
    /// The unit of every figure but the processor times.
    pub unit: String,
    /// True for rates, false for times.
    pub higher_is_better: bool,
    /// By path.
    pub paths: BTreeMap<String, PathReport>,
    /// Quotients of medians, `weft-user/<other path>`.
    pub ratio: BTreeMap<String, f64>,
    /// Quotients of processor times per operation.
    pub cpu_ratio: BTreeMap<String, f64>,
    /// For people.
    #[serde(skip)]
    pub about: String,
}

/// One path's figures in a scenario, at its best placement.
#[derive(Debug, Serialize)]
pub struct PathReport {
    /// Median of the runs.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// In the order they were made.
    pub runs: Vec<f64>,
    /// Processor time of the whole machine per packet or round trip, median, in microseconds.
    pub cpu_us_per_op: f64,
    /// Which placement that was.
    pub placement: String,
}

impl Report {
    /// Condenses samples.
    pub fn new(machine: Machine, scenarios: &[&Scenario], samples: &Samples) -> Self {
        let scenarios = scenarios
            .iter()
            .map(|scenario| ScenarioReport::new(scenario, samples))
            .collect();
        Self { machine, scenarios }
    }

    /// As a table for people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header([
            "scenario",
            "path",
            "median",
            "min",
            "max",
            "unit",
            "cpu us/op",
            "placement",
        ]);
        for scenario in &self.scenarios {
            for (path, figures) in &scenario.paths {
                table.add_row([
                    scenario.id.clone(),
                    path.clone(),
                    format!("{:.3}", figures.median),
                    format!("{:.3}", figures.min),
                    format!("{:.3}", figures.max),
                    scenario.unit.clone(),
                    format!("{:.2}", figures.cpu_us_per_op),
                    figures.placement.clone(),
                ]);
            }
        }
        table
    }
}

impl ScenarioReport {
    fn new(scenario: &Scenario, samples: &Samples) -> Self {
        let mut paths: BTreeMap<String, PathReport> = BTreeMap::new();
        for ((workload, path, placement), samples) in samples {
            if *workload != scenario.workload {
                continue;
            }
            let report = PathReport::new(scenario, placement, samples);
            let better = paths.get(path.id()).is_none_or(|best| {
                if scenario.higher_is_better {
                    report.median > best.median
                } else {
                    report.median < best.median
                }
            });
            if better {
                paths.insert(path.id().to_owned(), report);
            }
        }
        let mut ratio = BTreeMap::new();
        let mut cpu_ratio = BTreeMap::new();
        let own = PathKind::WeftUser.id();
        if let Some(weft) = paths.get(own) {
            for (other, figures) in paths.iter().filter(|(other, _)| *other != own) {
                let name = format!("{own}/{other}");
                ratio.insert(name.clone(), round(weft.median / figures.median));
                cpu_ratio.insert(name, round(weft.cpu_us_per_op / figures.cpu_us_per_op));
            }
        }
        Self {
            id: scenario.id.into(),
            unit: scenario.unit.into(),
            higher_is_better: scenario.higher_is_better,
            paths,
            ratio,
            cpu_ratio,
            about: scenario.about.into(),
        }
    }
}

impl PathReport {
    fn new(scenario: &Scenario, placement: &str, samples: &[Sample]) -> Self {
        let runs: Vec<f64> = samples
            .iter()
            .map(|s| round((scenario.figure)(s)))
            .collect();
        Self {
            median: round(median(runs.clone())),
            min: runs.iter().copied().fold(f64::INFINITY, f64::min),
            max: runs.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs,
            cpu_us_per_op: round(median(samples.iter().map(|s| s.cpu_us_per_op).collect())),
            placement: placement.to_owned(),
        }
    }
}

/// The middle value; of an even number the mean of the two in the middle; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Four decimals: more than any figure here holds.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_the_better_placement_make_the_report() {
        let scenario = Scenario::find("l4-established").unwrap();
        let mut samples = Samples::new();
        samples.insert(
            (scenario.workload, PathKind::WeftUser, "w"),
            vec![
                Sample::rate(1.0, 1.0),
                Sample::rate(3.0, 2.0),
                Sample::rate(2.0, 3.0),
            ],
        );
        samples.insert(
            (scenario.workload, PathKind::Iptables, "slow"),
            vec![Sample::rate(0.2, 9.0)],
        );
        samples.insert(
            (scenario.workload, PathKind::Iptables, "fast"),
            vec![Sample::rate(0.5, 4.0)],
        );
        let report = Report::new(Machine::this(), &[scenario], &samples);
        let json = serde_json::to_value(&report).unwrap();
        let first = &json["scenarios"][0];
        assert_eq!(first["paths"]["weft-user"]["median"], 2.0);
        assert_eq!(first["paths"]["iptables"]["placement"], "fast");
        assert_eq!(first["ratio"]["weft-user/iptables"], 4.0);
        assert_eq!(first["cpu_ratio"]["weft-user/iptables"], 0.5);
        assert_eq!(first["higher_is_better"], true);
        assert_eq!(
            first["paths"]["weft-user"]["runs"].as_array().map(Vec::len),
            Some(3)
        );
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
