//! Reading, trimming, looking up.

use super::super::GapKind;
use super::*;
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

pub async fn reads_keep_to_their_limits(subject: Subject) {
    let log = with_shard(&subject).await;
    append_all(&log, ["aaaaaaaaaa"; 9]).await;
    let count = async |max_batches, max_bytes| {
        let limits = ReadLimits { max_batches, max_bytes };
        log.read(1, FIRST_LSN, limits).await.unwrap().batches.len()
    };
    assert_eq!(count(4, 1000).await, 4);
    assert_eq!(count(100, 30).await, 3);
    assert_eq!(count(100, 29).await, 2);
    assert_eq!(count(100, 0).await, 1, "the first one comes whatever its size");
    assert_eq!(count(1, 0).await, 1);
    for max_batches in 1..5 {
        let limits = ReadLimits { max_batches, max_bytes: 25 };
        let (gaps, batches) = read_from(&*log, 1, FIRST_LSN, limits).await;
        assert_eq!((gaps.len(), batches.len()), (0, 9));
    }
}

pub async fn a_read_can_begin_and_end_anywhere(subject: Subject) {
    let log = with_shard(&subject).await;
    let names = ["a", "b", "c", "d", "e"];
    // Some together, some alone.
    let together = futures::future::join_all(names[..3].iter().map(|name| log.append(1, batch(*name)))).await;
    let mut lsns: Vec<Lsn> = together.into_iter().map(|appended| appended.unwrap().lsn).collect();
    for name in &names[3..] {
        lsns.push(log.append(1, batch(*name)).await.unwrap().lsn);
    }
    for (number, lsn) in lsns.iter().enumerate() {
        assert_eq!(texts(&read_from(&*log, 1, *lsn, ALL).await.1), names[number..]);
        assert_eq!(texts(&read_from(&*log, 1, lsn + 1, ALL).await.1), names[number + 1..]);
        let one = log.read(1, *lsn, ReadLimits { max_batches: 1, max_bytes: 0 }).await.unwrap();
        assert_eq!((texts(&one.batches), one.gap), (vec![names[number].to_owned()], None));
        assert!(one.next > *lsn);
    }
    for from in [0, 1, FIRST_LSN - 1] {
        assert_eq!(log.read(1, from, ALL).await.unwrap().batches.len(), names.len());
    }
    let tail = log.tail(1).unwrap();
    assert_eq!(tail, *lsns.last().unwrap());
    for from in [tail + 1, tail + 5000, u64::MAX] {
        let nothing = log.read(1, from, ALL).await.unwrap();
        assert_eq!((nothing.gap, nothing.batches.len(), nothing.next), (None, 0, from));
    }
}

pub async fn an_empty_shard_has_a_tail_below_the_first_lsn(subject: Subject) {
    let log = with_shard(&subject).await;
    log.catch_up(&[1, 77]).await.unwrap();
    assert_eq!((log.tail(1), log.trim_point(1)), (Ok(FIRST_LSN - 1), Ok(FIRST_LSN)));
    let nothing = log.read(1, FIRST_LSN, ALL).await.unwrap();
    assert_eq!((nothing.gap, nothing.batches.len(), nothing.next), (None, 0, FIRST_LSN));
    assert_eq!(log.find_time(1, 0).await, Ok(FIRST_LSN));
    log.trim(1, u64::MAX).await.unwrap();
    assert_eq!((log.tail(1), log.trim_point(1)), (Ok(FIRST_LSN - 1), Ok(FIRST_LSN)));
}

pub async fn the_tail_is_told_as_it_moves(subject: Subject) {
    let log = with_shard(&subject).await;
    let mut watch = log.watch_tail(1).unwrap();
    assert_eq!(watch.latest(), FIRST_LSN - 1);
    for text in ["a", "b", "c"] {
        let appended = log.append(1, batch(text)).await.unwrap();
        timeout(SOON, watch.moved()).await.unwrap().unwrap();
        assert_eq!(watch.latest(), appended.lsn);
        assert_eq!(log.tail(1), Ok(appended.lsn));
    }
    assert!(timeout(Duration::from_millis(50), watch.moved()).await.is_err(), "nothing came");
}

