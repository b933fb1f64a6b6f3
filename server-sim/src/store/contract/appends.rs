//! Appending.

use super::*;
use futures::FutureExt as _;
use futures::future::join_all;
use std::collections::HashSet;

/// Nearly what a message of a NATS server holds unless it is told otherwise.
const LARGE: usize = (1 << 20) - 4096;

pub async fn batches_come_back_as_they_were_stored_and_in_order(subject: Subject) {
    subject.at(1000);
    let log = with_shard(&subject).await;
    let mut expected = Vec::new();
    for number in 0..50u32 {
        let new = NewBatch { records: number + 1, ..batch(format!("batch {number}")) };
        let bytes = new.bytes.clone();
        let Appended { lsn, records, time_ms, repeat } = log.append(1, new).await.unwrap();
        assert_eq!((records, time_ms, repeat), (number + 1, 1000, false));
        expected.push(StoredBatch { lsn, time_ms, records, bytes });
    }
    assert_eq!(read_all(&*log, 1).await, (vec![], expected));
}

pub async fn lsns_have_nineteen_digits_and_grow(subject: Subject) {
    let log = with_shard(&subject).await;
    let appended = append_all(&log, ["a", "b", "c", "d"]).await;
    assert!(appended.is_sorted_by(|one, other| one.lsn < other.lsn));
    for Appended { lsn, .. } in appended {
        assert!((FIRST_LSN..1 << 63).contains(&lsn) && lsn.to_string().len() == 19, "{lsn}");
    }
}

pub async fn append_times_never_step_back(subject: Subject) {
    let log = with_shard(&subject).await;
    let mut times = Vec::new();
    for now in [5000, 4000, 6000, 10, 6001] {
        subject.at(now);
        times.push(log.append(1, batch("x")).await.unwrap().time_ms);
    }
    assert_eq!(times, [5000, 5000, 6000, 6000, 6001]);
}

pub async fn futures_that_are_polled_first_are_stored_first(subject: Subject) {
    let log = with_shard(&subject).await;
    let mut waiting: Vec<_> = (0..300).map(|number| log.append(1, batch(number.to_string()))).collect();
    let mut done = Vec::new();
    for (number, append) in waiting.iter_mut().enumerate() {
        if let Some(appended) = append.now_or_never() {
            done.push((number, appended.unwrap().lsn));
        }
    }
    let finished: HashSet<usize> = done.iter().map(|(number, _)| *number).collect();
    let left = waiting.into_iter().enumerate().filter(|(number, _)| !finished.contains(number));
    let left = left.map(|(number, append)| async move { (number, append.await.unwrap().lsn) });
    done.extend(join_all(left).await);
    done.sort();
    assert!(done.is_sorted_by_key(|(_, lsn)| *lsn));
    let expected: Vec<String> = (0..300).map(|number: u32| number.to_string()).collect();
    assert_eq!(texts(&read_all(&*log, 1).await.1), expected);
}

pub async fn a_dropped_future_does_not_take_the_batch_back(subject: Subject) {
    let log = with_shard(&subject).await;
    // Once it was polled it is in line.
    assert!(log.append(1, batch("dropped")).now_or_never().is_none());
    log.append(1, batch("kept")).await.unwrap();
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["dropped", "kept"]);
}

pub async fn many_appends_at_once_are_all_stored_once(subject: Subject) {
    subject.log.create_shards(&(1..=8).map(spec).collect::<Vec<_>>()).await.unwrap();
    let appends = (0..2000u64).map(|number| {
        let log = Arc::clone(&subject.log);
        tokio::spawn(async move {
            let shard = number % 8 + 1;
            (shard, number, log.append(shard, batch(number.to_string())).await.unwrap().lsn)
        })
    });
    let mut answers: Vec<_> = join_all(appends).await.into_iter().map(|answer| answer.unwrap()).collect();
    answers.sort_by_key(|(shard, _, lsn)| (*shard, *lsn));
    for shard in 1..=8 {
        let expected: Vec<_> = answers.iter().filter(|(of, ..)| *of == shard).collect();
        let (gaps, batches) = read_all(&*subject.log, shard).await;
        assert_eq!((gaps.len(), batches.len()), (0, expected.len()));
        for ((_, number, lsn), stored) in expected.into_iter().zip(batches) {
            assert_eq!((stored.lsn, &stored.bytes[..]), (*lsn, number.to_string().as_bytes()));
        }
    }
}

pub async fn large_batches_are_stored(subject: Subject) {
    let log = with_shard(&subject).await;
    let large = |byte: u8| batch(vec![byte; LARGE]);
    let appended = join_all((0..6).map(|byte| log.append(1, large(byte)))).await;
    assert!(appended.iter().all(Result::is_ok), "{appended:?}");
    let (_, batches) = read_all(&*log, 1).await;
    assert_eq!(batches.len(), 6);
    for (byte, stored) in batches.iter().enumerate() {
        assert!(stored.bytes.len() == LARGE && stored.bytes.iter().all(|found| *found == byte as u8));
    }
}
