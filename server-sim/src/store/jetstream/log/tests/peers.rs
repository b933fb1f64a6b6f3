//! Three servers that keep three copies.

use super::*;
use crate::store::ShardId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

fn three() -> Nats {
    Nats::start(NatsOptions { peers: 3, ..NatsOptions::default() }).expect("three servers")
}

fn copied(shard: ShardId) -> ShardSpec {
    ShardSpec { replicas: 3, ..spec(shard) }
}

/// Appends with stamps, in order and through one node after the other, until told to stop.
fn write(
    nodes: Vec<Arc<JetStreamLog>>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<Vec<(u64, String)>> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for sequence in 0u64.. {
            let mut tries = 0;
            let stored = loop {
                if stop.is_cancelled() {
                    return acknowledged;
                }
                // A retry goes to another node, as that of a client does.
                let node = &nodes[(sequence / 10 + tries) as usize % nodes.len()];
                tries += 1;
                match node.append(1, stamped(sequence.to_string(), 3, 0, sequence)).await {
                    Ok(stored) => break stored,
                    Err(StoreError::Unreachable(_)) => {}
                    Err(error) => panic!("append {sequence}: {error}"),
                }
            };
            acknowledged.push((stored.lsn, sequence.to_string()));
        }
        acknowledged
    })
}

async fn everything(log: &JetStreamLog) -> Vec<(u64, String)> {
    log.catch_up(&[1]).await.unwrap();
    let (gaps, batches) = read_all(log, 1).await;
    assert_eq!(gaps, []);
    batches.iter().map(|batch| (batch.lsn, String::from_utf8_lossy(&batch.bytes).into_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_killed_and_stand_still_in_turn_cost_nothing_that_was_acknowledged() {
    let nats = three();
    let world = World::on(&nats).await;
    let nodes = vec![world.node().await, world.node().await];
    nodes[0].create_shards(&[copied(1)]).await.unwrap();
    let stream = nodes[0].engine.directory.find(1).unwrap().lane.stream.clone();
    let stop = CancellationToken::new();
    let writing = write(nodes.clone(), &stop);
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = nats.leader_of(&stream).unwrap();
        if round % 2 == 0 {
            nats.kill(leader).unwrap();
            tokio::time::sleep(Duration::from_secs(6)).await;
            nats.restart(leader).unwrap();
        } else {
            // What it has received and not read yet it takes up when another one leads.
            nats.pause(leader).unwrap();
            tokio::time::sleep(Duration::from_secs(12)).await;
            nats.resume(leader).unwrap();
        }
        nats.ready().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();
    let acknowledged = timeout(SOON, writing).await.unwrap().unwrap();
    eprintln!("{} appends through two kills and two standstills of the leader", acknowledged.len());
    assert!(acknowledged.len() > 100);
    for log in [world.node().await, nodes[0].clone(), nodes[1].clone()] {
        let found = everything(&log).await;
        // The last one may have been stored without an answer.
        assert_eq!(found[..acknowledged.len()], acknowledged);
        assert!(found.len() <= acknowledged.len() + 1, "{:?}", &found[acknowledged.len()..]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lags_is_not_taken_for_a_gap() {
    let nats = three();
    let world = World::on(&nats).await;
    let log = world.node().await;
    log.create_shards(&[copied(1)]).await.unwrap();
    log.append(1, batch("first")).await.unwrap();
    let stream = log.engine.directory.find(1).unwrap().lane.stream.clone();
    let mut count = 1;
    for round in 0..5 {
        let leader = nats.leader_of(&stream).unwrap();
        let behind = (leader + 1 + round % 2) % 3;
        // A reader that has nothing in memory and asks the server that will be behind, and one that does not.
        let others: Vec<usize> = (0..3).filter(|peer| *peer != behind).collect();
        let writer = world.node_at(others.iter().map(|peer| nats.urls()[*peer].clone()).collect()).await;
        let reader = world.node_at(vec![nats.urls()[behind].clone()]).await;
        nats.pause(behind).unwrap();
        for _ in 0..40 {
            writer.append(1, batch(vec![b'x'; 20_000])).await.unwrap();
            count += 1;
        }
        let tail = writer.tail(1).unwrap();
        nats.resume(behind).unwrap();
        // It knows of the batches as soon as one server has told it, and asks for them at once.
        timeout(SOON, reader.catch_up(&[1])).await.unwrap().unwrap();
        assert_eq!(reader.tail(1), Ok(tail));
        let (gaps, batches) = read_all(&*reader, 1).await;
        assert_eq!((gaps, batches.len()), (vec![], count), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_servers_have_no_majority_takes_nothing_and_goes_on_when_they_have() {
    let nats = three();
    let mut world = World::on(&nats).await;
    world.settings.timeout = Duration::from_secs(3);
    let log = world.node().await;
    log.create_shards(&[copied(1)]).await.unwrap();
    let first = log.append(1, batch("a")).await.unwrap();
    // Whether one of them leads makes no difference.
    let paused = [1, 2];
    for peer in paused {
        nats.pause(peer).unwrap();
    }
    let lost = log.append(1, batch("b")).await;
    assert!(matches!(lost, Err(StoreError::Unreachable(_))), "{lost:?}");
    assert!(log.catch_up(&[1]).await.is_err());
    for peer in paused {
        nats.resume(peer).unwrap();
    }
    nats.ready().await.unwrap();
    let last = eventually("appends again", SOON, || async { log.append(1, batch("c")).await.ok() }).await;
    let found = everything(&log).await;
    assert_eq!(found.first(), Some(&(first.lsn, "a".to_owned())));
    assert_eq!(found.last(), Some(&(last.lsn, "c".to_owned())));
}
