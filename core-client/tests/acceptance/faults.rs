//! Everything ends, whatever the network does and however long.

use super::node_under_test::{TestNode, soon};
use hstream_testkit::{Ending, Flow, Link, Way};
use hstreamdb::{Client, Consumer, ErrorKind, Offset, Producer, Reader, Record, RecordBatch};
use std::time::Duration;

/// What happens to the network for good.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    BlackHole,
    HalfOpen(Way),
    Refused(Ending),
    Crawling,
}

/// All that a program may have open when it happens.
struct Program {
    link: Link,
    client: Client,
    producer: Producer,
    /// Would go on trying for two minutes.
    patient: Producer,
    consumer: Consumer,
    /// Would go on trying for ever.
    lasting: Consumer,
    follower: Reader,
}

impl Program {
    async fn start(node: &TestNode, number: usize) -> Program {
        let link = Link::start(node.address().port(), number as u64).await.unwrap();
        let mapping = vec![(node.address().to_string(), link.address().to_string())];
        let client = Client::builder()
            .url(link.url())
            .set("host_mapping", mapping)
            .unwrap()
            .request_timeout(Duration::from_millis(300))
            .unwrap()
            .connect_timeout(Duration::from_millis(300))
            .unwrap()
            .set("retry_max_ms", 50)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let producer = client.producer("s").delivery_timeout(Duration::from_millis(800));
        let producer = producer.batch_max_age(Duration::ZERO).build().await.unwrap();
        let subscription = format!("sub{number}");
        let consumer = client.consumer(&subscription);
        let consumer =
            consumer.set("reconnect_timeout_ms", 1000).unwrap().set("probe_interval_ms", 200).unwrap();
        let consumer = soon(consumer.start()).await.unwrap();
        let batch = soon(consumer.next_batch()).await.unwrap().unwrap();
        consumer.ack_batch(&batch).unwrap();
        let lasting = soon(client.consumer(&format!("lasting{number}")).start()).await.unwrap();
        let batch = soon(lasting.next_batch()).await.unwrap().unwrap();
        let patient = client.producer("s").build().await.unwrap();
        lasting.ack_batch(&batch).unwrap();
        let follower = client.stream_reader("s").timeout(Duration::from_millis(300)).open().await.unwrap();
        soon(follower.next_batch()).await.unwrap();
        Program { link, client, producer, patient, consumer, lasting, follower }
    }

    fn suffer(&self, trouble: Trouble) {
        let both = |flow| [Way::ToServer, Way::ToClient].map(|way| self.link.set(way, flow));
        match trouble {
            Trouble::BlackHole => self.link.freeze(),
            Trouble::HalfOpen(way) => self.link.set(way, Flow { swallow: true, ..Flow::default() }),
            Trouble::Refused(ending) => {
                self.link.refuse();
                self.link.cut(ending);
            }
            Trouble::Crawling => {
                both(Flow { bytes_per_second: Some(1), ..Flow::default() });
            }
        }
    }

    /// Every call there is ends, and says the right thing about what was appended.
    async fn end(self, trouble: Trouble) {
        let Program { link: _link, client, producer, patient, consumer, lasting, follower } = self;
        let appends = async {
            let one = producer.append(Record::raw("one")).await.unwrap();
            let many: RecordBatch =
                (0..50).map(|n| Record::raw(format!("{n}"))).collect::<Vec<_>>().iter().collect();
            let many = producer.append_many(many).await.unwrap();
            let flushed = soon(producer.flush()).await;
            assert!(flushed.is_err(), "{trouble:?}");
            let error = soon(one).await.unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::OutcomeUnknown
                ),
                "{error}"
            );
            assert_eq!(error.kind() == ErrorKind::OutcomeUnknown, error.may_have_been_applied(), "{error}");
            let outcome = soon(many).await;
            let failed: usize = outcome.errors.iter().map(|(range, _)| range.len()).sum();
            assert_eq!((failed, outcome.ids.iter().flatten().count()), (50, 0), "{trouble:?}");
            assert_eq!(producer.pending().records, 0);
            let last = producer.append(Record::raw("last")).await.unwrap();
            let report = soon(producer.close(Duration::from_millis(100))).await.unwrap();
            assert_eq!(report.failed + report.unresolved, 52, "{trouble:?}");
            soon(last).await.unwrap_err();
        };
        let closes = async {
            let held = patient.append(Record::raw("held")).await.unwrap();
            let report = soon(patient.close(Duration::from_millis(100))).await.unwrap();
            assert_eq!((report.acknowledged, report.unresolved), (0, 1), "{trouble:?}");
            soon(held).await.unwrap_err();
            let report = soon(lasting.stop(Duration::from_millis(100))).await.unwrap();
            assert!(!report.clean, "{trouble:?}: {report:?}");
        };
        let calls = async {
            soon(client.list_streams()).await.unwrap_err();
            soon(client.list_shards("s")).await.unwrap_err();
            soon(client.create_stream("t", hstreamdb::StreamOptions::new())).await.unwrap_err();
            soon(client.producer("s").build()).await.unwrap_err();
            soon(client.shard_reader("s", 1).until(Offset::Latest).open()).await.unwrap_err();
        };
        let consumes = async {
            // It gives up after a second, as it was told.
            while soon(consumer.next_batch()).await.is_ok_and(|batch| batch.is_some()) {}
            let report = soon(consumer.stop(Duration::from_millis(100))).await.unwrap();
            assert!(!report.clean, "{trouble:?}: {report:?}");
        };
        let reads = async {
            let mut silent = 0;
            while silent < 3 {
                match soon(follower.next_batch()).await {
                    Ok(Some(_)) => {}
                    Err(error) if error.kind() == ErrorKind::Timeout => silent += 1,
                    other => panic!("{trouble:?}: {other:?}"),
                }
            }
        };
        tokio::join!(appends, closes, calls, consumes, reads);
        // The reader above is still open; closing does not wait for anybody longer than it was told.
        let closed = tokio::time::Instant::now();
        let _ = soon(client.close(Duration::from_millis(500))).await;
        assert!(closed.elapsed() < Duration::from_secs(5), "{trouble:?}: {:?}", closed.elapsed());
        assert!(soon(follower.next_batch()).await.is_ok_and(|batch| batch.is_none()), "{trouble:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p01_everything_ends_whatever_the_network_does_for_good() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.append_batches("s", shard, 2, 3).await;
    let troubles = [
        Trouble::BlackHole,
        Trouble::HalfOpen(Way::ToServer),
        Trouble::HalfOpen(Way::ToClient),
        Trouble::Refused(Ending::Reset),
        Trouble::Refused(Ending::Close),
        Trouble::Refused(Ending::Silence),
        Trouble::Crawling,
    ];
    for number in 0..troubles.len() {
        node.subscription(&format!("sub{number}"), "s").await;
        node.subscription(&format!("lasting{number}"), "s").await;
    }
    let mut programs = Vec::new();
    for (number, trouble) in troubles.into_iter().enumerate() {
        let program = Program::start(&node, number).await;
        program.suffer(trouble);
        programs.push(program.end(trouble));
    }
    futures::future::join_all(programs).await;
}
