//! The report: medians, extremes, all runs, and ratios between the paths.

use super::Sample;
use super::path::PathKind;
use super::scenario::{Scenario, Workload};
use crate::machine::Machine;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// All samples of a run, by workload, path and placement.
pub type Samples = BTreeMap<(Workload, &'static str, &'static str), Vec<Sample>>;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// True for a run that only shows that everything works: its figures mean nothing.
    pub quick: bool,
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
    /// Quotients of medians, by `<path>/<other path>`: of Weft and each other, or of many services and few.
    pub ratio: BTreeMap<String, f64>,
    /// Quotients of processor times per operation.
    pub cpu_ratio: BTreeMap<String, f64>,
    /// Quotients of each path's median and its own over IPv4, where this is over IPv6 and both were measured.
    pub over_ipv4: BTreeMap<String, f64>,
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
    pub fn new(machine: Machine, scenarios: &[&Scenario], samples: &Samples, quick: bool) -> Self {
        let mut reports: Vec<_> = scenarios
            .iter()
            .map(|scenario| ScenarioReport::new(scenario, samples))
            .collect();
        for (index, scenario) in scenarios.iter().enumerate() {
            let beside = reports
                .iter()
                .find(|report| Some(&*report.id) == scenario.over_ipv4);
            reports[index].over_ipv4 = beside
                .map(|beside| reports[index].compared(beside))
                .unwrap_or_default();
        }
        Self {
            machine,
            quick,
            scenarios: reports,
        }
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
    /// Its quotients, one a line.
    pub fn quotients(&self) -> Vec<String> {
        let ratios = self.ratio.iter().map(|(name, ratio)| {
            let cpu = self.cpu_ratio.get(name);
            let cpu = cpu.map_or_else(String::new, |cpu| format!(", processor time {cpu:.2}"));
            format!("{name}: {ratio:.2}{cpu}")
        });
        let families = self.over_ipv4.iter();
        let families = families.map(|(path, ratio)| format!("{path}, IPv6/IPv4: {ratio:.2}"));
        ratios.chain(families).collect()
    }

    /// Quotients of each path's median and its own in `other`.
    fn compared(&self, other: &Self) -> BTreeMap<String, f64> {
        let quotient = |(path, own): (&String, &PathReport)| {
            let other = other.paths.get(path)?;
            Some((path.clone(), round(own.median / other.median)))
        };
        self.paths.iter().filter_map(quotient).collect()
    }

    fn new(scenario: &Scenario, samples: &Samples) -> Self {
        let mut paths: BTreeMap<String, PathReport> = BTreeMap::new();
        for ((workload, path, placement), samples) in samples {
            if *workload != scenario.workload {
                continue;
            }
            let report = PathReport::new(scenario, placement, samples);
            let better = paths.get(*path).is_none_or(|best| {
                if scenario.higher_is_better {
                    report.median > best.median
                } else {
                    report.median < best.median
                }
            });
            if better {
                paths.insert((*path).to_owned(), report);
            }
        }
        if scenario.beyond_direct {
            let direct = paths.remove(PathKind::Direct.id());
            let direct = direct.map_or(f64::NAN, |direct| direct.median);
            for path in paths.values_mut() {
                path.subtract(direct);
            }
        }
        let mut ratio = BTreeMap::new();
        let mut cpu_ratio = BTreeMap::new();
        for (one, other) in scenario.pairs(paths.keys().map(String::as_str)) {
            let (name, one, other) = (format!("{one}/{other}"), &paths[one], &paths[other]);
            // Too short for the tick that processor time is sampled by: no figure rather than a wrong one.
            if other.cpu_us_per_op > 0.0 {
                let quotient = one.cpu_us_per_op / other.cpu_us_per_op;
                cpu_ratio.insert(name.clone(), round(quotient));
            }
            ratio.insert(name, round(one.median / other.median));
        }
        Self {
            id: scenario.id.into(),
            unit: scenario.unit.into(),
            higher_is_better: scenario.higher_is_better,
            paths,
            ratio,
            cpu_ratio,
            over_ipv4: BTreeMap::new(),
            about: scenario.about.into(),
        }
    }
}

