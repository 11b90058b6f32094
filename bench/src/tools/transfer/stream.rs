//! The two halves of a transfer: sending a pattern, and receiving and checking it.

use crate::pattern::Pattern;
use rustix::net::sockopt::{
    set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_congestion,
};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one read or write at most.
const PIECE: usize = 128 << 10;
/// Socket buffers of an end that shall feel a stop of the other soon.
const SMALL_BUFFER: usize = 128 << 10;

/// What a receiver saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Received {
    /// Bytes that came and were right.
    pub bytes: u64,
    /// Longest time between two arrivals.
    pub longest_stall: Duration,
    /// When the last byte came.
    pub last: Option<Instant>,
}

/// A stop of a receiver: after how many bytes, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// Bytes received before.
    pub after: u64,
    /// How long.
    pub length: Duration,
}

/// Every wait on `stream` ends with an error after `limit`; what is written goes out at once, and by the congestion
/// control that Linux has unless somebody chose another.
pub fn prepare(stream: &TcpStream, limit: Duration) -> Result<()> {
    // A kernel without it has to do with its own.
    let _ = set_tcp_congestion(stream, "cubic");
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_nodelay(true)
}

/// Small buffers, so that the kernel does not hide a stop of the other end.
pub fn shrink_buffers(stream: &TcpStream) -> Result<()> {
    set_socket_recv_buffer_size(stream, SMALL_BUFFER)?;
    Ok(set_socket_send_buffer_size(stream, SMALL_BUFFER)?)
}

/// Sends `bytes` bytes of the pattern; the longest time that one piece took.
pub fn send(mut stream: &TcpStream, mut pattern: Pattern, bytes: u64) -> Result<Duration> {
    let mut piece = vec![0; PIECE];
    let mut longest = Duration::ZERO;
    while pattern.position() < bytes {
        let left = bytes - pattern.position();
        let piece = &mut piece[..left.min(PIECE as u64) as usize];
        pattern.fill(piece);
        let mut unsent = &piece[..];
        while !unsent.is_empty() {
            let start = Instant::now();
            let length = stream.write(unsent)?;
            longest = longest.max(start.elapsed());
            unsent = &unsent[length..];
        }
    }
    Ok(longest)
}

/// Receives `bytes` bytes into `received` and compares them with the pattern. After an error it holds what came before.
pub fn receive(
    mut stream: &TcpStream,
    mut pattern: Pattern,
    bytes: u64,
    mut pause: Option<Pause>,
    received: &mut Received,
) -> Result<()> {
    let mut piece = vec![0; PIECE];
    while received.bytes < bytes {
        if let Some(pause) = pause.take_if(|pause| received.bytes >= pause.after) {
            thread::sleep(pause.length);
            received.last = None; // This stall is ours.
        }
        let room = (bytes - received.bytes).min(PIECE as u64) as usize;
        let length = match stream.read(&mut piece[..room]) {
            Ok(0) => {
                let early = format!("the end after {} of {bytes} bytes", received.bytes);
                return Err(Error::new(ErrorKind::UnexpectedEof, early));
            }
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(late(error, received.bytes)),
        };
        let now = Instant::now();
        if let Some(last) = received.last {
            received.longest_stall = received.longest_stall.max(now - last);
        }
        received.last = Some(now);
        pattern.check(&piece[..length]).map_err(|mismatch| {
            Error::new(ErrorKind::InvalidData, format!("wrong byte: {mismatch:?}"))
        })?;
        received.bytes += length as u64;
    }
    Ok(())
}

/// The other end has to have nothing more to say, and to say so.
pub fn expect_end(mut stream: &TcpStream) -> Result<()> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::new(
            ErrorKind::InvalidData,
            "more than was asked for",
        )),
        Err(error) => Err(error),
    }
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) -> Result<()> {
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// True for errors that a reset is the cause of.
pub fn is_reset(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

fn late(error: Error, bytes: u64) -> Error {
    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
        return Error::new(
            ErrorKind::TimedOut,
            format!("nothing came after {bytes} bytes"),
        );
    }
    error
}
