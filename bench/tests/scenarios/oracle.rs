//! The oracle (U-18): where Weft's decisions differ from those of kube-proxy's iptables rules, and that its own tiers
//! do not differ from each other.

use crate::fixture::{soak, with_weft};
use anyhow::{Context, Result, ensure};
use weft_lab::oracle::{self, Findings, Mismatch, Tiers};

const DOCUMENT: &str = include_str!("../../../docs/oracle.md");
/// Seeds of services and packets; a soak takes more of them.
const SEEDS: u64 = 2;
const SOAK_SEEDS: u64 = 30;

fn seeds() -> std::ops::Range<u64> {
    0..if soak() { SOAK_SEEDS } else { SEEDS }
}

#[test]
fn u18_the_same_packets_fare_as_under_iptables_rules_but_for_the_listed_differences() -> Result<()>
{
    with_weft(|| {
        let mut findings = Findings::default();
        for seed in seeds() {
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

/// Addresses, ports, payloads, checksums and TTLs are drawn; what arrives is compared byte by byte (SVC-01, -26, -28, -32).
#[test]
fn u18_svc01_generated_flows_are_the_same_packets_whichever_tier_carries_them() -> Result<()> {
    with_weft(|| {
        let mut tiers = Tiers::default();
        for seed in seeds() {
            tiers.add(seed).with_context(|| format!("seed {seed}"))?;
        }
        eprintln!("{tiers:?}");
        let [off, flows, full] = tiers.punted.map(|packets| packets as usize);
        ensure!(
            off >= tiers.packets && flows < tiers.packets && full * 10 < tiers.packets,
            "{tiers:?}: the kernel did not carry them"
        );
        Ok(())
    })
}
