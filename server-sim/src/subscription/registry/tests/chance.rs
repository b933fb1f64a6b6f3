//! Many changes at once on two nodes, in an order that chance makes.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Mutex;

const STREAMS: [&str; 2] = ["s", "t"];
const SUBSCRIPTIONS: [&str; 3] = ["one", "two", "three"];
const WORKERS: usize = 6;
const CHANGES: usize = 60;

/// What was promised about subscriptions.
#[derive(Debug, Default)]
struct Promises {
    /// Incarnation and stream of those that were created and that nobody was told to delete since.
    kept: BTreeMap<&'static str, (u64, StreamId)>,
    /// Deletions begun and over, by name: what one that runs at the same time finds is not known.
    begun: BTreeMap<&'static str, u32>,
    over: BTreeMap<&'static str, u32>,
}

/// Changes something; an answer that is neither done nor refused for a reason is a failure.
async fn change(side: &Side, store: &EmbeddedStore, rng: &mut StdRng, promised: &Mutex<Promises>) {
    let stream = STREAMS[rng.random_range(0..STREAMS.len())];
    let subscription = SUBSCRIPTIONS[rng.random_range(0..SUBSCRIPTIONS.len())];
    match rng.random_range(0..10) {
        0..=2 => match side.create(stream).await {
            Ok(created) => {
                // Fails if it is gone already.
                append(store, &created).await;
            }
            Err(error) => assert_eq!(error.class(), Some(Class::StreamExists), "{error}"),
        },
        3..=6 => {
            let force = rng.random();
            match side.delete(stream, force).await {
                Ok(_) => {}
                Err(error) => {
                    let expected = [Class::StreamNotFound, Class::FoundSubscription];
                    assert!(error.class().is_some_and(|class| expected.contains(&class)), "{error}");
                    assert!(!(force && error.class() == Some(Class::FoundSubscription)));
                }
            }
        }
        7..=8 => {
            let over = promised.lock().unwrap().over.get(subscription).copied();
            match side.subscribe(subscription, stream).await {
                Ok(definition) => {
                    let mut promises = promised.lock().unwrap();
                    if promises.begun.get(subscription).copied() == over {
                        let promise = (definition.incarnation, definition.stream);
                        promises.kept.insert(subscription, promise);
                    }
                }
                Err(error) => {
                    // Without its shards if they went between two looks.
                    let expected =
                        [Class::NonExistentStream, Class::SubscriptionExists, Class::ShardNotFound];
                    assert!(error.class().is_some_and(|class| expected.contains(&class)), "{error}");
                }
            }
        }
        _ => {
            {
                let mut promises = promised.lock().unwrap();
                *promises.begun.entry(subscription).or_default() += 1;
                promises.kept.remove(subscription);
            }
            match side.subscriptions.delete(subscription, true).await {
                Ok(()) => {}
                Err(error) => {
                    let expected = [Class::SubscriptionNotFound, Class::SubscriptionIsDeleting];
                    assert!(error.class().is_some_and(|class| expected.contains(&class)), "{error}");
                }
            }
            *promised.lock().unwrap().over.entry(subscription).or_default() += 1;
        }
    }
}

async fn play(seed: u64, nodes: Nodes) {
    let promised = Mutex::<Promises>::default();
    let workers = (0..WORKERS).map(|worker| {
        let (nodes, promised) = (&nodes, &promised);
        async move {
            let mut rng = StdRng::seed_from_u64(seed * 100 + worker as u64);
            let side = if worker % 2 == 0 { &nodes.a } else { &nodes.b };
            for _ in 0..CHANGES {
                change(side, &nodes.store, &mut rng, promised).await;
                if rng.random_ratio(1, 3) {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    futures::future::join_all(workers).await;
    nodes.check().await;
    for (id, (incarnation, stream)) in promised.into_inner().unwrap().kept {
        for side in [&nodes.a, &nodes.b] {
            let definition =
                side.subscriptions.get(id).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!((definition.incarnation, definition.stream), (incarnation, stream), "seed {seed}");
            let stream = side.streams.by_id(stream).expect("its stream is there");
            append(&nodes.store, &stream).await;
            let limits = ReadLimits { max_batches: 1, max_bytes: 1 << 20 };
            let read = nodes.store.log().read(stream.shards[0].id, FIRST_LSN, limits).await;
            assert!(!read.expect("its data is there").batches.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_two_nodes_do_at_once_leaves_a_catalogue_that_makes_sense() {
    for seed in 0..8 {
        play(seed, Nodes::open().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_an_engine_whose_watches_may_be_behind() {
    for seed in 8..12 {
        play(seed, Nodes::unsettled().await).await;
    }
}

#[tokio::test]
async fn data_stay_for_as_long_as_somebody_reads_them() {
    let nodes = Nodes::open().await;
    let Nodes { a, b, store } = &nodes;
    let stream = a.create("s").await.unwrap();
    assert!(append(store, &stream).await);
    a.subscribe("one", "s").await.unwrap();
    b.subscribe("two", "s").await.unwrap();
    b.delete("s", true).await.unwrap();
    assert!(readable(store, &stream).await);
    a.subscriptions.delete("two", false).await.unwrap();
    assert!(readable(store, &stream).await);
    b.subscriptions.delete("one", false).await.unwrap();
    assert!(!readable(store, &stream).await);
    nodes.check().await;
}
