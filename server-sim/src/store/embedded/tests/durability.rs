//! What was acknowledged stays, what was not may go, and nothing is acknowledged early.

use super::*;
use crate::store::disk::LocalDisk;
use futures::future::join_all;

#[tokio::test]
async fn batches_read_back_as_they_were_stored_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for round in 0..3 {
        let disk = Arc::new(LocalDisk::open(&path).unwrap());
        let store = EmbeddedStore::open(disk, options()).await.unwrap();
        let log = store.log();
        if round == 0 {
            log.create_shards(&[spec(1), spec(2)]).await.unwrap();
        }
        let appended = log.append(1, batch(format!("a{round}"))).await.unwrap();
        assert_eq!((appended.lsn, appended.repeat), (lsn(round), false));
        let (gaps, batches) = read_all(&log, 1).await;
        assert_eq!((gaps, texts(&batches).len()), (vec![], round as usize + 1));
        assert_eq!(log.tail(2).unwrap(), FIRST_LSN - 1);
        store.close().await;
        assert_eq!(log.append(1, batch("late")).await, Err(StoreError::Closed));
        assert_eq!(log.read(1, FIRST_LSN, ALL).await, Err(StoreError::Closed));
    }
}

#[tokio::test]
async fn no_append_resolves_and_no_tail_moves_before_the_sync_returned() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    log.create_shards(&[spec(1)]).await.unwrap();
    let mut tail = log.watch_tail(1).unwrap();
    disk.hold_syncs();
    let append = tokio::spawn({
        let log = store.log();
        async move { log.append(1, batch("a")).await }
    });
    until("the sync is under way", || disk.waiting_syncs() == 1).await;
    // The bytes are in the file by now; nobody may see them.
    assert!(!append.is_finished());
    assert_eq!((log.tail(1).unwrap(), tail.latest()), (FIRST_LSN - 1, FIRST_LSN - 1));
    assert_eq!(read_all(&log, 1).await, (vec![], vec![]));
    disk.release_syncs();
    assert_eq!(append.await.unwrap().unwrap().lsn, FIRST_LSN);
    assert_eq!((log.tail(1).unwrap(), tail.latest()), (FIRST_LSN, FIRST_LSN));
}

#[tokio::test]
async fn a_power_loss_keeps_all_that_was_acknowledged() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    for n in 0..10 {
        log.append(1 + n % 2, batch(format!("{n}"))).await.unwrap();
    }
    log.trim(2, lsn(1)).await.unwrap();
    let log = open(&disk.crash()).await.log();
    assert_eq!(texts(&read_all(&log, 1).await.1), ["0", "2", "4", "6", "8"]);
    assert_eq!(texts(&read_all(&log, 2).await.1), ["5", "7", "9"]);
    assert_eq!(log.append(1, batch("next")).await.unwrap().lsn, lsn(5));
}

#[tokio::test]
async fn a_power_loss_leaves_a_prefix_of_what_was_not_acknowledged() {
    for kept in (0..1000).step_by(7) {
        let disk = FaultDisk::new();
        let store = open(&disk).await;
        let log = store.log();
        log.create_shards(&[spec(1)]).await.unwrap();
        log.append(1, batch("acked")).await.unwrap();
        // One append blocks the disk, five gather behind it.
        disk.hold_syncs();
        let mut appends = Vec::new();
        for n in 0..6 {
            let mut append = log.append(1, batch(format!("unacked {n}")));
            assert!(futures::poll!(&mut append).is_pending());
            appends.push(append);
        }
        until("the sync is under way", || disk.waiting_syncs() == 1).await;
        let after = disk.crash_keeping(|_, _| Some(kept));
        for append in appends {
            assert!(matches!(append.await, Err(StoreError::Poisoned(_))));
        }
        let log = open(&after).await.log();
        let (gaps, batches) = read_all(&log, 1).await;
        let expected: Vec<String> =
            std::iter::once("acked".to_owned()).chain((0..6).map(|n| format!("unacked {n}"))).collect();
        assert!(gaps.is_empty() && !batches.is_empty(), "{gaps:?}");
        assert_eq!(texts(&batches), expected[..batches.len()]);
    }
}

