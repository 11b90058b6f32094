use proptest::prelude::*;

use super::*;

/// Feeds all bytes in pieces of `size`; what is passed on, or why it ends.
fn feed(guard: &mut Guard, input: &[u8], size: usize) -> (Vec<u8>, Option<Reject>) {
    let mut out = Vec::new();
    let mut at = 0;
    while at < input.len() && guard.reads() {
        let piece = &input[at..input.len().min(at + size)];
        match guard.advance(piece, 7) {
            Progress::Kept(taken) => at += taken,
            Progress::Passed(taken) => {
                out.extend_from_slice(&piece[..taken]);
                at += taken;
            }
            Progress::Head(taken) => {
                at += taken;
                while !guard.ready().is_empty() {
                    out.push(guard.ready()[0]);
                    guard.pass(1);
                }
            }
            Progress::Failed(reject) => return (out, Some(reject)),
        }
    }
    (out, None)
}

fn requests(input: &[u8], size: usize) -> (Vec<u8>, Option<Reject>) {
    let limits = HeadLimits {
        target: 64,
        bytes: 512,
        fields: 8,
    };
    feed(&mut Guard::requests(limits), input, size)
}

#[track_caller]
fn refused(input: impl AsRef<[u8]>, reject: Reject) {
    let input = input.as_ref();
    for size in [1, 2, 3, 7, input.len()] {
        let (passed, found) = requests(input, size);
        let text = String::from_utf8_lossy(input);
        assert_eq!(found, Some(reject), "in pieces of {size}: {text:?}");
        // Of a refused head nothing is passed on, and of a refused body not its end.
        assert!(passed.len() < input.len());
    }
}

#[track_caller]
fn passed(input: impl AsRef<[u8]>) {
    let input = input.as_ref();
    for size in [1, 2, 3, 7, input.len()] {
        let (passed, found) = requests(input, size);
        let text = String::from_utf8_lossy(input);
        assert_eq!(found, None, "in pieces of {size}: {text:?}");
        assert_eq!(String::from_utf8_lossy(&passed), text);
    }
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

#[test]
fn sound_requests_pass_as_they_are() {
    passed(get(""));
    passed(get("").repeat(3));
    passed("GET / HTTP/1.0\r\n\r\n");
    passed("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    passed("GET http://a.b:80/x?y HTTP/1.1\r\nHost: A.b\r\n\r\n");
    passed("GET /%2E%2Ea/.../x..y/.well-known?../x HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n");
    passed(get("X: \t \r\nY:\r\nZ: a\tb \u{e9} \r\n"));
    passed(post("Content-Length: 0005\r\n", "hello") + &get(""));
    passed(post("content-length:0\r\n", "") + &get(""));
    passed(chunked("5\r\nhello\r\n0\r\n\r\n") + &get(""));
    passed(
        chunked("00a;x=\"y z\"\r\n0123456789\r\n0\r\nGrpc-Status: 0\r\nX: y\r\n\r\n") + &get(""),
    );
    passed(post("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n"));
}

#[test]
fn one_empty_line_before_a_request_is_borne() {
    let (passed, found) = requests(format!("\r\n{}\r\n{}", get(""), get("")).as_bytes(), 5);
    assert_eq!((passed, found), (get("").repeat(2).into_bytes(), None));
    refused(
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Reject::StartLine,
    );
}

#[test]
fn start_lines() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / a HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "GET / HTTP/11",
        "/ HTTP/1.1",
        "GET HTTP/1.1",
        "\u{16}\u{3}\u{1}",
        "GET / HTTPS/1.1",
        "GET / HTTP/1,1",
    ] {
        refused(format!("{line}\r\nHost: a\r\n\r\n"), Reject::StartLine);
    }
    for version in ["0.9", "1.2", "2.0", "3.0"] {
        refused(
            format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"),
            Reject::Version,
        );
    }
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reject::Version);
    refused(
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        Reject::Connect,
    );
}

#[test]
fn line_ends() {
    refused("GET / HTTP/1.1\nHost: a\n\n", Reject::BareLf);
    refused(get("X: y\nTransfer-Encoding: chunked\r\n"), Reject::BareLf);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", Reject::BareLf);
    refused(get("X: y\rTransfer-Encoding: chunked\r\n"), Reject::BareCr);
    refused(get("X: y\r\r\n"), Reject::BareCr);
    refused(get("X: y\0\r\n"), Reject::Control);
    refused(get("X: \u{b}chunked\r\n"), Reject::Control);
    refused("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Reject::Target);
}

#[test]
fn fields() {
    refused(get("X: a\r\n b\r\n"), Reject::ObsFold);
    refused(
        get("X: a\r\n\tTransfer-Encoding: chunked\r\n"),
        Reject::ObsFold,
    );
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Reject::ObsFold);
    refused(
        get("Transfer-Encoding : chunked\r\n"),
        Reject::SpaceBeforeColon,
    );
    refused(get("Content-Length\t: 1\r\n"), Reject::SpaceBeforeColon);
    for line in [
        "no colon",
        ": x",
        "a b: x",
        "a\u{e9}: x",
        "\"x\": y",
        "(x): y",
        "x@y: z",
    ] {
        refused(get(&format!("{line}\r\n")), Reject::FieldName);
    }
}

