//! The store is lost and comes back.

use crate::support::*;
use hstream_testkit::nats::{Nats, NatsOptions};
use hstream_testkit::{ServerOptions, ServerProcess, Store, eventually};
use hstreamdb_proto::api::*;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

fn options(nats: &Nats, dir: &Path) -> ServerOptions {
    let (binary, store) = (env!("CARGO_BIN_EXE_hstream-server").into(), Store::At(nats.store_url("loss")));
    ServerOptions { binary, store, ..ServerOptions::new(dir) }
}

/// Appends until it works again; how many attempts were refused.
async fn until_it_works(client: &mut Client, shard: u64, payload: &str) -> usize {
    let mut refused = 0;
    let deadline = tokio::time::Instant::now() + DEADLINE * 3;
    loop {
        let request = append_request(shard, batch(vec![record("", payload)]));
        match client.append(request).await {
            Ok(_) => return refused,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        refused += 1;
        assert!(tokio::time::Instant::now() < deadline, "{payload:?} is stored at last");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_appends_are_unavailable_and_with_it_everything_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let nats = Nats::start(NatsOptions::for_nodes()).unwrap();
    let server = ServerProcess::start(&options(&nats, dir.path())).unwrap();
    let mut client = connect(server.port()).await;
    let shard = create(&mut client, "s", 1).await[0];
    append(&mut client, shard, "before").await;

    nats.kill(0).unwrap();
    let attempts = (0..20).map(|number| {
        let (mut client, payload) = (client.clone(), format!("lost {number}"));
        async move { client.append(append_request(shard, batch(vec![record("", &payload)]))).await }
    });
    let outcomes = tokio::time::timeout(DEADLINE, futures::future::join_all(attempts)).await;
    for outcome in outcomes.expect("every append ends in time") {
        assert_eq!(refusal(outcome).0, Code::Unavailable);
    }
    nats.restart(0).unwrap();
    nats.ready().await.unwrap();
    until_it_works(&mut client, shard, "after").await;
    let read = payloads(&read_all(&mut client, shard).await);
    assert_eq!((read.first().unwrap().as_str(), read.last().unwrap().as_str()), ("before", "after"));
    assert!(
        !read.iter().any(|payload| payload.starts_with("lost")),
        "nobody was there to store it: {read:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stands_still_refuses_appends_in_time_and_stores_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let nats = Nats::start(NatsOptions::for_nodes()).unwrap();
    let server = ServerProcess::start(&options(&nats, dir.path())).unwrap();
    let mut client = connect(server.port()).await;
    let shard = create(&mut client, "s", 1).await[0];
    client.append(stamped(shard, 0, 0, "0")).await.unwrap();
    nats.pause(0).unwrap();
    let outcome = tokio::time::timeout(DEADLINE, client.append(stamped(shard, 0, 1, "1"))).await;
    assert_eq!(refusal(outcome.expect("it ends in time")).0, Code::Unavailable);
    nats.resume(0).unwrap();
    for sequence in 1..=3 {
        eventually("the producer's next batch is stored", DEADLINE * 3, || {
            let mut client = client.clone();
            async move { client.append(stamped(shard, 0, sequence, &sequence.to_string())).await.ok() }
        })
        .await;
    }
    assert_eq!(payloads(&read_all(&mut client, shard).await), ["0", "1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_goes_on_where_it_was_when_the_store_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let nats = Nats::start(NatsOptions::for_nodes()).unwrap();
    let server = ServerProcess::start(&options(&nats, dir.path())).unwrap();
    let mut client = connect(server.port()).await;
    let shard = create(&mut client, "s", 1).await[0];
    let subscription = Subscription {
        subscription_id: "sub".into(),
        stream_name: "s".into(),
        ack_timeout_seconds: 600,
        max_unacked_records: 1000,
        offset: SpecialOffset::Earliest as i32,
        ..Default::default()
    };
    client.create_subscription(subscription).await.unwrap();
    append(&mut client, shard, "0").await;
    let mut consumer = consumer::Consumer::attach(&client, "sub", "c").await.unwrap();
    assert_eq!(consumer.take().await, ["0"]);
    nats.kill(0).unwrap();
    nats.restart(0).unwrap();
    nats.ready().await.unwrap();
    until_it_works(&mut client, shard, "1").await;
    // What it was attached to may have ended with the store; then it attaches again, as clients do.
    let deadline = tokio::time::Instant::now() + DEADLINE * 3;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "the record comes");
        match tokio::time::timeout(DEADLINE, consumer.responses.message()).await.expect("something comes") {
            Ok(Some(message)) => {
                let received = message.received_records.unwrap();
                consumer.ack(received.record_ids.clone()).await;
                if payloads(&[received]).contains(&"1".to_owned()) {
                    break;
                }
            }
            ended => {
                assert!(
                    ended.is_err_and(|status| status.code() == Code::Unavailable),
                    "clients attach again"
                );
                consumer = eventually("it can attach again", DEADLINE * 3, || {
                    let client = client.clone();
                    async move { consumer::Consumer::attach(&client, "sub", "c").await.ok() }
                })
                .await;
            }
        }
    }
    consumer.finish().await;
}
