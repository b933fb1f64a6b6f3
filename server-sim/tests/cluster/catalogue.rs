//! All nodes see one catalogue.

use crate::lookups::{clients, owner};
use crate::wire::{Client, append, create, payloads, poll, read_all, shards, stream};
use hstreamdb_proto::api::*;
use tonic::Code;

async fn names(client: &mut Client) -> Vec<String> {
    let streams = client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner().streams;
    streams.into_iter().map(|stream| stream.stream_name).collect()
}

async fn get(client: &mut Client, name: &str) -> Result<(), Code> {
    let request = GetStreamRequest { name: name.into() };
    client.get_stream(request).await.map(|_| ()).map_err(|status| status.code())
}

async fn delete(client: &mut Client, name: &str, force: bool) -> Result<(), Code> {
    let request = DeleteStreamRequest { stream_name: name.into(), force, ignore_non_exist: false };
    client.delete_stream(request).await.map(|_| ()).map_err(|status| status.code())
}

async fn subscribe(client: &mut Client, id: &str, name: &str) -> Result<(), Code> {
    let subscription = Subscription {
        subscription_id: id.into(),
        stream_name: name.into(),
        ack_timeout_seconds: 60,
        max_unacked_records: 100,
        offset: SpecialOffset::Earliest as i32,
        creation_time: None,
    };
    client.create_subscription(subscription).await.map(|_| ()).map_err(|status| status.code())
}

async fn exists(client: &mut Client, id: &str) -> bool {
    let request = CheckSubscriptionExistRequest { subscription_id: id.into() };
    client.check_subscription_exist(request).await.unwrap().into_inner().exists
}

/// Deletes a subscription where it may be deleted.
async fn unsubscribe(clients: &mut [Client], id: &str) {
    let node = owner(&mut clients[0], id).await;
    let request = DeleteSubscriptionRequest { subscription_id: id.into(), force: false };
    clients[node as usize - 1].delete_subscription(request).await.unwrap();
}

#[tokio::test]
async fn what_one_node_has_answered_every_other_one_knows() {
    let cluster = crate::support::cluster(3).await;
    let mut clients = clients(&cluster).await;
    for round in 0..9 {
        let (one, two, three) = (round % 3, (round + 1) % 3, (round + 2) % 3);
        let made = create(&mut clients[one], "s", 2).await;
        assert_eq!(shards(&mut clients[two], "s").await, made);
        append(&mut clients[two], made[0], "x").await;
        assert_eq!(payloads(&read_all(&mut clients[three], made[0]).await), ["x"]);
        subscribe(&mut clients[three], "sub", "s").await.unwrap();
        assert!(exists(&mut clients[one], "sub").await);
        assert_eq!(subscribe(&mut clients[two], "sub", "s").await, Err(Code::AlreadyExists));
        assert_eq!(delete(&mut clients[one], "s", false).await, Err(Code::FailedPrecondition));
        if round % 2 == 0 {
            delete(&mut clients[one], "s", true).await.unwrap();
            for client in &mut clients {
                assert_eq!(get(client, "s").await, Err(Code::NotFound));
            }
            // What was archived can still be read, and goes with its last subscription.
            assert_eq!(payloads(&read_all(&mut clients[two], made[0]).await), ["x"]);
            unsubscribe(&mut clients, "sub").await;
        } else {
            unsubscribe(&mut clients, "sub").await;
            delete(&mut clients[three], "s", false).await.unwrap();
        }
        for client in &mut clients {
            assert_eq!(get(client, "s").await, Err(Code::NotFound));
            assert!(!exists(client, "sub").await);
            let request = GetTailRecordIdRequest { stream_name: "s".into(), shard_id: made[0] };
            let tail = client.get_tail_record_id(request).await;
            assert_eq!(tail.unwrap_err().code(), Code::NotFound);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn of_creations_of_one_name_on_all_nodes_one_wins() {
    let cluster = crate::support::cluster(3).await;
    let mut clients = clients(&cluster).await;
    for round in 0..10 {
        let name = format!("s{round}");
        let creations = clients.iter_mut().map(|client| client.create_stream(stream(&name, 3)));
        let outcomes = futures::future::join_all(creations).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for outcome in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_eq!(outcome.code(), Code::AlreadyExists, "{outcome}");
        }
        let seen = shards(&mut clients[0], &name).await;
        for client in &mut clients[1..] {
            assert_eq!(shards(client, &name).await, seen);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_was_cut_off_from_the_store_knows_afterwards_what_it_missed() {
    let cluster = crate::support::cluster(2).await;
    let mut clients = clients(&cluster).await;
    create(&mut clients[0], "before", 1).await;
    assert_eq!(names(&mut clients[1]).await, ["before"]);
    cluster.cut_off_store(2).await.unwrap();
    create(&mut clients[0], "after", 1).await;
    delete(&mut clients[0], "before", false).await.unwrap();
    // It does not know, and does not say that there is none.
    assert_eq!(get(&mut clients[1], "after").await, Err(Code::Unavailable));
    assert_eq!(names(&mut clients[1]).await, ["before"]);
    cluster.heal_store(2).await.unwrap();
    poll("the node has listed again", async || names(&mut clients[1]).await == ["after"]).await;
    assert_eq!(get(&mut clients[1], "after").await, Ok(()));
    assert_eq!(get(&mut clients[1], "before").await, Err(Code::NotFound));
    cluster.shutdown().await;
}
