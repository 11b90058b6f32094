//! Everything about a lab's node that a node process could change, as lines to compare.

use crate::command::{COMMAND_LIMIT, finish};
use crate::lab::Lab;
use crate::wait::wait_until;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a change of a carrier may take to be seen.
const CARRIER_LIMIT: Duration = Duration::from_secs(2);

/// The state of a node: links, addresses, routes, rules, qdiscs, offloads, rule sets, sysctls,
/// attached programs and pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Takes stock.
    pub fn take(lab: &Lab) -> Result<Self> {
        // The kernel may say of a new veth up to a second later that it has a carrier. One that has none stays so.
        let carriers = || {
            let links = finish(lab.node.command("ip").args(["-o", "link"]), COMMAND_LIMIT);
            links.is_ok_and(|links| !links.stdout.contains("NO-CARRIER"))
        };
        let _ = wait_until("carriers", CARRIER_LIMIT, carriers);
        let mut lines = BTreeSet::new();
        let mut add = |program: &str, arguments: &[&str]| -> Result<()> {
            let finished = finish(lab.node.command(program).args(arguments), COMMAND_LIMIT)?;
            ensure!(finished.status.is_some(), "{program} hangs");
            for line in finished.stdout.lines().filter(|line| !is_volatile(line)) {
                lines.insert(format!(
                    "{program} {}: {}",
                    arguments.join(" "),
                    line.trim_end()
                ));
            }
            Ok(())
        };
        add("ip", &["-o", "-d", "link"])?;
        add("ip", &["-o", "addr"])?;
        for family in ["-4", "-6"] {
            add("ip", &[family, "route", "show", "table", "all"])?;
            add("ip", &[family, "rule"])?;
        }
        add("ip", &["neigh", "show", "nud", "permanent"])?;
        add("tc", &["qdisc", "show"])?;
        add("nft", &["list", "ruleset"])?;
        add("iptables-legacy-save", &[])?;
        add("sysctl", &["-a", "-r", "^net\\."])?;
        add("bpftool", &["net", "show"])?;
        for pod in lab.pods() {
            add("ethtool", &["-k", &pod.interface])?;
        }
        if let Ok(pins) = std::fs::read_dir(lab.pin_dir()) {
            lines.extend(
                pins.flatten()
                    .map(|pin| format!("pin {}", pin.path().display())),
            );
        }
        Ok(Self { lines })
    }

    /// What `later` has more (`+`) and less (`-`). Empty when nothing changed.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let gone = self
            .lines
            .difference(&later.lines)
            .map(|line| format!("- {line}"));
        let new = later
            .lines
            .difference(&self.lines)
            .map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }
}

/// Lines that change by themselves.
fn is_volatile(line: &str) -> bool {
    const VOLATILE: [&str; 6] = [
        "nf_conntrack_count",
        "# Generated",
        "# Completed",
        "random",
        "stable_secret",
        "_seed",
    ];
    line.starts_with(':') || VOLATILE.iter().any(|word| line.contains(word))
}
