//! Packet captures that compare what a pod put on the wire in two runs.

use crate::command::run;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::{START_LIMIT, wait_until};
use anyhow::Result;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Protocols that labs speak. Others tshark guesses from ports, which here are anybody's.
const SPOKEN: [&str; 8] = [
    "ip", "ipv6", "udp", "tcp", "icmp", "icmpv6", "geneve", "vxlan",
];

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures what matches `filter` on `interface` inside `namespace` into `directory`.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        filter: &str,
        directory: &Path,
        name: &str,
    ) -> Result<Self> {
        let file = directory.join(format!("{name}.pcap"));
        let mut command = namespace.command("tcpdump");
        command.args([
            "-i",
            interface,
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-Z",
            "root",
            "-w",
        ]);
        let process = Process::start(
            &format!("tcpdump-{name}"),
            command.arg(&file).arg(filter),
            directory,
        )?;
        wait_until("tcpdump", START_LIMIT, || {
            process.log().contains("listening on")
        })?;
        Ok(Self { process, file })
    }

    /// Ends it and returns the file.
    pub fn stop(mut self) -> Result<PathBuf> {
        // The last packets are in the socket, not yet in the file.
        std::thread::sleep(Duration::from_millis(200));
        self.process.signal(Signal::INT)?;
        self.process.wait(START_LIMIT)?;
        Ok(self.file.clone())
    }
}

/// What tshark reads in a capture: the fields of each packet that matches `filter`, innermost last. Checksums are verified.
pub fn dissect(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-Y", filter]);
    for protocol in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    command.args(["-T", "fields", "-E", "separator=/t"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let text = run(&mut command)?;
    Ok(text
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect())
}

/// What tshark finds wrong in a capture, as lines. A checksum of TCP that comes out as zero the kernel completes to
/// 0xffff, as UDP asks it to: the same number, and no fault.
pub fn faults(file: &Path) -> Result<Vec<String>> {
    const NEGATIVE_ZERO: &str = "Checksum 0xffff instead of 0x0000";
    const ERROR: &str = "_ws.malformed || _ws.expert.severity == 0x800000";
    let sums = SPOKEN.map(|protocol| match protocol {
        "ipv6" | "geneve" | "vxlan" => "frame.number == 0".to_owned(),
        _ => format!("{protocol}.checksum.status == 0"),
    });
    let fields = ["frame.number", "frame.protocols", "_ws.expert.message"];
    let mut found = dissect(file, &sums.join(" || "), &fields)?;
    let spoken = |words: &Vec<String>| {
        let innermost = words[1].rsplit(':').next().unwrap_or_default();
        SPOKEN.contains(&innermost)
    };
    found.extend(dissect(file, ERROR, &fields)?.into_iter().filter(spoken));
    found.retain(|words| !words[2].contains(NEGATIVE_ZERO));
    Ok(found.into_iter().map(|words| words.join(" ")).collect())
}

/// Every packet of a capture as hexadecimal bytes, link layer included, times left out.
pub fn packets(file: &Path) -> Result<Vec<String>> {
    let text = run(Command::new("tcpdump")
        .args(["-r"])
        .arg(file)
        .args(["-nn", "-t", "-q", "-xx"]))?;
    let mut packets: Vec<String> = Vec::new();
    for line in text.lines() {
        // A line of bytes is indented: "\t0x0010:  0001 0203 ...".
        match line
            .trim_start()
            .strip_prefix("0x")
            .and_then(|rest| rest.split_once(':'))
        {
            Some((_, bytes)) => {
                let bytes: String = bytes.chars().filter(|c| !c.is_whitespace()).collect();
                if let Some(packet) = packets.last_mut() {
                    packet.push_str(&bytes);
                }
            }
            None => packets.push(String::new()),
        }
    }
    Ok(packets)
}
