//! Point 7: every call ends by its deadline, and one that is given up is given up on the wire.

use super::{
    relay::{Network, Relay},
    wire_peer::{Reply, WirePeer},
};
use crate::node_under_test::{PATIENCE, TestNode, soon};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use hstream_testkit::eventually;
use hstreamdb::{
    Client, ClientBuilder, ConnectorKind, DeleteStreamOptions, Error, ErrorKind, NodeAddress, Offset,
    RecordId, ResourceKind, Schema, Stat, StreamOptions, StreamRate, SubscriptionOptions,
};
use std::{collections::BTreeSet, path::Path, time::Duration};

type Call = fn(Client) -> BoxFuture<'static, Result<(), Error>>;

macro_rules! calls {
    ($($name:literal => |$client:ident| $call:expr;)*) => {
        [$(($name, (|$client: Client| async move { $call.await.map(|_| ()) }.boxed()) as Call),)*]
    };
}

/// Every unary call of the client, by the name of its method.
fn every_call() -> Vec<(&'static str, Call)> {
    calls! {
        "refresh_nodes" => |client| client.refresh_nodes();
        "reconnect" => |client| client.reconnect();
        "describe_cluster" => |client| client.describe_cluster();
        "echo" => |client| client.echo("x");
        "admin_command" => |client| client.admin_command("server status");
        "admin_command_at" => |client| async {
            client.admin_command_at(&some_node(&client), "server status").await
        };
        "create_stream" => |client| client.create_stream("s", StreamOptions::new());
        "delete_stream" => |client| client.delete_stream("s", DeleteStreamOptions::new());
        "get_stream" => |client| client.get_stream("s");
        "stream_exists" => |client| client.stream_exists("s");
        "list_streams" => |client| client.list_streams();
        "list_streams_with_prefix" => |client| client.list_streams_with_prefix("s");
        "list_shards" => |client| client.list_shards("s");
        "shard_for_key" => |client| client.shard_for_key("s", "k");
        "tail_record_id" => |client| client.tail_record_id("s", 1);
        "trim_stream" => |client| client.trim_stream("s", Offset::Latest);
        "trim_shard" => |client| client.trim_shard("s", 1, Offset::Latest);
        "trim_shards" => |client| client.trim_shards("s", &[RecordId::default()]);
        "list_shard_readers" => |client| client.list_shard_readers();
        "delete_shard_reader" => |client| client.delete_shard_reader("r");
        "read_shard_reader" => |client| client.read_shard_reader("r", 1, Duration::from_millis(50));
        "get_stats" => |client| async { client.get_stats(&some_node(&client), &Stat::ALL[..1]).await };
        "get_stats_all_nodes" => |client| client.get_stats_all_nodes(&Stat::ALL[..1]);
        "stream_time_series" => |client| async {
            let (node, rate) = (some_node(&client), StreamRate::AppendInBytes);
            client.stream_time_series(&node, rate, "s", &[MINUTE]).await
        };
        "stream_time_series_all" => |client| async {
            client.stream_time_series_all(&some_node(&client), StreamRate::AppendInBytes, &[MINUTE]).await
        };
        "stream_time_series_all_nodes" => |client| {
            client.stream_time_series_all_nodes(StreamRate::AppendInBytes, &[MINUTE])
        };
        "create_query" => |client| client.create_query("q", "sql");
        "create_query_with_namespace" => |client| client.create_query_with_namespace("q", "sql", "n");
        "list_queries" => |client| client.list_queries();
        "get_query" => |client| client.get_query("q");
        "terminate_query" => |client| client.terminate_query("q");
        "pause_query" => |client| client.pause_query("q");
        "resume_query" => |client| client.resume_query("q");
        "delete_query" => |client| client.delete_query("q");
        "execute_query" => |client| client.execute_query("sql");
        "parse_sql" => |client| client.parse_sql("sql");
        "list_views" => |client| client.list_views();
        "get_view" => |client| client.get_view("v");
        "delete_view" => |client| client.delete_view("v", true);
        "execute_view_query" => |client| client.execute_view_query("sql");
        "execute_view_query_with_namespace" => |client| client.execute_view_query_with_namespace("sql", "n");
        "register_schema" => |client| async {
            client.register_schema(&Schema { owner: "s".into(), columns: Vec::new() }).await
        };
        "get_schema" => |client| client.get_schema("s");
        "unregister_schema" => |client| client.unregister_schema("s");
        "create_connector" => |client| client.create_connector("c", ConnectorKind::Sink, "mysql", "{}");
        "list_connectors" => |client| client.list_connectors();
        "get_connector" => |client| client.get_connector("c");
        "connector_spec" => |client| client.connector_spec(ConnectorKind::Sink, "mysql");
        "connector_logs" => |client| client.connector_logs("c", 1, 1);
        "alter_connector_config" => |client| client.alter_connector_config("c", "{}");
        "pause_connector" => |client| client.pause_connector("c");
        "resume_connector" => |client| client.resume_connector("c");
        "delete_connector" => |client| client.delete_connector("c");
        "create_subscription" => |client| client.create_subscription("c", "s", SubscriptionOptions::new());
        "delete_subscription" => |client| client.delete_subscription("c", true);
        "get_subscription" => |client| client.get_subscription("c");
        "subscription_exists" => |client| client.subscription_exists("c");
        "list_subscriptions" => |client| client.list_subscriptions();
        "list_subscriptions_with_prefix" => |client| client.list_subscriptions_with_prefix("c");
        "subscription_offsets" => |client| client.subscription_offsets("c");
        "list_consumers" => |client| client.list_consumers("c");
        "lookup_shard" => |client| client.lookup_shard(1);
        "lookup_shard_reader" => |client| client.lookup_shard_reader("r");
        "lookup_subscription" => |client| client.lookup_subscription("c");
        "lookup_key" => |client| client.lookup_key("k");
        "lookup_resource" => |client| client.lookup_resource(ResourceKind::Stream, "s");
    }
    .into()
}

