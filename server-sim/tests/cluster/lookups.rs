//! Which node is told to serve what, and what the others say when they are asked nevertheless.

use crate::seen::{client, command};
use crate::wire::{Client, create, refusal};
use hstream_server::test_cluster::TestCluster;
use hstreamdb_proto::api::*;
use std::collections::BTreeSet;
use tonic::Code;

pub async fn clients(cluster: &TestCluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        clients.push(client(cluster, node).await);
    }
    clients
}

pub async fn owner(client: &mut Client, id: &str) -> u32 {
    let request = LookupSubscriptionRequest { subscription_id: id.into() };
    let found = client.lookup_subscription(request).await.unwrap().into_inner();
    assert_eq!(found.subscription_id, id);
    found.server_node.unwrap().id
}

pub async fn subscribe(client: &mut Client, id: &str, stream: &str) {
    let subscription = Subscription {
        subscription_id: id.into(),
        stream_name: stream.into(),
        ack_timeout_seconds: 60,
        max_unacked_records: 10_000,
        offset: SpecialOffset::Earliest as i32,
        creation_time: None,
    };
    client.create_subscription(subscription).await.unwrap();
}

/// Any node but this one.
pub fn another(owner: u32, nodes: u32) -> u32 {
    owner % nodes + 1
}

#[tokio::test]
async fn all_nodes_give_the_same_answers_and_spread_what_they_place() {
    let cluster = crate::support::cluster(3).await;
    let mut clients = clients(&cluster).await;
    let mut placed: Vec<BTreeSet<u32>> = Vec::new();
    for number in 0..40_u64 {
        let id = format!("thing-{number}");
        let mut answers: Vec<Vec<u32>> = Vec::new();
        for client in &mut clients {
            let shard = client.lookup_shard(LookupShardRequest { shard_id: number }).await.unwrap();
            let shard = shard.into_inner();
            assert_eq!(shard.shard_id, number);
            let key = client.lookup_key(LookupKeyRequest { partition_key: id.clone() }).await.unwrap();
            let reader = client.lookup_shard_reader(LookupShardReaderRequest { reader_id: id.clone() });
            let reader = reader.await.unwrap().into_inner();
            assert_eq!(reader.reader_id, id);
            let mut answer = vec![
                shard.server_node.unwrap().id,
                key.into_inner().id,
                owner(client, &id).await,
                reader.server_node.unwrap().id,
            ];
            for kind in [
                ResourceType::ResStream,
                ResourceType::ResSubscription,
                ResourceType::ResShardReader,
                ResourceType::ResQuery,
                ResourceType::ResConnector,
            ] {
                let request = LookupResourceRequest { res_type: kind as i32, res_id: id.clone() };
                answer.push(client.lookup_resource(request).await.unwrap().into_inner().id);
            }
            let request =
                LookupResourceRequest { res_type: ResourceType::ResShard as i32, res_id: number.to_string() };
            answer.push(client.lookup_resource(request).await.unwrap().into_inner().id);
            answers.push(answer);
        }
        let [one, others @ ..] = &answers[..] else { unreachable!() };
        assert!(others.iter().all(|other| other == one), "{id}: {answers:?}");
        assert_eq!(one[2], one[5], "both lookups of a subscription");
        assert_eq!(one[0], one[9], "both lookups of a shard");
        placed.resize(one.len(), BTreeSet::new());
        placed.iter_mut().zip(one).for_each(|(nodes, node)| _ = nodes.insert(*node));
    }
    // 40 draws out of 3 that miss a node: 3 * (2/3)^40 < 10^-6.
    assert!(placed.iter().all(|nodes| nodes.len() == 3), "{placed:?}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_does_not_serve_a_subscription_says_so_in_the_published_words() {
    let cluster = crate::support::cluster(3).await;
    let mut clients = clients(&cluster).await;
    create(&mut clients[0], "s", 1).await;
    subscribe(&mut clients[0], "sub", "s").await;
    let owner = owner(&mut clients[0], "sub").await;
    let expected = (
        Code::FailedPrecondition,
        Some((800, "WrongServer".to_owned(), "Subscription is bound to a different node".into())),
    );
    for (node, client) in (1..).zip(&mut clients) {
        let get = client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await;
        let list = client.list_consumers(ListConsumersRequest { subscription_id: "sub".into() }).await;
        if node == owner {
            get.unwrap();
            list.unwrap();
            continue;
        }
        assert_eq!(refusal(get), expected);
        assert_eq!(refusal(list), expected);
        let delete = DeleteSubscriptionRequest { subscription_id: "sub".into(), force: true };
        assert_eq!(refusal(client.delete_subscription(delete).await), expected);
        // What there is not is not there on every node.
        let missing = client.get_subscription(GetSubscriptionRequest { id: "none".into() }).await;
        assert_eq!(refusal(missing).0, Code::NotFound);
    }
    let delete = DeleteSubscriptionRequest { subscription_id: "sub".into(), force: false };
    clients[owner as usize - 1].delete_subscription(delete).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_does_not_serve_a_reader_says_so_in_the_published_words() {
    let cluster = crate::support::cluster(3).await;
    let mut clients = clients(&cluster).await;
    let shard = create(&mut clients[0], "s", 1).await[0];
    let reader = CreateShardReaderRequest {
        stream_name: "s".into(),
        shard_id: shard,
        shard_offset: crate::wire::special(SpecialOffset::Earliest),
        reader_id: "r".into(),
        timeout: 0,
    };
    clients[0].create_shard_reader(reader).await.unwrap();
    let request = LookupShardReaderRequest { reader_id: "r".into() };
    let owner = clients[0].lookup_shard_reader(request).await.unwrap().into_inner().server_node.unwrap().id;
    let expected = (
        Code::FailedPrecondition,
        Some((800, "WrongServer".to_owned(), "ShardReader is bound to a different node".into())),
    );
    for (node, client) in (1..).zip(&mut clients) {
        let read = client.read_shard(ReadShardRequest { reader_id: "r".into(), max_records: 1 }).await;
        if node == owner {
            read.unwrap();
            continue;
        }
        assert_eq!(refusal(read), expected);
        let delete = client.delete_shard_reader(DeleteShardReaderRequest { reader_id: "r".into() }).await;
        assert_eq!(refusal(delete), expected);
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn lookups_store_nothing_until_something_is_served() {
    let cluster = crate::support::cluster(2).await;
    let mut clients = clients(&cluster).await;
    create(&mut clients[0], "s", 1).await;
    subscribe(&mut clients[0], "sub", "s").await;
    let owner = owner(&mut clients[0], "sub").await;
    let stored = "server meta get-task -r subscription -i sub";
    assert_eq!(command(&mut clients[0], stored).await["content"], "Not Found");
    let at_owner = clients[owner as usize - 1].clone();
    let consumer = crate::wire::consumer::Consumer::attach(&at_owner, "sub", "c").await.unwrap();
    for client in &mut clients {
        let answer = command(client, stored).await;
        assert_eq!(answer["content"]["rows"], serde_json::json!([["sub", owner.to_string()]]), "{answer}");
        let lookup = command(client, "server lookup subscription sub").await;
        let port = cluster.address(owner).unwrap().port();
        assert_eq!(lookup["content"]["rows"], serde_json::json!([["sub", "127.0.0.1", port.to_string()]]));
    }
    consumer.finish().await;
    cluster.shutdown().await;
}
