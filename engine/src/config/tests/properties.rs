//! What holds for every configuration and every text.

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{Config, parse, restart_keys};
use super::generate::{config, render, without_places};
use super::source;

/// The configuration in two files: the pods apart from everything else.
fn in_two_files(config: &Config) -> [String; 2] {
    let text = render(config);
    let pods = text.find("[[pod]]").unwrap_or(text.len());
    let services = text.find("[[service]]").unwrap_or(text.len());
    let rest = format!("{}{}", &text[..pods.min(services)], &text[services..]);
    [text[pods.min(services)..services].to_owned(), rest]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_rendered_configuration_parses_equal(config in config()) {
        let text = render(&config);
        match parse(&[source("node.toml", &text)]) {
            Ok(parsed) => prop_assert_eq!(without_places(parsed), config),
            Err(errors) => prop_assert!(false, "{}\nin\n{}", errors, text),
        }
    }

    #[test]
    fn files_add_up(config in config()) {
        let [pods, rest] = in_two_files(&config);
        for sources in [
            [source("a.toml", &pods), source("b.toml", &rest)],
            [source("b.toml", &rest), source("a.toml", &pods)],
        ] {
            let parsed = parse(&sources).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(without_places(parsed), config.clone());
        }
    }

    #[test]
    fn a_configuration_is_no_change_against_itself(config in config()) {
        prop_assert!(restart_keys(&config, &config).is_empty());
    }

    /// Each mutation cuts, doubles or overwrites a piece of a valid text. Nothing panics, and
    /// whatever is refused names a line of the text.
    #[test]
    fn a_mutated_text_never_panics(
        config in config(),
        mutations in proptest::collection::vec((any::<Index>(), 0..40_usize, mutation()), 1..6),
    ) {
        let mut text: Vec<char> = render(&config).chars().collect();
        for (at, length, mutation) in mutations {
            if text.is_empty() {
                break;
            }
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            let piece: Vec<char> = match mutation {
                Mutation::Cut => Vec::new(),
                Mutation::Double => text[start..end].repeat(2),
                Mutation::Write(new) => new.chars().collect(),
            };
            text.splice(start..end, piece);
        }
        let text: String = text.into_iter().collect();
        let lines = text.matches('\n').count() + 1;
        if let Err(errors) = parse(&[source("node.toml", &text)]) {
            prop_assert!(errors.iter().is_sorted_by_key(|error| error.at.line));
            for error in &errors {
                prop_assert!((1..=lines).contains(&error.at.line), "{}", error);
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }

    #[test]
    fn any_text_never_panics(text in "(\\PC|[\n\r\t\\[\\]{}=\"'.,#]){0,200}") {
        let _ = parse(&[source("node.toml", &text)]);
    }

    /// SVC-40: a quad with any leading zero is refused as such, whatever else is in it.
    #[test]
    fn a_leading_zero_is_never_an_address(
        quad in any::<[u8; 4]>(), zeros in 1..4_usize, place in 0..4_usize,
    ) {
        let mut numbers = quad.map(|number| number.to_string());
        numbers[place] = format!("{}{}", "0".repeat(zeros), numbers[place]);
        let address = numbers.join(".");
        let text = format!("[node]\nname = \"a\"\n[[pod]]\nname = \"x\"\ninterface = \"v\"\nip = \"{address}\"\n");
        let errors = parse(&[source("node.toml", &text)]).unwrap_err().to_string();
        prop_assert!(errors.contains("has leading zeros"), "{}", errors);
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Cut,
    Double,
    Write(String),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        Just(Mutation::Cut),
        Just(Mutation::Double),
        "[\\[\\]{}=\"'.,#\n\r0-9a-z \\-\\\\]{0,4}|\\PC{1,3}".prop_map(Mutation::Write),
    ]
}
