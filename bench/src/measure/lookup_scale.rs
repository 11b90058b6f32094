//! What the first packet of a flow costs the engine as services become many.

use super::placement::LOAD_CORE;
use super::{Effort, Sample, tool};
use crate::tools::lookup::{Decisions, Popularity};
use anyhow::Result;
use clap::ValueEnum;

/// For the report: there is no other.
pub const PLACEMENT: &str = "in process";
/// Flows a run.
const FLOWS: usize = 100_000;
/// Services beyond which a quick run does not go: their tables take seconds to build.
const QUICK: usize = 1000;

/// So many services, asked for in such a way: a path of the report.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, `<popularity>-<services>`.
    pub path: &'static str,
    services: usize,
    popularity: Popularity,
}

const fn case(path: &'static str, popularity: Popularity, services: usize) -> Case {
    Case {
        path,
        services,
        popularity,
    }
}

/// Every case, in the order each repetition takes them.
static CASES: [Case; 8] = [
    case("uniform-10", Popularity::Uniform, 10),
    case("uniform-1000", Popularity::Uniform, 1000),
    case("uniform-10000", Popularity::Uniform, 10_000),
    case("uniform-100000", Popularity::Uniform, 100_000),
    case("zipf-10", Popularity::Zipf, 10),
    case("zipf-1000", Popularity::Zipf, 1000),
    case("zipf-10000", Popularity::Zipf, 10_000),
    case("zipf-100000", Popularity::Zipf, 100_000),
];

/// The case of the fewest services with the popularity of `path`; what the others are compared with.
pub fn smallest(path: &str) -> Option<&'static str> {
    let case = CASES.iter().find(|case| case.path == path)?;
    CASES
        .iter()
        .filter(|other| other.popularity == case.popularity)
        .min_by_key(|other| other.services)
        .map(|smallest| smallest.path)
}

/// The cases to measure.
pub fn cases(effort: Effort) -> impl Iterator<Item = &'static Case> {
    let most = match effort {
        Effort::Full => usize::MAX,
        Effort::Quick => QUICK,
    };
    CASES.iter().filter(move |case| case.services <= most)
}

/// Measures once, in a process of its own, whose memory holds nothing of the case before.
pub fn measure(case: &Case, effort: Effort) -> Result<Sample> {
    let popularity = case.popularity.to_possible_value();
    let popularity = popularity.as_ref().map_or("", |value| value.get_name());
    let [services, flows, core] =
        [case.services, effort.operations(FLOWS), LOAD_CORE].map(|number| number.to_string());
    let found: Decisions = tool::run_outside(&[
        "lookup",
        "--services",
        &services,
        "--popularity",
        popularity,
        "--flows",
        &flows,
        "--core",
        &core,
    ])?;
    Ok(Sample::times(found.ns, f64::NAN, found.cpu_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_the_case_is() {
        for case in &CASES {
            let popularity = case.popularity.to_possible_value().unwrap();
            assert_eq!(
                case.path,
                format!("{}-{}", popularity.get_name(), case.services)
            );
            let smallest = smallest(case.path).unwrap();
            assert_eq!(smallest, format!("{}-10", popularity.get_name()));
        }
    }
}
