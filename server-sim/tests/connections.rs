//! Connections that come to nothing: too many, too slow, not HTTP/2.

mod support;

use hstream_server::limits::Limits;
use hstream_server::node::{Node, NodeConfig};
use std::path::Path;
use std::time::Duration;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn start(data_dir: &Path, limits: Limits) -> Node {
    let config = NodeConfig { port: 0, data_dir: data_dir.to_owned(), limits, ..NodeConfig::default() };
    Node::start(config).await.unwrap()
}

async fn socket(node: &Node) -> TcpStream {
    TcpStream::connect(node.address()).await.unwrap()
}

/// Everything the server says until it closes the connection, which it must do in time.
async fn until_closed(socket: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let end = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut said)).await;
    // A reset is as good as an end.
    let _ = end.expect("the server closes the connection");
    said
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), Limits { max_connections: 2, ..Limits::default() }).await;
    let first = connect(node.address().port()).await;
    let mut second = connect(node.address().port()).await;
    for _ in 0..20 {
        assert_eq!(until_closed(&mut socket(&node).await).await, b"");
    }
    second.describe_cluster(()).await.unwrap();
    drop(first);
    hstream_testkit::eventually("there is room again", DEADLINE, || async {
        let channel = tonic::transport::Channel::from_shared(format!("http://{}", node.address())).unwrap();
        let mut client =
            hstreamdb_proto::api::h_stream_api_client::HStreamApiClient::new(channel.connect().await.ok()?);
        client.describe_cluster(()).await.ok()
    })
    .await;
    drop(second);
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_is_not_http2_is_closed_at_its_first_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    // The deadline is far away: only the bytes can be the reason.
    let node = start(dir.path(), Limits { opening: Duration::from_secs(3600), ..Limits::default() }).await;
    let garbage = vec![0xa5; 1024 * 1024];
    let requests: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"P_",
        &garbage,
        b"PRI * HTTP/2.0\r\n\r\nXX",
    ];
    for request in requests {
        let mut socket = socket(&node).await;
        // The server may close before everything is sent.
        let _ = socket.write_all(request).await;
        assert_eq!(until_closed(&mut socket).await, b"");
    }
    connect(node.address().port()).await.describe_cluster(()).await.unwrap();
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn who_is_slow_to_begin_is_given_up_and_one_byte_at_a_time_is_fine_before_that() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), Limits { opening: Duration::from_millis(300), ..Limits::default() }).await;
    let mut silent = socket(&node).await;
    assert_eq!(until_closed(&mut silent).await, b"");
    let mut half = socket(&node).await;
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r").await.unwrap();
    assert_eq!(until_closed(&mut half).await, b"");
    node.shutdown(Duration::from_secs(5)).await;

    let node = start(dir.path(), Limits::default()).await;
    let mut slow = socket(&node).await;
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        slow.write_all(&[*byte]).await.unwrap();
        slow.flush().await.unwrap();
    }
    // An empty SETTINGS frame completes the beginning; the server answers with its own.
    slow.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut header = [0; 9];
    tokio::time::timeout(DEADLINE, slow.read_exact(&mut header)).await.expect("an answer").unwrap();
    assert_eq!(header[3], 4, "a SETTINGS frame");
    drop(slow);
    node.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn many_calls_given_up_at_once_do_not_cost_the_connection() {
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(dir.path()).await;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    // POST, http, path and authority, none of them indexed.
    let path = b"/hstream.server.HStreamApi/Echo";
    let headers = [&[0x83, 0x86, 0x04, path.len() as u8], &path[..], &[0x01, 1, b'a']].concat();
    let mut burst = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    burst.extend(frame(4, 0, 0, &[]));
    // What a client of many shards has under way when it loses patience; all of it arrives together.
    for call in 0..500 {
        let stream = 2 * call + 1;
        burst.extend(frame(1, 4, stream, &headers));
        burst.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    burst.extend(frame(PING, 0, 0, b"are you?"));
    let mut socket = TcpStream::connect(node.node.address()).await.unwrap();
    socket.write_all(&burst).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            socket.read_exact(&mut payload).await.unwrap();
            if head[3] == PING || head[3] == GOAWAY {
                return (head[3], String::from_utf8_lossy(&payload).into_owned());
            }
        }
    });
    let (kind, text) = answer.await.expect("an answer within 20 seconds");
    assert_eq!((kind, text.as_str()), (PING, "are you?"));
}
