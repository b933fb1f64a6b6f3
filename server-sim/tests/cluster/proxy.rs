//! Consumers that come to a node that does not serve their subscription.

use crate::lookups::{another, clients, owner, subscribe};
use crate::wire::consumer::{Consumer, fetch_request};
use crate::wire::{Client, append, create, on_chosen_store, payloads, poll, refusal};
use hstream_server::auth::Tokens;
use hstream_server::node::NodeConfig;
use hstream_server::test_cluster::TestCluster;
use hstreamdb_proto::api::*;
use hstreamdb_proto::internal::node_client::NodeClient;
use hstreamdb_proto::metadata;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request};

/// Three nodes, a stream with a subscription, who serves it, and somebody else.
struct Scene {
    cluster: TestCluster,
    clients: Vec<Client>,
    shard: u64,
    owner: u32,
    other: u32,
}

impl Scene {
    async fn new() -> Self {
        let cluster = crate::support::cluster(3).await;
        let mut clients = clients(&cluster).await;
        let shard = create(&mut clients[0], "s", 1).await[0];
        subscribe(&mut clients[0], "sub", "s").await;
        let owner = owner(&mut clients[0], "sub").await;
        Scene { cluster, clients, shard, owner, other: another(owner, 3) }
    }

    fn at(&self, node: u32) -> Client {
        self.clients[node as usize - 1].clone()
    }

    async fn append(&self, texts: &[&str]) {
        for text in texts {
            append(&mut self.at(self.other), self.shard, text).await;
        }
    }

    async fn consumers(&self) -> Vec<hstreamdb_proto::api::Consumer> {
        let request = ListConsumersRequest { subscription_id: "sub".into() };
        self.at(self.owner).list_consumers(request).await.unwrap().into_inner().consumers
    }
}

