//! Exactly once.

use super::super::StampError;
use super::*;
use futures::future::join_all;

fn refused(outcome: Result<Appended>) -> StampError {
    match outcome {
        Err(StoreError::Stamp(refused)) => refused,
        other => panic!("not a refusal: {other:?}"),
    }
}

pub async fn a_repeat_answers_with_the_first_ids(subject: Subject) {
    let log = with_shard(&subject).await;
    let first = log.append(1, stamped("a", 5, 0, 0)).await.unwrap();
    let second = log.append(1, stamped("b", 5, 0, 1)).await.unwrap();
    assert!(!first.repeat && !second.repeat);
    for (sequence, stored) in [(0, first), (1, second), (0, first)] {
        let again = NewBatch { records: 9, ..stamped("again", 5, 0, sequence) };
        assert_eq!(log.append(1, again).await, Ok(Appended { repeat: true, ..stored }));
    }
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["a", "b"]);
}

pub async fn repeats_that_arrive_together_are_stored_once(subject: Subject) {
    let log = with_shard(&subject).await;
    let appends = (0..100).map(|number| log.append(1, stamped("x", 5, 0, number / 5)));
    let answers: Vec<Appended> =
        join_all(appends).await.into_iter().map(|answer| answer.expect("appends")).collect();
    for group in answers.chunks(5) {
        assert!(group.iter().all(|answer| answer.lsn == group[0].lsn));
        assert_eq!(group.iter().filter(|answer| !answer.repeat).count(), 1);
    }
    assert_eq!(read_all(&*log, 1).await.1.len(), 20);
}

pub async fn stamps_out_of_place_are_refused(subject: Subject) {
    let log = with_shard(&subject).await;
    assert_eq!(refused(log.append(1, stamped("x", 5, 0, 3)).await), StampError::Expired);
    log.append(1, stamped("a", 5, 0, 0)).await.unwrap();
    let gap = refused(log.append(1, stamped("x", 5, 0, 2)).await);
    assert_eq!(gap, StampError::Gap { expected: 1, got: 2 });
    let window = hstreamdb_proto::metadata::PRODUCER_WINDOW;
    for sequence in 1..=window + 2 {
        log.append(1, stamped("y", 5, 0, sequence)).await.unwrap();
    }
    let old = refused(log.append(1, stamped("x", 5, 0, 1)).await);
    assert_eq!(old, StampError::TooOld { oldest: 2, got: 1 });
    assert_eq!(read_all(&*log, 1).await.1.len() as u64, window + 3);
}

pub async fn a_higher_epoch_fences_lower_ones(subject: Subject) {
    let log = with_shard(&subject).await;
    log.append(1, stamped("a", 5, 3, 0)).await.unwrap();
    log.append(1, stamped("b", 5, 4, 0)).await.unwrap();
    let fenced = refused(log.append(1, stamped("x", 5, 3, 1)).await);
    assert_eq!(fenced, StampError::Fenced { current: 4, got: 3 });
    log.append(1, stamped("c", 5, 4, 1)).await.unwrap();
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["a", "b", "c"]);
}

pub async fn stamps_outlive_their_batches(subject: Subject) {
    let log = with_shard(&subject).await;
    let stored = log.append(1, stamped("a", 5, 0, 0)).await.unwrap();
    log.trim(1, u64::MAX).await.unwrap();
    assert_eq!(log.append(1, stamped("a", 5, 0, 0)).await, Ok(Appended { repeat: true, ..stored }));
    log.append(1, stamped("b", 5, 0, 1)).await.unwrap();
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["b"]);
}
