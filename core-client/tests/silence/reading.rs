//! Readers whose node falls silent.

use super::World;
use crate::node_under_test::soon;
use hstreamdb::{ReceivedBatch, Record};
use std::time::Duration;

async fn append(world: &World, payload: &str) {
    soon(world.client.append("s", Record::raw(payload.to_owned()))).await.unwrap();
}

fn payload(batch: &ReceivedBatch) -> String {
    String::from_utf8(batch.records().unwrap()[0].payload.to_vec()).unwrap()
}

#[tokio::test]
async fn readers_go_on_at_another_node() {
    let world = World::start().await;
    let shard = soon(world.client.list_shards("s")).await.unwrap()[0].id;
    let readers = [
        world.client.stream_reader("s"),
        world.client.shard_reader("s", shard),
        world.client.single_shard_reader("s"),
    ];
    let mut open = Vec::new();
    append(&world, "one").await;
    for reader in readers {
        let reader = soon(reader.open()).await.unwrap();
        assert_eq!(payload(&soon(reader.next_batch()).await.unwrap().unwrap()), "one");
        open.push(reader);
    }
    world.silence();
    append(&world, "two").await;
    for reader in &open {
        assert_eq!(payload(&soon(reader.next_batch()).await.unwrap().unwrap()), "two");
    }
    // A key reader ends with what there is, and begins at a node that answers.
    let keyed = soon(world.client.key_reader("s", "").open()).await.unwrap();
    assert_eq!(payload(&soon(keyed.next_batch()).await.unwrap().unwrap()), "one");
}

#[tokio::test]
async fn a_polled_reader_goes_on_at_another_node() {
    let world = World::start().await;
    append(&world, "one").await;
    let shard = soon(world.client.list_shards("s")).await.unwrap()[0].id;
    let reader = world.client.polled_reader("s", shard).timeout(Duration::from_secs(5));
    let reader = soon(reader.open()).await.unwrap();
    assert_eq!(payload(&soon(reader.read(10)).await.unwrap()[0]), "one");
    world.silence();
    append(&world, "two").await;
    assert_eq!(payload(&soon(reader.read(10)).await.unwrap()[0]), "two");
}
