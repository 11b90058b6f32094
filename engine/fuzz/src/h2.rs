//! Frames of HTTP/2, right and wrong, through the HTTP stage, from a client or from an endpoint: see `weft_l7::fuzzing` for
//! what must hold.

use arbitrary::{Arbitrary, Unstructured};
use weft_l7::fuzzing::{http2_requests, http2_responses};

/// Frames of one case at most.
const FRAMES_MAX: usize = 200;

#[derive(Arbitrary, Debug)]
enum Frame {
    Settings {
        ack: bool,
        values: Vec<(u8, u32)>,
    },
    Headers {
        stream: u8,
        end: bool,
        more: bool,
        padded: bool,
        fields: Vec<Field>,
    },
    Continuation {
        stream: u8,
        more: bool,
        fields: Vec<Field>,
    },
    Data {
        stream: u8,
        end: bool,
        padded: bool,
        bytes: Vec<u8>,
    },
    Reset {
        stream: u8,
        code: u8,
    },
    Window {
        stream: u8,
        more: u32,
    },
    Ping {
        ack: bool,
    },
    Away {
        last: u8,
        code: u8,
    },
    Priority {
        stream: u8,
        on: u8,
    },
    Push {
        stream: u8,
        promised: u8,
        fields: Vec<Field>,
    },
    /// A request or response as it should be.
    Proper {
        stream: u8,
        sends: u16,
    },
    /// Any frame.
    Any {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    /// No frame.
    Raw(Vec<u8>),
    /// What has come so far is looked at.
    Cut,
}

/// A field of a header block, as a literal that is not indexed, or as bytes.
#[derive(Arbitrary, Debug)]
enum Field {
    Known { name: u8, value: u8 },
    Named { name: u8, value: Vec<u8> },
    Any { name: Vec<u8>, value: Vec<u8> },
    Indexed(u8),
    Raw(Vec<u8>),
}

const NAMES: [&str; 16] = [
    ":method",
    ":path",
    ":authority",
    ":scheme",
    ":status",
    ":protocol",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "host",
    "trailer",
    "expect",
    "upgrade",
    "cookie",
    "Upper",
];
const VALUES: [&str; 20] = [
    "GET",
    "POST",
    "HEAD",
    "CONNECT",
    "/",
    "/a/../b",
    "*",
    "a",
    "b:80",
    "http",
    "200",
    "204",
    "101",
    "0",
    "5",
    "trailers",
    "chunked",
    "close",
    "100-continue",
    "a\r\nb: c",
];

impl Field {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Known { name, value } => literal(
                out,
                name_of(*name),
                VALUES[usize::from(*value) % VALUES.len()].as_bytes(),
            ),
            Self::Named { name, value } => literal(out, name_of(*name), value),
            Self::Any { name, value } => literal(out, name, value),
            Self::Indexed(index) => out.push(0x80 | index),
            Self::Raw(bytes) => out.extend(bytes),
        }
    }
}

fn name_of(name: u8) -> &'static [u8] {
    NAMES[usize::from(name) % NAMES.len()].as_bytes()
}

/// RFC 7541 section 6.2.2, without Huffman coding and up to what a length of seven bits can say.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        let text = &text[..text.len().min(126)];
        out.push(text.len() as u8);
        out.extend(text);
    }
}

fn block(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|field| field.encode(&mut out));
    out
}

/// RFC 9113 section 4.1.
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

impl Frame {
    fn encode(&self, answers: bool, out: &mut Vec<u8>) {
        // Streams that there are, and a few others.
        let id = |stream: u8| u32::from(stream % 16);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        match self {
            Self::Settings { ack, values } => {
                let values = values.iter().take(20);
                let payload: Vec<u8> = values
                    .flat_map(|(name, value)| {
                        let [a, b, c, d] = value.to_be_bytes();
                        [0, name % 10, a, b, c, d]
                    })
                    .collect();
                frame(out, 4, flag(*ack, ACK), 0, &payload);
            }
            Self::Headers {
                stream,
                end,
                more,
                padded,
                fields,
            } => {
                let flags = flag(*end, END_STREAM) | flag(!more, END_HEADERS);
                pad(out, 1, flags, id(*stream), *padded, block(fields));
            }
            Self::Continuation {
                stream,
                more,
                fields,
            } => {
                frame(
                    out,
                    9,
                    flag(!more, END_HEADERS),
                    id(*stream),
                    &block(fields),
                );
            }
            Self::Data {
                stream,
                end,
                padded,
                bytes,
            } => {
                pad(
                    out,
                    0,
                    flag(*end, END_STREAM),
                    id(*stream),
                    *padded,
                    bytes.clone(),
                );
            }
            Self::Reset { stream, code } => frame(out, 3, 0, id(*stream), &[0, 0, 0, *code]),
            Self::Window { stream, more } => frame(out, 8, 0, id(*stream), &more.to_be_bytes()),
            Self::Ping { ack } => frame(out, 6, flag(*ack, ACK), 0, &[7; 8]),
            Self::Away { last, code } => {
                frame(out, 7, 0, 0, &[0, 0, 0, last % 16, 0, 0, 0, *code]);
            }
            Self::Priority { stream, on } => frame(out, 2, 0, id(*stream), &[0, 0, 0, on % 16, 1]),
            Self::Push {
                stream,
                promised,
                fields,
            } => {
                let mut payload = u32::from(*promised).to_be_bytes().to_vec();
                payload.extend(block(fields));
                frame(out, 5, END_HEADERS, id(*stream), &payload);
            }
            Self::Proper { stream, sends } => {
                let mut fields = Vec::new();
                if answers {
                    literal(&mut fields, b":status", b"200");
                } else {
                    let method: &[u8] = if *sends > 0 { b"POST" } else { b"GET" };
                    literal(&mut fields, b":method", method);
                    literal(&mut fields, b":path", b"/");
                    literal(&mut fields, b":scheme", b"http");
                    literal(&mut fields, b":authority", b"a");
                }
                let end = flag(*sends == 0, END_STREAM);
                frame(out, 1, END_HEADERS | end, id(*stream), &fields);
                if *sends > 0 {
                    let body = vec![b'x'; usize::from(*sends) % 16_384];
                    frame(out, 0, END_STREAM, id(*stream), &body);
                }
            }
            Self::Any {
                kind,
                flags,
                stream,
                payload,
            } => frame(out, *kind, *flags, *stream, payload),
            Self::Raw(bytes) => out.extend(bytes),
            Self::Cut => {}
        }
    }
}

/// A frame that may be padded (RFC 9113 section 6.1).
fn pad(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, padded: bool, mut payload: Vec<u8>) {
    if padded {
        payload.insert(0, 3);
        payload.extend([0; 3]);
    }
    let flags = flags | if padded { PADDED } else { 0 };
    frame(out, kind, flags, stream, &payload);
}

/// One case: whether an endpoint sends, and the frames.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(answers) = bool::arbitrary(&mut data) else {
        return;
    };
    let mut pieces = vec![Vec::new()];
    for _ in 0..FRAMES_MAX {
        if data.is_empty() {
            break;
        }
        let Ok(next) = Frame::arbitrary(&mut data) else {
            break;
        };
        match next {
            Frame::Cut => pieces.push(Vec::new()),
            next => next.encode(answers, pieces.last_mut().expect("one at least")),
        }
    }
    let pieces = pieces.iter().map(Vec::as_slice);
    match answers {
        true => http2_responses(pieces),
        false => http2_requests(pieces),
    }
}
