//! Opening without reading everything: what is believed, what is read again, what older versions wrote.

use super::*;
use crate::store::GapKind;
use crate::store::disk::LocalDisk;

fn quiet() -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 1024, compaction_bytes_per_sec: 0, scrub_bytes_per_sec: 0, ..options() }
}

fn with_ending(disk: &FaultDisk, ending: &str) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.ends_with(ending)).collect()
}

/// A closed log of several segments, each but the last with an index.
async fn indexed() -> FaultDisk {
    let disk = FaultDisk::new();
    let store = open_with(&disk, quiet()).await.unwrap();
    let log = store.log();
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    for n in 0..12 {
        log.append(1, stamped(&format!("one {n} {}", "x".repeat(100)), 9, n)).await.unwrap();
        log.append(2, batch(format!("two {n} {}", "y".repeat(100)))).await.unwrap();
    }
    log.trim(2, lsn(3)).await.unwrap();
    until("every full segment has an index", || {
        with_ending(&disk, ".idx").len() + 1 == with_ending(&disk, ".log").len()
    })
    .await;
    store.close().await;
    let disk = disk.copy();
    disk.remove("meta.redb").unwrap();
    disk.copy()
}

async fn opened(disk: &FaultDisk, options: EmbeddedOptions) -> Result<Arc<dyn LogStore>> {
    let log = super::super::open_log(Arc::new(disk.clone()) as Arc<dyn Disk>, options).await?.0;
    Ok(log)
}

async fn assert_whole(log: &Arc<dyn LogStore>) {
    let (gaps, batches) = read_all(log, 1).await;
    assert_eq!((gaps, batches.len()), (vec![], 12));
    assert!(
        batches.iter().enumerate().all(|(n, batch)| batch.bytes.starts_with(format!("one {n} ").as_bytes()))
    );
    let (gaps, batches) = read_all(log, 2).await;
    assert_eq!(gaps, [Gap { kind: GapKind::Trimmed, from: lsn(0), to: lsn(3) }]);
    assert!(
        batches.iter().zip(4..12).all(|(batch, n)| batch.bytes.starts_with(format!("two {n} ").as_bytes()))
    );
    assert_eq!(batches.len(), 8);
    assert!(log.append(1, stamped("again", 9, 11)).await.unwrap().repeat);
}

#[tokio::test]
async fn full_segments_are_not_read_to_open_the_log() {
    let disk = indexed().await;
    let newest = newest_segment(&disk);
    // Every byte of older segments is rubbish: whoever reads one of them notices.
    for name in with_ending(&disk, ".log").into_iter().filter(|name| *name != newest) {
        let len = disk.content(&name).unwrap().len();
        disk.replace(&name, vec![0; len]);
    }
    let strict = EmbeddedOptions { serve_damaged: false, ..quiet() };
    let log = opened(&disk.copy(), strict.clone()).await.unwrap();
    assert_eq!((log.tail(1), log.trim_point(2)), (Ok(lsn(11)), Ok(lsn(4))));
    // Nothing of it is served, all of it is reported.
    let (gaps, batches) = read_all(&log, 1).await;
    let lost: u64 = gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
    assert_eq!(lost + batches.len() as u64, 12);
    assert!(lost > 5 && gaps.iter().all(|gap| gap.kind == GapKind::DataLoss));
    let verified = opened(&disk, EmbeddedOptions { verify_log: true, ..strict }).await;
    assert!(matches!(verified, Err(StoreError::Corrupt(_))), "{verified:?}");
}

#[tokio::test]
async fn an_index_cut_or_altered_anywhere_costs_nothing_but_time() {
    let disk = indexed().await;
    let indexes = with_ending(&disk, ".idx");
    let whole: Vec<Vec<u8>> = indexes.iter().map(|name| disk.content(name).unwrap()).collect();
    let strict = EmbeddedOptions { serve_damaged: false, ..quiet() };
    for (name, content) in indexes.iter().zip(&whole) {
        for at in 0..content.len() {
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (at % 8);
            for altered in [flipped, content[..at].to_vec()] {
                let copy = disk.copy();
                copy.replace(name, altered);
                assert_whole(&opened(&copy, strict.clone()).await.unwrap()).await;
            }
        }
    }
    // Of another segment, or none at all.
    let copy = disk.copy();
    for (name, content) in indexes.iter().zip(whole.iter().cycle().skip(1)) {
        copy.replace(name, content.clone());
    }
    assert_whole(&opened(&copy, strict.clone()).await.unwrap()).await;
    for name in &indexes {
        disk.remove(name).unwrap();
    }
    let log = opened(&disk, strict.clone()).await.unwrap();
    assert_whole(&log).await;
    until("the indexes are back", || {
        indexes.iter().all(|name| disk.content(name).is_some_and(|content| !content.is_empty()))
    })
    .await;
    assert_whole(&opened(&disk.copy(), strict).await.unwrap()).await;
}

