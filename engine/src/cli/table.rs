//! Answers as tables, for people.

use std::fmt::Write;

use comfy_table::{Table, presets};

use crate::admin::view::{
    Counts, Flow, Flows, LbList, Owned, Packets, Reloaded, Status, Upgraded, Worker,
};

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(header.iter().map(|title| title.to_uppercase()));
    table
}

/// Counts that are not zero, as `name=3 other=1`, or `none`.
fn counts(counts: &Counts) -> String {
    let some: Vec<_> = counts
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| format!("{name}={n}"))
        .collect();
    if some.is_empty() {
        "none".into()
    } else {
        some.join(" ")
    }
}

pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `weft status`.
pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "node {}  weft {}  pid {}  up {}  generation {}  fast_path {}",
        status.node,
        status.version,
        status.pid,
        duration(status.uptime_s),
        status.generation,
        status.fast_path,
    );
    let _ = writeln!(text, "configuration {}", status.files.join(" "));
    if !status.restart_needed.is_empty() {
        let _ = writeln!(
            text,
            "waiting for a restart: {}",
            status.restart_needed.join(", ")
        );
    }
    let (parse, switch) = (&status.reloads.parse, &status.reloads.switch);
    if switch.count > 0 {
        let _ = writeln!(
            text,
            "reloads {}  parsed in {} (at most {})  live in {} (at most {})",
            switch.count,
            milliseconds(parse.last_us),
            milliseconds(parse.max_us),
            milliseconds(switch.last_us),
            milliseconds(switch.max_us),
        );
    }
    if let Some(upgraded) = &status.upgrade {
        let _ = writeln!(
            text,
            "upgraded from {} to {}  without a worker {}",
            upgraded.from,
            upgraded.binary,
            milliseconds(upgraded.without_worker_us),
        );
        if let Some(reason) = &upgraded.failed {
            let _ = writeln!(text, "upgrade failed: {reason}");
        }
    }
    for line in &status.last_refusal {
        let _ = writeln!(text, "last reload refused: {line}");
    }
    let _ = writeln!(
        text,
        "\n{}\n\n{}",
        workers(&status.workers),
        frames(&status.workers)
    );
    if let Some(tcp) = tcp(&status.workers) {
        let _ = writeln!(text, "\n{tcp}");
    }
    let mut pods = table(&[
        "pod",
        "interface",
        "ifindex",
        "addresses",
        "state",
        "enrolled for",
    ]);
    for pod in &status.pods {
        let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
        pods.add_row([
            pod.name.clone(),
            pod.interface.clone(),
            pod.ifindex
                .map_or_else(|| "-".into(), |index| index.to_string()),
            addresses.join(" "),
            match pod.carrier {
                Some(false) => format!("{}, link down", pod.state),
                _ => pod.state.clone(),
            },
            duration(pod.enrolled_s),
        ]);
    }
    if !status.peers.is_empty() {
        let mut peers = table(&["peer", "address", "from", "uplink", "way", "mtu", "pods"]);
        for peer in &status.peers {
            peers.add_row([
                peer.name.clone(),
                peer.address.to_string(),
                peer.from.to_string(),
                peer.uplink.clone().unwrap_or_else(|| "no route".into()),
                if peer.native { "native" } else { "wrapped" }.into(),
                peer.mtu.to_string(),
                peer.pods.join(" "),
            ]);
        }
        let _ = writeln!(text, "\n{peers}");
    }
    if !status.http.is_empty() {
        let mut services = table(&[
            "http service",
            "open",
            "connections",
            "requests",
            "flags",
            "rejected",
            "events",
        ]);
        for service in &status.http {
            services.add_row([
                service.service.clone(),
                service.open.to_string(),
                service.connections.to_string(),
                counts(&service.requests),
                counts(&service.flags),
                counts(&service.rejected),
                counts(&service.events),
            ]);
        }
        let _ = writeln!(text, "\n{services}");
    }
    let _ = writeln!(text, "\n{pods}\n\nledger (packets)");
    let ledger = &status.ledger;
    let _ = writeln!(text, "  engine    {}", packets(&ledger.engine));
    let _ = writeln!(text, "  to kernel {}", counts(&ledger.engine.kernel));
    let _ = writeln!(text, "  dropped   {}", counts(&ledger.engine.dropped));
    let _ = writeln!(text, "  hooks     {}", counts(&ledger.hooks));
    let _ = writeln!(text, "  path      {}", counts(&ledger.path));
    if let Some(audit) = &status.audit {
        let verdict = if audit.balanced {
            "every packet is accounted for"
        } else {
            "UNBALANCED"
        };
        let mut rows = table(&[
            "equation",
            "came",
            "accounted",
            "in flight at most",
            "holds",
        ]);
        for equation in &audit.equations {
            rows.add_row([
                equation.name.clone(),
                equation.left.to_string(),
                equation.right.to_string(),
                equation.in_flight_max.to_string(),
                if equation.balanced { "yes" } else { "NO" }.to_string(),
            ]);
        }
        let _ = writeln!(text, "\naudit: {verdict}\n{rows}");
    }
    text
}

