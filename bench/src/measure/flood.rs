//! Packet rate: a generator on each of some cores in one pod, a counter at the door of the other.

use super::services::FLOOD_PORT;
use super::topology::Topology;
use super::{Sample, priority, real_time};
use crate::command::{COMMAND_LIMIT, wait};
use crate::lab::Family;
use crate::machine::busy_time;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

/// The generator's run, of which the middle is measured.
const RUN: Duration = Duration::from_millis(1600);
/// Left out at its start: ARP, flow creation, clock ramps.
const WARM_UP: Duration = Duration::from_millis(400);
/// What is measured.
const WINDOW: Duration = Duration::from_millis(1000);

/// Measures once at the placement that `topology` is in, with a flow from each of `cores`.
pub fn measure(topology: &Topology, family: Family, cores: &[usize]) -> Result<Sample> {
    let effort = topology.effort();
    let mut sink = Sink::start(topology, FLOOD_PORT, 1)?;
    let mut generators = cores
        .iter()
        .map(|core| generate(topology, family, *core))
        .collect::<Result<Vec<_>>>()?;
    thread::sleep(effort.time(WARM_UP));
    let (before, busy_before) = (sink.read()?, busy_time()?);
    thread::sleep(effort.time(WINDOW));
    let (after, busy_after) = (sink.read()?, busy_time()?);
    for generator in &mut generators {
        let status = wait(generator, COMMAND_LIMIT)?;
        if status.is_none() {
            generator.kill()?;
            generator.wait()?;
        }
        ensure!(
            status.is_some_and(|status| status.success()),
            "a generator failed: {status:?}"
        );
    }
    let packets = (after.0 - before.0) as f64;
    ensure!(packets > 0.0, "no packet arrived");
    Ok(Sample::rate(
        packets / (after.1 - before.1) as f64 * 1e3,
        (busy_after - busy_before).as_secs_f64() * 1e6 / packets,
    ))
}

/// Starts a generator on `core`, which ends by itself.
fn generate(topology: &Topology, family: Family, core: usize) -> Result<Child> {
    let program = crate::binaries::weft_lab().context("weft-lab is not beside this program")?;
    let (to, seconds) = (
        topology.target(family, FLOOD_PORT).to_string(),
        topology.effort().time(RUN).as_secs_f64().to_string(),
    );
    let (program, core) = (program.to_string_lossy().into_owned(), core.to_string());
    let words = [
        &*program,
        "udp-flood",
        &to,
        "--seconds",
        &seconds,
        "--core",
        &core,
    ];
    let words = real_time(priority::LOAD, &words);
    topology
        .client
        .namespace
        .command(words[0])
        .args(&words[1..])
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the generator")
}

/// The packet counter in the server pod.
pub(super) struct Sink {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    counter: u32,
}

impl Sink {
    /// Counts packets to `ports` UDP ports from `port` on.
    pub fn start(topology: &Topology, port: u16, ports: u16) -> Result<Self> {
        let program = crate::binaries::weft_lab().context("weft-lab is not beside this program")?;
        let (program, port, ports) = (
            program.to_string_lossy().into_owned(),
            port.to_string(),
            ports.to_string(),
        );
        let words = real_time(
            priority::SINK,
            &[&program, "sink", "--port", &port, "--ports", &ports],
        );
        let mut child = topology
            .server
            .namespace
            .command(words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the sink")?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut sink = Self {
            child,
            questions,
            answers,
            counter: 0,
        };
        let line = sink.line()?;
        let counter = line.strip_prefix("ready ");
        sink.counter = counter.context("the sink did not start")?.parse()?;
        Ok(sink)
    }

    /// The id of the BPF map that it counts in.
    pub fn counter(&self) -> u32 {
        self.counter
    }

    /// Packets so far, and when, in nanoseconds.
    fn read(&mut self) -> Result<(u64, u64)> {
        self.questions
            .as_mut()
            .context("the sink has ended")?
            .write_all(b"\n")?;
        let line = self.line()?;
        let (packets, at) = line.split_once(' ').context("the sink has ended")?;
        Ok((packets.parse()?, at.parse()?))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It detaches its program when its standard input ends.
        self.questions = None;
        if !matches!(wait(&mut self.child, Duration::from_secs(2)), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
