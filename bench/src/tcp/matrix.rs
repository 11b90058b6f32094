//! Measures every case on every side, Linux and Weft in turns.

use super::case::Case;
use super::report::{Cell, Report, Run, Side};
use super::world::{World, service};
use crate::binaries;
use crate::command::finish;
use crate::lab::{self, Family};
use crate::machine::Machine;
use crate::measure::{priority, real_time};
use crate::progress::Progress;
use crate::tools::transfer::Transfer;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// How long one transfer may take.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// What to measure.
#[derive(Debug)]
pub struct Matrix {
    /// Over which links.
    pub cases: Vec<Case>,
    /// Bytes of one transfer, before a case takes its part of it.
    pub bytes: u64,
    /// How often.
    pub reps: usize,
    /// The stage of the services in Weft.
    pub stage: Option<String>,
}

impl Matrix {
    /// The cases called `ids`, all when none is named.
    pub fn new(ids: &[String], bytes: u64, reps: usize, stage: Option<String>) -> Result<Self> {
        ensure!(reps > 0, "no repetition, no figure");
        let cases = if ids.is_empty() {
            Case::ALL.to_vec()
        } else {
            ids.iter().map(|id| Case::find(id)).collect::<Result<_>>()?
        };
        Ok(Self {
            cases,
            bytes,
            reps,
            stage,
        })
    }

    /// Measures.
    pub fn run(&self) -> Result<Report> {
        let _alone = lab::exclusive()?;
        let mut linux = World::under(&real_time(priority::LOAD, &[]))?;
        linux.kube_proxy()?;
        let mut weft = World::under(&real_time(priority::LOAD, &[]))?;
        let wrapper = real_time(priority::DATAPLANE, &[]);
        let node = weft.weft_under(self.stage.as_deref(), &wrapper)?;
        let turns: Vec<(Case, Side)> = self
            .cases
            .iter()
            .flat_map(|case| Side::ALL.map(|side| (*case, side)))
            .collect();
        let mut cells: Vec<Cell> = turns
            .iter()
            .map(|(case, side)| Cell::new(case.id, *side))
            .collect();
        let mut progress = Progress::new((turns.len() * self.reps) as u64);
        for rep in 1..=self.reps {
            for ((case, side), cell) in turns.iter().zip(&mut cells) {
                progress.step(&format!("repetition {rep}: {}, {}", case.id, side.id()));
                cell.linux
                    .push(self.measure(&mut linux, *case, *side).context("Linux")?);
                let run = self.measure(&mut weft, *case, *side);
                cell.weft.push(run.with_context(|| {
                    let status = node.text(&["status"]).unwrap_or_default();
                    format!("{}{status}Weft", node.log())
                })?);
            }
        }
        Ok(Report {
            machine: Machine::this(),
            bytes: self.bytes,
            reps: self.reps,
            stage: self.stage.clone().unwrap_or_else(|| "l4".into()),
            cells,
        })
    }

    fn measure(&self, world: &mut World, case: Case, side: Side) -> Result<Run> {
        world.impair(case.impairment()?)?;
        let (number, mode) = side.transfer();
        let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
        let [program, to, bytes] = [
            program.to_string_lossy().into_owned(),
            service(number, Family::V4).to_string(),
            (self.bytes / case.part).to_string(),
        ];
        let words = [&program, "transfer", &to, mode.id(), "--bytes", &bytes];
        let words = real_time(priority::LOAD, &words);
        let client = &world.client.pod.namespace;
        let finished = finish(client.command(words[0]).args(&words[1..]), RUN_LIMIT)?;
        ensure!(
            finished.success(),
            "{}, {}: {}",
            case.id,
            side.id(),
            finished.stderr.trim()
        );
        let found: Transfer = serde_json::from_str(&finished.stdout)?;
        Ok(Run {
            goodput: found.goodput,
            seconds: found.seconds,
            longest_stall: found.longest_stall,
        })
    }
}