fn packets(packets: &Packets) -> String {
    let kernel: u64 = packets.kernel.values().sum();
    let dropped: u64 = packets.dropped.values().sum();
    format!(
        "received={} bulk={} forwarded={} replied={} terminated={} originated={} unrouted={} fragments={} fragments_lost={} to_kernel={kernel} dropped={dropped} handed_out={} handed_in={} held={} released={}",
        packets.received,
        packets.bulk,
        packets.forwarded,
        packets.replied,
        packets.terminated,
        packets.originated,
        packets.unrouted,
        packets.fragments,
        packets.fragments_lost,
        packets.handed_out,
        packets.handed_in,
        packets.held,
        packets.released,
    )
}

fn workers(workers: &[Worker]) -> String {
    let mut rows = table(&[
        "queue",
        "core",
        "poll",
        "xdp",
        "socket",
        "heartbeat",
        "generation",
        "flows",
        "evicted",
        "pins",
        "received",
        "forwarded",
        "replied",
        "to kernel",
        "dropped",
    ]);
    for worker in workers {
        rows.add_row([
            worker.queue.to_string(),
            worker.core.to_string(),
            worker.poll.clone(),
            worker.xdp_mode.clone(),
            worker.socket_mode.clone(),
            format!("{} ms ago", worker.heartbeat_age_ms),
            worker.generation.to_string(),
            format!("{} of {}", worker.flows, worker.flows_max),
            worker.flows_evicted.to_string(),
            worker.pins.to_string(),
            worker.packets.received.to_string(),
            worker.packets.forwarded.to_string(),
            worker.packets.replied.to_string(),
            worker.packets.kernel.values().sum::<u64>().to_string(),
            worker.packets.dropped.values().sum::<u64>().to_string(),
        ]);
    }
    rows.to_string()
}

/// The workers' TCP stacks, if there are any yet.
fn tcp(workers: &[Worker]) -> Option<String> {
    let mut rows = table(&[
        "queue",
        "connections",
        "sockets",
        "half open",
        "time wait",
        "delivered",
        "answered",
        "dropped",
        "events",
        "refused",
    ]);
    let stacks = || {
        let workers = workers.iter();
        workers.filter_map(|worker| Some((worker.queue, worker.tcp.as_ref()?)))
    };
    stacks().next()?;
    for (queue, tcp) in stacks() {
        rows.add_row([
            queue.to_string(),
            tcp.connections.to_string(),
            tcp.sockets.to_string(),
            tcp.half_open.to_string(),
            tcp.time_wait.to_string(),
            tcp.delivered.to_string(),
            tcp.answered.to_string(),
            counts(&tcp.dropped),
            counts(&tcp.events),
            counts(&tcp.refused),
        ]);
    }
    Some(rows.to_string())
}

fn frames(workers: &[Worker]) -> String {
    let mut rows = table(&[
        "queue",
        "frames",
        "free",
        "fill",
        "rx",
        "app",
        "tx",
        "socket statistics",
    ]);
    for worker in workers {
        let frames = &worker.frames;
        let numbers = [
            frames.total,
            frames.free,
            frames.fill,
            frames.rx,
            frames.app,
            frames.tx,
        ];
        let mut row = vec![worker.queue.to_string()];
        row.extend(numbers.map(|n| n.to_string()));
        row.push(counts(&worker.socket));
        rows.add_row(row);
    }
    rows.to_string()
}

