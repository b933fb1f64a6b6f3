//! Point 4: stopping ends delivery, waits for handlers, hands acknowledgements in and awaits the server's end.

use super::*;
use hstreamdb::{ConsumerState, ReceivedBatch};
use std::convert::Infallible;
use std::time::Instant;
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_stopping_waits_for_handlers_and_hands_their_acks_in() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    subscription(&client, "sub", 600).await;
    let ids = node.append_batches("s", shard, 6, 2).await;
    // Neither number nor age sends an acknowledgement in time; stopping must.
    let builder = client.consumer("sub").ack_max_records(1_000_000).ack_max_age(Duration::from_secs(3600));
    let consumer = builder.start().await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let (handled, gate_of_handler) = (Arc::new(Mutex::new(Vec::new())), gate.clone());
    let seen = handled.clone();
    let run = tokio::spawn({
        let consumer = consumer.clone();
        async move {
            consumer
                .run(move |batch: ReceivedBatch, _| {
                    let (gate, seen) = (gate_of_handler.clone(), seen.clone());
                    async move {
                        gate.acquire().await.unwrap().forget();
                        seen.lock().unwrap().extend_from_slice(batch.ids());
                        Ok::<_, Infallible>(())
                    }
                })
                .await
        }
    });
    gate.add_permits(1);
    eventually("the second batch in its handler", GRACE, || async {
        let second = handled.lock().unwrap().len() == 2 && consumer.stats().running_handlers == 1;
        (second && consumer.stats().buffered_batches == 4).then_some(())
    })
    .await;
    let stop = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.stop(GRACE).await.unwrap() }
    });
    eventually("stopping", GRACE, || async { (consumer.state() == ConsumerState::Stopping).then_some(()) })
        .await;
    assert!(!stop.is_finished() && consumer.stats().running_handlers == 1);
    gate.add_permits(100);
    let report = soon(stop).await.unwrap();
    assert_eq!((report.clean, report.unsent_acks, report.unfinished_handlers), (true, 0, 0));
    soon(run).await.unwrap().unwrap();
    assert_eq!(*handled.lock().unwrap(), ids[..4], "nothing is begun after the stop");
    // Others get what was not begun, and nothing else.
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 8).await, ids[4..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_a_handler_that_hangs_is_given_up_in_time() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    subscription(&client, "sub", 600).await;
    let ids = node.append_batches("s", shard, 1, 3).await;
    let consumer = client.consumer("sub").start().await.unwrap();
    let run = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.run(|_, _| std::future::pending::<Result<(), Infallible>>()).await }
    });
    eventually("the handler", GRACE, || async { (consumer.stats().running_handlers == 1).then_some(()) })
        .await;
    let started = Instant::now();
    let report = soon(consumer.stop(Duration::from_secs(1))).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((report.unsent_acks, report.unfinished_handlers), (0, 1));
    soon(run).await.unwrap().unwrap();
    assert_eq!(consumer.stats().running_handlers, 0, "it was dropped");
    let next = client.consumer("sub").start().await.unwrap();
    assert_eq!(receive(&next, 3).await, ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_handlers_are_told_and_can_leave_early() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    let client = node.client().await;
    subscription(&client, "sub", 600).await;
    node.append_batches("s", shard, 1, 1).await;
    let consumer = client.consumer("sub").start().await.unwrap();
    let run = tokio::spawn({
        let consumer = consumer.clone();
        let handler = |_, context: hstreamdb::HandlerContext| async move {
            context.stopping().await;
            assert!(context.is_stopping());
            Err("left for the next one")
        };
        async move { consumer.run(handler).await }
    });
    eventually("the handler", GRACE, || async { (consumer.stats().running_handlers == 1).then_some(()) })
        .await;
    let report = soon(consumer.stop(Duration::from_secs(3600))).await.unwrap();
    assert_eq!((report.clean, report.unfinished_handlers), (true, 0));
    soon(run).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p04_a_leave_is_clean_only_when_the_server_has_ended_the_call() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    node.append_batches("s", shard, 1, 3).await;
    let (proxy, client) = through_proxy(&node, Fault::None).await;
    proxy.set(Fault::EndlessConsumers);
    let consumer = client.consumer("sub").start().await.unwrap();
    let ids = receive(&consumer, 3).await;
    consumer.ack(&ids).unwrap();
    let started = Instant::now();
    let report = soon(consumer.stop(Duration::from_millis(500))).await.unwrap();
    assert!(!report.clean, "nobody said that the acknowledgements were read");
    assert!(started.elapsed() >= Duration::from_millis(500) && started.elapsed() < Duration::from_secs(5));
}