#[test]
fn lengths() {
    for value in [
        "",
        "+5",
        "-1",
        "5a",
        "0x5",
        "5 5",
        "5;",
        "\u{ff}",
        "9223372036854775808",
        "1e1",
        "٣",
    ] {
        refused(
            post(&format!("Content-Length: {value}\r\n"), "hello"),
            Reject::ContentLength,
        );
    }
    for value in ["5, 5", "5,6", ",5", "5,"] {
        refused(
            post(&format!("Content-Length: {value}\r\n"), "hello"),
            Reject::ContentLengthRepeated,
        );
    }
    let fields = "Content-Length: 5\r\nContent-length: 5\r\n";
    refused(post(fields, "hello"), Reject::ContentLengthRepeated);
}

#[test]
fn transfer_encodings() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nX: y\r\ncontent-length: 0\r\n",
    ] {
        refused(post(fields, "0\r\n\r\n"), Reject::LengthAndEncoding);
    }
    for value in [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, identity",
        "chunked, chunked",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        ",chunked",
        "chunked,",
        "chunked x",
        "cow",
    ] {
        refused(
            post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"),
            Reject::TransferEncoding,
        );
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    refused(post(twice, "0\r\n\r\n"), Reject::TransferEncoding);
    let split = "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n";
    refused(post(split, "0\r\n\r\n"), Reject::TransferEncoding);
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(old, Reject::EncodingForbidden);
}

#[test]
fn chunks() {
    for body in [
        "\r\n",
        ";x\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\na",
        " 1\r\na",
        "1 \r\na",
        "1 ;x\r\n",
        "0000000000000000\r\n",
        "1_0\r\n",
    ] {
        refused(chunked(body), Reject::ChunkSize);
    }
    refused(chunked("1\na\r\n0\r\n\r\n"), Reject::ChunkSize);
    refused(chunked("1\rXa\r\n0\r\n\r\n"), Reject::BareCr);
    refused(chunked("1;x\na\r\n0\r\n\r\n"), Reject::ChunkExtension);
    refused(chunked("1;x\0\r\na\r\n"), Reject::ChunkExtension);
    refused(
        chunked(&format!("1;{}\r\na\r\n", "x".repeat(257))),
        Reject::ChunkExtension,
    );
    refused(chunked("1;x\r\r\na\r\n"), Reject::BareCr);
    for body in [
        "1\r\naa\r\n",
        "1\r\na\n0\r\n\r\n",
        "5\r\nhelloX\r\n",
        "1\r\na0\r\n\r\n",
    ] {
        refused(chunked(body), Reject::ChunkEnd);
    }
    refused(chunked("1\r\na\rX0\r\n\r\n"), Reject::ChunkEnd);
    refused(chunked("0\r\nX: y\n\r\n"), Reject::BareLf);
    refused(chunked("0\r\n\n"), Reject::BareLf);
    refused(chunked("0\r\n X: y\r\n\r\n"), Reject::ObsFold);
    refused(chunked("0\r\nX : y\r\n\r\n"), Reject::SpaceBeforeColon);
    refused(chunked("0\r\nGET / HTTP/1.1\r\n\r\n"), Reject::FieldName);
    for field in [
        "Content-Length: 5",
        "transfer-encoding: chunked",
        "Host: b",
        "Authorization: x",
    ] {
        refused(chunked(&format!("0\r\n{field}\r\n\r\n")), Reject::Trailer);
    }
    refused(
        chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(9))),
        Reject::HeadLength,
    );
    refused(
        chunked(&format!("0\r\nX: {}\r\n\r\n", "y".repeat(600))),
        Reject::HeadLength,
    );
}