#[tokio::test]
async fn an_index_of_a_segment_that_was_longer_is_not_believed() {
    let disk = indexed().await;
    let first = with_ending(&disk, ".log")[0].clone();
    let mut content = disk.content(&first).unwrap();
    content.truncate(content.len() - 1);
    disk.replace(&first, content);
    let refused = opened(&disk.copy(), EmbeddedOptions { serve_damaged: false, ..quiet() }).await;
    assert!(matches!(&refused, Err(StoreError::Corrupt(text)) if text.contains(&first)), "{refused:?}");
    let (gaps, batches) = read_all(&opened(&disk, quiet()).await.unwrap(), 2).await;
    assert_eq!(gaps.iter().filter(|gap| gap.kind == GapKind::DataLoss).count() + batches.len(), 8);
}

#[tokio::test]
async fn a_missing_segment_is_refused_unless_what_is_left_shall_be_served() {
    let disk = indexed().await;
    let second = with_ending(&disk, ".log")[1].clone();
    disk.remove(&second).unwrap();
    let before = disk.list().unwrap();
    let refused = opened(&disk, EmbeddedOptions { serve_damaged: false, ..quiet() }).await;
    assert!(matches!(&refused, Err(StoreError::Corrupt(text)) if text.contains("missing")), "{refused:?}");
    assert_eq!(disk.list().unwrap(), before, "a refused log is left as it is");
    let (gaps, batches) = read_all(&opened(&disk, quiet()).await.unwrap(), 1).await;
    let lost: u64 = gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
    assert_eq!(lost + batches.len() as u64, 12);
    assert!(lost > 0);
}

#[tokio::test]
async fn what_was_not_read_to_open_the_log_is_checked_in_the_background() {
    let disk = indexed().await;
    let first = with_ending(&disk, ".log")[0].clone();
    let mut content = disk.content(&first).unwrap();
    let at = content.windows(6).position(|window| window == b"one 1 ").unwrap();
    content[at] ^= 1;
    disk.replace(&first, content);
    let (log, _) = super::super::open_log(
        Arc::new(disk.clone()) as Arc<dyn Disk>,
        EmbeddedOptions { scrub_bytes_per_sec: 1 << 20, ..quiet() },
    )
    .await
    .unwrap();
    let shared = Arc::clone(&log.shared);
    until("the damage is found", || {
        shared.segments.in_order().first().is_some_and(|segment| segment.damaged)
    })
    .await;
    until("all is checked", || shared.segments.unverified().is_empty()).await;
}

#[tokio::test]
async fn a_directory_of_format_1_is_read_and_continued() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/embedded/tests/fixtures/format-1");
    for verify_log in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        for round in 0..2 {
            let disk = Arc::new(LocalDisk::open(dir.path()).unwrap());
            let strict = EmbeddedOptions { serve_damaged: false, verify_log, ..quiet() };
            let store = EmbeddedStore::open(disk, strict).await.unwrap();
            let log = store.log();
            assert_eq!(log.shards(), [spec(1), ShardSpec { shard: 2, retention_secs: 86_400, replicas: 1 }]);
            let (gaps, batches) = read_all(&log, 1).await;
            assert!(gaps.is_empty());
            assert_eq!(texts(&batches)[..12], (0..12).map(|n| format!("one {n}")).collect::<Vec<_>>());
            assert_eq!(batches.len(), 12 + round);
            assert_eq!(log.trim_point(2), Ok(lsn(5)));
            assert!(log.append(1, stamped("again", 9, 11)).await.unwrap().repeat);
            log.append(1, batch("new")).await.unwrap();
            store.close().await;
        }
        let format = std::fs::read_to_string(dir.path().join("format")).unwrap();
        assert!(format.ends_with("format 2\n"), "{format}");
    }
}

#[tokio::test]
async fn a_segment_that_was_removed_meanwhile_gets_no_index() {
    let disk = FaultDisk::new();
    let (log, _) = super::super::open_log(Arc::new(disk.clone()) as Arc<dyn Disk>, quiet()).await.unwrap();
    log.create_shards(&[spec(1)]).await.unwrap();
    for n in 0..20 {
        log.append(1, batch(format!("{n} {}", "x".repeat(200)))).await.unwrap();
    }
    let listed = log.shared.segments.in_order().swap_remove(0);
    log.trim(1, lsn(10)).await.unwrap();
    until("the trimmed segment is gone", || !disk.list().unwrap().contains(&listed.id.name())).await;
    super::super::housekeeping::write_index(&log.shared, &listed);
    assert!(!disk.list().unwrap().contains(&listed.id.index_name()));
}