/// `weft lb list`.
pub(super) fn services(list: &LbList) -> String {
    if list.services.is_empty() {
        return format!("no services (generation {})", list.generation);
    }
    let mut rows = table(&[
        "service",
        "port",
        "vip",
        "protocol",
        "algorithm",
        "backend",
        "pod",
        "state",
        "new flows",
        "path",
        "weight",
        "flows",
        "packets",
    ]);
    for port in &list.services {
        let head = [
            port.service.clone(),
            port.port_name.clone(),
            port.vip.to_string(),
            port.protocol.clone(),
            port.algorithm.clone(),
        ];
        if port.backends.is_empty() {
            rows.add_row(head.iter().cloned().chain(["none".to_string()]));
        }
        for (index, backend) in port.backends.iter().enumerate() {
            let head = if index == 0 {
                head.clone()
            } else {
                Default::default()
            };
            rows.add_row(head.into_iter().chain([
                backend.address.to_string(),
                backend.pod.clone().unwrap_or_else(|| "-".into()),
                backend.state.clone(),
                if backend.new_flows { "yes" } else { "no" }.into(),
                backend.path.clone(),
                backend.weight.to_string(),
                backend.flows.to_string(),
                backend.packets.to_string(),
            ]));
        }
    }
    rows.to_string()
}

/// `weft flows`.
pub(super) fn flows(flows: &Flows) -> String {
    if flows.flows.is_empty() {
        return "no flows".into();
    }
    let mut rows = table(&[
        "proto",
        "client",
        "destination",
        "backend",
        "service",
        "kind",
        "state",
        "out",
        "in",
        "age",
        "idle",
        "tier",
        "worker",
    ]);
    for flow in &flows.flows {
        rows.add_row(flow_row(flow));
    }
    rows.to_string()
}

fn flow_row(flow: &Flow) -> [String; 13] {
    let volume = |packets: Option<u64>, bytes: Option<u64>| match packets.zip(bytes) {
        Some((packets, bytes)) => format!("{packets} / {bytes} B"),
        None => "-".into(),
    };
    [
        flow.protocol.clone(),
        match &flow.client_pod {
            Some(pod) => format!("{} ({pod})", flow.client),
            None => flow.client.to_string(),
        },
        match flow.asked {
            Some(asked) => format!("{} (asked {asked})", flow.destination),
            None => flow.destination.to_string(),
        },
        flow.backend
            .map_or_else(|| "-".into(), |backend| backend.to_string()),
        flow.service.clone().unwrap_or_else(|| "-".into()),
        flow.kind.clone(),
        flow.state.clone(),
        volume(flow.packets_out, flow.bytes_out),
        volume(flow.packets_in, flow.bytes_in),
        duration(flow.age_ms / 1000),
        duration(flow.idle_ms / 1000),
        flow.tier.to_string(),
        flow.worker
            .map_or_else(|| "-".into(), |worker| worker.to_string()),
    ]
}

/// `weft owned`.
pub(super) fn owned(owned: &[Owned]) -> String {
    if owned.is_empty() {
        return "nothing".into();
    }
    let mut rows = table(&["kind", "name", "detail"]);
    for thing in owned {
        rows.add_row([&thing.kind, &thing.name, &thing.detail]);
    }
    rows.to_string()
}

/// `weft reload`.
pub(super) fn reloaded(reloaded: &Reloaded) -> String {
    let list = |names: &[String]| {
        if names.is_empty() {
            "none".into()
        } else {
            names.join(", ")
        }
    };
    let mut text = format!(
        "reloaded: generation {}, parsed in {}, live in {}; enrolled: {}; draining: {}",
        reloaded.generation,
        milliseconds(reloaded.parse_us),
        milliseconds(reloaded.switch_us),
        list(&reloaded.enrolled),
        list(&reloaded.draining)
    );
    if !reloaded.restart_needed.is_empty() {
        let _ = write!(
            text,
            "\nwaiting for a restart: {}",
            reloaded.restart_needed.join(", ")
        );
    }
    text
}

/// `weft upgrade`.
pub(super) fn upgraded(upgraded: &Upgraded) -> String {
    format!(
        "{}: weft {} -> {}, {}\n\
         without a worker: {}\n\
         flows of the fast path: {} go on, {} removed for want of their backend\n\
         flows through user space: {} ended; connections to services break, datagrams open new flows\n\
         of connections that ended in user space: {} ends reset",
        match upgraded.failed {
            None => "upgraded",
            Some(_) => "not upgraded",
        },
        upgraded.from,
        upgraded.to,
        upgraded.binary,
        milliseconds(upgraded.without_worker_us),
        upgraded.flows_kept,
        upgraded.flows_removed,
        upgraded.flows_ended,
        upgraded.terminated_reset,
    )
}

/// Microseconds as milliseconds with one place.
fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1_000.0)
}
