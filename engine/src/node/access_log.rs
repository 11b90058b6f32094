//! The access log: requests to HTTP stages, one JSON object a line, written by a thread of its own.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use serde::Serialize;
use weft_l7::observe::{AccessRecord, Protocol};

use crate::config::AccessLog;
use crate::layer7::Layer7;
use crate::worker;

/// Records of all workers that wait to be written; more are lost and counted.
const WAITING: usize = 16_384;
/// How often the thread looks for records. Workers do not wake it, which would cost each request a system call.
const PAUSE: Duration = Duration::from_millis(20);

/// The thread that writes. It ends when no worker can send any more.
pub(super) struct Writer {
    thread: JoinHandle<()>,
    reopen: Arc<AtomicBool>,
}

impl Writer {
    /// Goes on in the file that has the name by now: the old one has been moved away. What was written before is in the old one.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Waits until everything is written. For when the workers are gone.
    pub(super) fn finish(self) {
        let _ = self.thread.join(); // A panic was logged by its own thread.
    }
}

/// Opens the log that is configured, and says how workers write to it.
///
/// # Errors
/// When the file cannot be opened.
pub(super) fn open(
    to: &AccessLog,
    layer7: Arc<ArcSwap<Layer7>>,
) -> io::Result<Option<(Sender<AccessRecord>, Writer)>> {
    let (out, path): (Box<dyn Write + Send>, _) = match to {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => (Box::new(io::stdout()), None),
        AccessLog::File(path) => (Box::new(append(path)?), Some(path.clone())),
    };
    let (sender, records) = bounded(WAITING);
    let reopen = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&reopen);
    let thread = std::thread::Builder::new()
        .name("weft-access-log".into())
        .spawn(move || {
            let _ = weft_xdp::hold_ends(); // Signals are control's.
            let file = path.as_deref().map(|path| (path, &*asked));
            if let Err(error) = write(BufWriter::new(out), file, &records, &layer7) {
                tracing::error!(%error, "the access log ends: it cannot be written");
            }
        })?;
    Ok(Some((sender, Writer { thread, reopen })))
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Writes what comes. `file`: where to, and whether that is to be opened anew.
fn write(
    mut out: BufWriter<Box<dyn Write + Send>>,
    file: Option<(&Path, &AtomicBool)>,
    records: &Receiver<AccessRecord>,
    layer7: &ArcSwap<Layer7>,
) -> io::Result<()> {
    // Bound: until all workers are gone.
    loop {
        let layer7 = layer7.load();
        let gone = loop {
            match records.try_recv() {
                Ok(record) => {
                    let line = Line::new(&record, &layer7, wall_clock(&record));
                    serde_json::to_writer(&mut out, &line)?;
                    out.write_all(b"\n")?;
                }
                Err(error) => break error == TryRecvError::Disconnected,
            }
        };
        out.flush()?;
        if gone {
            return Ok(());
        }
        if let Some((path, reopen)) = file
            && reopen.swap(false, Ordering::Relaxed)
        {
            match append(path) {
                Ok(file) => out = BufWriter::new(Box::new(file)),
                Err(error) => {
                    let path = path.display();
                    tracing::error!(%error, %path, "the access log goes on in the old file");
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// When a request's header was complete, by the wall clock.
fn wall_clock(record: &AccessRecord) -> Duration {
    let ago = worker::now()
        .as_nanos()
        .saturating_sub(record.at.as_nanos());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
        .saturating_sub(Duration::from_nanos(ago))
}

/// A line of the log.
#[derive(Serialize)]
struct Line<'r> {
    /// Since 1970, when the request's header was complete.
    time_ms: u64,
    service: &'r str,
    client: SocketAddr,
    vip: SocketAddr,
    protocol: &'static str,
    method: Option<&'r str>,
    authority: &'r str,
    path: &'r str,
    status: u16,
    flag: Option<&'static str>,
    /// What Envoy calls the flag.
    code: Option<&'static str>,
    detail: Option<&'static str>,
    route: Option<&'r str>,
    rule: Option<usize>,
    backend: Option<&'r str>,
    endpoint: Option<SocketAddr>,
    retries: u32,
    received_bytes: u64,
    sent_bytes: u64,
    queued_us: Option<u64>,
    backend_us: Option<u64>,
    total_us: u64,
    trace: Option<String>,
}

impl<'r> Line<'r> {
    fn new(record: &'r AccessRecord, layer7: &'r Layer7, at: Duration) -> Self {
        let config = layer7.services().get(&record.service);
        let config = config.map(|service| &service.config);
        let backend = record.backend.zip(config).and_then(|(id, config)| {
            let backend = config.backends.get(&id)?;
            Some(&*backend.name)
        });
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Line {
            time_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            service: config.map_or("", |config| &config.name),
            client: record.client,
            vip: record.vip,
            protocol: match record.protocol {
                Protocol::Http1 => "http/1.1",
                Protocol::Http2 => "http/2",
                Protocol::Tcp => "tcp",
            },
            method: record.method.as_ref().map(http::Method::as_str),
            authority: &record.authority,
            path: &record.path,
            status: record.status,
            flag: record.flag.map(|flag| flag.name()),
            code: record.flag.map(|flag| flag.code()),
            detail: record.detail,
            route: record.rule.as_ref().map(|(route, _)| &**route),
            rule: record.rule.as_ref().map(|(_, rule)| *rule),
            backend,
            endpoint: record.endpoint,
            retries: record.retries,
            received_bytes: record.received,
            sent_bytes: record.sent,
            queued_us: record.queued.map(micros),
            backend_us: record.backend_first_byte.map(micros),
            total_us: micros(record.total),
            trace: record.trace.map(|trace| format!("{:032x}", trace.trace)),
        }
    }
}
