//! Bytes that are nearly HTTP, through the stage: see `weft_l7::fuzzing` for what must hold.

use proptest::prelude::*;
use weft_l7::fuzzing::{http2, requests, responses};

/// What messages are made of, and what breaks them.
const PIECES: &[&str] = &[
    "GET ",
    "POST ",
    "HEAD ",
    "/ ",
    "/a?b ",
    "http://a/ ",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 101 x",
    "HTTP/1.1 204 x",
    "HTTP/1.1 304 x",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    " ",
    ":",
    "Host: a\r\n",
    "Host: b\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip\r\n",
    "hello",
    "5\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\n",
    ";x=y",
    "Connection: close\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Expect: 100-continue\r\n",
    "X: y\r\n",
    " obs\r\n",
    "\0",
    "Trailer: x\r\n",
    "TE: trailers\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
];

fn input() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec());
    let whole = prop::sample::select(&PIECES[PIECES.len() - 5..])
        .prop_map(|piece| piece.as_bytes().to_vec());
    let noise = prop::collection::vec(any::<u8>(), 1..4);
    let pieces = prop::collection::vec(prop_oneof![12 => piece, 12 => whole, 1 => noise], 0..14);
    let size = prop::sample::select(vec![1u8, 2, 7, 255]);
    (size, pieces).prop_map(|(size, pieces)| [vec![size], pieces.concat()].concat())
}

/// A frame with any payload, most often of a kind and size that are taken.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    let frame =
        (0u8..11, any::<u8>(), 0u8..6, payload).prop_map(|(kind, flags, stream, payload)| {
            let head = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
            [&head[..], &payload].concat()
        });
    let settings = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    prop::collection::vec(frame, 0..12)
        .prop_map(move |frames| [settings.clone(), frames.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_unsound_reaches_an_endpoint(input in input()) {
        requests(&input);
    }

    #[test]
    fn nothing_unsound_reaches_a_client(input in input()) {
        responses(&input);
    }

    #[test]
    fn frames_of_any_kind_leave_nothing_behind(input in frames()) {
        http2(&input);
    }
}
