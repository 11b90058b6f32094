//! What the stage needs of a connection.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

/// One end of a byte stream with back-pressure, such as a TCP connection in user space.
///
/// One task reads and writes it; the last that was told to wait for one of the two is the one that is woken. Dropping
/// a stream closes it in order, or resets it if something of the peer's has not been read. No method blocks.
pub trait Stream: Unpin + 'static {
    /// Whether the connection is open, and an error if it never will be (`ConnectionRefused`, `TimedOut`, ...).
    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Shows `take` what has come and lies in one piece; `take` says how many bytes of it are done with. There may be
    /// more behind it. Ready with 0, and without a call, once the peer has ended its half.
    ///
    /// `take` must not use this or any other stream: all of a stack's may be borrowed meanwhile.
    ///
    /// If `take` is done with nothing the answer is pending, and what has been left is shown again only once more has come; or an error, if
    /// the connection is lost.
    fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>>;

    /// Takes as much of the pieces, in order, as there is room for: at least a byte if any is not empty, or pending.
    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Ends our half: the peer learns of it when it has all that was written.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Resets the connection.
    fn abort(&mut self);
}
