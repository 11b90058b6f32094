//! The list of differences in docs/oracle.md.

use super::Difference;
use std::collections::{BTreeMap, BTreeSet};

/// A listed difference that no packet showed, or one that is not listed; as the test prints them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Found, but not listed: rows to add, with `?` for what a human has to say.
    pub missing: Vec<String>,
    /// Listed, but not found: the ids.
    pub stale: Vec<String>,
    /// Rows that cannot be read, and ids that are used twice.
    pub broken: Vec<String>,
}

/// Compares the table in `document` with what was found.
///
/// A row is `| id | packet | kube-proxy | Weft | why |`; the three in the middle are compared.
pub fn compare(document: &str, found: &BTreeSet<Difference>) -> Mismatch {
    let mut mismatch = Mismatch::default();
    let mut listed: BTreeMap<Difference, String> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for line in document.lines().filter(|line| line.starts_with("| O")) {
        let cells: Vec<&str> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let [id, packet, kernel, weft, why] = cells[..] else {
            mismatch.broken.push(line.to_owned());
            continue;
        };
        if why.is_empty() || why == "?" || !ids.insert(id.to_owned()) {
            mismatch.broken.push(line.to_owned());
        }
        let difference = Difference {
            packet: packet.into(),
            kernel: kernel.into(),
            weft: weft.into(),
        };
        if let Some(other) = listed.insert(difference, id.into()) {
            mismatch
                .broken
                .push(format!("{other} and {id} say the same"));
        }
    }
    for difference in found {
        if listed.remove(difference).is_none() {
            let Difference {
                packet,
                kernel,
                weft,
            } = difference;
            mismatch
                .missing
                .push(format!("| O? | {packet} | `{kernel}` | `{weft}` | ? |"));
        }
    }
    mismatch.stale = listed
        .into_iter()
        .map(|(difference, id)| format!("{id}: {}", difference.packet))
        .collect();
    mismatch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference() -> Difference {
        Difference {
            packet: "UDP to a pod".into(),
            kernel: "nothing".into(),
            weft: "server: UDP client:c > server:t".into(),
        }
    }

    const ROW: &str =
        "| O1 | UDP to a pod | `nothing` | `server: UDP client:c > server:t` | because |";

    #[test]
    fn a_list_that_says_what_was_found_matches() {
        assert_eq!(
            compare(ROW, &BTreeSet::from([difference()])),
            Mismatch::default()
        );
    }

    #[test]
    fn a_difference_that_is_not_listed_is_printed_as_the_row_to_add() {
        let mismatch = compare("", &BTreeSet::from([difference()]));
        assert_eq!(
            mismatch.missing,
            [ROW.replace("O1", "O?").replace("because", "?")]
        );
    }

    #[test]
    fn a_listed_difference_that_does_not_occur_is_stale() {
        assert_eq!(compare(ROW, &BTreeSet::new()).stale, ["O1: UDP to a pod"]);
    }

    #[test]
    fn a_row_without_a_reason_or_with_anothers_id_is_broken() {
        let found = BTreeSet::from([difference()]);
        assert_eq!(
            compare(&ROW.replace("because", "?"), &found).broken.len(),
            1
        );
        assert_eq!(compare(&format!("{ROW}\n{ROW}"), &found).broken.len(), 2);
        assert_eq!(compare("| O1 | a |", &found).broken.len(), 1);
    }
}
