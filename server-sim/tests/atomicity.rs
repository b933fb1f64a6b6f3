//! Whatever happens at once, somebody wins, the others are told why, and a restart changes nothing about it.

mod support;

use futures::future::join_all;
use hstreamdb_proto::api::*;
use std::collections::HashSet;
use std::time::Duration;
use support::fetch::{attach, subscription, unsubscribe, wait_for_consumers};
use support::*;
use tokio::sync::Barrier;
use tonic::{Code, Status};

/// Connections of their own, so that nothing in a client puts calls in order.
async fn connections(node: &TestNode, count: usize) -> Vec<Client> {
    let port = node.node.address().port();
    join_all((0..count).map(|_| connect(port))).await
}

/// Runs one call per connection, all released together.
async fn at_once<T, F>(clients: &[Client], call: impl Fn(usize, Client) -> F) -> Vec<Result<T, Status>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Status>> + Send + 'static,
{
    let barrier = std::sync::Arc::new(Barrier::new(clients.len()));
    let calls = clients.iter().cloned().enumerate().map(|(number, client)| {
        let (barrier, call) = (barrier.clone(), call(number, client));
        tokio::spawn(async move {
            barrier.wait().await;
            call.await
        })
    });
    let outcomes = tokio::time::timeout(DEADLINE, join_all(calls)).await.expect("every call ends");
    outcomes.into_iter().map(Result::unwrap).collect()
}

/// Number of winners; everybody else lost with `status`.
fn winners<T>(outcomes: &[Result<T, Status>], status: &[Code]) -> usize {
    for lost in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert!(status.contains(&lost.code()), "{lost}");
    }
    outcomes.iter().filter(|outcome| outcome.is_ok()).count()
}

fn deletion(force: bool) -> DeleteStreamRequest {
    DeleteStreamRequest { stream_name: "s".into(), ignore_non_exist: false, force }
}