const MINUTE: Duration = Duration::from_secs(60);

fn some_node(client: &Client) -> NodeAddress {
    client.nodes().into_iter().next().unwrap().address
}

/// Some calls whose repetition would do something else, so that what is open about them must be said.
const ONCE: [&str; 5] =
    ["admin_command", "admin_command_at", "create_stream", "create_subscription", "execute_query"];
/// Some that change nothing.
const READS: [&str; 6] =
    ["describe_cluster", "echo", "list_streams", "lookup_shard", "subscription_exists", "get_stats"];

/// Whether kind and predicates of an error are one story.
fn check(name: &str, error: &Error, told: &str) {
    let (retryable, applied) = (error.is_retryable(), error.may_have_been_applied());
    match error.kind() {
        ErrorKind::OutcomeUnknown => assert!(applied && !retryable, "{name}: {error:?}"),
        ErrorKind::Timeout => assert!(retryable, "{name}: {error:?}"),
        ErrorKind::Unavailable => assert!(retryable, "{name}: {error:?}"),
        _ => panic!("{name}: {error}"),
    }
    if ONCE.contains(&name) {
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{name}: {error}");
    }
    if READS.contains(&name) {
        assert!(error.kind() != ErrorKind::OutcomeUnknown && !applied, "{name}: {error:?}");
    }
    assert!(error.to_string().contains(told), "{name}: {error}");
    assert!(error.node().is_some(), "{name}: {error:?}");
}

fn in_a_hurry(relay: &Relay) -> ClientBuilder {
    Client::builder()
        .url(format!("hstream://{}", relay.address()))
        // The node is known by its own address, too.
        .host_mapping("127.0.0.1", relay.address().to_string())
        .request_timeout(Duration::from_millis(300))
        .unwrap()
        .connect_timeout(Duration::from_secs(5))
        .unwrap()
        .total_timeout(Duration::from_secs(2))
        .unwrap()
        .retry_max_attempts(2)
        .unwrap()
}

async fn run_all(client: &Client) -> Vec<(&'static str, Error)> {
    let calls = every_call().into_iter().map(|(name, call)| {
        let client = client.clone();
        async move {
            let ended = tokio::time::timeout(PATIENCE, call(client)).await;
            (name, ended.unwrap_or_else(|_| panic!("{name} goes on and on")).expect_err(name))
        }
    });
    join_all(calls).await
}

