//! What goes wrong.

use super::super::front::{Front, Mark};
use super::super::lane::Lane;
use super::super::place;
use super::super::wire::PublishError;
use super::*;
use crate::store::{Appended, Gap};
use bytes::Bytes;
use futures::future::join_all;
use tokio::time::{Instant, timeout};

/// A node that reaches a server through a network that can be bad.
async fn far(nats: &Nats, timeout: Duration) -> (World, Arc<JetStreamLog>, Link) {
    let mut world = World::on(nats).await;
    world.settings.timeout = timeout;
    let link = Link::start(nats.port(0), 7).await.unwrap();
    let log = world.node_at(vec![format!("nats://127.0.0.1:{}", link.port())]).await;
    log.create_shards(&[spec(1)]).await.unwrap();
    (world, log, link)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_acknowledgement_doubles_nothing() {
    let nats = alone();
    let (world, log, link) = far(&nats, Duration::from_secs(20)).await;
    let mut stored = Vec::new();
    for round in 0..12u64 {
        // Answers take a while, so that the message has arrived when the connection ends.
        link.set(Way::ToClient, Flow { latency: Duration::from_millis(80), ..Flow::default() });
        let appending = {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let plain = log.append(1, batch(format!("plain {round}")));
                let exact = log.append(1, stamped(format!("exact {round}"), 5, 0, round));
                tokio::join!(plain, exact)
            })
        };
        tokio::time::sleep(Duration::from_millis(40)).await;
        link.cut([Ending::Reset, Ending::Close, Ending::Silence][round as usize % 3]);
        link.set(Way::ToClient, Flow::default());
        link.resume();
        let (plain, exact) = timeout(SOON, appending).await.unwrap().unwrap();
        stored.push((plain.unwrap().lsn, format!("plain {round}")));
        stored.push((exact.unwrap().lsn, format!("exact {round}")));
    }
    let direct = world.node().await;
    let (gaps, batches) = read_all(&*direct, 1).await;
    let found: Vec<(u64, String)> =
        batches.iter().map(|batch| (batch.lsn, String::from_utf8_lossy(&batch.bytes).into_owned())).collect();
    stored.sort();
    assert_eq!((gaps, found), (vec![], stored));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_servers_appends_end_in_time_and_all_resumes_by_itself() {
    let nats = alone();
    let mut world = World::on(&nats).await;
    world.settings.timeout = Duration::from_secs(3);
    world.settings.queue_bytes = 1 << 20;
    let log = world.node().await;
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    let before = log.append(1, batch("before")).await.unwrap();
    nats.kill(0).unwrap();
    let asked = Instant::now();
    let lost = join_all((0..200u64).map(|number| log.append(number % 2 + 1, batch(vec![0; 20_000])))).await;
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    for outcome in lost {
        assert!(matches!(outcome, Err(StoreError::Unreachable(_))), "{outcome:?}");
    }
    assert!(matches!(log.catch_up(&[1]).await, Err(StoreError::Unreachable(_))));
    assert!(matches!(log.trim(1, before.lsn).await, Err(StoreError::Unreachable(_))));
    assert_eq!(log.tail(1), Ok(before.lsn));
    nats.restart(0).unwrap();
    nats.ready().await.unwrap();
    let after =
        eventually("appends again", SOON, || async { log.append(1, batch("after")).await.ok() }).await;
    assert!(after.lsn > before.lsn);
    let (gaps, batches) = read_all(&*log, 1).await;
    assert_eq!((gaps.len(), batches.first().map(|batch| batch.lsn)), (0, Some(before.lsn)));
    assert_eq!(batches.last().map(|batch| batch.lsn), Some(after.lsn));
    // Others see it, too: whoever follows follows again.
    let mut watch = log.watch_tail(1).unwrap();
    watch.latest();
    let other = world.node().await;
    other.append(1, batch("of another")).await.unwrap();
    timeout(SOON, watch.moved()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_loses_nothing_that_was_acknowledged() {
    let nats =
        Nats::start(NatsOptions { sync_interval: Some("always".into()), ..NatsOptions::default() }).unwrap();
    let mut world = World::on(&nats).await;
    world.settings.timeout = Duration::from_secs(20);
    let log = world.node().await;
    log.create_shards(&[spec(1)]).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let writing = {
        let (log, stop) = (Arc::clone(&log), stop.clone());
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for sequence in 0.. {
                if stop.is_cancelled() {
                    return acknowledged;
                }
                let stored = log.append(1, stamped(sequence.to_string(), 3, 0, sequence)).await.unwrap();
                acknowledged.push((stored.lsn, sequence.to_string()));
            }
            acknowledged
        })
    };
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        nats.kill(0).unwrap();
        nats.restart(0).unwrap();
        nats.ready().await.unwrap();
    }
    stop.cancel();
    let acknowledged = timeout(SOON, writing).await.unwrap().unwrap();
    for log in [world.node().await, log] {
        let (gaps, batches) = read_all(&*log, 1).await;
        let found: Vec<(u64, String)> = batches
            .iter()
            .map(|batch| (batch.lsn, String::from_utf8_lossy(&batch.bytes).into_owned()))
            .collect();
        assert_eq!((gaps, &found), (vec![], &acknowledged));
    }
    eprintln!("{} appends through four kills", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_lands_late_is_shut_out() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    log.create_shards(&[spec(1)]).await.unwrap();
    let shard = log.engine.directory.find(1).unwrap();
    // One that was sent when the shard was new, after a frame, and before a trim.
    let mut afters = vec![shard.known().unwrap().last];
    log.append(1, batch("a")).await.unwrap();
    afters.push(shard.known().unwrap().last);
    log.append(1, batch("b")).await.unwrap();
    log.trim(1, u64::MAX).await.unwrap();
    afters.push(shard.known().unwrap().last);
    log.append(1, batch("c")).await.unwrap();
    log.trim(1, u64::MAX).await.unwrap();
    log.append(1, batch("d")).await.unwrap();
    afters.push(0);
    let frame = shard.state().frame(1, 0);
    let front = Front::Frame(super::super::front::Frame {
        batches: vec![super::super::front::Batch {
            len: 4,
            crc: crc32c::crc32c(b"late"),
            records: 1,
            stamp: None,
        }],
        ..frame
    });
    for after in afters {
        let headers = Lane::headers(&front, 1, after);
        let late = log.engine.wire.publish(&shard.subject(), headers, Bytes::from_static(b"late")).await;
        assert!(matches!(late, Err(PublishError::Wrong(_))), "behind {after}: {late:?}");
    }
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["d"]);
    // Sent to a new shard, whose first frame came, and went by age.
    log.create_shards(&[spec(2)]).await.unwrap();
    let shard = log.engine.directory.find(2).unwrap();
    log.catch_up(&[2]).await.unwrap();
    let after = shard.known().unwrap().last;
    let gone = log.append(2, batch("a")).await.unwrap();
    let stream = log.engine.wire.context().get_stream(&shard.lane.stream).await.unwrap();
    stream.delete_message(place::seq(gone.lsn)).await.unwrap();
    let headers = Lane::headers(&front, 2, after);
    let late = log.engine.wire.publish(&shard.subject(), headers, Bytes::from_static(b"late")).await;
    assert_eq!(late, Err(PublishError::Wrong(Some(0))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tails_do_not_go_back_when_everything_was_trimmed_and_all_start_again() {
    let nats = alone();
    let world = World::on(&nats).await;
    let log = world.node().await;
    log.create_shards(&[spec(1), spec(2)]).await.unwrap();
    let last = log.append(1, batch("a")).await.unwrap().lsn;
    log.trim(1, last).await.unwrap();
    log.close().await;
    nats.kill(0).unwrap();
    nats.restart(0).unwrap();
    nats.ready().await.unwrap();
    let log = world.node().await;
    assert_eq!((log.tail(1), log.trim_point(1)), (Ok(last), Ok(last + 1)));
    assert_eq!(log.tail(2), Ok(FIRST_LSN - 1), "nothing was ever appended");
    let next = log.append(1, batch("b")).await.unwrap();
    assert!(next.lsn > last);
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_past_their_time_go_and_the_shard_goes_on_behind_them() {
    let mut world = World::on(Nats::shared().unwrap()).await;
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let now = Arc::clone(&clock);
    world.settings.clock = Arc::new(move || now.load(Ordering::Relaxed));
    world.settings.retention_interval = Duration::from_millis(50);
    let log = world.node().await;
    log.create_shards(&[ShardSpec { retention_secs: 60, ..spec(1) }, spec(2)]).await.unwrap();
    let stored = log.append(1, stamped("a", 4, 0, 0)).await.unwrap();
    log.append(2, batch("for ever")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["a"]);
    clock.fetch_add(60_000, Ordering::Relaxed);
    eventually("the record goes", SOON, || async { (log.trim_point(1) == Ok(stored.lsn + 1)).then_some(()) })
        .await;
    assert_eq!(texts(&read_all(&*log, 1).await.1), [""; 0]);
    assert_eq!(log.tail(1), Ok(stored.lsn));
    assert_eq!(log.append(1, stamped("a", 4, 0, 0)).await, Ok(Appended { repeat: true, ..stored }));
    assert!(log.append(1, stamped("b", 4, 0, 1)).await.unwrap().lsn > stored.lsn);
    assert_eq!(texts(&read_all(&*log, 2).await.1), ["for ever"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_messages_all_went_by_age_while_nobody_was_there_does_not_go_back() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    log.create_shards(&[ShardSpec { retention_secs: 60, ..spec(1) }]).await.unwrap();
    let last = log.append(1, batch("a")).await.unwrap().lsn;
    let shard = log.engine.directory.find(1).unwrap();
    // As the servers do it by themselves.
    log.engine.wire.purge(&shard.lane.stream, &shard.subject(), None).await.unwrap();
    let late = world.node().await;
    let tail = late.tail(1).unwrap();
    assert!(tail > last);
    assert_eq!(late.trim_point(1), Ok(tail + 1));
    let next = late.append(1, batch("b")).await.unwrap().lsn;
    assert!(next > tail);
    // The one that was there meanwhile goes on, too.
    assert!(log.append(1, batch("c")).await.unwrap().lsn > next);
    assert_eq!(texts(&read_all(&*log, 1).await.1), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_shard_went_by_age_appends_on() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    log.create_shards(&[ShardSpec { retention_secs: 60, ..spec(1) }]).await.unwrap();
    let last = log.append(1, batch("a")).await.unwrap().lsn;
    let shard = log.engine.directory.find(1).unwrap();
    log.engine.wire.purge(&shard.lane.stream, &shard.subject(), None).await.unwrap();
    let next = log.append(1, batch("b")).await.unwrap().lsn;
    assert!(next > last);
    assert_eq!(texts(&read_all(&*world.node().await, 1).await.1), ["b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_no_server_has_any_more_is_reported_and_what_is_left_is_served() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    log.create_shards(&[spec(1)]).await.unwrap();
    let mut lsns = Vec::new();
    for text in ["a", "b", "c", "d", "e"] {
        lsns.push(log.append(1, batch(text)).await.unwrap().lsn);
    }
    let stream = log
        .engine
        .wire
        .context()
        .get_stream(&log.engine.directory.find(1).unwrap().lane.stream)
        .await
        .unwrap();
    for lost in [1, 2, 4] {
        stream.delete_message(place::seq(lsns[lost])).await.unwrap();
    }
    let other = world.node().await;
    let (gaps, batches) = read_all(&*other, 1).await;
    assert_eq!(texts(&batches), ["a", "d"]);
    assert!(gaps.iter().all(|gap: &Gap| gap.kind == GapKind::DataLoss), "{gaps:?}");
    let covered = |lsn: u64| gaps.iter().any(|gap| gap.from <= lsn && lsn <= gap.to);
    for (at, lsn) in lsns.iter().enumerate() {
        // The last one was heard of by whoever was there; to a node that comes later it never was.
        assert_eq!(covered(*lsn), [1, 2].contains(&at), "{at}: {gaps:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_files_of_the_server_is_never_served() {
    let nats = alone();
    let world = World::on(&nats).await;
    let log = world.node().await;
    log.create_shards(&[spec(1)]).await.unwrap();
    let text = |number: u32| format!("record number {number} {}", "x".repeat(1000));
    let mut lsns = Vec::new();
    for number in 0..20 {
        lsns.push(log.append(1, batch(text(number))).await.unwrap().lsn);
    }
    log.close().await;
    nats.stop(0).unwrap();
    let mut flipped = 0;
    for entry in walk(&nats.data(0)) {
        let mut bytes = std::fs::read(&entry).unwrap();
        let wanted = b"record number 7 ";
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            bytes[at + 100] ^= 4;
            std::fs::write(&entry, bytes).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    nats.restart(0).unwrap();
    nats.ready().await.unwrap();
    let log = world.node().await;
    let (gaps, batches) = read_all(&*log, 1).await;
    for stored in &batches {
        let number = lsns.iter().position(|lsn| *lsn == stored.lsn).expect("an LSN that was handed out");
        assert_eq!(stored.bytes, text(number as u32).as_bytes());
    }
    eprintln!(
        "of 20 batches {} are left; gaps {gaps:?}; tail {:?} of {:?}",
        batches.len(),
        log.tail(1),
        lsns.last()
    );
    assert!(batches.iter().all(|stored| stored.lsn != lsns[7]));
    // What was lost is reported, unless the server has cut its file there and nothing is behind it.
    let reported =
        gaps.iter().any(|gap| gap.kind == GapKind::DataLoss && gap.from <= lsns[7] && lsns[7] <= gap.to);
    assert!(reported || log.tail(1).unwrap() < lsns[7]);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_message_costs_itself_and_the_shard_goes_on() {
    let world = World::on(Nats::shared().unwrap()).await;
    let log = world.node().await;
    log.create_shards(&[spec(1)]).await.unwrap();
    log.append(1, batch("a")).await.unwrap();
    let shard = log.engine.directory.find(1).unwrap();
    let after = shard.known().unwrap().last;
    // A message whose header is none of ours, and one whose body is not what its header says.
    let mut headers =
        Lane::headers(&Front::Mark(Mark { id: 1, tail: None, time_ms: 0, stamped: 0 }), 2, after);
    let seq = log.engine.wire.publish(&shard.subject(), headers, Bytes::from_static(b"?")).await.unwrap();
    // An append that is under way then might be that message itself.
    log.catch_up(&[1]).await.unwrap();
    let next = log.append(1, batch("b")).await.unwrap();
    let mut frame = shard.state().frame(1, 0);
    frame.batches = vec![super::super::front::Batch { len: 3, crc: 0, records: 1, stamp: None }];
    headers = Lane::headers(&Front::Frame(frame), 1, place::seq(next.lsn));
    let wrong = log.engine.wire.publish(&shard.subject(), headers, Bytes::from_static(b"bad")).await.unwrap();
    log.append(1, batch("c")).await.unwrap();
    for node in [log, world.node().await] {
        let (gaps, batches) = read_all(&*node, 1).await;
        assert_eq!(texts(&batches), ["a", "b", "c"]);
        for seq in [seq, wrong] {
            let lsn = place::lsn(seq, 0);
            let gap = gaps.iter().find(|gap| gap.from <= lsn && lsn <= gap.to);
            assert_eq!(gap.map(|gap| gap.kind), Some(GapKind::DataLoss), "{gaps:?}");
        }
        let first = node.find_time(1, 0).await.unwrap();
        assert_eq!(first, batches[0].lsn);
    }
}
