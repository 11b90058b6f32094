//! The rows of `docs/steering.md`: the one written artefact that the tests of the engine and of the BPF
//! programs are generated from. A cell with an unknown value is an error, so a row cannot go unchecked.

use crate::{Claim, DropReason, Hook, KernelReason};

#[cfg(test)]
mod tests;

/// Text that is no steering table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A row with too few or too many cells.
    #[error("line {line}: a row has 8 cells, this one {cells}")]
    Cells {
        /// The line, from 1.
        line: usize,
        /// Its cells.
        cells: usize,
    },
    /// A cell that means nothing.
    #[error("line {line}: `{value}` is no {column}")]
    Value {
        /// The line, from 1.
        line: usize,
        /// The column.
        column: &'static str,
        /// The cell.
        value: String,
    },
    /// A row under a heading that names no hook.
    #[error("line {line}: a row outside the two sections")]
    Section {
        /// The line, from 1.
        line: usize,
    },
}

/// Defines the values of a column: the enum and their texts.
macro_rules! column {
    ($(#[$meta:meta])* $name:ident, $column:literal { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The cell's text.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            fn parse(line: usize, value: &str) -> Result<Self, ParseError> {
                Self::ALL
                    .into_iter()
                    .find(|known| known.text() == value)
                    .ok_or_else(|| ParseError::Value { line, column: $column, value: value.to_owned() })
            }
        }
    };
}

column! {
    /// Who sends.
    Source, "source" {
        /// An enrolled pod, from its own address.
        EnrolledPod = "enrolled pod",
        /// An enrolled pod, from an address that is not its own.
        SpoofingPod = "enrolled pod, spoofed source",
        /// A packet of an enrolled pod that Weft gave back to the kernel.
        Reingressed = "enrolled pod, re-ingressed",
        /// A pod on this node that is not enrolled.
        OtherPod = "other local pod",
        /// The node itself.
        Host = "host",
        /// Anything beyond the node.
        Outside = "outside",
    }
}

column! {
    /// To whom.
    Destination, "destination" {
        /// A VIP, at a port of its service.
        ServicePort = "service port",
        /// The same, without a ready backend.
        ServicePortWithoutBackends = "service port without backends",
        /// A VIP, at a TCP port whose connections end here.
        ServicePortWithStage = "service port with a stage",
        /// A VIP, at a port that no service has.
        VipOtherPort = "VIP, other port",
        /// A VIP, an ICMP error that quotes a packet.
        VipError = "VIP, ICMP error",
        /// A VIP, an ICMP error that says that a packet was too long for its path.
        VipTooLong = "VIP, packet too big",
        /// A VIP, an echo request.
        VipEcho = "VIP, echo request",
        /// A VIP, any other ICMP message.
        VipOtherIcmp = "VIP, other ICMP",
        /// A VIP, neither TCP, UDP nor ICMP.
        VipOtherProtocol = "VIP, other protocol",
        /// A VIP, at a port of its service, the first fragment of a packet.
        VipFirstFragment = "VIP, first fragment",
        /// A VIP, another fragment.
        VipLaterFragment = "VIP, later fragment",
        /// A VIP, at a TCP port whose connections end here, the first fragment of a packet.
        StageFirstFragment = "service port with a stage, first fragment",
        /// A VIP, IPv6 extension headers that are not followed.
        VipExtension = "VIP, IPv6 extension",
        /// An enrolled pod, TCP or UDP.
        EnrolledPod = "enrolled pod",
        /// An enrolled pod, TCP only.
        EnrolledPodTcp = "enrolled pod, TCP",
        /// An enrolled pod, UDP only.
        EnrolledPodUdp = "enrolled pod, UDP",
        /// An enrolled pod, the first fragment of a packet.
        EnrolledPodFirstFragment = "enrolled pod, first fragment",
        /// An enrolled pod, another fragment.
        EnrolledPodLaterFragment = "enrolled pod, later fragment",
        /// An enrolled pod, an ICMP error that quotes a packet.
        EnrolledPodError = "enrolled pod, ICMP error",
        /// An enrolled pod, an ICMP error that says that a packet was too long for its path.
        EnrolledPodTooLong = "enrolled pod, packet too big",
        /// An enrolled pod, neither TCP, UDP nor an ICMP error.
        EnrolledPodOtherProtocol = "enrolled pod, other protocol",
        /// What a pod that reaches itself through a service sees as its client, TCP or UDP.
        Hairpin = "hairpin address",
        /// A pod on this node that is not enrolled.
        OtherPod = "other local pod",
        /// The same, an ICMP error that quotes a packet.
        OtherPodError = "other local pod, ICMP error",
        /// A pod on another node.
        Overlay = "overlay range",
        /// A node's address on the underlay, at the port of tunnels, whole or the first fragment of a packet.
        Tunnel = "another node's tunnel",
        /// The node itself.
        Node = "this node",
        /// The same, an ICMP error that quotes a packet.
        NodeError = "this node, ICMP error",
        /// The same, an ICMP error that says that a packet was too long for its path.
        NodeTooLong = "this node, packet too big",
        /// An address that Weft knows nothing about.
        AnythingElse = "anything else",
        /// Link-local or multicast.
        LinkLocal = "link-local or multicast",
        /// Whatever.
        Any = "any",
    }
}

