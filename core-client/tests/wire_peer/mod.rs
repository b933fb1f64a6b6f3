//! A peer that speaks HTTP/2 by hand: it answers what it is told to, or half of it, and sees how calls end.
#![allow(dead_code)]

use bytes::{BufMut as _, Bytes, BytesMut};
use hstreamdb_proto::api;
use prost::Message as _;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::net::{TcpListener, TcpStream};

/// What a call is answered with.
pub enum Reply {
    /// A whole answer.
    Message(Vec<u8>),
    /// Headers, and then nothing.
    Headers,
    /// Nothing.
    Silence,
}

/// A call as it was seen on the wire.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub headers: http::HeaderMap,
    /// How the client ended it before it was answered.
    pub reset: Option<h2::Reason>,
}

pub struct WirePeer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Answers = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

impl WirePeer {
    /// Describes itself as the whole cluster and answers everything else as told.
    pub async fn start(answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> WirePeer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let answers: Answers = Arc::new(move |method| match method {
            "DescribeCluster" => Reply::Message(alone(address)),
            method => answers(method),
        });
        let record = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answers.clone(), record.clone()));
            }
        });
        WirePeer { address, seen }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The calls of a method, in the order they came.
    pub fn seen(&self, method: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.method == method).cloned().collect()
    }
}

fn alone(address: SocketAddr) -> Vec<u8> {
    let node =
        api::ServerNode { id: 1, host: address.ip().to_string(), port: address.port().into(), version: None };
    api::DescribeClusterResponse { server_nodes: vec![node], ..Default::default() }.encode_to_vec()
}

async fn serve(stream: TcpStream, answers: Answers, seen: Arc<Mutex<Vec<Seen>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let index = {
            let mut seen = seen.lock().unwrap();
            seen.push(Seen { method: method.clone(), headers: request.headers().clone(), reset: None });
            seen.len() - 1
        };
        let reply = answers(&method);
        let seen = seen.clone();
        tokio::spawn(async move {
            if let Some(reason) = answer(request, respond, reply).await {
                seen.lock().unwrap()[index].reset = Some(reason);
            }
        });
    }
}

/// Answers a call; tells how the client ended it where it had no whole answer.
async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    reply: Reply,
) -> Option<h2::Reason> {
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    match reply {
        Reply::Silence => std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok(),
        Reply::Headers => {
            let mut stream = respond.send_response(head, false).ok()?;
            std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok()
        }
        Reply::Message(message) => {
            let mut stream = respond.send_response(head, false).ok()?;
            let mut data = BytesMut::with_capacity(message.len() + 5);
            data.put_u8(0);
            data.put_u32(message.len() as u32);
            data.put_slice(&message);
            // The client may give up a message that is too large for it before it has all of it.
            stream.send_data(data.freeze(), false).ok()?;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers).ok()?;
            None
        }
    }
}
