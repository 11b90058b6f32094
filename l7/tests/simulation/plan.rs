//! What is asked, and what endpoints do about it: decided by the number of a request and the seed, so that both ends know.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What an endpoint does.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Answers.
    None,
    /// Answers in chunks.
    Chunks,
    /// Answers up to the end of the connection.
    UntilEnd,
    /// Answers, and then ends the connection without having said so.
    CloseAfter,
    /// Answers with interim responses before.
    Interim,
    /// Says nothing.
    Stall,
    /// Says nothing more after half of its answer.
    StallWithin,
    /// Resets the connection.
    Reset,
    /// Resets the connection after half of its answer.
    ResetWithin,
    /// Ends the connection after half of its answer.
    CutWithin,
    /// Answers what is not HTTP.
    Lie,
    /// Answers with both a length and chunks.
    LieOfLength,
    /// Answers in chunks that are none.
    LieWithin,
    /// Answers, says that it closes the connection, and then answers once more. (Without the first, nobody can tell whose the
    /// second answer is, if it comes after the next request.)
    Twice,
}

impl Fault {
    pub const ALL: [Self; 14] = [
        Self::None,
        Self::Chunks,
        Self::UntilEnd,
        Self::CloseAfter,
        Self::Interim,
        Self::Stall,
        Self::StallWithin,
        Self::Reset,
        Self::ResetWithin,
        Self::CutWithin,
        Self::Lie,
        Self::LieOfLength,
        Self::LieWithin,
        Self::Twice,
    ];

    /// Whether the answer comes whole.
    pub fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::None
                | Self::Chunks
                | Self::UntilEnd
                | Self::CloseAfter
                | Self::Interim
                | Self::Twice
        )
    }

    /// Whether part of the answer may come.
    pub fn is_within(self) -> bool {
        matches!(
            self,
            Self::StallWithin | Self::ResetWithin | Self::CutWithin | Self::LieWithin
        )
    }
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    pub number: u64,
    pub method: &'static str,
    /// Bytes of its body, and of the answer's.
    pub sends: usize,
    pub gets: usize,
    pub chunked: bool,
    pub fault: Fault,
}

impl Ask {
    pub fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    /// The request as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { number, method, .. } = self;
        let mut bytes = format!("{method} /{number} HTTP/1.1\r\nHost: sim\r\n").into_bytes();
        let body = content(*number, self.sends);
        match (*method, self.chunked) {
            ("POST", true) => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                chunks(&mut bytes, &body);
            }
            ("POST", false) => {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(body);
            }
            _ => bytes.extend(b"\r\n"),
        }
        bytes
    }
}

/// What a request of this number is.
pub fn ask(number: u64, seed: u64) -> Ask {
    let mut random = Random(number.wrapping_mul(0x1234_5678_9abc_def1) ^ seed);
    let sizes = [0, 1, 100, 5_000, 70_000];
    let mut size = || sizes[random.below(5) as usize];
    let (sends, gets) = (size(), size());
    let method = ["GET", "GET", "HEAD", "POST", "POST"][random.below(5) as usize];
    let fault = match random.below(3) {
        0 => Fault::ALL[random.below(14) as usize],
        _ => Fault::None,
    };
    Ask {
        number,
        method,
        sends: if method == "POST" { sends } else { 0 },
        gets,
        chunked: random.below(2) == 0,
        fault,
    }
}

/// What happens once everything is written.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum After {
    Go,
    Close,
    Reset,
    Stall,
}

/// What an endpoint answers, and what it does then.
pub fn answer(ask: &Ask) -> (Vec<u8>, After) {
    let (number, mut out, mut after) = (ask.number, Vec::new(), After::Go);
    let body = content(!number, ask.gets);
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
                chunks(&mut out, &body);
            }
        }
        Fault::UntilEnd => {
            out.extend(head(""));
            out.extend(if bodiless { &[][..] } else { &body });
            after = After::Close;
        }
        Fault::Stall => after = After::Stall,
        Fault::Reset => after = After::Reset,
        Fault::StallWithin | Fault::ResetWithin | Fault::CutWithin => {
            // A byte is always missing.
            let length = format!("Content-Length: {}\r\n", body.len() + 1);
            out.extend(head(&length));
            out.extend(&body[..body.len() / 2]);
            after = match ask.fault {
                Fault::StallWithin => After::Stall,
                Fault::ResetWithin => After::Reset,
                _ => After::Close,
            };
        }
        Fault::Lie => {
            out.extend(b"SSH-2.0-nothing\r\n\r\n");
            after = After::Close;
        }
        Fault::LieOfLength => {
            out.extend(head(&format!("{length}{chunked}")));
            chunks(&mut out, &body);
            after = After::Stall;
        }
        Fault::LieWithin => {
            out.extend(head(chunked));
            out.extend(b"5\r\nhello, this is not a chunk\r\n0\r\n\r\n");
            after = After::Stall;
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
                after = After::Stall;
            }
            if ask.fault == Fault::CloseAfter {
                after = After::Close;
            }
        }
    }
    (out, after)
}

/// The bytes that belong to a number.
pub fn content(number: u64, size: usize) -> Vec<u8> {
    let mut random = Random(number);
    (0..size.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .take(size)
        .collect()
}

/// Appends a body in chunks.
pub fn chunks(out: &mut Vec<u8>, body: &[u8]) {
    for chunk in body.chunks(1_000) {
        out.extend(format!("{:x}\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
}

/// A message that has come whole: its head, its body, and its length in all.
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
    pub length: usize,
}

/// Takes the first message apart, as simply as can be. `bodiless`: there is no body whatever the head says; `ended`: no
/// more will come.
pub fn message(bytes: &[u8], bodiless: bool, ended: bool) -> Option<Message> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let field = |name: &str| {
        let found = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with(name));
        found.map(|line| line[name.len()..].trim().to_owned())
    };
    if head.starts_with("HTTP/1.1 1") {
        let rest = message(&bytes[end..], bodiless, ended)?;
        return Some(Message {
            length: rest.length + end,
            ..rest
        });
    }
    let rest = &bytes[end..];
    let is_response = head.starts_with("HTTP/");
    let (body, length) = if bodiless {
        (Vec::new(), 0)
    } else if let Some(length) = field("content-length:") {
        let length: usize = length.parse().unwrap();
        (rest.get(..length)?.to_vec(), length)
    } else if field("transfer-encoding:").is_some() {
        unchunk(rest)?
    } else if is_response {
        if !ended {
            return None;
        }
        (rest.to_vec(), rest.len())
    } else {
        (Vec::new(), 0)
    };
    Some(Message {
        head,
        body,
        length: end + length,
    })
}

fn unchunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..]
            .windows(2)
            .position(|window| window == b"\r\n")?;
        let size = str::from_utf8(&bytes[at..at + line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        at += line + 2;
        body.extend(bytes.get(at..at + size)?);
        let end = bytes.get(at + size..at + size + 2)?;
        assert_eq!(end, b"\r\n");
        at += size + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}