pub async fn trims_remove_what_they_name_and_never_move_back(subject: Subject) {
    let log = with_shard(&subject).await;
    let appended = append_all(&log, ["a", "b", "c", "d"]).await;
    // Unused numbers before the first batch, if there are some.
    log.trim(1, (FIRST_LSN + 5).min(appended[0].lsn - 1)).await.unwrap();
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["a", "b", "c", "d"]);
    log.trim(1, appended[1].lsn).await.unwrap();
    assert_eq!(log.trim_point(1), Ok(appended[1].lsn + 1));
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["c", "d"]);
    log.trim(1, appended[0].lsn).await.unwrap();
    log.trim(1, 0).await.unwrap();
    assert_eq!(log.trim_point(1), Ok(appended[1].lsn + 1));
    log.trim(1, appended[2].lsn - 1).await.unwrap();
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["c", "d"]);
    assert_eq!(log.tail(1), Ok(appended[3].lsn));
}

pub async fn a_shard_that_was_trimmed_to_its_end_goes_on_behind_it(subject: Subject) {
    let log = with_shard(&subject).await;
    for up_to in [u64::MAX, 0] {
        let last = append_all(&log, ["a", "b"]).await[1].lsn;
        log.trim(1, if up_to == 0 { last } else { up_to }).await.unwrap();
        assert_eq!((log.tail(1), log.trim_point(1)), (Ok(last), Ok(last + 1)));
        assert_eq!(read_all(&*log, 1).await.1, []);
        let next = log.append(1, batch("next")).await.unwrap().lsn;
        assert!(next > last);
        let (gaps, batches) = read_from(&*log, 1, last + 1, ALL).await;
        assert_eq!((gaps, texts(&batches)), (vec![], vec!["next".to_owned()]));
    }
}

pub async fn trimmed_batches_are_a_gap_before_what_is_left(subject: Subject) {
    let log = with_shard(&subject).await;
    let appended = append_all(&log, ["a", "b", "c"]).await;
    log.trim(1, appended[1].lsn).await.unwrap();
    let chunk = log.read(1, FIRST_LSN, ALL).await.unwrap();
    assert_eq!(chunk.gap, Some(Gap { kind: GapKind::Trimmed, from: FIRST_LSN, to: appended[1].lsn }));
    assert_eq!(texts(&chunk.batches), ["c"]);
    let chunk = log.read(1, appended[2].lsn, ALL).await.unwrap();
    assert_eq!((chunk.gap, chunk.batches.len()), (None, 1));
    log.trim(1, appended[2].lsn).await.unwrap();
    let chunk = log.read(1, appended[2].lsn, ALL).await.unwrap();
    let gap = Gap { kind: GapKind::Trimmed, from: appended[2].lsn, to: appended[2].lsn };
    assert_eq!((chunk.gap, chunk.batches.len()), (Some(gap), 0));
}

pub async fn times_are_found(subject: Subject) {
    let log = with_shard(&subject).await;
    let mut lsns = Vec::new();
    for ms in [1000, 1000, 2000, 3000, 5000, 5000] {
        subject.at(ms);
        lsns.push(log.append(1, batch(ms.to_string())).await.unwrap().lsn);
    }
    let behind = lsns[5] + 1;
    for (ms, expected) in
        [(0, lsns[0]), (1000, lsns[0]), (1001, lsns[2]), (2000, lsns[2]), (4000, lsns[4]), (5000, lsns[4])]
    {
        assert_eq!(log.find_time(1, ms).await, Ok(expected), "{ms}");
    }
    assert_eq!(log.find_time(1, 5001).await, Ok(behind));
    assert_eq!(log.find_time(1, u64::MAX).await, Ok(behind));
    log.trim(1, lsns[2]).await.unwrap();
    assert_eq!(log.find_time(1, 0).await, Ok(lsns[3]));
    log.trim(1, lsns[5]).await.unwrap();
    assert_eq!(log.find_time(1, 0).await, Ok(behind));
}
