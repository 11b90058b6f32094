//! A backend's connection, answered as planned.

use std::collections::HashMap;
use std::time::Duration;

use weft_datapath::Now;
use weft_stack::Stream;

use crate::plan::{After, Random, answer, ask, content, message};
use crate::stream::{Attention, read, write};

pub struct Backend {
    pub attention: Attention,
    stream: Stream,
    input: Vec<u8>,
    output: Vec<u8>,
    after: After,
    ended: bool,
}

impl Backend {
    pub fn new(stream: Stream, now: Now) -> Self {
        Self {
            attention: Attention::at(now),
            stream,
            input: Vec::new(),
            output: Vec::new(),
            after: After::Go,
            ended: false,
        }
    }

    /// Does a little; false once the connection is over. Dropped, it is closed in order.
    pub fn step(
        &mut self,
        seed: u64,
        now: Now,
        random: &mut Random,
        seen: &mut HashMap<u64, u32>,
    ) -> bool {
        if random.below(4) == 0 {
            // Elsewhere.
            self.attention
                .by(now + Duration::from_micros(random.below(3_000)));
            return true;
        }
        match read(&self.stream, &self.attention, &mut self.input) {
            Ok(ended) => self.ended |= ended,
            Err(_) => return false,
        }
        if self.output.is_empty() && self.after == After::Go {
            self.answer(seed, seen);
        }
        let most = 1 + random.below(20_000) as usize;
        if write(&self.stream, &self.attention, &mut self.output, most).is_err() {
            return false;
        }
        if !self.output.is_empty() {
            self.attention
                .by(now + Duration::from_micros(random.below(1_000)));
            return true;
        }
        match self.after {
            After::Close => false,
            After::Reset => {
                self.stream.abort();
                false
            }
            After::Go | After::Stall => !self.ended,
        }
    }

    fn answer(&mut self, seed: u64, seen: &mut HashMap<u64, u32>) {
        let Some(request) = message(&self.input, false, false) else {
            return;
        };
        self.input.drain(..request.length);
        let mut words = request.head.split([' ', '/']);
        let method = words.next().unwrap();
        let number: u64 = words.nth(1).unwrap().parse().unwrap();
        let ask = ask(number, seed);
        assert!(
            (method, &request.body) == (ask.method, &content(number, ask.sends)),
            "request {number} has come with other bytes"
        );
        *seen.entry(number).or_default() += 1;
        (self.output, self.after) = answer(&ask);
    }
}
