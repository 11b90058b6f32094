//! The oracle (U-18): where Weft's decisions differ from those of kube-proxy's iptables rules.

use crate::fixture::{soak, with_weft};
use anyhow::{Result, ensure};
use weft_lab::oracle::{self, Findings, Mismatch};

const DOCUMENT: &str = include_str!("../../../docs/oracle.md");
/// Seeds of services and packets; a soak takes more of them.
const SEEDS: u64 = 2;
const SOAK_SEEDS: u64 = 30;

#[test]
fn u18_the_same_packets_fare_as_under_iptables_rules_but_for_the_listed_differences() -> Result<()>
{
    with_weft(|| {
        let mut findings = Findings::default();
        for seed in 0..if soak() { SOAK_SEEDS } else { SEEDS } {
            findings.add(seed)?;
        }
        ensure!(findings.cases > 600, "only {} cases", findings.cases);
        let mismatch = oracle::compare(DOCUMENT, &findings.differences());
        ensure!(
            mismatch == Mismatch::default(),
            "docs/oracle.md is not what was found.\nAdd, with an id and a reason:\n{}\n\
             Remove, for it does not occur:\n{}\nRepair:\n{}",
            mismatch.missing.join("\n"),
            mismatch.stale.join("\n"),
            mismatch.broken.join("\n")
        );
        Ok(())
    })
}
