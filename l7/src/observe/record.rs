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

/// One request, or a connection that is no HTTP, once it is over (OBS-06).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessRecord {
    /// When its header was complete, or the protocol told; when it began, if it took too long.
    pub at: Now,
    /// The service it came to.
    pub service: ServiceId,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client asked: the VIP (WPT-02).
    pub vip: SocketAddr,
    /// What the client speaks.
    pub protocol: Protocol,
    /// The method; none of a request whose first line has none.
    pub method: Option<Method>,
    /// What `Host` or `:authority` said, at most 256 bytes of it.
    pub authority: Box<str>,
    /// Path and query, at most 1,024 bytes of them. Of a request that was refused for its form, the target as it came, with what is
    /// no visible ASCII escaped as `\x..`.
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
    /// Bytes of the request's body, or to the endpoint of a tunnel.
    pub received: u64,
    /// Bytes of the response's body, or to the client of a tunnel.
    pub sent: u64,
    /// Until there was a connection to the endpoint.
    pub queued: Option<Duration>,
    /// From then to the response's header.
    pub backend_first_byte: Option<Duration>,
    /// From [`Self::at`] to the end.
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

    /// One of those that come at once and are the last: as many as requests were under way.
    pub(crate) fn push_last(&mut self, record: AccessRecord) {
        self.records.push_back(record);
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

/// What the first line of a request says that was refused: a method, and a target that is safe to be logged. Neither, where it
/// does not even begin with a method: that may be anything, a TLS handshake say.
pub(crate) fn first_line(line: &[u8], most: usize) -> (Option<Method>, Box<str>) {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let method = words.next().filter(|word| word.len() <= METHOD);
    let method = method.and_then(|word| Method::from_bytes(word).ok());
    let target = words.next().filter(|_| method.is_some());
    let target = target.unwrap_or_default().escape_ascii().to_string();
    (method, cut(&target, most))
}

/// Bytes of the longest method that is logged of such a request.
const METHOD: usize = 24;

/// The first bytes of a text, whole characters only.
pub(crate) fn cut(text: &str, most: usize) -> Box<str> {
    text[..text.floor_char_boundary(most)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refused_request_only_what_is_safe_is_logged() {
        let logged = |line: &[u8]| {
            let (method, target) = first_line(line, 16);
            (method.map(|method| method.to_string()), target.to_string())
        };
        let get = || Some("GET".to_owned());
        assert_eq!(logged(b"GET /a/../b HTTP/1.1"), (get(), "/a/../b".into()));
        assert_eq!(
            logged(b"GET /a\x1b[2J\xff HTTP"),
            (get(), "/a\\x1b[2J\\xff".into())
        );
        assert_eq!(
            logged(b"GET /0123456789abcdefg"),
            (get(), "/0123456789abcde".into())
        );
        assert_eq!(logged(b"GET"), (get(), String::new()));
        assert_eq!(logged(b""), (None, String::new()));
        assert_eq!(logged(b"\x16\x03\x01 /a"), (None, String::new()));
        assert_eq!(logged(&[b'G'; 25]), (None, String::new()));
    }
}