#[tokio::test]
async fn batches_of_one_shard_are_stored_in_the_order_of_their_first_poll() {
    let disk = FaultDisk::new();
    // Room for a few batches only, so that most of them wait in line.
    let store = open_with(&disk, EmbeddedOptions { queue_bytes: 1024, ..options() }).await.unwrap();
    let log = store.log();
    log.create_shards(&[spec(1)]).await.unwrap();
    let appends = (0..200).map(|n| log.append(1, batch(vec![n as u8; 1 + (n * 37) % 500])));
    for (n, appended) in join_all(appends).await.into_iter().enumerate() {
        assert_eq!(appended.unwrap().lsn, lsn(n as u64));
    }
    let (_, batches) = read_all(&log, 1).await;
    assert!(batches.iter().enumerate().all(|(n, batch)| batch.bytes.first() == Some(&(n as u8))));
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_to_many_shards_at_once_mix_up_nothing() {
    let disk = FaultDisk::new();
    let store = open_with(&disk, EmbeddedOptions { segment_bytes: 4096, ..options() }).await.unwrap();
    let specs: Vec<ShardSpec> = (1..=50).map(spec).collect();
    store.log().create_shards(&specs).await.unwrap();
    let tasks = (1..=50).map(|shard| {
        let log = store.log();
        tokio::spawn(async move {
            let appends = (0..20).map(|n| log.append(shard, batch(format!("{shard}/{n}"))));
            join_all(appends).await.into_iter().collect::<Result<Vec<_>>>().unwrap()
        })
    });
    for appended in join_all(tasks).await {
        assert!(appended.unwrap().windows(2).all(|pair| pair[0].lsn + 1 == pair[1].lsn));
    }
    let after = disk.copy();
    for log in [store.log(), open(&after).await.log()] {
        for shard in 1..=50 {
            let expected: Vec<String> = (0..20).map(|n| format!("{shard}/{n}")).collect();
            assert_eq!(texts(&read_all(&log, shard).await.1), expected);
        }
    }
}

#[tokio::test]
async fn what_gathers_during_a_sync_shares_the_next_one() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    let specs: Vec<ShardSpec> = (1..=50).map(spec).collect();
    log.create_shards(&specs).await.unwrap();
    let before = disk.syncs();
    disk.hold_syncs();
    let mut appends = Vec::new();
    for n in 0..500 {
        let mut append = log.append(1 + n % 50, batch("a"));
        // With a fresh budget one poll goes as far as the queue.
        tokio::task::yield_now().await;
        assert!(futures::poll!(&mut append).is_pending());
        appends.push(append);
    }
    disk.release_syncs();
    for appended in join_all(appends).await {
        appended.unwrap();
    }
    // One under way when the first came, one for the rest.
    assert!(disk.syncs() - before <= 2, "{} syncs", disk.syncs() - before);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_accepted_and_what_was_durable_can_be_read() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    log.create_shards(&[spec(1)]).await.unwrap();
    log.append(1, batch("good")).await.unwrap();
    disk.fail_sync(0);
    assert!(matches!(log.append(1, batch("bad")).await, Err(StoreError::Poisoned(_))));
    assert!(matches!(log.append(1, batch("late")).await, Err(StoreError::Poisoned(_))));
    assert!(matches!(log.trim(1, lsn(0)).await, Err(StoreError::Poisoned(_))));
    assert!(matches!(log.create_shards(&[spec(2)]).await, Err(StoreError::Poisoned(_))));
    assert_eq!(texts(&read_all(&log, 1).await.1), ["good"]);
    assert_eq!(log.tail(1).unwrap(), lsn(0));
    store.close().await;
}