#[test]
fn p07_no_call_is_missing_here() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut there: BTreeSet<String> = BTreeSet::new();
    let mut files = vec![sources.join("client.rs"), sources.join("admin")];
    while let Some(file) = files.pop() {
        if file.is_dir() {
            files.extend(std::fs::read_dir(file).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let mut in_client = false;
        for line in text.lines() {
            if line.starts_with("impl ") {
                in_client = line == "impl Client {";
            }
            let name = line.strip_prefix("    pub async fn ").and_then(|rest| rest.split(['(', '<']).next());
            if let Some(name) = name.filter(|_| in_client) {
                there.insert(name.to_owned());
            }
        }
    }
    // They make and end the client.
    for other in ["connect", "close"] {
        there.remove(other);
    }
    let here: BTreeSet<String> = every_call().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(here, there, "a call of the client is missing in `every_call`, or gone from the client");
}

#[tokio::test]
async fn p07_every_unary_call_ends_by_its_deadline_when_the_peer_is_silent() {
    for network in [Network::Silent, Network::HalfOpen] {
        let node = TestNode::start().await;
        let relay = Relay::to(node.address()).await;
        let client = soon(in_a_hurry(&relay).connect()).await.unwrap();
        relay.set(network);
        for (name, error) in run_all(&client).await {
            // A server may take long for these; the total time is all they have here.
            let patient = ["create_connector", "connector_spec", "alter_connector_config"].contains(&name);
            check(name, &error, if patient { " within " } else { " within 300ms" });
        }
        // Of a call for the owner nothing was sent, because nobody said who that is.
        let error = soon(client.delete_subscription("c", true)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(!error.may_have_been_applied(), "{error:?}");
    }
}

#[tokio::test]
async fn p07_every_unary_call_ends_with_a_typed_error_when_the_peer_resets() {
    let node = TestNode::start().await;
    let relay = Relay::to(node.address()).await;
    let client = soon(in_a_hurry(&relay).connect()).await.unwrap();
    relay.set(Network::Resetting);
    for (name, error) in run_all(&client).await {
        check(name, &error, ": ");
    }
}

#[tokio::test]
async fn p07_all_tries_together_have_a_deadline() {
    let node = TestNode::start().await;
    let relay = Relay::to(node.address()).await;
    let client = in_a_hurry(&relay)
        .retry_max_attempts(1000)
        .unwrap()
        .retry_backoff(Duration::from_millis(5), Duration::from_millis(20))
        .unwrap()
        .total_timeout(Duration::from_millis(700))
        .unwrap();
    let client = soon(client.connect()).await.unwrap();
    relay.set(Network::Silent);
    let error = soon(client.list_streams()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    // 300 ms each leave room for two whole ones and a part; a thousand would outlast anybody's patience.
    assert!((2..=3).contains(&error.tries()), "{error}");
    relay.go_down().await;
    let error = soon(client.list_streams()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.tries() > 3 && error.tries() < 1000, "{error}");
}

#[tokio::test]
async fn p07_a_call_that_is_dropped_is_reset_on_the_wire() {
    let peer = WirePeer::start(|_| Reply::Silence).await;
    // No deadline of either side may be what ends it.
    let long = Duration::from_secs(600);
    let client =
        Client::builder().url(format!("hstream://{}", peer.address())).request_timeout(long).unwrap();
    let client = soon(client.total_timeout(long).unwrap().connect()).await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.echo("x").await }
    });
    eventually("the call to arrive", PATIENCE, || async { peer.seen("Echo").pop() }).await;
    call.abort();
    let reset =
        eventually("the end of the call", PATIENCE, || async { peer.seen("Echo").pop()?.reset }).await;
    assert_eq!(reset, h2::Reason::CANCEL);
    assert_eq!(peer.seen("Echo").len(), 1, "nobody waits for it, so it is not repeated");
}

#[tokio::test]
async fn p07_headers_without_an_answer_are_no_answer() {
    let peer = WirePeer::start(|_| Reply::Headers).await;
    let client = Client::builder()
        .url(format!("hstream://{}", peer.address()))
        .request_timeout(Duration::from_millis(200))
        .unwrap()
        .retry_max_attempts(2)
        .unwrap();
    let client = soon(client.connect()).await.unwrap();
    let error = soon(client.echo("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Timeout, 2));
    let resets = eventually("both ends", PATIENCE, || async {
        let resets: Option<Vec<_>> = peer.seen("Echo").into_iter().map(|seen| seen.reset).collect();
        resets
    });
    assert_eq!(resets.await, [h2::Reason::CANCEL; 2]);
}

#[tokio::test]
async fn p07_the_server_is_told_the_deadline_of_each_try() {
    let peer = WirePeer::start(|_| Reply::Message(Vec::new())).await;
    let client = Client::builder()
        .url(format!("hstream://{}", peer.address()))
        .request_timeout(Duration::from_secs(7))
        .unwrap();
    let client = soon(client.connect()).await.unwrap();
    soon(client.echo("x")).await.unwrap();
    // A quarter of a second more than the client's own, which decides.
    assert_eq!(peer.seen("Echo")[0].headers["grpc-timeout"], "7250m");
}