#[tokio::test]
async fn a_consumer_at_another_node_has_all_it_would_have_at_the_owner() {
    let scene = Scene::new().await;
    scene.append(&["a", "b"]).await;
    let mut keys = MetadataMap::new();
    keys.insert(metadata::ACK_CONFIRMATION, "1".parse().unwrap());
    let attached = Consumer::attach_with(&scene.at(scene.other), "sub", "c", keys).await;
    let (mut consumer, keys) = attached.unwrap();
    assert!(keys.contains_key(metadata::SUBSCRIPTION_INCARNATION), "{keys:?}");
    assert!(keys.contains_key(metadata::CAPABILITIES), "{keys:?}");
    let (mut texts, mut confirmed) = (Vec::new(), None);
    while texts.len() < 3 || confirmed.is_none() {
        let received = consumer.next().await;
        if received.record.is_none() {
            confirmed = received.record_ids.last().copied();
            continue;
        }
        consumer.ack(received.record_ids.clone()).await;
        texts.extend(crate::wire::payloads(&[received]));
        if texts.len() == 2 {
            scene.append(&["c"]).await;
        }
    }
    assert_eq!(texts, ["a", "b", "c"]);
    assert_eq!(confirmed.map(|id| id.shard_id), Some(scene.shard), "told what is durable, as it had asked");
    // Half-close, flush and the end with OK pass through as well.
    consumer.finish().await;
    let mut next = Consumer::attach(&scene.at(scene.owner), "sub", "d").await.unwrap();
    scene.append(&["d"]).await;
    assert_eq!(next.take().await, ["d"], "everything acknowledged before is done");
    next.finish().await;
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn the_owner_lists_the_client_and_not_the_node_in_between() {
    let scene = Scene::new().await;
    // From an address and with a name that no node has.
    let port = scene.cluster.address(scene.other).unwrap().port();
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let endpoint = endpoint.user_agent("somebody/9").unwrap().local_address(Some([127, 0, 0, 9].into()));
    let client = Client::new(endpoint.connect().await.unwrap());
    let consumer = Consumer::attach(&client, "sub", "c").await.unwrap();
    let listed = scene.consumers().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, "c");
    assert!(listed[0].uri.starts_with("ipv4:127.0.0.9:"), "{listed:?}");
    assert!(listed[0].user_agent.starts_with("somebody/9"), "{listed:?}");
    consumer.finish().await;

    let mut keys = MetadataMap::new();
    keys.insert("x-forwarded-for", "ipv4:1.2.3.4:5".parse().unwrap());
    keys.insert("proxy-agent", "some-client/1".parse().unwrap());
    let attached = Consumer::attach_with(&scene.at(scene.other), "sub", "c", keys).await;
    let (consumer, _) = attached.unwrap();
    let listed = scene.consumers().await;
    assert_eq!((listed[0].uri.as_str(), listed[0].user_agent.as_str()), ("ipv4:1.2.3.4:5", "some-client/1"));
    consumer.finish().await;
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn what_the_owner_refuses_is_refused_in_its_words() {
    let scene = Scene::new().await;
    let first = Consumer::attach(&scene.at(scene.owner), "sub", "c").await.unwrap();
    let through = refusal(Consumer::attach(&scene.at(scene.other), "sub", "c").await.map(|_| ()));
    let direct = refusal(Consumer::attach(&scene.at(scene.owner), "sub", "c").await.map(|_| ()));
    assert_eq!(through, direct);
    assert_eq!(through.0, Code::AlreadyExists);
    let missing = refusal(Consumer::attach(&scene.at(scene.other), "none", "c").await.map(|_| ()));
    assert_eq!(missing.0, Code::NotFound);
    first.finish().await;
    // An end that the owner gives reaches the consumer as it is.
    let mut second = Consumer::attach(&scene.at(scene.other), "sub", "c").await.unwrap();
    let delete = DeleteSubscriptionRequest { subscription_id: "sub".into(), force: true };
    scene.at(scene.owner).delete_subscription(delete).await.unwrap();
    let end = second.end().await.unwrap_err();
    assert_eq!(end.code(), Code::Aborted, "{end:?}");
    assert!(end.message().contains("SubscriptionIsDeleting"), "{end:?}");
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn a_consumer_that_breaks_off_leaves_the_owner_at_once() {
    let scene = Scene::new().await;
    let consumer = Consumer::attach(&scene.at(scene.other), "sub", "c").await.unwrap();
    assert_eq!(scene.consumers().await.len(), 1);
    drop(consumer);
    poll("the owner knows that it is gone", async || scene.consumers().await.is_empty()).await;
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn when_the_owner_dies_the_consumer_is_told_to_look_again_and_finds_it_elsewhere() {
    let scene = Scene::new().await;
    scene.append(&["a", "b"]).await;
    let mut consumer = Consumer::attach(&scene.at(scene.other), "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["a"]);
    scene.cluster.kill(scene.owner).await.unwrap();
    let end = consumer.end().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(end.message().contains(&format!("node {}", scene.owner)), "{end:?}");
    // A client that comes again gets it, wherever it asks, once the cluster has noticed.
    let (mut texts, mut client) = (Vec::new(), scene.at(scene.other));
    poll("it is served again", async || {
        if owner(&mut client, "sub").await == scene.owner {
            return false;
        }
        match Consumer::attach(&client, "sub", "c").await {
            Ok(mut consumer) => {
                while texts.last().is_none_or(|last| last != "b") {
                    texts.extend(consumer.take().await);
                }
                true
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                false
            }
        }
    })
    .await;
    scene.cluster.shutdown().await;
}

/// The owner hears nothing of it: the connection between the two nodes is as silent as the one to the consumer.
#[tokio::test]
async fn when_the_node_in_between_dies_its_consumers_leave_the_owner_within_seconds() {
    let scene = Scene::new().await;
    let _consumer = Consumer::attach(&scene.at(scene.other), "sub", "c").await.unwrap();
    assert_eq!(scene.consumers().await.len(), 1);
    scene.cluster.kill(scene.other).await.unwrap();
    let killed = std::time::Instant::now();
    poll("the owner knows that it is gone", async || scene.consumers().await.is_empty()).await;
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn a_consumer_whose_node_in_between_died_is_served_by_the_owner_at_once() {
    let scene = Scene::new().await;
    let mut keys = MetadataMap::new();
    keys.insert(metadata::CONSUMER_INSTANCE, "this one".parse().unwrap());
    let (mut lost, _) =
        Consumer::attach_with(&scene.at(scene.other), "sub", "c", keys.clone()).await.unwrap();
    scene.append(&["a"]).await;
    assert_eq!(payloads(&[lost.next().await]), ["a"]);
    scene.cluster.kill(scene.other).await.unwrap();
    // Another one cannot have its name; the same one can, though the owner has not seen its first call end.
    let taken = Consumer::attach(&scene.at(scene.owner), "sub", "c").await.map(|_| ()).unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken:?}");
    let (mut consumer, _) = Consumer::attach_with(&scene.at(scene.owner), "sub", "c", keys).await.unwrap();
    append(&mut scene.at(scene.owner), scene.shard, "b").await;
    assert_eq!(consumer.take().await, ["b"], "what is new does not wait for what the first call had");
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn a_consumer_that_does_not_read_holds_nobody_up() {
    let scene = Scene::new().await;
    // Another subscription with the same owner.
    let mut name = 0;
    let twin = loop {
        name += 1;
        let id = format!("twin-{name}");
        if owner(&mut scene.at(1), &id).await == scene.owner {
            break id;
        }
    };
    subscribe(&mut scene.at(1), &twin, "s").await;
    let large = "x".repeat(512 * 1024);
    for _ in 0..24 {
        append(&mut scene.at(scene.other), scene.shard, &large).await;
    }
    let _silent = Consumer::attach(&scene.at(scene.other), "sub", "silent").await.unwrap();
    // On a connection of its own to the same node: there the two would share a window.
    let own = crate::seen::client(&scene.cluster, scene.other).await;
    let mut busy = Consumer::attach(&own, &twin, "busy").await.unwrap();
    for _ in 0..24 {
        assert_eq!(busy.take().await[0].len(), large.len());
    }
    busy.finish().await;
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn a_call_that_was_passed_on_is_not_passed_on_again() {
    let scene = Scene::new().await;
    let held = Consumer::attach(&scene.at(scene.owner), "sub", "c").await.unwrap();
    // As another node would call one that is not the owner.
    let address = scene.cluster.internal_address(scene.other).unwrap();
    let mut node = NodeClient::connect(format!("http://{address}")).await.unwrap();
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    requests.send(fetch_request("sub", "d", vec![])).await.unwrap();
    let status = node.streaming_fetch(Request::new(ReceiverStream::new(receiver))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("moving"), "{status:?}");
    held.finish().await;
    scene.cluster.shutdown().await;
}

#[tokio::test]
async fn tokens_are_asked_for_on_the_way_and_at_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (tokens, data_dir) = (Tokens::new(["secret".to_owned()]), dir.path().to_owned());
    let config = NodeConfig { tokens, data_dir, ..NodeConfig::default() };
    let cluster = TestCluster::builder()
        .config(on_chosen_store(config))
        .auto_init(true)
        .port(0)
        .nodes(3)
        .start()
        .await
        .unwrap();
    let with_token = |keys: &mut MetadataMap| {
        keys.insert("authorization", "Basic secret".parse().unwrap());
    };
    let mut clients = clients(&cluster).await;
    let mut request = Request::new(crate::wire::stream("s", 1));
    with_token(request.metadata_mut());
    clients[0].create_stream(request).await.unwrap();
    let mut request = Request::new(Subscription {
        subscription_id: "sub".into(),
        stream_name: "s".into(),
        ack_timeout_seconds: 60,
        ..Subscription::default()
    });
    with_token(request.metadata_mut());
    clients[0].create_subscription(request).await.unwrap();
    let mut request = Request::new(LookupSubscriptionRequest { subscription_id: "sub".into() });
    with_token(request.metadata_mut());
    let owner = clients[0].lookup_subscription(request).await.unwrap().into_inner().server_node.unwrap().id;
    let other = another(owner, 3);
    let mut keys = MetadataMap::new();
    with_token(&mut keys);
    let attached = Consumer::attach_with(&clients[other as usize - 1], "sub", "c", keys.clone()).await;
    let (consumer, _) = attached.unwrap();
    consumer.finish().await;
    // Whoever reaches the internal port needs it as well.
    let address = cluster.internal_address(owner).unwrap();
    let mut node = NodeClient::connect(format!("http://{address}")).await.unwrap();
    let call = |keys: MetadataMap| {
        let mut request = Request::new(tokio_stream::iter([fetch_request("sub", "d", vec![])]));
        *request.metadata_mut() = keys;
        request
    };
    let status = node.streaming_fetch(call(MetadataMap::new())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    node.streaming_fetch(call(keys)).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_stops_lets_the_consumers_it_passes_on_go() {
    let scene = Scene::new().await;
    let mut consumer = Consumer::attach(&scene.at(scene.other), "sub", "c").await.unwrap();
    scene.cluster.stop(scene.other).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), consumer.end()).await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    poll("the owner knows that it is gone", async || scene.consumers().await.is_empty()).await;
    scene.cluster.shutdown().await;
}
