//! Point 5: acknowledgements survive reconnects.

use super::*;
use hstreamdb::StreamOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_acks_survive_a_killed_server() {
    let mut process = Process::start();
    let client = client_of(&process.server().url()).await;
    client.create_stream("s", StreamOptions::new()).await.unwrap();
    subscription(&client, "sub", 600).await;
    let producer = client.producer("s").batch_max_records(2).build().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..40 {
        ids.push(producer.append(hstreamdb::Record::raw(format!("{number}"))).await.unwrap());
    }
    producer.flush().await.unwrap();
    let consumer = client.consumer("sub").start().await.unwrap();
    let ids = receive(&consumer, 40).await;
    // All but the first batch, so that no checkpoint can tell the next server of them: half of it sent, half not.
    consumer.ack(&ids[2..20]).unwrap();
    soon(consumer.flush_acks()).await.unwrap();
    process.kill();
    consumer.ack(&ids[20..]).unwrap();
    process.server = Some(hstream_testkit::ServerProcess::start(&process.options).unwrap());
    let again = soon(consumer.next_batch()).await.unwrap().unwrap();
    assert!(again.is_redelivered());
    assert_eq!(again.ids(), &ids[..2], "what was acknowledged is not shown again");
    consumer.ack_batch(&again).unwrap();
    assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);

    // Of the checkpoint alone: the next server knows nothing else.
    process.kill_and_start_again();
    let marker = producer.append(hstreamdb::Record::raw("marker")).await.unwrap();
    producer.flush().await.unwrap();
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 1).await, [marker.await.unwrap()]);
}

/// A server that was started again passes over acknowledgements of what it has not delivered yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_acks_survive_a_stop_right_after_a_reconnect() {
    let mut node = TestNode::start().await;
    let shards = node.stream("s", 3).await;
    node.subscription("sub", "s").await;
    for &shard in &shards {
        node.append_batches("s", shard, 40, 2).await;
    }
    let (proxy, client) = through_proxy(&node, Fault::None).await;
    let events = Events::default();
    let consumer = client.consumer("sub").on_event(events.listener()).start().await.unwrap();
    let ids = receive(&consumer, 240).await;
    node.stop().await;
    proxy.cut_connections();
    consumer.ack(&ids).unwrap();
    node.start_again().await;
    events.reach("connected", 2).await;
    let report = soon(consumer.stop(GRACE)).await.unwrap();
    assert!(report.clean, "{report:?}");

    node.stop().await;
    node.start_again().await;
    let marker = node.append_batches("s", shards[0], 1, 1).await;
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 1).await, marker);
}

/// With the server's confirmations and without anything beyond the published protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_acks_that_never_arrived_are_sent_again() {
    for broken in [Fault::None, Fault::Published] {
        let mut node = TestNode::start().await;
        let shard = node.stream("s", 1).await[0];
        node.subscription("sub", "s").await;
        let ids = node.append_batches("s", shard, 10, 3).await;
        let (proxy, client) = through_proxy(&node, broken).await;
        proxy.set(Fault::DropAcks);
        let events = Events::default();
        let consumer = client.consumer("sub").on_event(events.listener()).start().await.unwrap();
        assert_eq!(receive(&consumer, 30).await, ids);
        consumer.ack(&ids).unwrap();
        soon(consumer.flush_acks()).await.unwrap();
        let stats = consumer.stats();
        assert_eq!(
            (stats.unsent_acks, stats.unconfirmed_acks),
            (0, 30),
            "handed to a connection that loses them"
        );
        proxy.set(Fault::None);
        proxy.cut_connections();
        events.reach("connected", 2).await;
        assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
        assert_eq!(consumer.stats().redelivered_records, 0);

        node.stop().await;
        node.start_again().await;
        let marker = node.append_batches("s", shard, 1, 1).await;
        let next = client.consumer("sub").start().await.unwrap();
        assert_eq!(receive(&next, 1).await, marker, "{broken:?}: acknowledgements were lost");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_acks_for_a_deleted_subscription_are_not_for_the_next_of_its_name() {
    for broken in [Fault::None, Fault::Published] {
        let mut node = TestNode::start().await;
        let shard = node.stream("s", 1).await[0];
        node.subscription("sub", "s").await;
        let ids = node.append_batches("s", shard, 5, 2).await;
        let (proxy, client) = through_proxy(&node, broken).await;
        let events = Events::default();
        // The acknowledgements are still with us when the subscription goes.
        let builder =
            client.consumer("sub").ack_max_records(1_000_000).ack_max_age(Duration::from_secs(3600));
        let consumer = builder.on_event(events.listener()).start().await.unwrap();
        assert_eq!(receive(&consumer, 10).await, ids);
        consumer.ack(&ids).unwrap();
        proxy.answer("StreamingFetch", tonic_code::UNAVAILABLE, "not now");
        proxy.cut_connections();
        events.reach("reconnecting", 2).await;
        let request =
            hstreamdb_proto::api::DeleteSubscriptionRequest { subscription_id: "sub".into(), force: true };
        node.wire.delete_subscription(request).await.unwrap();
        node.subscription("sub", "s").await;
        proxy.answer("nothing", 0, "");
        // All of it, and none of it as known.
        assert_eq!(receive(&consumer, 10).await, ids, "{broken:?}");
        assert_eq!(events.count("subscription_replaced"), 1, "{broken:?}: {:?}", events.names());
        assert_eq!(consumer.stats().unsent_acks + consumer.stats().unconfirmed_acks, 0);
    }
}

/// The application may still hold batches of the subscription that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p05_late_acks_for_a_deleted_subscription_are_not_for_the_next_of_its_name() {
    for broken in [Fault::None, Fault::Published] {
        let mut node = TestNode::start().await;
        let shard = node.stream("s", 1).await[0];
        node.subscription("sub", "s").await;
        let ids = node.append_batches("s", shard, 5, 2).await;
        let (proxy, client) = through_proxy(&node, broken).await;
        let events = Events::default();
        let consumer = client.consumer("sub").on_event(events.listener()).start().await.unwrap();
        assert_eq!(receive(&consumer, 10).await, ids);
        proxy.answer("StreamingFetch", tonic_code::UNAVAILABLE, "not now");
        proxy.cut_connections();
        events.reach("reconnecting", 2).await;
        let request =
            hstreamdb_proto::api::DeleteSubscriptionRequest { subscription_id: "sub".into(), force: true };
        node.wire.delete_subscription(request).await.unwrap();
        let latest = SubscriptionOptions::new().offset(StartFrom::Latest);
        node.client().await.create_subscription("sub", "s", latest).await.unwrap();
        events.reach("subscription_replaced", 1).await;
        consumer.ack(&ids).unwrap();
        assert_eq!(consumer.stats().unsent_acks, 0, "{broken:?}");
        proxy.answer("nothing", 0, "");
        events.reach("connected", 2).await;
        let fresh = node.append_batches("s", shard, 1, 2).await;
        assert_eq!(receive(&consumer, 2).await, fresh);
        consumer.ack(&fresh).unwrap();
        assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
    }
}

mod tonic_code {
    pub const UNAVAILABLE: i32 = 14;
}
