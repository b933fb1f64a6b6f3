//! Creating and deleting.

use super::*;
use std::time::Duration;
use tokio::time::timeout;

pub async fn shards_are_created_all_or_none(subject: Subject) {
    let log = &subject.log;
    let with_age = ShardSpec { retention_secs: 3600, ..spec(9) };
    log.create_shards(&[spec(1), spec(2), with_age.clone()]).await.unwrap();
    assert_eq!(log.create_shards(&[spec(3), spec(2)]).await, Err(StoreError::ShardExists(2)));
    assert_eq!(log.create_shards(&[spec(4), spec(4)]).await, Err(StoreError::ShardExists(4)));
    assert_eq!(log.shards(), [spec(1), spec(2), with_age]);
    log.create_shards(&[]).await.unwrap();
    for absent in [3, 4] {
        assert_eq!(log.tail(absent), Err(StoreError::ShardNotFound(absent)));
    }
    log.append(9, batch("x")).await.unwrap();
}

pub async fn deleted_shards_end_what_waits_for_them(subject: Subject) {
    let log = with_shard(&subject).await;
    log.create_shards(&[spec(2)]).await.unwrap();
    append_all(&log, ["a"]).await;
    log.append(2, batch("b")).await.unwrap();
    let mut watch = log.watch_tail(1).unwrap();
    watch.latest();
    log.delete_shards(&[1, 1, 77]).await.unwrap();
    assert!(timeout(Duration::from_secs(20), watch.moved()).await.unwrap().is_err());
    not_found(log.append(1, batch("x")).await);
    not_found(log.read(1, FIRST_LSN, ALL).await);
    not_found(log.tail(1));
    not_found(log.watch_tail(1).map(|_| ()));
    not_found(log.trim_point(1));
    not_found(log.trim(1, FIRST_LSN).await);
    not_found(log.find_time(1, 0).await);
    log.catch_up(&[1]).await.unwrap();
    log.delete_shards(&[1]).await.unwrap();
    assert_eq!(log.shards(), [spec(2)]);
    assert_eq!(texts(&read_all(&*log, 2).await.1), ["b"]);
}

pub async fn shards_do_not_disturb_each_other(subject: Subject) {
    let log = &subject.log;
    log.create_shards(&(1..=40).map(spec).collect::<Vec<_>>()).await.unwrap();
    for round in 0..5 {
        for shard in 1..=40 {
            log.append(shard, batch(format!("{shard} {round}"))).await.unwrap();
        }
    }
    log.trim(7, u64::MAX).await.unwrap();
    log.delete_shards(&[8]).await.unwrap();
    for shard in (1..=40).filter(|shard| ![7, 8].contains(shard)) {
        let expected: Vec<String> = (0..5).map(|round| format!("{shard} {round}")).collect();
        assert_eq!(texts(&read_all(&**log, shard).await.1), expected);
    }
}