async fn streams_named_s(client: &mut Client) -> usize {
    let listed = client.list_streams(ListStreamsRequest {}).await.unwrap().into_inner().streams;
    listed.iter().filter(|stream| stream.stream_name == "s").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creators_and_many_deleters_one_wins_and_a_restart_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let mut retired = HashSet::new();
    for round in 0..12 {
        let clients = connections(&node, 6).await;
        let created = at_once(&clients, |number, mut client| async move {
            // Each asks for another number of shards: the winner's is what must be there.
            let count = 1 + number as u32;
            client.create_stream(stream("s", count)).await.map(|created| created.into_inner().shard_count)
        })
        .await;
        assert_eq!(winners(&created, &[Code::AlreadyExists]), 1, "round {round}");
        let count = created.into_iter().find_map(Result::ok).unwrap();
        if round % 4 == 1 {
            node.stop().await;
            node = TestNode::start(dir.path()).await;
        }
        let ids = shards(&mut node.client, "s").await;
        assert_eq!(ids.len(), count as usize);
        assert!(ids.iter().all(|id| retired.insert(*id)), "an id came back in round {round}");
        let clients = connections(&node, 6).await;
        let deleted =
            at_once(&clients, |_, mut client| async move { client.delete_stream(deletion(false)).await });
        assert_eq!(winners(&deleted.await, &[Code::NotFound]), 1, "round {round}");
        if round % 4 == 3 {
            node.stop().await;
            node = TestNode::start(dir.path()).await;
        }
        assert_eq!(streams_named_s(&mut node.client).await, 0);
        for id in ids {
            let tail = GetTailRecordIdRequest { shard_id: id, ..Default::default() };
            assert_eq!(node.client.get_tail_record_id(tail).await.unwrap_err().code(), Code::NotFound);
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn creations_racing_with_deletions_alternate() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let clients = connections(&node, 8).await;
    for round in 0..20 {
        let before = streams_named_s(&mut node.client).await;
        let outcomes = at_once(&clients, |number, mut client| async move {
            if number % 2 == 0 {
                client.create_stream(stream("s", 3)).await.map(|_| 1)
            } else {
                client.delete_stream(deletion(false)).await.map(|_| -1)
            }
        })
        .await;
        winners(&outcomes, &[Code::AlreadyExists, Code::NotFound]);
        let change: i32 = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).sum();
        let after = streams_named_s(&mut node.client).await;
        assert_eq!(before as i32 + change, after as i32, "round {round}: {outcomes:?}");
        if after == 1 {
            // What won is whole: every shard takes records.
            for shard in shards(&mut node.client, "s").await {
                append(&mut node.client, shard, "x").await;
            }
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_subscribers_and_unsubscribers_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    append(&mut node.client, shard, "x").await;
    for round in 0..12 {
        let clients = connections(&node, 6).await;
        let created = at_once(&clients, |number, mut client| async move {
            let definition = subscription("sub", "s", 60 + number as i32);
            client
                .create_subscription(definition)
                .await
                .map(|created| created.into_inner().ack_timeout_seconds)
        })
        .await;
        assert_eq!(winners(&created, &[Code::AlreadyExists]), 1, "round {round}");
        if round % 4 == 1 {
            node.stop().await;
            node = TestNode::start(dir.path()).await;
        }
        let got = node.client.get_subscription(GetSubscriptionRequest { id: "sub".into() }).await.unwrap();
        let timeout = got.into_inner().subscription.unwrap().ack_timeout_seconds;
        assert_eq!(Some(timeout), created.into_iter().find_map(Result::ok));
        // An incarnation knows nothing of what the one before it acknowledged.
        let mut consumer = attach(&node.client, "sub", "c").await;
        assert_eq!(consumer.take().await, ["x"], "round {round}");
        consumer.finish().await;
        let clients = connections(&node, 6).await;
        let deleted =
            at_once(&clients, |_, mut client| async move { unsubscribe(&mut client, "sub", false).await })
                .await;
        assert_eq!(winners(&deleted, &[Code::NotFound, Code::Aborted]), 1, "round {round}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_subscription_and_the_deletion_of_its_stream_never_both_get_half() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let clients = connections(&node, 8).await;
    let mut subscribed_first = 0;
    for round in 0..20 {
        let shard = create(&mut node.client, "s", 1).await[0];
        append(&mut node.client, shard, "x").await;
        let outcomes = at_once(&clients, |number, mut client| async move {
            match number {
                0 => client.delete_stream(deletion(false)).await.map(|_| "deleted"),
                _ => {
                    let definition = subscription(&format!("sub{number}"), "s", 600);
                    client.create_subscription(definition).await.map(|_| "subscribed")
                }
            }
        })
        .await;
        winners(&outcomes, &[Code::FailedPrecondition]);
        let deleted = outcomes[0].is_ok();
        let subscribed: Vec<usize> = (1..clients.len()).filter(|number| outcomes[*number].is_ok()).collect();
        // Either the stream was there for all of them, or for none.
        assert_eq!(deleted, subscribed.is_empty(), "round {round}: {outcomes:?}");
        if deleted {
            continue;
        }
        subscribed_first += 1;
        // By force it goes while consumers come; every subscription keeps its data and can be deleted.
        let outcomes = at_once(&clients, |number, mut client| {
            let subscribed = subscribed.contains(&number);
            async move {
                if number == 0 {
                    client.delete_stream(deletion(true)).await.map(|_| ())
                } else if subscribed {
                    let mut consumer = attach(&client, &format!("sub{number}"), "c").await;
                    assert_eq!(consumer.take().await, ["x"]);
                    consumer.finish().await;
                    unsubscribe(&mut client, &format!("sub{number}"), false).await
                } else {
                    Ok(())
                }
            }
        })
        .await;
        assert_eq!(winners(&outcomes, &[]), clients.len());
        // Its last reader took the data with it.
        let tail = GetTailRecordIdRequest { shard_id: shard, ..Default::default() };
        let deadline = std::time::Instant::now() + DEADLINE;
        while node.client.get_tail_record_id(tail.clone()).await.is_ok() {
            assert!(std::time::Instant::now() < deadline, "the data goes");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(subscribed_first > 0, "the race was never won by a subscriber");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn force_deletion_ends_with_any_number_of_silent_consumers_and_all_of_them_hear_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let ids = create(&mut node.client, "s", 4).await;
    // More than any window of a connection holds, so that some consumers are stuck in the middle of a message.
    for shard in &ids {
        for _ in 0..12 {
            append(&mut node.client, *shard, &"x".repeat(900_000)).await;
        }
    }
    node.client.create_subscription(subscription("sub", "s", 600)).await.unwrap();
    let clients = connections(&node, 12).await;
    let mut consumers = Vec::new();
    let mut names = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let name = format!("c{number:02}");
        consumers.push(attach(client, "sub", &name).await);
        names.push(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    wait_for_consumers(&mut node.client, "sub", &names).await;
    // Nobody reads, nobody acknowledges.
    let outcomes =
        at_once(&clients[..4], |_, mut client| async move { unsubscribe(&mut client, "sub", true).await })
            .await;
    assert_eq!(winners(&outcomes, &[Code::NotFound, Code::Aborted]), 1);
    for consumer in &mut consumers {
        let (code, body) = refusal(consumer.end().await);
        assert_eq!((code, body.unwrap().1.as_str()), (Code::Aborted, "SubscriptionIsDeleting"));
    }
    // The name is free.
    node.client.create_subscription(subscription("sub", "s", 600)).await.unwrap();
    node.client.delete_stream(deletion(true)).await.unwrap();
    unsubscribe(&mut node.client, "sub", false).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creators_of_a_reader_one_wins_and_one_deletes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    append(&mut node.client, shard, "x").await;
    let clients = connections(&node, 6).await;
    for round in 0..10 {
        let created = at_once(&clients, |_, mut client| async move {
            let request = CreateShardReaderRequest {
                stream_name: "s".into(),
                shard_id: shard,
                shard_offset: special(SpecialOffset::Earliest),
                reader_id: "r".into(),
                timeout: 0,
            };
            client.create_shard_reader(request).await
        })
        .await;
        assert_eq!(winners(&created, &[Code::AlreadyExists]), 1, "round {round}");
        // Polls of one reader are served one by one: the record goes to exactly one of them.
        let polled = at_once(&clients, |_, mut client| async move {
            let request = ReadShardRequest { reader_id: "r".into(), max_records: 1 };
            client.read_shard(request).await.map(|answer| answer.into_inner().received_records.len())
        })
        .await;
        assert_eq!(polled.into_iter().map(Result::unwrap).sum::<usize>(), 1, "round {round}");
        let deleted = at_once(&clients, |_, mut client| async move {
            client.delete_shard_reader(DeleteShardReaderRequest { reader_id: "r".into() }).await
        })
        .await;
        assert_eq!(winners(&deleted, &[Code::FailedPrecondition]), 1, "round {round}");
    }
    node.stop().await;
}
