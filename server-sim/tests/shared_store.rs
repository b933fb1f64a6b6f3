//! Nodes that keep their data on NATS: alone, as processes that find each other, and several in one process.

mod support;

use hstream_server::node::{Node, NodeConfig, StartError};
use hstream_server::store::jetstream::JetStreamOptions;
use hstream_testkit::nats::{Nats, NatsOptions};
use hstream_testkit::{ServerOptions, ServerProcess, Store, eventually, free_port};
use hstreamdb_proto::api::*;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;
use support::*;
use tonic::Code;

/// Servers whose messages are large enough for the largest batch there is by default.
static NATS: LazyLock<Nats> = LazyLock::new(|| {
    Nats::start(NatsOptions { max_payload: Some(8 << 20), ..NatsOptions::default() }).unwrap()
});

fn url() -> String {
    NATS.store_url(&format!("t-{:016x}", rand::random::<u64>()))
}

fn config(url: &str, id: u32) -> NodeConfig {
    let store = Some(JetStreamOptions::new(url.parse().unwrap()));
    // Where nothing may be written.
    NodeConfig { port: 0, server_id: id, data_dir: "/nowhere/at/all".into(), store, ..NodeConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_finds_its_streams_and_records_again_wherever_it_starts() {
    let url = url();
    let mut first = TestNode::start_with(config(&url, 1)).await;
    let shard = create(&mut first.client, "s", 2).await[0];
    for n in 0..10 {
        append(&mut first.client, shard, &n.to_string()).await;
    }
    first.stop().await;
    let mut second = TestNode::start_with(config(&url, 1)).await;
    assert_eq!(shards(&mut second.client, "s").await.len(), 2);
    let found = payloads(&read_all(&mut second.client, shard).await);
    assert_eq!(found, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    append(&mut second.client, shard, "more").await;
    second.stop().await;
    assert!(!Path::new("/nowhere").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_that_knows_nobody_is_refused_while_the_first_one_runs() {
    let url = url();
    let mut short = config(&url, 1);
    short.cluster.lease = Duration::from_millis(900);
    let first = TestNode::start_with(short.clone()).await;
    let other = Node::start(NodeConfig { server_id: 2, ..short.clone() }).await.unwrap_err();
    assert!(matches!(other, StartError::NotAlone { .. }), "{other:?}");
    let text = other.to_string();
    assert!(text.contains("node 1 at 127.0.0.1:") && text.contains("--seed-nodes"), "{text}");
    // The same number elsewhere.
    let same = Node::start(short.clone()).await.unwrap_err().to_string();
    assert!(same.contains("node 1 runs already") && same.contains("--server-id"), "{same}");
    first.stop().await;
    // At once, because the first one has said goodbye.
    TestNode::start_with(NodeConfig { server_id: 2, ..short }).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_ends_the_start_with_one_sentence() {
    let mut wrong = config("nats://127.0.0.1:1/x", 1);
    wrong.store.as_mut().unwrap().open_within = Duration::from_millis(300);
    let text = Node::start(wrong).await.unwrap_err().to_string();
    assert!(text.starts_with("--store: no NATS server of nats://127.0.0.1:1/x"), "{text}");
    let small = Nats::start(NatsOptions::default()).unwrap();
    let text = Node::start(config(&small.store_url("x"), 1)).await.unwrap_err().to_string();
    assert!(text.starts_with("--store: max_payload") && text.lines().count() == 1, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_are_refused_while_the_servers_are_away_and_go_on_afterwards() {
    let nats = Nats::start(NatsOptions { max_payload: Some(8 << 20), ..NatsOptions::default() }).unwrap();
    let mut config = config(&nats.store_url("x"), 1);
    config.store.as_mut().unwrap().timeout = Duration::from_secs(1);
    let mut node = TestNode::start_with(config).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    append(&mut node.client, shard, "before").await;
    nats.kill(0).unwrap();
    let request = append_request(shard, batch(vec![record("", "away")]));
    let refused = node.client.append(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    nats.restart(0).unwrap();
    let client = &node.client;
    eventually("an append", DEADLINE, || async {
        let request = append_request(shard, batch(vec![record("", "after")]));
        client.clone().append(request).await.ok()
    })
    .await;
    let found = payloads(&read_all(&mut node.client, shard).await);
    assert_eq!((found.first().unwrap().as_str(), found.last().unwrap().as_str()), ("before", "after"));
    node.stop().await;
}

/// Creates a stream at one node, appends at all and reads at all.
async fn works_on_all(ports: &[u16]) {
    let mut clients = Vec::new();
    for port in ports {
        clients.push(connect(*port).await);
    }
    let shard = create(&mut clients[0], "s", 1).await[0];
    for (n, client) in clients.iter_mut().enumerate() {
        eventually("the stream at every node", DEADLINE, || {
            let mut client = client.clone();
            async move {
                let request = append_request(shard, batch(vec![record("", &n.to_string())]));
                client.append(request).await.ok()
            }
        })
        .await;
    }
    let all: Vec<String> = (0..clients.len()).map(|n| n.to_string()).collect();
    for client in &mut clients {
        assert_eq!(payloads(&read_all(client, shard).await), all);
        let nodes = client.describe_cluster(()).await.unwrap().into_inner().server_nodes;
        assert_eq!(nodes.len(), ports.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_with_the_same_seeds_over_one_store_are_a_cluster() {
    let url = url();
    let internal: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let seeds: Vec<String> = internal.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let starting = internal.iter().enumerate().map(|(n, internal)| {
        let mut options = ServerOptions::new("/nowhere/at/all");
        options.store = Store::At(url.clone());
        options.internal_port = *internal;
        options.flags = vec![
            "--seed-nodes".into(),
            seeds.join(","),
            "--auto-init".into(),
            "--server-id".into(),
            (n + 1).to_string(),
        ];
        tokio::task::spawn_blocking(move || ServerProcess::start(&options))
    });
    let processes = futures::future::join_all(starting).await;
    let processes: Vec<ServerProcess> = processes.into_iter().map(|done| done.unwrap().unwrap()).collect();
    let ports: Vec<u16> = processes.iter().map(ServerProcess::port).collect();
    let mut client = connect(ports[0]).await;
    poll("all nodes run", async || {
        let nodes = client.describe_cluster(()).await.unwrap().into_inner().server_nodes_status;
        nodes.len() == 3 && nodes.iter().all(|node| node.state == NodeState::Running as i32)
    })
    .await;
    works_on_all(&ports).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_of_one_process_stand_on_the_store() {
    let mut options = ServerOptions::new("/nowhere/at/all");
    (options.store, options.nodes) = (Store::At(url()), 3);
    let process = tokio::task::spawn_blocking(move || ServerProcess::start(&options)).await.unwrap().unwrap();
    works_on_all(process.ports()).await;
    assert!(!Path::new("/nowhere").exists());
}
