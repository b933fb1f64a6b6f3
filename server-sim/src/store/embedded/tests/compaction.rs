//! Space that comes back, and what a power loss or decay makes of it.

use super::*;
use crate::store::GapKind;

/// Shard 1 is kept, shard 2 is not.
fn mixed() -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 4096, scrub_bytes_per_sec: 0, ..options() }
}

/// As [`mixed`], without compactions.
fn still() -> EmbeddedOptions {
    EmbeddedOptions { compaction_bytes_per_sec: 0, ..mixed() }
}

fn kept(n: u64) -> String {
    format!("kept {n} {}", "k".repeat(60))
}

/// A log of several segments with batches of a kept shard among many of another that is trimmed up to `up_to`.
async fn fill(log: &Arc<dyn LogStore>, rounds: u64) {
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    for n in 0..rounds {
        log.append(1, stamped(&kept(n), 9, n)).await.unwrap();
        for _ in 0..10 {
            log.append(2, batch(vec![7; 300])).await.unwrap();
        }
    }
}

async fn assert_whole(log: &Arc<dyn LogStore>, rounds: u64) {
    let (gaps, batches) = read_all(log, 1).await;
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(texts(&batches), (0..rounds).map(kept).collect::<Vec<_>>());
    assert!(batches.iter().enumerate().all(|(n, batch)| batch.lsn == lsn(n as u64)));
    let (gaps, batches) = read_all(log, 2).await;
    assert!(gaps.iter().all(|gap| gap.kind == GapKind::Trimmed), "{gaps:?}");
    assert_eq!(batches.len(), 1);
    // Who wrote is known, too.
    let repeat = log.append(1, stamped("again", 9, rounds - 1)).await.unwrap();
    assert_eq!((repeat.lsn, repeat.repeat), (lsn(rounds - 1), true));
}

fn log_bytes(disk: &FaultDisk) -> usize {
    let names = disk.list().unwrap();
    names.iter().filter(|name| name.ends_with(".log")).map(|name| disk.content(name).unwrap().len()).sum()
}

fn compacted(disk: &FaultDisk) -> Vec<String> {
    let names = disk.list().unwrap_or_default();
    names.into_iter().filter(|name| name.ends_with(".log") && name.matches('-').count() == 3).collect()
}

/// A closed log that is worth compacting, and its metadata.
async fn sparse(rounds: u64) -> FaultDisk {
    let disk = FaultDisk::new();
    let store = open_with(&disk, still()).await.unwrap();
    let log = store.log();
    fill(&log, rounds).await;
    log.trim(2, lsn(rounds * 10 - 2)).await.unwrap();
    store.close().await;
    disk.copy()
}

#[tokio::test]
async fn what_is_kept_for_ever_does_not_keep_what_was_written_beside_it() {
    let disk = sparse(40).await;
    let before = log_bytes(&disk);
    let store = open_with(&disk, mixed()).await.unwrap();
    let log = store.log();
    // 40 batches of 160 bytes and some states are wanted of 130 KB.
    until("the space is free", || log_bytes(&disk) < before / 8).await;
    assert_whole(&log, 40).await;
    store.close().await;
    for options in [mixed(), still(), EmbeddedOptions { verify_log: true, serve_damaged: false, ..still() }] {
        let log = open_with(&disk.copy(), options).await.unwrap().log();
        assert_whole(&log, 40).await;
    }
}

