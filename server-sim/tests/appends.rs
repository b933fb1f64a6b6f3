//! Appends over the wire: limits, order, exactly once.

mod support;

use hstreamdb_proto::api::*;
use hstreamdb_proto::metadata;
use support::*;
use tonic::Code;

#[tokio::test]
async fn what_is_appended_is_read_back_with_its_ids() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let request = append_request(shard, batch(vec![record("k", "a"), record("k", "b")]));
    let answer = client.append(request).await.unwrap();
    let capabilities = answer.metadata().get(metadata::CAPABILITIES).unwrap().to_str().unwrap();
    assert_eq!(capabilities, "producer-sequence,ack-confirmation,subscription-policy");
    let answer = answer.into_inner();
    assert_eq!((answer.stream_name.as_str(), answer.shard_id), ("any", shard));
    let ids = answer.record_ids;
    assert_eq!(ids.iter().map(|id| id.batch_index).collect::<Vec<_>>(), [0, 1]);

    let received = read_all(client, shard).await;
    assert_eq!(payloads(&received), ["a", "b"]);
    assert_eq!(received[0].record_ids, ids);
    assert!(received[0].record.as_ref().unwrap().publish_time.is_some());
    let tail = GetTailRecordIdRequest { stream_name: "s".into(), shard_id: shard };
    let tail = client.get_tail_record_id(tail).await.unwrap().into_inner().tail_record_id.unwrap();
    assert!(tail.batch_id >= ids[0].batch_id);
    node.stop().await;
}

#[tokio::test]
async fn appends_that_break_the_limits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let good = batch(vec![record("", "x")]);
    for empty in [
        None,
        Some(BatchedRecord { batch_size: 0, ..good.clone() }),
        Some(BatchedRecord { payload: Default::default(), ..good.clone() }),
    ] {
        let request = AppendRequest { stream_name: "s".into(), shard_id: shard, records: empty };
        let (code, text) = refusal(client.append(request).await);
        assert_eq!((code, text.unwrap().0), (Code::InvalidArgument, 206));
    }
    let large = batch(vec![record("", &"x".repeat(1024 * 1024 + 20))]);
    let size = prost::Message::encoded_len(&large);
    let (code, text) = refusal(client.append(append_request(shard, large)).await);
    let text = text.unwrap();
    assert_eq!((code, text.0, text.2), (Code::InvalidArgument, 207, size.into()));
    // A claim of four billion records must not be turned into as many ids.
    let boast = BatchedRecord { batch_size: u32::MAX, ..good.clone() };
    assert_eq!(refusal(client.append(append_request(shard, boast)).await).0, Code::InvalidArgument);
    assert_eq!(refusal(client.append(append_request(12345, good)).await), (Code::Unavailable, None));
    assert!(read_all(client, shard).await.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn a_repeated_stamp_is_stored_once_and_answered_with_the_first_ids() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    let first = client.append(stamped(shard, 0, 0, "a")).await.unwrap();
    assert!(first.metadata().get(metadata::PRODUCER_REPEAT).is_none());
    client.append(stamped(shard, 0, 1, "b")).await.unwrap();
    let again = client.append(stamped(shard, 0, 0, "a")).await.unwrap();
    assert_eq!(again.metadata().get(metadata::PRODUCER_REPEAT).unwrap(), "1");
    assert_eq!(again.into_inner().record_ids, first.into_inner().record_ids);
    assert_eq!(payloads(&read_all(client, shard).await), ["a", "b"]);

    // A restart remembers.
    node.stop().await;
    let mut node = TestNode::start(dir.path()).await;
    let again = node.client.append(stamped(shard, 0, 1, "b")).await.unwrap();
    assert_eq!(again.metadata().get(metadata::PRODUCER_REPEAT).unwrap(), "1");
    assert_eq!(payloads(&read_all(&mut node.client, shard).await), ["a", "b"]);
    node.stop().await;
}

#[tokio::test]
async fn a_batch_that_overtook_another_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let shard = create(&mut node.client, "s", 1).await[0];
    node.client.append(stamped(shard, 0, 0, "0")).await.unwrap();
    // One connection, so they arrive in this order; each has to wait for the ones behind it.
    let ahead = [3, 2, 1].map(|sequence: u64| {
        let mut client = node.client.clone();
        async move { client.append(stamped(shard, 0, sequence, &sequence.to_string())).await }
    });
    for outcome in futures::future::join_all(ahead).await {
        outcome.unwrap();
    }
    assert_eq!(payloads(&read_all(&mut node.client, shard).await), ["0", "1", "2", "3"]);
    node.stop().await;
}

#[tokio::test]
async fn stamps_out_of_place_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = TestNode::start(dir.path()).await;
    let client = &mut node.client;
    let shard = create(client, "s", 1).await[0];
    client.append(stamped(shard, 1, 0, "a")).await.unwrap();
    let (code, text) = refusal(client.append(stamped(shard, 1, 2, "gap")).await);
    assert_eq!((code, text.unwrap().1.as_str()), (Code::Aborted, "ProducerSequenceGap"));
    let (code, text) = refusal(client.append(stamped(shard, 0, 0, "old epoch")).await);
    assert_eq!((code, text.unwrap().1.as_str()), (Code::FailedPrecondition, "ProducerFenced"));
    let mut half = stamped(shard, 1, 1, "half");
    half.metadata_mut().remove(metadata::PRODUCER_EPOCH);
    assert_eq!(refusal(client.append(half).await).0, Code::InvalidArgument);
    assert_eq!(payloads(&read_all(client, shard).await), ["a"]);
    node.stop().await;
}
