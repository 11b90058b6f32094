//! An endpoint: one connection, answered as planned.

use std::collections::HashMap;
use std::io::ErrorKind;

use weft_l7::memory::MemoryStream;

use crate::plan::{After, Random, answer, ask, content, message};

pub struct Endpoint {
    stream: MemoryStream,
    input: Vec<u8>,
    output: Vec<u8>,
    after: After,
    ended: bool,
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
        (self.output, self.after) = answer(&ask);
    }
}