column! {
    /// Whether the packet opens a flow.
    Opens, "value of `opens`" {
        /// A TCP SYN without ACK, or a UDP datagram.
        Yes = "yes",
        /// Any other TCP segment.
        No = "no",
        /// Either.
        Any = "any",
    }
}

column! {
    /// Whether the flow is known.
    Entry, "entry" {
        /// Unknown.
        None = "none",
        /// Known, and translated.
        Ours = "ours",
        /// Known, and its connections end here.
        Terminated = "terminated",
        /// Either.
        Any = "any",
    }
}

column! {
    /// Where the enrolment of the pods stands.
    Enrolment, "enrolment" {
        /// The younger one is recent.
        Grace = "grace",
        /// Neither is recent.
        Settled = "settled",
        /// One has left the configuration.
        Draining = "draining",
        /// Whatever.
        Any = "any",
    }
}

/// What the BPF program at the pod's hook does.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum BpfVerdict {
    /// Into the worker's AF_XDP socket.
    Punt,
    /// Left to the kernel.
    Kernel,
    /// Dropped under that name.
    Drop(DropReason),
}

impl BpfVerdict {
    fn parse(line: usize, value: &str) -> Result<Self, ParseError> {
        match value.split_once(' ') {
            None if value == "punt" => Some(Self::Punt),
            None if value == "kernel" => Some(Self::Kernel),
            Some(("drop", name)) => DropReason::from_name(name).map(Self::Drop),
            _ => None,
        }
        .ok_or_else(|| ParseError::Value {
            line,
            column: "BPF verdict",
            value: value.to_owned(),
        })
    }
}

/// What the engine does with what was punted.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum EngineVerdict {
    /// It never sees the packet.
    NotAsked,
    /// [`Verdict::Deliver`](crate::Verdict::Deliver).
    Deliver,
    /// [`Verdict::Reply`](crate::Verdict::Reply).
    Reply,
    /// [`Verdict::Hold`](crate::Verdict::Hold).
    Hold,
    /// [`Verdict::Terminate`](crate::Verdict::Terminate).
    Terminate(Claim),
    /// [`Verdict::Kernel`](crate::Verdict::Kernel).
    Kernel(KernelReason),
    /// [`Verdict::Drop`](crate::Verdict::Drop).
    Drop(DropReason),
}

impl EngineVerdict {
    fn parse(line: usize, value: &str) -> Result<Self, ParseError> {
        match value.split_once(' ') {
            None if value == "-" => Some(Self::NotAsked),
            None if value == "deliver" => Some(Self::Deliver),
            None if value == "reply" => Some(Self::Reply),
            None if value == "hold" => Some(Self::Hold),
            None if value == "terminate" => Some(Self::Terminate(Claim::Stack)),
            Some(("terminate", name)) => Claim::from_name(name).map(Self::Terminate),
            Some(("kernel", name)) => KernelReason::from_name(name).map(Self::Kernel),
            Some(("drop", name)) => DropReason::from_name(name).map(Self::Drop),
            _ => None,
        }
        .ok_or_else(|| ParseError::Value {
            line,
            column: "engine verdict",
            value: value.to_owned(),
        })
    }
}

/// One row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The hook whose section it stands in.
    pub hook: Hook,
    /// Who sends.
    pub source: Source,
    /// To whom.
    pub destination: Destination,
    /// Whether the packet opens a flow.
    pub opens: Opens,
    /// Whether the flow is known.
    pub entry: Entry,
    /// Where the enrolment stands.
    pub enrolment: Enrolment,
    /// What the BPF program does.
    pub bpf: BpfVerdict,
    /// What the engine does then.
    pub engine: EngineVerdict,
    /// Why.
    pub why: String,
}

/// Reads the rows of the document: those under the headings of the two hooks, but not the tables' heads.
pub fn parse(document: &str) -> Result<Vec<Row>, ParseError> {
    let mut hook = None;
    let mut rows = Vec::new();
    for (index, text) in document.lines().enumerate() {
        let line = index + 1;
        if let Some(heading) = text.strip_prefix("## ") {
            hook = match heading.trim() {
                "What an enrolled pod sends" => Some(Hook::FromPod),
                "What the kernel delivers to an enrolled pod" => Some(Hook::ToPod),
                _ => None,
            };
        }
        let Some(inner) = text
            .trim()
            .strip_prefix('|')
            .and_then(|text| text.strip_suffix('|'))
        else {
            continue;
        };
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        // The legend of verdicts, and each table's head and rule.
        if cells.len() == 2 || cells[0] == "source" || cells[0].starts_with("---") {
            continue;
        }
        let &[
            source,
            destination,
            opens,
            entry,
            enrolment,
            bpf,
            engine,
            why,
        ] = cells.as_slice()
        else {
            return Err(ParseError::Cells {
                line,
                cells: cells.len(),
            });
        };
        rows.push(Row {
            line,
            hook: hook.ok_or(ParseError::Section { line })?,
            source: Source::parse(line, source)?,
            destination: Destination::parse(line, destination)?,
            opens: Opens::parse(line, opens)?,
            entry: Entry::parse(line, entry)?,
            enrolment: Enrolment::parse(line, enrolment)?,
            bpf: BpfVerdict::parse(line, bpf)?,
            engine: EngineVerdict::parse(line, engine)?,
            why: why.to_owned(),
        });
    }
    Ok(rows)
}
