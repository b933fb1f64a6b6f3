//! Clients that take and do not give: they get their part and nobody else suffers.

mod support;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use hstream_server::limits::Limits;
use hstream_server::node::{Node, NodeConfig};
use hstream_testkit::{ServerOptions, ServerProcess};
use hstreamdb_proto::api::*;
use prost::Message;
use std::path::Path;
use std::time::Duration;
use support::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;

/// A bare HTTP/2 client that reads nothing it is not told to read.
struct Raw(SendRequest<Bytes>);

/// A call whose answer lies unread.
struct Unread {
    _answer: ResponseFuture,
    _request: SendStream<Bytes>,
}

impl Raw {
    async fn connect(port: u16) -> Raw {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(64 * 1024)
            .initial_connection_window_size(1 << 30)
            .handshake(socket)
            .await
            .unwrap();
        tokio::spawn(connection);
        Raw(client)
    }

    /// Begins a call; `end` closes the client's side.
    async fn begin(&mut self, method: &str, bytes: Bytes, end: bool) -> Option<Unread> {
        let mut client = self.0.clone().ready().await.ok()?;
        let request = http::Request::post(format!("http://a/hstream.server.HStreamApi/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, mut body) = client.send_request(request, false).ok()?;
        body.send_data(bytes, end).ok()?;
        Some(Unread { _answer: answer, _request: body })
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

async fn start(data_dir: &Path, limits: Limits) -> TestNode {
    let config = NodeConfig { port: 0, data_dir: data_dir.to_owned(), limits, ..NodeConfig::default() };
    TestNode::start_with(config).await
}

fn port(node: &Node) -> u16 {
    node.address().port()
}

/// A stream of one shard with this many batches of 900 KiB.
async fn filled(client: &mut Client, batches: usize) -> u64 {
    let shard = create(client, "s", 1).await[0];
    for _ in 0..batches {
        append(client, shard, &"x".repeat(900 * 1024)).await;
    }
    shard
}

fn read_from_the_start(shard: u64) -> ReadShardStreamRequest {
    let from = special(SpecialOffset::Earliest);
    ReadShardStreamRequest { reader_id: "r".into(), shard_id: shard, from, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_give_way_to_one_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { response_memory: 4 << 20, stall: Duration::from_secs(1), ..Limits::default() };
    let mut node = start(dir.path(), limits).await;
    let shard = filled(&mut node.client, 8).await;
    let mut hostile = Raw::connect(port(&node.node)).await;
    let mut unread = Vec::new();
    for _ in 0..50 {
        unread.extend(hostile.begin("ReadShardStream", framed(&read_from_the_start(shard)), true).await);
    }
    assert_eq!(unread.len(), 50);
    let read = tokio::time::timeout(DEADLINE, read_all(&mut node.client, shard)).await;
    assert_eq!(read.expect("the reader gets its turn").len(), 8);
    hstream_testkit::eventually("the connection of those who never read is closed", DEADLINE, || {
        let hostile = hostile.0.clone();
        async move { hostile.ready().await.err() }
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_never_read_give_way_to_one_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { response_memory: 4 << 20, stall: Duration::from_secs(1), ..Limits::default() };
    let mut node = start(dir.path(), limits).await;
    create(&mut node.client, "s", 1).await;
    for number in 0..11 {
        let subscription = Subscription {
            subscription_id: format!("sub{number}"),
            stream_name: "s".into(),
            ack_timeout_seconds: 60,
            max_unacked_records: 1000,
            offset: SpecialOffset::Earliest as i32,
            ..Default::default()
        };
        node.client.create_subscription(subscription).await.unwrap();
    }
    let shard = shards(&mut node.client, "s").await[0];
    for _ in 0..8 {
        append(&mut node.client, shard, &"x".repeat(900 * 1024)).await;
    }
    let fetch = |number: usize| StreamingFetchRequest {
        subscription_id: format!("sub{number}"),
        consumer_name: "c".into(),
        ack_ids: Vec::new(),
    };
    let mut hostile = Raw::connect(port(&node.node)).await;
    let mut unread = Vec::new();
    for number in 0..10 {
        unread.extend(hostile.begin("StreamingFetch", framed(&fetch(number)), false).await);
    }
    assert_eq!(unread.len(), 10);
    let requests = futures::StreamExt::chain(tokio_stream::iter([fetch(10)]), tokio_stream::pending());
    let mut answer = node.client.streaming_fetch(requests).await.unwrap().into_inner();
    for _ in 0..8 {
        let message = tokio::time::timeout(DEADLINE, answer.message()).await.expect("its turn comes");
        assert!(message.unwrap().is_some());
    }
    drop(answer);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_requests_hold_memory_for_a_while_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let limits =
        Limits { request_memory: 8 << 20, complete_within: Duration::from_secs(1), ..Limits::default() };
    let mut node = start(dir.path(), limits).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let mut hostile = Raw::connect(port(&node.node)).await;
    let mut begun = BytesMut::new();
    begun.put_u8(0);
    begun.put_u32(4_000_000);
    begun.put_bytes(7, 10_000);
    let begun = begun.freeze();
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.extend(hostile.begin("Append", begun.clone(), false).await);
    }
    // Small ones need no memory of that kind, large ones wait their turn.
    append(&mut node.client, shard, "small").await;
    let large =
        tokio::time::timeout(DEADLINE, append(&mut node.client, shard, &"x".repeat(900 * 1024))).await;
    large.expect("its turn comes");
    drop(unread);
    node.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_disturbs_no_other_call() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = start(dir.path(), Limits::default()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let mut follower = node.client.read_shard_stream(read_from_the_start(shard)).await.unwrap().into_inner();
    for size in [1024 * 1024 + 20, 3 << 20, 5 << 20, 40 << 20] {
        let request = append_request(shard, batch(vec![record("", &"x".repeat(size))]));
        let (code, body) = refusal(node.client.append(request).await);
        let (error, _, extra) = body.unwrap();
        assert_eq!((code, error), (Code::InvalidArgument, 207), "{size}");
        assert!(extra.as_u64().unwrap() >= size as u64, "{size}: {extra}");
    }
    let (code, body) = refusal(node.client.echo(EchoRequest { msg: "x".repeat(5 << 20) }).await);
    assert_eq!((code, &*body.unwrap().1), (Code::ResourceExhausted, "ResourceExhausted"));
    let long_name = StreamingFetchRequest {
        subscription_id: "sub".into(),
        consumer_name: "c".repeat(1025),
        ack_ids: Vec::new(),
    };
    let (code, body) = refusal(node.client.streaming_fetch(tokio_stream::iter([long_name])).await);
    assert_eq!((code, &*body.unwrap().1), (Code::InvalidArgument, "InvalidRequest"));
    append(&mut node.client, shard, "fine").await;
    let message = tokio::time::timeout(DEADLINE, follower.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(payloads(&message.received_records), ["fine"]);
    drop(follower);
    node.stop().await;
}

#[tokio::test]
async fn calls_have_places_and_long_ones_leave_those_of_short_ones_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = start(dir.path(), Limits { max_long_calls: 2, ..Limits::default() }).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    let first = node.client.read_shard_stream(read_from_the_start(shard)).await.unwrap();
    let second = node.client.read_shard_stream(read_from_the_start(shard)).await.unwrap();
    let (code, body) = refusal(node.client.read_shard_stream(read_from_the_start(shard)).await);
    assert_eq!((code, &*body.unwrap().1), (Code::ResourceExhausted, "ResourceExhausted"));
    append(&mut node.client, shard, "a short one").await;
    drop(first);
    hstream_testkit::eventually("a place is free again", DEADLINE, || {
        let mut client = node.client.clone();
        async move { client.read_shard_stream(read_from_the_start(shard)).await.ok() }
    })
    .await;
    drop(second);
    node.stop().await;
}

#[tokio::test]
async fn reads_by_key_have_places_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = start(dir.path(), Limits { max_key_reads: 1, ..Limits::default() }).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    append(&mut node.client, shard, "x").await;
    let request = |count| ReadStreamByKeyRequest {
        reader_id: "r".into(),
        stream_name: "s".into(),
        read_record_count: count,
        ..Default::default()
    };
    // It found something and waits for credit.
    let (credits, waits) = tokio::sync::mpsc::channel(1);
    credits.send(request(0)).await.unwrap();
    let waits = tokio_stream::wrappers::ReceiverStream::new(waits);
    let first = node.client.read_stream_by_key(waits).await.unwrap();
    let (code, body) = refusal(node.client.read_stream_by_key(tokio_stream::iter([request(1)])).await);
    let (_, class, extra) = body.unwrap();
    assert_eq!((code, &*class), (Code::ResourceExhausted, "ResourceExhausted"));
    assert!(extra.as_str().unwrap().contains("reads by key"), "{extra}");
    node.client.read_shard_stream(read_from_the_start(shard)).await.expect("other reads have theirs");
    drop((credits, first));
    hstream_testkit::eventually("the place is free again", DEADLINE, || {
        let mut client = node.client.clone();
        async move { client.read_stream_by_key(tokio_stream::iter([request(1)])).await.ok() }
    })
    .await;
    node.stop().await;
}

/// Resident memory of a process in MiB.
fn resident(id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// The most a process holds until it has not grown for a while.
async fn settled(id: u32) -> usize {
    let (mut most, mut calm) = (0, 0);
    while calm < 20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = resident(id);
        calm = if now > most { 0 } else { calm + 1 };
        most = most.max(now);
    }
    most
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_that_never_read_stay_below_512_mib() {
    let dir = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_hstream-server").into();
    let server = ServerProcess::start(&ServerOptions { binary, ..ServerOptions::new(dir.path()) }).unwrap();
    let mut client = connect(server.port()).await;
    let shard = filled(&mut client, 16).await;
    let before = resident(server.id());
    let mut unread = Vec::new();
    for _ in 0..2 {
        let mut hostile = Raw::connect(server.port()).await;
        for _ in 0..5000 {
            unread.extend(hostile.begin("ReadShardStream", framed(&read_from_the_start(shard)), true).await);
        }
    }
    assert_eq!(unread.len(), 10_000);
    let after = settled(server.id()).await;
    println!("10,000 unread calls: {before} MiB before, {after} MiB at most");
    assert!(after < 512, "{before} MiB before, {after} MiB after");
    client.echo(EchoRequest { msg: "alive".into() }).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_no_streams_stay_below_512_mib_when_nobody_reads_them() {
    const CALLS: usize = 600;
    let dir = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_hstream-server").into();
    let server = ServerProcess::start(&ServerOptions { binary, ..ServerOptions::new(dir.path()) }).unwrap();
    let mut client = connect(server.port()).await;
    let shard = filled(&mut client, 8).await;
    let creations = (0..CALLS).map(|number| {
        let mut client = client.clone();
        async move {
            let reader = CreateShardReaderRequest {
                stream_name: "s".into(),
                shard_id: shard,
                shard_offset: special(SpecialOffset::Earliest),
                reader_id: format!("r{number}"),
                timeout: 60_000,
            };
            client.create_shard_reader(reader).await.unwrap();
        }
    });
    futures::future::join_all(creations).await;
    let before = resident(server.id());
    let mut hostile = Raw::connect(server.port()).await;
    let mut unread = Vec::new();
    // Nearly as many records as a batch may claim, so that their ids take 4 MiB.
    let claims = BatchedRecord { batch_size: 140_000, payload: "x".into(), ..Default::default() };
    for number in 0..CALLS {
        let poll = ReadShardRequest { reader_id: format!("r{number}"), max_records: 100 };
        unread.extend(hostile.begin("ReadShard", framed(&poll), true).await);
        let append = append_request(shard, claims.clone());
        unread.extend(hostile.begin("Append", framed(&append), true).await);
    }
    assert_eq!(unread.len(), 2 * CALLS);
    let after = settled(server.id()).await;
    println!("{} unread answers of 4 MiB: {before} MiB before, {after} MiB at most", 2 * CALLS);
    assert!(after < 512, "{before} MiB before, {after} MiB after");
    client.echo(EchoRequest { msg: "alive".into() }).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_rapid_resets_cost_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_hstream-server").into();
    let server = ServerProcess::start(&ServerOptions { binary, ..ServerOptions::new(dir.path()) }).unwrap();
    let mut client = connect(server.port()).await;
    let before = resident(server.id());
    let garbage: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for round in 0..100 {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        if round % 2 == 0 {
            // Garbage behind a good beginning is for the HTTP/2 library.
            let _ = socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        }
        let _ = socket.write_all(&garbage).await;
    }
    for _ in 0..20 {
        let mut hostile = Raw::connect(server.port()).await;
        for _ in 0..2000 {
            let request = framed(&ReadShardStreamRequest::default());
            // Dropping an unfinished call resets it.
            if hostile.begin("ReadShardStream", request, false).await.is_none() {
                break;
            }
        }
    }
    let after = settled(server.id()).await;
    println!("garbage and resets: {before} MiB before, {after} MiB at most");
    assert!(after < before + 100, "{before} MiB before, {after} MiB after");
    client.echo(EchoRequest { msg: "alive".into() }).await.unwrap();
}