#[tokio::test]
async fn after_a_torn_write_the_log_is_whole_again_at_the_next_start() {
    for bytes in 0..120 {
        let disk = FaultDisk::new();
        let store = open(&disk).await;
        let log = store.log();
        log.create_shards(&[spec(1)]).await.unwrap();
        log.append(1, batch("good")).await.unwrap();
        disk.fail_write(0, bytes);
        assert!(matches!(log.append(1, batch("torn")).await, Err(StoreError::Poisoned(_))));
        store.close().await;
        let log = open(&disk.copy()).await.log();
        let (gaps, batches) = read_all(&log, 1).await;
        assert!(gaps.is_empty());
        let texts = texts(&batches);
        assert!(texts == ["good"] || texts == ["good", "torn"] && bytes >= 92, "{bytes}: {texts:?}");
        assert_eq!(log.append(1, batch("next")).await.unwrap().lsn, lsn(texts.len() as u64));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_batches_stores_nothing_of_them_and_still_trims() {
    let disk = FaultDisk::new();
    let small = EmbeddedOptions { segment_bytes: 16 << 10, reserve_bytes: 4096, ..options() };
    let store = open_with(&disk, small).await.unwrap();
    let log = store.log();
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    disk.set_capacity(Some(disk.used() + 100_000));
    let mut stored = 0;
    let refused = loop {
        match log.append(1, batch(vec![7; 1000])).await {
            Ok(appended) => {
                assert_eq!(appended.lsn, lsn(stored));
                stored += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::DiskFull(_)) && stored > 50, "{refused} after {stored}");
    assert!(matches!(log.append(2, batch(vec![7; 1000])).await, Err(StoreError::DiskFull(_))));
    assert_eq!(log.tail(1).unwrap(), lsn(stored - 1));
    store.meta().put("key", Bytes::from_static(b"value"), crate::store::Expect::Any).await.unwrap();
    log.trim(1, lsn(stored - 1)).await.unwrap();
    // What was trimmed is free again, and the ids go on where they were.
    assert_eq!(log.append(1, batch(vec![8; 1000])).await.unwrap().lsn, lsn(stored));
    let log = open(&disk.crash()).await.log();
    assert_eq!((log.trim_point(1).unwrap(), log.tail(1).unwrap()), (lsn(stored), lsn(stored)));
}

#[tokio::test]
async fn a_write_the_full_disk_cut_short_is_taken_back() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    log.create_shards(&[spec(1)]).await.unwrap();
    log.append(1, batch("good")).await.unwrap();
    // More than the free-space check saw is taken by somebody else in between.
    disk.fail_write_as_full(0, 30);
    assert!(matches!(log.append(1, batch("refused")).await, Err(StoreError::DiskFull(_))));
    assert_eq!(log.append(1, batch("next")).await.unwrap().lsn, lsn(1));
    let log = open(&disk.crash()).await.log();
    assert_eq!(texts(&read_all(&log, 1).await.1), ["good", "next"]);
}

#[tokio::test]
async fn shards_are_created_all_or_none_and_deleted_for_good() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    assert_eq!(log.create_shards(&[spec(3), spec(2)]).await, Err(StoreError::ShardExists(2)));
    assert_eq!(log.create_shards(&[spec(3), spec(3)]).await, Err(StoreError::ShardExists(3)));
    log.append(1, batch("a")).await.unwrap();
    let mut tail = log.watch_tail(1).unwrap();
    log.delete_shards(&[1, 9]).await.unwrap();
    while tail.moved().await.is_ok() {}
    assert_eq!(log.append(1, batch("b")).await, Err(StoreError::ShardNotFound(1)));
    assert_eq!(log.read(1, FIRST_LSN, ALL).await, Err(StoreError::ShardNotFound(1)));
    assert_eq!(log.tail(1), Err(StoreError::ShardNotFound(1)));
    for disk in [disk.copy(), disk.crash()] {
        assert_eq!(open(&disk).await.log().shards(), [spec(2)]);
    }
}

#[tokio::test]
async fn a_deletion_ends_appends_that_wait_for_the_disk() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    log.create_shards(&[spec(1)]).await.unwrap();
    disk.hold_syncs();
    let first = tokio::spawn({
        let log = store.log();
        async move { log.append(1, batch("before")).await }
    });
    until("the sync is under way", || disk.waiting_syncs() == 1).await;
    let mut deletion = Box::pin(log.delete_shards(&[1]));
    assert!(futures::poll!(&mut deletion).is_pending());
    assert_eq!(log.append(1, batch("after")).await, Err(StoreError::ShardNotFound(1)));
    disk.release_syncs();
    deletion.await.unwrap();
    first.await.unwrap().unwrap();
    assert!(open(&disk.crash()).await.log().shards().is_empty());
}