#[test]
fn hosts_and_targets() {
    refused("GET / HTTP/1.1\r\n\r\n", Reject::HostMissing);
    refused(get("Host: a\r\n"), Reject::HostRepeated);
    for host in [
        "a b", "a,b", "a/b", "a@b", "a:b", "a:80:80", "a\\b", "a?", "[::1", "[g]", "a#b",
        "http://a", "", ":80", "[]", "[]:80",
    ] {
        refused(
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            Reject::HostInvalid,
        );
    }
    for target in ["http://b/", "http://a:81/", "HTTP://b"] {
        refused(
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            Reject::HostMismatch,
        );
    }
    for target in [
        "*",
        "a",
        "a:80",
        "https://a/",
        "http:///",
        "http://u@a/",
        "//\u{e9}",
        "/a#b",
        "/%",
        "/%g0",
        "/\u{1}",
        "ftp://a",
        "?",
    ] {
        refused(
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            Reject::Target,
        );
    }
    for target in [
        "/..",
        "/a/../b",
        "/.",
        "/a/./b",
        "/%2e%2E/b",
        "/a/.%2e",
        "/a%2f..%2Fb",
        "/a/..\\b",
        "/a%5c..",
        "/%00",
        "http://a/../b",
        "/a/..?x",
    ] {
        refused(
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            Reject::DotSegment,
        );
    }
}

#[test]
fn limits() {
    passed(format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
        "x".repeat(63)
    ));
    refused(
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(64)),
        Reject::TargetLength,
    );
    refused(format!("GET /{}", "x".repeat(10_000)), Reject::TargetLength);
    refused(get(&"X: y\r\n".repeat(8)), Reject::HeadLength);
    refused(
        get(&format!("X: {}\r\n", "y".repeat(600))),
        Reject::HeadLength,
    );
}

#[test]
fn nothing_is_read_behind_an_upgrade_until_it_is_decided() {
    let input = get("Connection: upgrade\r\nUpgrade: websocket\r\n");
    let both = format!("{input}GET /next HTTP/1.1\r\n");
    let mut guard = Guard::requests(HeadLimits::default());
    let (passed, found) = feed(&mut guard, both.as_bytes(), 1_000);
    assert_eq!((passed.len(), found), (input.len(), None));
    assert!(!guard.reads());
    guard.resume();
    assert!(guard.reads() && guard.is_between());
    // With a body it is an ordinary request.
    self::passed(post("Upgrade: x\r\nContent-Length: 2\r\n", "ab") + &get(""));
}

fn responses(input: &[u8], to_head: bool) -> (Vec<u8>, Option<Reject>) {
    let mut guard = Guard::responses(HeadLimits::default());
    guard.await_response(to_head);
    feed(&mut guard, input, 1)
}

#[test]
fn responses_are_held_to_the_same() {
    for good in [
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
    ] {
        assert_eq!(
            responses(good.as_bytes(), false),
            (good.as_bytes().to_vec(), None)
        );
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(
        responses(head.as_bytes(), true),
        (head.as_bytes().to_vec(), None)
    );
    for (bad, reject) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::LengthAndEncoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            Reject::ContentLengthRepeated,
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\n", Reject::BareLf),
        ("HTTP/1.1 99 x\r\n\r\n", Reject::StartLine),
        ("HTTP/2.0 200 x\r\n\r\n", Reject::Version),
        ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", Reject::ObsFold),
        (
            "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::EncodingForbidden,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokX",
            Reject::Unsolicited,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n",
            Reject::Unsolicited,
        ),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Reject::StartLine),
        ("<html>", Reject::StartLine),
    ] {
        let input = if bad == "<html>" {
            "<html>\r\n\r\n"
        } else {
            bad
        };
        assert_eq!(responses(input.as_bytes(), false).1, Some(reject), "{bad}");
    }
    assert_eq!(
        responses(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", true).1,
        Some(Reject::Unsolicited)
    );
}

proptest! {
    /// However the bytes are cut, the verdict is the same; and what has passed is a prefix of what came.
    #[test]
    fn pieces_do_not_matter(
        input in prop::collection::vec(prop::sample::select(b"GET / HTTP/1.1\r\n:;0a15, Hostchunked".to_vec()), 0..60),
        start in prop::sample::select(vec!["", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost:a\r\nTransfer-Encoding:chunked\r\n\r\n"]),
        size in 1usize..20,
    ) {
        let all = [start.as_bytes(), &input].concat();
        let (whole, verdict) = requests(&all, all.len().max(1));
        let (pieces, same) = requests(&all, size);
        prop_assert_eq!(verdict, same);
        prop_assert!(all.starts_with(&pieces) || all.starts_with(b"\r\n"));
        if verdict.is_none() {
            prop_assert_eq!(whole, pieces);
        }
    }
}

/// What is passed on, the parser behind takes: so that it is refused here, by name.
#[test]
fn targets_are_no_wider_than_the_parsers() {
    for byte in 0x21..0x7fu8 {
        for target in [
            format!("/a{}b", byte as char),
            format!("/?a{}b", byte as char),
        ] {
            let taken = super::super::check_target("GET", &target).is_ok();
            let parsed = target
                .parse::<http::Uri>()
                .is_ok_and(|uri| uri.to_string() == target);
            assert!(parsed || !taken, "{target}");
        }
    }
}