#[tokio::test]
async fn retention_of_one_stream_frees_the_disk_although_another_is_kept() {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::clone(&now);
    let disk = FaultDisk::new();
    let timed = EmbeddedOptions {
        clock: Arc::new(move || clock.load(SeqCst)),
        retention_interval: Duration::from_millis(5),
        ..mixed()
    };
    let store = open_with(&disk, timed).await.unwrap();
    let log = store.log();
    log.create_shards(&[spec(1), ShardSpec { shard: 2, retention_secs: 60, replicas: 1 }]).await.unwrap();
    for n in 0..200 {
        log.append(1, batch(kept(n))).await.unwrap();
        log.append(2, batch(vec![7; 3000])).await.unwrap();
    }
    assert!(log_bytes(&disk) > 600_000);
    now.store(100_000, SeqCst);
    until("old batches are gone and the rest is small", || log_bytes(&disk) < 60_000).await;
    assert_eq!(texts(&read_all(&log, 1).await.1), (0..200).map(kept).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_power_loss_anywhere_in_a_compaction_loses_and_doubles_nothing() {
    let whole = sparse(12).await;
    let mut cuts = 0;
    loop {
        let disk = whole.copy();
        // Opened first: its own changes are none of a compaction.
        let store = open_with(&disk, still()).await.unwrap();
        store.close().await;
        let disk = disk.copy();
        let before = log_bytes(&disk);
        disk.cut_at(cuts);
        let Ok(store) = open_with(&disk, mixed()).await else {
            cuts += 1;
            continue;
        };
        let log = store.log();
        until("it is done or cut off", || {
            disk.has_crashed() || !compacted(&disk).is_empty() && log_bytes(&disk) < before / 2
        })
        .await;
        let finished = !disk.has_crashed();
        let lost = disk.clone();
        for after in [lost.crash_keeping_names(true), lost.crash_keeping_names(false), lost.crash()] {
            for options in [EmbeddedOptions { serve_damaged: false, ..still() }, mixed()] {
                let after = after.copy();
                let store = open_with(&after, options.clone()).await.unwrap();
                assert_whole(&store.log(), 12).await;
                store.close().await;
                // And once more, on what that start made of it.
                let verify = EmbeddedOptions { verify_log: true, serve_damaged: false, ..options };
                assert_whole(&open_with(&after.copy(), verify).await.unwrap().log(), 12).await;
            }
        }
        drop(log);
        if finished && cuts > 20 {
            break;
        }
        cuts += 1;
        assert!(cuts < 500, "a compaction never ends");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_compacted_log_is_never_served_and_never_passed_over_in_silence() {
    let disk = sparse(12).await;
    let before = log_bytes(&disk);
    let store = open_with(&disk, mixed()).await.unwrap();
    until("the space is free", || log_bytes(&disk) < before / 2 && !compacted(&disk).is_empty()).await;
    store.close().await;
    let disk = disk.copy();
    for name in compacted(&disk) {
        let content = disk.content(&name).unwrap();
        for verify_log in [false, true] {
            for at in 0..content.len() {
                let copy = disk.copy();
                let mut damaged = content.clone();
                damaged[at] ^= 1 << (at % 8);
                copy.replace(&name, damaged);
                let store = open_with(&copy, EmbeddedOptions { verify_log, ..still() }).await.unwrap();
                let (gaps, batches) = read_all(&store.log(), 1).await;
                assert!(gaps.iter().all(|gap| gap.kind == GapKind::DataLoss));
                for n in 0..12 {
                    let told = gaps.iter().any(|gap| (gap.from..=gap.to).contains(&lsn(n)));
                    let served = batches.iter().find(|batch| batch.lsn == lsn(n));
                    assert_eq!(told, served.is_none(), "{name} at {at}: batch {n}");
                    assert!(served.is_none_or(|batch| batch.bytes == kept(n).as_bytes()));
                }
                let lost: u64 = gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
                assert!(lost <= 1, "{name} at {at}: one bit costs {lost} batches");
            }
        }
    }
}

#[tokio::test]
async fn damage_is_found_before_it_is_copied_and_stays_where_it_is() {
    let disk = sparse(12).await;
    let names: Vec<String> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".log")).collect();
    let name = names.iter().find(|name| {
        let content = disk.content(name).unwrap();
        content.windows(7).any(|window| window == b"kept 2 ")
    });
    let name = name.unwrap().clone();
    let mut content = disk.content(&name).unwrap();
    let at = content.windows(7).position(|window| window == b"kept 2 ").unwrap();
    content[at + 20] ^= 1;
    disk.replace(&name, content.clone());
    let store = open_with(&disk, mixed()).await.unwrap();
    let log = store.log();
    until("the others are compacted", || !compacted(&disk).is_empty()).await;
    let (gaps, batches) = read_all(&log, 1).await;
    assert_eq!(gaps, [Gap { kind: GapKind::DataLoss, from: lsn(2), to: lsn(2) }]);
    assert_eq!(batches.len(), 11);
    store.close().await;
    assert!(disk.content(&name) == Some(content), "evidence is kept");
    let refused =
        open_with(&disk, EmbeddedOptions { serve_damaged: false, verify_log: true, ..still() }).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(text)) if text.contains(&name)));
    // Once nobody misses the batch, it goes.
    let log = open_with(&disk, mixed()).await.unwrap().log();
    assert_eq!(read_all(&log, 1).await.0.len(), 1);
    log.trim(1, lsn(11)).await.unwrap();
    assert!(disk.content(&name).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_notice_nothing_of_a_compaction() {
    let disk = FaultDisk::new();
    let store = open_with(&disk, EmbeddedOptions { segment_bytes: 16 << 10, ..mixed() }).await.unwrap();
    let log = store.log();
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (gaps, batches) = read_all(&log, 1).await;
                    assert!(gaps.is_empty(), "{gaps:?}");
                    for (n, batch) in batches.iter().enumerate() {
                        assert_eq!((batch.lsn, &batch.bytes[..]), (lsn(n as u64), kept(n as u64).as_bytes()));
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut compactions = std::collections::HashSet::new();
    for n in 0..300 {
        log.append(1, batch(kept(n))).await.unwrap();
        let appended = log.append(2, batch(vec![7; 3000])).await.unwrap();
        log.trim(2, appended.lsn).await.unwrap();
        compactions.extend(compacted(&disk));
    }
    until("something was compacted", || {
        compactions.extend(compacted(&disk));
        compactions.len() > 3
    })
    .await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(read_all(&log, 1).await.1.len(), 300);
    store.close().await;
    assert_eq!(read_all(&open_with(&disk.copy(), still()).await.unwrap().log(), 1).await.1.len(), 300);
}

#[tokio::test]
async fn a_full_disk_is_made_room_on() {
    let disk = FaultDisk::new();
    let full = EmbeddedOptions { reserve_bytes: 20_000, ..mixed() };
    let store = open_with(&disk, full).await.unwrap();
    let log = store.log();
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    disk.set_capacity(Some(disk.used() + 150_000));
    let mut n = 0;
    loop {
        let appended = log.append(1, batch(kept(n))).await;
        let Ok(other) = log.append(2, batch(vec![7; 1000])).await else { break };
        if appended.is_err() {
            break;
        }
        n = other.lsn - FIRST_LSN + 1;
    }
    // Every segment holds something of shard 1, so that no file can simply go.
    let stored = log.tail(1).unwrap() - FIRST_LSN + 1;
    let tail = log.tail(2).unwrap();
    log.trim(2, tail).await.unwrap();
    until("there is room again", || disk.free_space().unwrap() > 100_000).await;
    log.append(1, batch(kept(stored))).await.unwrap();
    let log = open_with(&disk.crash(), still()).await.unwrap().log();
    assert_eq!(texts(&read_all(&log, 1).await.1), (0..=stored).map(kept).collect::<Vec<_>>());
}
