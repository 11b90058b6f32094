//! The server.

use crate::grpc::{AS_ASKED, ECHO, FAIL, Order, Raw, STREAM, TALK, WHO, filling, runtime};
use crate::tools::serve::tcp;
use anyhow::Result;
use bytes::{Buf, Bytes};
use std::convert::Infallible;
use std::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tower::service_fn;

/// Bytes of an answer at most: what tonic takes of a message, unless told otherwise.
const ANSWER_MAX: usize = 4 << 20;

/// Serves on `port` by HTTP/2 from the first byte, on one thread.
pub fn serve(port: u16, name: &str) -> Result<()> {
    serve_on(tcp(port)?, name)
}

/// As [`serve`], on a listener that is there.
pub(super) fn serve_on(listener: TcpListener, name: &str) -> Result<()> {
    let name: Bytes = name.to_owned().into();
    listener.set_nonblocking(true)?;
    runtime()?.block_on(async {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
        let service = service_fn(move |request| {
            let name = name.clone();
            async move { Ok::<_, Infallible>(answer(request, name).await) }
        });
        let server = Server::builder();
        let incoming = incoming.with_nodelay(Some(true));
        Ok(server.serve_with_incoming(service, incoming).await?)
    })
}

async fn answer(request: http::Request<Body>, name: Bytes) -> http::Response<Body> {
    let mut grpc = Grpc::new(Raw);
    match request.uri().path() {
        ECHO => grpc.unary(service_fn(echo), request).await,
        WHO => {
            let who = |request| std::future::ready(who(&request, &name));
            grpc.unary(service_fn(who), request).await
        }
        FAIL => grpc.unary(service_fn(fail), request).await,
        STREAM => grpc.server_streaming(service_fn(stream), request).await,
        TALK => {
            let talk =
                |said: Request<Streaming<Bytes>>| async { Ok(Response::new(said.into_inner())) };
            grpc.streaming(service_fn(talk), request).await
        }
        _ => Status::unimplemented("no such method").into_http(),
    }
}

async fn echo(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let length = request.into_inner().try_get_u32();
    let length = length.map_err(|_| Status::invalid_argument("no length"))? as usize;
    if length > ANSWER_MAX {
        return Err(Status::out_of_range("too long an answer"));
    }
    Ok(Response::new(filling(length)))
}

fn who(request: &Request<Bytes>, name: &Bytes) -> Result<Response<Bytes>, Status> {
    let peer = request.remote_addr();
    let peer = peer.ok_or_else(|| Status::internal("no peer"))?;
    let name = String::from_utf8_lossy(name);
    let said = format!("{name} {} {}", peer.ip().to_canonical(), peer.port());
    Ok(Response::new(said.into()))
}

async fn fail(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let order = Order::decode(request.into_inner())?;
    Err(Status::new(Code::from_i32(order.code), AS_ASKED))
}

async fn stream(
    request: Request<Bytes>,
) -> Result<Response<impl tokio_stream::Stream<Item = Result<Bytes, Status>>>, Status> {
    let order = Order::decode(request.into_inner())?;
    if order.bytes as usize > ANSWER_MAX {
        return Err(Status::out_of_range("too long a message"));
    }
    let message = filling(order.bytes as usize);
    let messages = (0..order.messages).map(move |_| Ok(message.clone()));
    let failed = order.code != 0;
    let end = failed.then(|| Err(Status::new(Code::from_i32(order.code), AS_ASKED)));
    Ok(Response::new(
        tokio_stream::iter(messages).chain(tokio_stream::iter(end)),
    ))
}
