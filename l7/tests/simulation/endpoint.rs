//! An endpoint: one connection, answered as planned.

use std::collections::HashMap;
use std::io::ErrorKind;

use weft_l7::memory::MemoryStream;

use crate::plan::{Fault, Random, ask, chunks, content, message};

pub struct Endpoint {
    stream: MemoryStream,
    input: Vec<u8>,
    output: Vec<u8>,
    after: After,
    ended: bool,
}

/// What happens once everything is written.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum After {
    Go,
    Close,
    Reset,
    Stall,
}

impl Endpoint {
    pub fn new(stream: MemoryStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            after: After::Go,
            ended: false,
        }
    }

    /// Does a little; false once the connection is over.
    pub fn step(&mut self, random: &mut Random, seen: &mut HashMap<u64, u32>) -> bool {
        if random.below(4) == 0 {
            return true; // Elsewhere.
        }
        match self.stream.read_now() {
            Ok(Some(bytes)) => self.input.extend(bytes),
            Ok(None) => self.ended = true,
            Err(_) => return false,
        }
        if self.output.is_empty() && self.after == After::Go {
            self.answer(seen);
        }
        let piece = self.output.len().min(1 + random.below(20_000) as usize);
        match self.stream.write_now(&self.output[..piece]) {
            Ok(written) => drop(self.output.drain(..written)),
            Err(_) => return false,
        }
        if self.output.is_empty() {
            match self.after {
                After::Close => self.stream.shutdown_now(),
                After::Reset => self.stream.faults().fail(ErrorKind::ConnectionReset),
                After::Go | After::Stall => {}
            }
            if self.after != After::Stall && (self.ended || self.after == After::Reset) {
                return false;
            }
        }
        true
    }

    fn answer(&mut self, seen: &mut HashMap<u64, u32>) {
        let Some(request) = message(&self.input, false, false) else {
            return;
        };
        self.input.drain(..request.length);
        let mut words = request.head.split([' ', '/']);
        let method = words.next().unwrap();
        let number: u64 = words.nth(1).unwrap().parse().unwrap();
        let seed = crate::client::seed_of(number);
        let ask = ask(number, seed);
        assert_eq!(
            (method, &request.body),
            (ask.method, &content(number, ask.sends)),
            "request {number}"
        );
        *seen.entry(number).or_default() += 1;
        let body = content(!number, ask.gets);
        let out = &mut self.output;
        let head = |fields: &str| {
            format!("HTTP/1.1 200 OK\r\nX-Number: {number}\r\n{fields}\r\n").into_bytes()
        };
        let length = format!("Content-Length: {}\r\n", body.len());
        let chunked = "Transfer-Encoding: chunked\r\n";
        let bodiless = ask.method == "HEAD";
        match ask.fault {
            // An answer without a body is whole with its head.
            fault if bodiless && fault.is_within() => out.extend(head(&length)),
            Fault::Chunks => {
                out.extend(head(chunked));
                if !bodiless {
                    chunks(out, &body);
                }
            }
            Fault::UntilEnd => {
                out.extend(head(""));
                out.extend(if bodiless { &[][..] } else { &body });
                self.after = After::Close;
            }
            Fault::Stall => self.after = After::Stall,
            Fault::Reset => self.after = After::Reset,
            Fault::StallWithin | Fault::ResetWithin | Fault::CutWithin => {
                // A byte is always missing.
                let length = format!("Content-Length: {}\r\n", body.len() + 1);
                out.extend(head(&length));
                out.extend(&body[..body.len() / 2]);
                self.after = match ask.fault {
                    Fault::StallWithin => After::Stall,
                    Fault::ResetWithin => After::Reset,
                    _ => After::Close,
                };
            }
            Fault::Lie => {
                out.extend(b"SSH-2.0-nothing\r\n\r\n");
                self.after = After::Close;
            }
            Fault::LieOfLength => {
                out.extend(head(&format!("{length}{chunked}")));
                chunks(out, &body);
                self.after = After::Stall;
            }
            Fault::LieWithin => {
                out.extend(head(chunked));
                out.extend(b"5\r\nhello, this is not a chunk\r\n0\r\n\r\n");
                self.after = After::Stall;
            }
            Fault::None | Fault::CloseAfter | Fault::Interim | Fault::Twice => {
                if ask.fault == Fault::Interim {
                    out.extend(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
                }
                let twice = ask.fault == Fault::Twice;
                let close = if twice { "Connection: close\r\n" } else { "" };
                out.extend(head(&format!("{length}{close}")));
                out.extend(if bodiless { &[][..] } else { &body });
                if twice {
                    out.extend(b"HTTP/1.1 200 OK\r\nX-Number: 0\r\nContent-Length: 0\r\n\r\n");
                    self.after = After::Stall;
                }
                if ask.fault == Fault::CloseAfter {
                    self.after = After::Close;
                }
            }
        }
    }
}
