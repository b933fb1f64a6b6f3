//! Several nodes over the same servers.

use super::*;
use crate::store::{Appended, NewBatch, ReadLimits, StampError};
use futures::future::join_all;
use std::collections::BTreeSet;

/// Two nodes that know shard 1.
async fn two() -> (World, Arc<JetStreamLog>, Arc<JetStreamLog>) {
    let world = World::on(Nats::shared().unwrap()).await;
    let (one, other) = (world.node().await, world.node().await);
    one.create_shards(&[spec(1)]).await.unwrap();
    (world, one, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_does_the_others_see() {
    let (world, one, other) = two().await;
    assert_eq!(other.tail(1), Ok(FIRST_LSN - 1));
    let mut watch = other.watch_tail(1).unwrap();
    watch.latest();
    let appended = one.append(1, batch("a")).await.unwrap();
    tokio::time::timeout(SOON, watch.moved()).await.unwrap().unwrap();
    assert_eq!(watch.latest(), appended.lsn);
    assert_eq!(texts(&read_all(&*other, 1).await.1), ["a"]);
    other.append(1, batch("b")).await.unwrap();
    one.catch_up(&[1]).await.unwrap();
    assert_eq!(texts(&read_all(&*one, 1).await.1), ["a", "b"]);
    one.trim(1, appended.lsn).await.unwrap();
    other.catch_up(&[1]).await.unwrap();
    assert_eq!(other.trim_point(1), Ok(appended.lsn + 1));
    other.delete_shards(&[1]).await.unwrap();
    assert_eq!(one.append(1, batch("x")).await, Err(StoreError::ShardNotFound(1)));
    let late = world.node().await;
    assert_eq!((late.shards(), late.tail(1)), (vec![], Err(StoreError::ShardNotFound(1))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_catches_up_knows_everything_that_was_acknowledged_anywhere() {
    let (_world, one, other) = two().await;
    for round in 0..200 {
        let (writer, asker) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let appended = writer.append(1, batch("x")).await.unwrap();
        asker.catch_up(&[1]).await.unwrap();
        assert_eq!(asker.tail(1), Ok(appended.lsn), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_append_to_one_shard_lose_nothing_and_double_nothing() {
    let (_world, one, other) = two().await;
    let appends = (0..1000u64).map(|number| {
        let log = if number % 2 == 0 { Arc::clone(&one) } else { Arc::clone(&other) };
        tokio::spawn(async move {
            // In waves, so that frames of both are under way again and again.
            tokio::time::sleep(Duration::from_millis(number / 50 * 7)).await;
            let new = if number % 3 == 0 {
                batch(number.to_string())
            } else {
                stamped(number.to_string(), u128::from(number), 0, 0)
            };
            (number, log.append(1, new).await.unwrap())
        })
    });
    let mut answers: Vec<(u64, Appended)> =
        join_all(appends).await.into_iter().map(|it| it.unwrap()).collect();
    answers.sort_by_key(|(_, appended)| appended.lsn);
    one.catch_up(&[1]).await.unwrap();
    let (gaps, batches) = read_all(&*one, 1).await;
    assert_eq!(gaps, []);
    let stored: Vec<(u64, String)> =
        batches.iter().map(|batch| (batch.lsn, texts(std::slice::from_ref(batch)).remove(0))).collect();
    let told: Vec<(u64, String)> =
        answers.iter().map(|(number, appended)| (appended.lsn, number.to_string())).collect();
    assert_eq!(stored, told);
    assert!(batches.is_sorted_by_key(|batch| batch.time_ms));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_of_two_nodes_that_append_without_a_pause_is_shut_out() {
    let (_world, one, other) = two().await;
    let busy = |log: Arc<JetStreamLog>| async move {
        let mut worst = Duration::ZERO;
        for _ in 0..150 {
            let asked = tokio::time::Instant::now();
            log.append(1, batch("x")).await.unwrap();
            worst = worst.max(asked.elapsed());
        }
        worst
    };
    let worst = tokio::join!(tokio::spawn(busy(one.clone())), tokio::spawn(busy(other)));
    eprintln!("the longest append of each: {worst:?}");
    assert_eq!(read_all(&*one, 1).await.1.len(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trimmed_is_no_loss_to_nodes_that_did_not_see_it() {
    let (world, one, _) = two().await;
    let mut last = 0;
    for text in ["a", "b", "c"] {
        last = one.append(1, batch(text)).await.unwrap().lsn;
    }
    one.trim(1, u64::MAX).await.unwrap();
    for text in ["d", "e"] {
        one.append(1, batch(text)).await.unwrap();
    }
    let late = world.node().await;
    let (gaps, batches) = read_all(&*late, 1).await;
    assert_eq!(texts(&batches), ["d", "e"]);
    assert_eq!(gaps, [crate::store::Gap { kind: GapKind::Trimmed, from: FIRST_LSN, to: last }]);
    assert_eq!(late.trim_point(1), Ok(last + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_at_another_node_is_a_repeat() {
    let (world, one, other) = two().await;
    let mut stored = Vec::new();
    for sequence in 0..20 {
        stored.push(one.append(1, stamped(sequence.to_string(), 9, 0, sequence)).await.unwrap());
        // The other node has to have heard of it to judge the stamp.
        let again = other.append(1, stamped("again", 9, 0, sequence)).await;
        assert_eq!(again, Ok(Appended { repeat: true, ..stored[sequence as usize] }));
    }
    // The producer goes on there, without an error in between.
    other.append(1, stamped("20", 9, 0, 20)).await.unwrap();
    one.append(1, stamped("21", 9, 0, 21)).await.unwrap();
    let gap = other.append(1, stamped("x", 9, 0, 23)).await;
    assert_eq!(gap, Err(StoreError::Stamp(StampError::Gap { expected: 22, got: 23 })));
    // A node that was not there.
    let third = world.node().await;
    assert_eq!(third.append(1, stamped("again", 9, 0, 3)).await, Ok(Appended { repeat: true, ..stored[3] }));
    third.append(1, stamped("22", 9, 0, 22)).await.unwrap();
    let expected: Vec<String> = (0..=22).map(|number: u32| number.to_string()).collect();
    assert_eq!(texts(&read_all(&*third, 1).await.1), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_batch_sent_through_two_nodes_at_once_is_stored_once() {
    let (_world, one, other) = two().await;
    let sends = (0..100).map(|sequence| {
        let (one, other) = (one.clone(), other.clone());
        async move {
            let new = || stamped(sequence.to_string(), 9, 0, sequence);
            let pair = tokio::join!(one.append(1, new()), other.append(1, new()));
            let (first, second) = (pair.0.unwrap(), pair.1.unwrap());
            assert_eq!((first.lsn, first.time_ms), (second.lsn, second.time_ms));
            assert!(first.repeat != second.repeat, "{first:?} {second:?}");
        }
    });
    for send in sends {
        send.await;
    }
    assert_eq!(read_all(&*one, 1).await.1.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stamps_are_known_after_snapshots_trims_and_restarts() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    log.create_shards(&[spec(1)]).await.unwrap();
    let mut last = Vec::new();
    // More frames than are left without a snapshot.
    for sequence in 0..400 {
        last.push(log.append(1, stamped("x", 9, 0, sequence)).await.unwrap());
    }
    log.trim(1, last[390].lsn).await.unwrap();
    for unstamped in 0..3 {
        log.append(1, batch(format!("{unstamped}"))).await.unwrap();
    }
    drop(log);
    let log = world.node().await;
    for sequence in [399, 370] {
        let again = log.append(1, stamped("again", 9, 0, sequence)).await.unwrap();
        assert_eq!(again, Appended { repeat: true, ..last[sequence as usize] });
    }
    log.trim(1, u64::MAX).await.unwrap();
    log.close().await;
    assert_eq!(log.append(1, batch("x")).await, Err(StoreError::Closed));
    let log = world.node().await;
    let again = log.append(1, stamped("again", 9, 0, 399)).await.unwrap();
    assert_eq!(again, Appended { repeat: true, ..last[399] });
    log.append(1, stamped("on", 9, 0, 400)).await.unwrap();
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["on"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_shards_take_a_few_streams_and_little_memory() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    let began = std::time::Instant::now();
    log.create_shards(&(1..=10_000).map(spec).collect::<Vec<_>>()).await.unwrap();
    let created = began.elapsed();
    let ids: Vec<u64> = (1..=10_000).step_by(97).collect();
    let answers = join_all(ids.iter().map(|id| log.append(*id, batch(id.to_string())))).await;
    assert!(answers.iter().all(Result::is_ok));
    let before = resident();
    let began = std::time::Instant::now();
    let second = world.node().await;
    let opened = began.elapsed();
    let each = resident().saturating_sub(before) / 10_000;
    eprintln!("10,000 shards: created in {created:?}, opened in {opened:?}, {each} bytes of memory for each");
    for id in ids {
        assert_eq!(texts(&read_all(&*second, id).await.1), [id.to_string()]);
    }
    assert_eq!(second.shards().len(), 10_000);
    let streams = names(&world).await;
    let lanes = streams.iter().filter(|name| name.contains("_log_")).count();
    assert_eq!((lanes, streams.len()), (8, 9), "{streams:?}");
    assert!(each < 4096, "{each} bytes for an idle shard");
}

/// Names of the streams of a namespace.
async fn names(world: &World) -> BTreeSet<String> {
    use futures::TryStreamExt as _;
    let context = connect(world.urls.clone()).await;
    let all: Vec<String> = context.stream_names().try_collect().await.unwrap();
    all.into_iter().filter(|name| name.starts_with(&format!("{}_", world.settings.namespace))).collect()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_cannot_be_had_are_not_kept_and_the_shard_is_there() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    log.create_shards(&[ShardSpec { replicas: 3, ..spec(1) }, ShardSpec { replicas: 0, ..spec(2) }])
        .await
        .unwrap();
    assert_eq!(log.shards(), [spec(1), spec(2)]);
    log.append(1, batch("a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_few_batches_does_not_ask_for_the_frame_again() {
    let (_world, one, other) = two().await;
    let waiting: Vec<NewBatch> = (0..500).map(|number| batch(format!("{number}"))).collect();
    join_all(waiting.into_iter().map(|new| one.append(1, new))).await;
    other.catch_up(&[1]).await.unwrap();
    let asked = || other.engine.wire.client().statistics().out_messages.load(Ordering::Relaxed);
    let before = asked();
    let (mut from, mut count) = (FIRST_LSN, 0);
    loop {
        let limits = ReadLimits { max_batches: 5, max_bytes: 1 << 20 };
        let chunk = other.read(1, from, limits).await.unwrap();
        if chunk.next == from {
            break;
        }
        (from, count) = (chunk.next, count + chunk.batches.len());
    }
    assert_eq!(count, 500);
    assert!(asked() - before < 20, "{} requests for a hundred reads", asked() - before);
}

/// Many short histories of two nodes against what a shard is: batches in order, of which the first ones are trimmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_end_as_a_simple_model_says() {
    use rand::{Rng as _, SeedableRng as _};
    let world = World::on(Nats::shared().unwrap()).await;
    let nodes = [world.node().await, world.node().await];
    for seed in 0..40u64 {
        let mut chance = rand::rngs::StdRng::seed_from_u64(seed);
        let shard = seed + 1;
        nodes[0].create_shards(&[spec(shard)]).await.unwrap();
        let (mut model, mut trimmed): (Vec<(u64, String)>, u64) = (Vec::new(), FIRST_LSN - 1);
        let mut sequences = [0u64; 3];
        for step in 0..40 {
            let node = &nodes[chance.random_range(0..2)];
            match chance.random_range(0..10) {
                0 => {
                    let at = model.get(chance.random_range(0..model.len().max(1))).map_or(0, |(lsn, _)| *lsn);
                    let up_to = if chance.random_range(0..4) == 0 { u64::MAX } else { at };
                    node.trim(shard, up_to).await.unwrap();
                    let tail = model.last().map_or(FIRST_LSN - 1, |(lsn, _)| *lsn);
                    trimmed = trimmed.max(up_to.min(tail));
                }
                1..3 if sequences.iter().any(|sequence| *sequence > 0) => {
                    let producer = (0..3).find(|producer| sequences[*producer] > 0).unwrap();
                    let sequence = sequences[producer] - 1;
                    let again = node.append(shard, stamped("again", producer as u128 + 1, 0, sequence)).await;
                    assert!(
                        again.as_ref().is_ok_and(|answer| answer.repeat),
                        "seed {seed} step {step}: {again:?}"
                    );
                }
                3..7 => {
                    let producer = chance.random_range(0..3);
                    let (text, sequence) = (format!("{seed} {step}"), sequences[producer]);
                    let new = stamped(text.clone(), producer as u128 + 1, 0, sequence);
                    let stored = node.append(shard, new).await.unwrap();
                    assert!(!stored.repeat);
                    sequences[producer] += 1;
                    model.push((stored.lsn, text));
                }
                _ => {
                    let count = chance.random_range(1..5);
                    let together =
                        (0..count).map(|place| node.append(shard, batch(format!("{seed} {step} {place}"))));
                    for (place, stored) in join_all(together).await.into_iter().enumerate() {
                        model.push((stored.unwrap().lsn, format!("{seed} {step} {place}")));
                    }
                }
            }
        }
        assert!(model.is_sorted_by(|one, other| one.0 < other.0), "seed {seed}");
        for node in &nodes {
            node.catch_up(&[shard]).await.unwrap();
            let (gaps, batches) = read_all(&**node, shard).await;
            assert!(gaps.iter().all(|gap| gap.kind == GapKind::Trimmed), "seed {seed}: {gaps:?}");
            let found: Vec<(u64, String)> = batches
                .iter()
                .map(|batch| (batch.lsn, String::from_utf8_lossy(&batch.bytes).into_owned()))
                .collect();
            let expected: Vec<_> = model.iter().filter(|(lsn, _)| *lsn > trimmed).cloned().collect();
            assert_eq!(found, expected, "seed {seed}");
            assert_eq!(node.trim_point(shard), Ok(trimmed + 1), "seed {seed}");
        }
    }
}
