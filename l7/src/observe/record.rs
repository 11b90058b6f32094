//! The access log.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::{Flag, TraceContext};
use crate::Now;
use crate::route::BackendId;
use crate::stage::ServiceId;

/// What a connection speaks.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// HTTP/1.1, or 1.0.
    Http1,
    /// HTTP/2.
    Http2,
    /// None that is looked into.
    Tcp,
}

/// One request, once it is over (OBS-06).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessRecord {
    /// When its header was complete.
    pub at: Now,
    /// The service it came to.
    pub service: ServiceId,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client asked: the VIP (WPT-02).
    pub vip: SocketAddr,
    /// What the client speaks.
    pub protocol: Protocol,
    /// The method; none of a request that was refused for its form.
    pub method: Option<Method>,
    /// What `Host` or `:authority` said, at most 256 bytes of it.
    pub authority: Box<str>,
    /// Path and query, at most 1,024 bytes of them.
    pub path: Box<str>,
    /// What was answered; 0 if nothing was.
    pub status: u16,
    /// Why, where it was not simply the backend's answer.
    pub flag: Option<Flag>,
    /// More of why: the name of a [`crate::Reject`], or of an error.
    pub detail: Option<&'static str>,
    /// Route and rule.
    pub rule: Option<(Arc<str>, usize)>,
    /// Backend.
    pub backend: Option<BackendId>,
    /// Endpoint of the last try.
    pub endpoint: Option<SocketAddr>,
    /// Tries after the first.
    pub retries: u32,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Until there was a connection to the endpoint.
    pub queued: Option<Duration>,
    /// From then to the response's header.
    pub backend_first_byte: Option<Duration>,
    /// From the request's header to the end.
    pub total: Duration,
    /// The trace, if the request is part of one.
    pub trace: Option<TraceContext>,
}

/// Records that wait to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Log {
    records: VecDeque<AccessRecord>,
    lost: u64,
}

/// Records that wait at most; more are counted and lost.
const WAITING: usize = 4_096;

impl Log {
    pub(crate) fn push(&mut self, record: AccessRecord) {
        if self.records.len() < WAITING {
            self.records.push_back(record);
        } else {
            self.lost += 1;
        }
    }

    pub(crate) fn pop(&mut self) -> Option<AccessRecord> {
        self.records.pop_front()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

/// Where a record goes when its request is over.
pub(crate) trait Sink {
    fn now(&self) -> Now;
    fn record(&self, record: AccessRecord);
}

/// A request that is under way: recorded when this is dropped, however it ends.
pub(crate) struct Recorder {
    sink: Rc<dyn Sink>,
    record: Option<Box<AccessRecord>>,
}

impl Recorder {
    pub(crate) fn new(sink: Rc<dyn Sink>, record: AccessRecord) -> Self {
        Self {
            sink,
            record: Some(Box::new(record)),
        }
    }

    /// Changes the record.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut AccessRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// Tries after the first, so far.
    pub(crate) fn retries(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.retries)
    }

    pub(crate) fn flag(&mut self, flag: Option<Flag>) {
        self.note(|record| record.flag = flag);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.total = self.sink.now() - record.at;
            self.sink.record(*record);
        }
    }
}

/// The first bytes of a text, whole characters only.
pub(crate) fn cut(text: &str, most: usize) -> Box<str> {
    text[..text.floor_char_boundary(most)].into()
}