#[tokio::test]
async fn segments_go_once_nothing_in_them_is_wanted() {
    let disk = FaultDisk::new();
    let store = open_with(&disk, EmbeddedOptions { segment_bytes: 4096, ..options() }).await.unwrap();
    let log = store.log();
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    log.append(2, stamped("old and wanted", 5, 0)).await.unwrap();
    for n in 0..100 {
        log.append(1, batch(vec![n; 500])).await.unwrap();
    }
    let segments =
        |disk: &FaultDisk| disk.list().unwrap().iter().filter(|name| name.ends_with(".log")).count();
    assert!(segments(&disk) > 10);
    log.trim(1, lsn(98)).await.unwrap();
    assert!(segments(&disk) <= 3, "{:?}", disk.list());
    let reopened = open(&disk.copy()).await.log();
    for log in [&log, &reopened] {
        let (gaps, batches) = read_all(log, 1).await;
        assert_eq!((gaps[0].kind, gaps[0].to, batches.len()), (crate::store::GapKind::Trimmed, lsn(98), 1));
        assert_eq!(texts(&read_all(log, 2).await.1), ["old and wanted"]);
    }
    // All of it gone: who wrote is still known.
    log.trim(2, lsn(0)).await.unwrap();
    log.trim(1, lsn(99)).await.unwrap();
    let log = open(&disk.crash()).await.log();
    assert_eq!((log.tail(1).unwrap(), log.tail(2).unwrap()), (lsn(99), lsn(0)));
    assert!(log.append(2, stamped("again", 5, 0)).await.unwrap().repeat);
}

#[tokio::test]
async fn append_times_never_step_back_and_age_is_counted_by_them() {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    let now = Arc::new(AtomicU64::new(5_000));
    let clock = Arc::clone(&now);
    let timed = EmbeddedOptions {
        clock: Arc::new(move || clock.load(SeqCst)),
        retention_interval: Duration::from_millis(2),
        ..options()
    };
    let disk = FaultDisk::new();
    let store = open_with(&disk, timed.clone()).await.unwrap();
    let log = store.log();
    log.create_shards(&[ShardSpec { shard: 1, retention_secs: 10, replicas: 1 }]).await.unwrap();
    assert_eq!(log.append(1, batch("a")).await.unwrap().time_ms, 5_000);
    now.store(3_000, SeqCst);
    assert_eq!(log.append(1, batch("b")).await.unwrap().time_ms, 5_000);
    store.close().await;
    let store = open_with(&disk.crash(), timed).await.unwrap();
    let log = store.log();
    assert_eq!(log.append(1, batch("c")).await.unwrap().time_ms, 5_000);
    now.store(9_000, SeqCst);
    log.append(1, batch("d")).await.unwrap();
    assert_eq!(log.find_time(1, 5_001).await.unwrap(), lsn(3));
    now.store(15_001, SeqCst);
    until("what is older than ten seconds is gone", || log.trim_point(1) == Ok(lsn(3))).await;
    assert_eq!(texts(&read_all(&log, 1).await.1), ["d"]);
}

#[tokio::test]
async fn closing_writes_what_was_accepted_and_answers_everybody() {
    let disk = FaultDisk::new();
    let store = open(&disk).await;
    let log = store.log();
    log.create_shards(&[spec(1)]).await.unwrap();
    disk.hold_syncs();
    let append = tokio::spawn({
        let log = store.log();
        async move { log.append(1, batch("accepted")).await }
    });
    until("the sync is under way", || disk.waiting_syncs() == 1).await;
    disk.release_syncs();
    store.close().await;
    store.close().await;
    append.await.unwrap().unwrap();
    assert_eq!(texts(&read_all(&open(&disk.crash()).await.log(), 1).await.1), ["accepted"]);
}
