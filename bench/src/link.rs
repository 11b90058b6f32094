//! A bad link between two interfaces of a namespace: the process that moves the frames ([`crate::tools::link`]).

use crate::binaries;
use crate::command::run;
use crate::impairment::Impairment;
use crate::measure::priority;
use crate::namespace::Namespace;
use crate::tools::link::LinkCounters;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// Makes an interface at the end of a link put whole frames with their checksums onto it, and take single frames off it.
pub(crate) fn whole_frames(namespace: &Namespace, interface: &str) -> Result<()> {
    let words = ["tso", "off", "tx", "off", "gro", "off"];
    let mut command = namespace.command("ethtool");
    run(command.args(["-K", interface]).args(words)).map(drop)
}

/// The process. It ends with its standard input, or with its namespace.
#[derive(Debug)]
pub(crate) struct Link {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Link {
    /// Joins the two interfaces of `middle`; `up` is the way from the first to the second.
    pub(crate) fn start(
        middle: &Namespace,
        ends: [&str; 2],
        up: Impairment,
        down: Impairment,
    ) -> Result<Self> {
        let program = binaries::weft_lab().context("weft-lab is not beside this program")?;
        // A network does not wait for a processor.
        let mut child = middle
            .command("chrt")
            .args(["-f", priority::DATAPLANE])
            .arg(program)
            .arg("link")
            .args(ends)
            .args(["--up", &up.to_string(), "--down", &down.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the link")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no standard output")?;
        let mut link = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let ready = link.line()?;
        ensure!(ready == "ready", "the link says {ready:?}");
        Ok(link)
    }

    /// What it says to an order: what has become of the frames so far.
    pub(crate) fn ask(&mut self, order: &str) -> Result<LinkCounters> {
        let stdin = self.stdin.as_mut().context("the link has ended")?;
        writeln!(stdin, "{order}").context("the link has ended")?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("{order}: {line:?}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the link has ended");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}
