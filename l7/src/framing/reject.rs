//! Why a message is not passed on.

use http::StatusCode;

use crate::list::list;

list! {
    /// Why a request, or with the same names a response, is not passed on. `reason as usize` indexes the counters.
    Reject {
        /// The first line is not `method SP target SP version`, or `version SP status SP reason`.
        StartLine = "start_line",
        /// The version is none of 1.0 and 1.1.
        Version = "version",
        /// A line ends without CR.
        BareLf = "bare_lf",
        /// A CR is not followed by LF.
        BareCr = "bare_cr",
        /// A control character, such as NUL, where none may be.
        Control = "control",
        /// A line begins with white space (obs-fold, RFC 9112 section 5.2).
        ObsFold = "obs_fold",
        /// White space before the colon of a field (RFC 9112 section 5.1).
        SpaceBeforeColon = "space_before_colon",
        /// A field without a colon, or with a name that is no token.
        FieldName = "field_name",
        /// The target is longer than allowed.
        TargetLength = "target_length",
        /// The head or the trailer section is longer than allowed, or has more fields, or names in `Connection`.
        HeadLength = "head_length",
        /// A target of no known form, or with bytes that must be encoded.
        Target = "target",
        /// The path has a dot segment, or hides a NUL.
        DotSegment = "dot_segment",
        /// No `Host` in HTTP/1.1.
        HostMissing = "host_missing",
        /// Several `Host`.
        HostRepeated = "host_repeated",
        /// `Host` is no host and port.
        HostInvalid = "host_invalid",
        /// `Host` and the target name different hosts.
        HostMismatch = "host_mismatch",
        /// `Content-Length` is no number.
        ContentLength = "content_length",
        /// Several lengths, be they equal.
        ContentLengthRepeated = "content_length_repeated",
        /// A transfer coding other than exactly `chunked`, once.
        TransferEncoding = "transfer_encoding",
        /// Both a length and a transfer coding.
        LengthAndEncoding = "length_and_encoding",
        /// A transfer coding in HTTP/1.0, which has none, or where there is no body.
        EncodingForbidden = "encoding_forbidden",
        /// The size of a chunk is no number of at most 15 hexadecimal digits.
        ChunkSize = "chunk_size",
        /// A chunk extension that is malformed or longer than 256 bytes.
        ChunkExtension = "chunk_extension",
        /// A chunk does not end where its size says.
        ChunkEnd = "chunk_end",
        /// A trailer field that may only be in a head (RFC 9110 section 6.5.1).
        Trailer = "trailer",
        /// The head took longer than allowed.
        HeadTimeout = "head_timeout",
        /// `CONNECT`, which this is no proxy for.
        Connect = "connect",
        /// Sound as far as is known here, and yet not taken by the parser behind.
        Parser = "parser",
        /// Bytes that nobody asked for, of a backend.
        Unsolicited = "unsolicited",
    }
}

impl Reject {
    /// What a client is answered.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TargetLength => StatusCode::URI_TOO_LONG,
            Self::HeadLength => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