impl PathReport {
    fn new(scenario: &Scenario, placement: &str, samples: &[Sample]) -> Self {
        let runs: Vec<f64> = samples
            .iter()
            .map(|sample| round(sample.figure(scenario.figure)))
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

    /// Leaves what every figure is more than `base`.
    fn subtract(&mut self, base: f64) {
        let runs = self.runs.iter_mut();
        for figure in runs.chain([&mut self.median, &mut self.min, &mut self.max]) {
            *figure = round(*figure - base);
        }
    }
}

/// The middle value; of an even number the mean of the two in the middle; NaN of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
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
            (scenario.workload, "weft-user", "w"),
            vec![
                Sample::rate(1.0, 1.0),
                Sample::rate(3.0, 2.0),
                Sample::rate(2.0, 3.0),
            ],
        );
        samples.insert(
            (scenario.workload, "iptables", "slow"),
            vec![Sample::rate(0.2, 9.0)],
        );
        samples.insert(
            (scenario.workload, "iptables", "fast"),
            vec![Sample::rate(0.5, 4.0)],
        );
        let report = Report::new(Machine::this(), &[scenario], &samples, false);
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
    fn many_services_are_compared_with_few() {
        let scenario = Scenario::find("l4-lookup-scale").unwrap();
        let mut samples = Samples::new();
        for (path, ns) in [
            ("uniform-10", 200.0),
            ("uniform-100000", 500.0),
            ("zipf-10", 200.0),
            ("zipf-100000", 260.0),
        ] {
            let sample = Sample::times(ns, f64::NAN, 0.0);
            samples.insert((scenario.workload, path, "p"), vec![sample]);
        }
        let report = Report::new(Machine::this(), &[scenario], &samples, false);
        let json = serde_json::to_value(&report).unwrap();
        let first = &json["scenarios"][0];
        assert_eq!(
            first["ratio"],
            serde_json::json!({"uniform-100000/uniform-10": 2.5, "zipf-100000/zipf-10": 1.3})
        );
        // Nothing was sampled: no quotient.
        assert_eq!(first["cpu_ratio"], serde_json::json!({}));
    }

    #[test]
    fn a_path_over_ipv6_is_compared_with_itself_over_ipv4() {
        let [v6, v4] =
            ["l4-established-v6", "l4-established"].map(|id| Scenario::find(id).unwrap());
        let mut samples = Samples::new();
        for (scenario, path, rate) in [(v4, "weft", 2.0), (v6, "weft", 1.9), (v6, "ebpf", 1.0)] {
            let sample = Sample::rate(rate, 1.0);
            samples.insert((scenario.workload, path, "p"), vec![sample]);
        }
        let report = Report::new(Machine::this(), &[v6, v4], &samples, false);
        let lines = report.scenarios[0].quotients();
        assert_eq!(
            lines,
            [
                "weft/ebpf: 1.90, processor time 1.00",
                "weft, IPv6/IPv4: 0.95"
            ]
        );
        let alone = Report::new(Machine::this(), &[v6], &samples, false);
        assert!(alone.scenarios[0].over_ipv4.is_empty());
    }

    #[test]
    fn a_hop_is_what_a_path_takes_beyond_direct() {
        let scenario = Scenario::find("l7-hop-cpu-32").unwrap();
        let mut samples = Samples::new();
        for (path, placement, cpu) in [
            ("weft", "p", 30.0),
            ("haproxy", "p", 45.0),
            ("direct", "p", 26.0),
            ("direct", "q", 25.0),
        ] {
            let sample = Sample::rate(f64::NAN, cpu);
            samples.insert((scenario.workload, path, placement), vec![sample]);
        }
        let report = Report::new(Machine::this(), &[scenario], &samples, false);
        let json = serde_json::to_value(&report).unwrap();
        let first = &json["scenarios"][0];
        assert_eq!(first["paths"]["weft"]["median"], 5.0);
        assert_eq!(first["paths"]["haproxy"]["runs"][0], 20.0);
        assert_eq!(first["ratio"], serde_json::json!({"weft/haproxy": 0.25}));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
