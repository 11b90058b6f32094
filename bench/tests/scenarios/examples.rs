//! The examples in `configs` are accepted by `weft check`, on a machine that has what they name.

use crate::fixture::with_weft;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use weft_lab::lab::Lab;
use weft_lab::weft::offline;

/// The interfaces of the pods of a file, and its uplink.
fn interfaces(text: &str) -> Result<Vec<String>> {
    let config: toml::Table = text.parse()?;
    let pods = config["pod"].as_array().context("no pods")?;
    let names = pods.iter().map(|pod| pod["interface"].as_str());
    let uplink = config["node"].get("uplink").map(toml::Value::as_str);
    names
        .chain(uplink)
        .map(|name| name.map(str::to_owned).context("no interface"))
        .collect()
}

#[test]
fn every_example_passes_weft_check_where_its_interfaces_are() -> Result<()> {
    with_weft(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
        let files = fs::read_dir(folder)?.map(|file| Ok(file?.path()));
        let files = files.collect::<Result<Vec<PathBuf>>>()?;
        let lab = Lab::new()?;
        let mut made = BTreeSet::new();
        for file in &files {
            let shown = file.display().to_string();
            for interface in interfaces(&fs::read_to_string(file)?).context(shown.clone())? {
                if made.insert(interface.clone()) {
                    let (number, outside) = (made.len(), lab.outside.name());
                    lab.node.ip(&format!(
                        "link add {interface} type veth peer name far{number} netns {outside}\n"
                    ))?;
                }
            }
            let checked = offline(&lab, &["check", &shown])?;
            ensure!(checked.success(), "{}{}", checked.stdout, checked.stderr);
        }
        ensure!(files.len() >= 2, "no examples in {folder}");
        Ok(())
    })
}
