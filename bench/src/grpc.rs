//! gRPC as labs speak it, with tonic and without a schema: messages are bytes. [`crate::tools::grpc`] has the server.

use crate::client::ANSWER_LIMIT;
use crate::namespace::Namespace;
use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// Answers with as many bytes as the request's first four say, big-endian; those of [`filling`].
pub const ECHO: &str = "/weft.Lab/Echo";
/// Answers with `name address port`: the server's name, and the client as it sees it.
pub const WHO: &str = "/weft.Lab/Who";
/// Answers with the messages and the status that [`Order`] asks for.
pub const STREAM: &str = "/weft.Lab/Stream";
/// Answers each message with itself.
pub const TALK: &str = "/weft.Lab/Talk";
/// Fails with the status of [`Order`], before any message.
pub const FAIL: &str = "/weft.Lab/Fail";

/// What a status that was asked for says.
pub const AS_ASKED: &str = "as it was asked to";

/// How long a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// As many bytes, of which each says where it is.
pub fn filling(bytes: usize) -> Bytes {
    (0..=250u8).cycle().take(bytes).collect()
}

/// A request of [`ECHO`] of so many bytes, at least four, for an answer of so many.
pub fn echo_request(bytes: usize, answer: u32) -> Bytes {
    let mut request = filling(bytes.max(4)).to_vec();
    request[..4].copy_from_slice(&answer.to_be_bytes());
    request.into()
}

/// What [`STREAM`] and [`FAIL`] are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// How many messages.
    pub messages: u32,
    /// Bytes of each, those of [`filling`].
    pub bytes: u32,
    /// The status behind them; 0 is none.
    pub code: i32,
}

impl Order {
    /// No message, and this status.
    pub fn only(code: i32) -> Self {
        Self {
            messages: 0,
            bytes: 0,
            code,
        }
    }

    /// As a message.
    pub fn encode(self) -> Bytes {
        let mut message = Vec::with_capacity(12);
        message.put_u32(self.messages);
        message.put_u32(self.bytes);
        message.put_i32(self.code);
        message.into()
    }

    /// From a message; what is missing is a status, for the client.
    pub fn decode(mut message: Bytes) -> Result<Self, Status> {
        let missing = |_| Status::invalid_argument("not an order");
        Ok(Self {
            messages: message.try_get_u32().map_err(missing)?,
            bytes: message.try_get_u32().map_err(missing)?,
            code: message.try_get_i32().map_err(missing)?,
        })
    }
}

/// A connection, and calls over it.
#[derive(Debug, Clone)]
pub struct Calls {
    grpc: Grpc<Channel>,
}

impl Calls {
    /// Connects, by HTTP/2 at once; connects anew at the next call when the connection has ended.
    pub async fn open(to: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{to}"))?
            .connect_timeout(ANSWER_LIMIT)
            .timeout(CALL_LIMIT);
        let channel = endpoint.connect().await;
        let channel = channel.with_context(|| format!("cannot connect to {to}"))?;
        Ok(Self {
            grpc: Grpc::new(channel),
        })
    }

    /// One message there and one back.
    pub async fn unary(&mut self, method: &'static str, message: Bytes) -> Result<Bytes, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(method);
        let answer = self.grpc.unary(Request::new(message), path, Raw).await?;
        Ok(answer.into_inner())
    }

    /// What [`WHO`] says.
    pub async fn who(&mut self) -> Result<String, Status> {
        let said = self.unary(WHO, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// The messages of an order, as they come.
    pub async fn stream(&mut self, order: Order) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(STREAM);
        let request = Request::new(order.encode());
        let answer = self.grpc.server_streaming(request, path, Raw).await?;
        Ok(answer.into_inner())
    }

    /// Messages both ways at once, over [`TALK`].
    pub async fn talk(
        &mut self,
        messages: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(TALK);
        let answer = self.grpc.streaming(Request::new(messages), path, Raw);
        Ok(answer.await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::from_error(error.into()))
    }
}

/// What a thread needs to make calls.
pub fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("no runtime")
}

/// Makes calls from inside `namespace`, to their end.
pub fn inside<T: Send>(
    namespace: &Namespace,
    calls: impl AsyncFnOnce() -> Result<T> + Send,
) -> Result<T> {
    namespace.enter(|| runtime()?.block_on(calls()))?
}
