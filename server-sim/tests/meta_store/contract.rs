//! What every engine promises, whoever asks whom.

use crate::engines::{DEADLINE, Engine, all, change, value};
use bytes::Bytes;
use hstream_server::store::{
    Expect, Follower, Guard, MetaChange, MetaStore, MetaWatch, Seen, StoreError, StoreId, Versioned,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::timeout;

/// Each on the embedded engine and on a NATS server.
macro_rules! contract {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::engines::Engine::embedded().await).await })*
        }
        mod jetstream {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::engines::Engine::jetstream().await).await })*
        }
    };
}

contract! {
    a_write_happens_only_if_its_expectation_holds
    removing_follows_the_same_expectations
    a_key_that_comes_back_has_a_version_it_never_had
    keys_are_listed_by_prefix_in_order
    every_key_and_value_comes_back_as_it_was
    what_one_node_was_answered_another_one_reads
    a_watch_shows_the_changes_of_its_prefix_in_order_and_with_their_versions
    a_change_is_in_every_watch_of_the_node_before_its_write_is_answered
    settling_brings_what_others_wrote_into_the_watches
    values_are_written_only_under_the_version_of_the_guard
    a_removed_guard_lets_nothing_through
    many_values_are_written_and_the_last_one_of_a_key_counts
    of_many_who_write_one_version_one_wins
    counting_by_compare_and_set_loses_nothing
    all_nodes_find_the_same_identity_of_the_store
    a_copy_in_memory_follows_all_nodes
    closed_metadata_say_so
}

async fn value_of(meta: &Arc<dyn MetaStore>, key: &str) -> Option<Bytes> {
    meta.get(key).await.unwrap().map(|found| found.value)
}

fn conflict<T>(key: &str) -> Result<T, StoreError> {
    Err(StoreError::Conflict { key: key.into() })
}

async fn next(watch: &mut MetaWatch) -> Option<Seen> {
    timeout(DEADLINE, watch.next()).await.expect("a change is shown")
}

async fn a_write_happens_only_if_its_expectation_holds(engine: Engine) {
    let meta = engine.meta();
    let first = meta.put("k", value("a"), Expect::Absent).await.unwrap();
    assert_eq!(meta.put("k", value("b"), Expect::Absent).await, conflict("k"));
    let second = meta.put("k", value("b"), Expect::Version(first)).await.unwrap();
    assert!(second > first);
    assert_eq!(meta.put("k", value("c"), Expect::Version(first)).await, conflict("k"));
    assert_eq!(meta.put("k", value("c"), Expect::Version(second + 1)).await, conflict("k"));
    assert_eq!(meta.put("absent", value("c"), Expect::Version(second)).await, conflict("absent"));
    assert_eq!(value_of(&meta, "k").await, Some(value("b")));
    let third = meta.put("k", value("d"), Expect::Any).await.unwrap();
    assert_eq!(meta.get("k").await.unwrap(), Some(Versioned { value: value("d"), version: third }));
    meta.put("new", value("e"), Expect::Any).await.unwrap();
    assert_eq!(value_of(&meta, "new").await, Some(value("e")));
}

async fn removing_follows_the_same_expectations(engine: Engine) {
    let meta = engine.meta();
    let first = meta.put("k", value("a"), Expect::Absent).await.unwrap();
    assert_eq!(meta.delete("k", Expect::Version(first + 1)).await, conflict("k"));
    assert_eq!(meta.delete("k", Expect::Absent).await, conflict("k"));
    meta.delete("k", Expect::Version(first)).await.unwrap();
    assert_eq!(value_of(&meta, "k").await, None);
    assert_eq!(all(&meta).await, []);
    assert_eq!(meta.delete("k", Expect::Version(first)).await, conflict("k"));
    for _ in 0..2 {
        meta.delete("k", Expect::Any).await.unwrap();
        meta.delete("never", Expect::Any).await.unwrap();
        meta.delete("k", Expect::Absent).await.unwrap();
    }
    meta.put("k", value("b"), Expect::Any).await.unwrap();
    meta.delete("k", Expect::Any).await.unwrap();
    assert_eq!(value_of(&meta, "k").await, None);
}

async fn a_key_that_comes_back_has_a_version_it_never_had(engine: Engine) {
    let meta = engine.meta();
    let mut watch = meta.watch("");
    let mut last = 0;
    for _ in 0..5 {
        let version = meta.put("k", value("a"), Expect::Absent).await.unwrap();
        assert!(version > last);
        assert!(matches!(next(&mut watch).await, Some(Seen::Change(change)) if change.version == version));
        meta.delete("k", Expect::Version(version)).await.unwrap();
        let Some(Seen::Change(MetaChange { value: None, version: removal, .. })) = next(&mut watch).await
        else {
            panic!("no removal")
        };
        assert!(removal > version);
        // The version of a removal is none that a value had.
        assert_eq!(meta.put("k", value("b"), Expect::Version(removal)).await, conflict("k"));
        assert_eq!(meta.delete("k", Expect::Version(removal)).await, conflict("k"));
        last = removal;
    }
}

async fn keys_are_listed_by_prefix_in_order(engine: Engine) {
    let meta = engine.meta();
    let keys = ["b/2", "a/1", "b/1", "b0", "c"];
    meta.put_many(keys.iter().map(|key| ((*key).to_owned(), value(key))).collect(), None).await.unwrap();
    let listed: Vec<String> = meta.list("b/").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(listed, ["b/1", "b/2"]);
    assert_eq!(all(&meta).await.len(), 5);
    assert_eq!(meta.list("b/3").await.unwrap(), []);
}

async fn every_key_and_value_comes_back_as_it_was(engine: Engine) {
    let meta = engine.meta();
    let long = "x".repeat(600);
    let keys = ["a.b", "*", ">", "a b\tc", "=41", "ü/日本", "$KV.x", "/", "a//b", ".", "..", &long];
    let big = Bytes::from(vec![7; 256 << 10]);
    for key in keys {
        meta.put(key, value(key), Expect::Absent).await.unwrap();
    }
    meta.put("empty", Bytes::new(), Expect::Absent).await.unwrap();
    meta.put("big", big.clone(), Expect::Absent).await.unwrap();
    let other = engine.another().await;
    for key in keys {
        assert_eq!(value_of(&other, key).await, Some(value(key)), "{key:?}");
    }
    assert_eq!(value_of(&other, "empty").await, Some(Bytes::new()));
    assert_eq!(value_of(&other, "big").await, Some(big));
    let mut listed: Vec<String> = all(&other).await.into_iter().map(|(key, _)| key).collect();
    assert!(listed.is_sorted(), "{listed:?}");
    let mut expected: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
    expected.extend(["empty".to_owned(), "big".to_owned()]);
    expected.sort();
    listed.sort();
    assert_eq!(listed, expected);
    let mut watch = meta.watch("a.");
    meta.put("a.b", value("x"), Expect::Any).await.unwrap();
    assert!(matches!(next(&mut watch).await, Some(Seen::Change(change)) if change.key == "a.b"));
}

async fn what_one_node_was_answered_another_one_reads(engine: Engine) {
    let (one, two) = (engine.meta(), engine.another().await);
    let mut version = one.put("k/0", value("0"), Expect::Absent).await.unwrap();
    for round in 1..100 {
        let (writer, reader) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let text = round.to_string();
        version = writer.put("k/0", value(&text), Expect::Version(version)).await.unwrap();
        let found = Some(Versioned { value: value(&text), version });
        if round % 3 == 0 {
            let listed = reader.list("k/").await.unwrap();
            assert_eq!(listed.into_iter().map(|(_, found)| found).next(), found);
        } else {
            assert_eq!(reader.get("k/0").await.unwrap(), found);
        }
    }
}

async fn a_watch_shows_the_changes_of_its_prefix_in_order_and_with_their_versions(engine: Engine) {
    let meta = engine.meta();
    let other = engine.another().await;
    meta.put("a/1", value("before"), Expect::Any).await.unwrap();
    assert!(other.settle().await.unwrap());
    for writer in [&meta, &other] {
        let mut watch = meta.watch("a/");
        let mut others = meta.watch("b");
        let first = writer.put("a/1", value("x"), Expect::Any).await.unwrap();
        let b = writer.put("b", value("y"), Expect::Any).await.unwrap();
        writer.delete("a/1", Expect::Version(first)).await.unwrap();
        writer.delete("a/absent", Expect::Any).await.unwrap();
        let last = writer.put("a/1", value("z"), Expect::Absent).await.unwrap();
        // A change that another one overtook before it was told may be missing; none comes out of order.
        let mut seen = Vec::new();
        while seen.last().map(|seen: &MetaChange| seen.version) != Some(last) {
            let Some(Seen::Change(change)) = next(&mut watch).await else { panic!("no change") };
            seen.push(change);
        }
        assert!(seen.windows(2).all(|pair| pair[0].version < pair[1].version), "{seen:?}");
        assert!(seen.iter().all(|change| change.version >= first && change.key == "a/1"), "{seen:?}");
        assert_eq!(seen.last().unwrap().value, Some(value("z")));
        assert_eq!(watch.try_next(), None);
        assert_eq!(next(&mut others).await, change("b", Some("y"), b));
        assert_eq!(others.try_next(), None);
        // Versions in a watch are those of a read.
        assert_eq!(meta.get("a/1").await.unwrap().unwrap().version, last);
    }
}

async fn a_change_is_in_every_watch_of_the_node_before_its_write_is_answered(engine: Engine) {
    let meta = engine.meta();
    let mut watches = [meta.watch("k/"), meta.watch("k/"), meta.watch("")];
    for n in 0..50 {
        let writer = Arc::clone(&meta);
        let key = format!("k/{n}");
        tokio::spawn(async move { writer.put(&key, value("v"), Expect::Absent).await })
            .await
            .unwrap()
            .unwrap();
        for watch in &mut watches {
            assert!(watch.has_news());
            assert!(matches!(watch.try_next(), Some(Seen::Change(change)) if change.key == format!("k/{n}")));
            assert_eq!(watch.try_next(), None);
            assert!(!watch.has_news());
        }
    }
}

async fn settling_brings_what_others_wrote_into_the_watches(engine: Engine) {
    let (one, two) = (engine.meta(), engine.another().await);
    let mut watch = one.watch("k/");
    for n in 0..50 {
        let key = format!("k/{n}");
        two.put(&key, value("v"), Expect::Absent).await.unwrap();
        assert!(one.settle().await.unwrap());
        assert!(matches!(watch.try_next(), Some(Seen::Change(change)) if change.key == key), "{key}");
        assert_eq!(watch.try_next(), None);
    }
}

async fn values_are_written_only_under_the_version_of_the_guard(engine: Engine) {
    let (meta, other) = (engine.meta(), engine.another().await);
    let held = meta.put("owner", value("me"), Expect::Absent).await.unwrap();
    let values = |text: &str| vec![("a".to_owned(), value(text)), ("b".to_owned(), value(text))];
    let guard = |version| Some(Guard { key: "owner".into(), version });
    meta.put_many(values("1"), guard(held)).await.unwrap();
    // Guarding is not writing.
    meta.put_many(values("2"), guard(held)).await.unwrap();
    other.put_many(values("3"), guard(held)).await.unwrap();
    assert_eq!(value_of(&meta, "a").await, Some(value("3")));
    let fenced = conflict("owner");
    assert_eq!(meta.put_many(values("4"), guard(held + 1)).await, fenced);
    assert_eq!(meta.put_many(values("4"), guard(0)).await, fenced);
    let now = other.put("owner", value("you"), Expect::Version(held)).await.unwrap();
    assert_eq!(meta.put_many(values("4"), guard(held)).await, fenced);
    assert_eq!(
        (value_of(&meta, "a").await, value_of(&meta, "b").await),
        (Some(value("3")), Some(value("3")))
    );
    other.put_many(values("5"), guard(now)).await.unwrap();
    assert_eq!(
        (value_of(&meta, "a").await, value_of(&meta, "b").await),
        (Some(value("5")), Some(value("5")))
    );
    let absent = Some(Guard { key: "nobody".into(), version: now });
    assert_eq!(meta.put_many(values("6"), absent).await, conflict("nobody"));
    // What was written under a guard can be written by compare-and-set, and the other way round.
    let version = meta.get("a").await.unwrap().unwrap().version;
    let version = meta.put("a", value("7"), Expect::Version(version)).await.unwrap();
    other.put_many(values("8"), guard(now)).await.unwrap();
    assert_eq!(meta.put("a", value("9"), Expect::Version(version)).await, conflict("a"));
}

async fn a_removed_guard_lets_nothing_through(engine: Engine) {
    let (meta, other) = (engine.meta(), engine.another().await);
    let held = meta.put("owner", value("me"), Expect::Absent).await.unwrap();
    let mut watch = meta.watch("owner");
    other.delete("owner", Expect::Version(held)).await.unwrap();
    assert!(meta.settle().await.unwrap());
    let Some(Seen::Change(removal)) = watch.try_next() else { panic!("no removal") };
    assert_eq!(removal.value, None);
    for version in [held, removal.version] {
        for meta in [&meta, &other] {
            let guard = Some(Guard { key: "owner".into(), version });
            let write = meta.put_many(vec![("a".to_owned(), value("1"))], guard);
            assert_eq!(write.await, conflict("owner"));
        }
    }
    assert_eq!(value_of(&meta, "a").await, None);
}

async fn many_values_are_written_and_the_last_one_of_a_key_counts(engine: Engine) {
    let meta = engine.meta();
    let mut values: Vec<_> = (0..500).map(|n| (format!("k/{n:03}"), value("old"))).collect();
    values.push(("k/007".to_owned(), value("new")));
    meta.put_many(values, None).await.unwrap();
    let listed = engine.another().await.list("k/").await.unwrap();
    assert_eq!(listed.len(), 500);
    for (key, found) in listed {
        assert_eq!(found.value, value(if key == "k/007" { "new" } else { "old" }));
    }
    meta.put_many(Vec::new(), None).await.unwrap();
}

async fn of_many_who_write_one_version_one_wins(engine: Engine) {
    let nodes = [engine.meta(), engine.another().await];
    let mut version = None;
    for round in 0..10 {
        let expect = version.map_or(Expect::Absent, Expect::Version);
        let writes = (0..16).map(|n| {
            let meta = nodes[n % 2].clone();
            tokio::spawn(async move { meta.put("k", value(&format!("{round} {n}")), expect).await })
        });
        let mut won = Vec::new();
        for (n, write) in futures::future::join_all(writes).await.into_iter().enumerate() {
            match write.unwrap() {
                Ok(version) => won.push((n, version)),
                Err(error) => assert_eq!(Err::<(), _>(error), conflict("k")),
            }
        }
        let [(n, written)] = won[..] else { panic!("{won:?}") };
        let expected = Versioned { value: value(&format!("{round} {n}")), version: written };
        assert_eq!(nodes[0].get("k").await.unwrap(), Some(expected));
        version = Some(written);
    }
}

/// Adds one to a number.
async fn count_one(meta: &Arc<dyn MetaStore>, key: &str) {
    loop {
        let found = meta.get(key).await.unwrap();
        let count: u64 =
            found.as_ref().map_or(0, |found| std::str::from_utf8(&found.value).unwrap().parse().unwrap());
        let expect = found.map_or(Expect::Absent, |found| Expect::Version(found.version));
        match meta.put(key, value(&(count + 1).to_string()), expect).await {
            Ok(_) => return,
            Err(error) => assert_eq!(Err::<(), _>(error), conflict(key)),
        }
    }
}

async fn counting_by_compare_and_set_loses_nothing(engine: Engine) {
    let nodes = [engine.meta(), engine.another().await];
    let work = (0..8).map(|n| {
        let meta = nodes[n % 2].clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                count_one(&meta, "count").await;
            }
        })
    });
    for done in futures::future::join_all(work).await {
        done.unwrap();
    }
    assert_eq!(value_of(&nodes[0], "count").await, Some(value("80")));
}

async fn all_nodes_find_the_same_identity_of_the_store(engine: Engine) {
    let nodes = [engine.meta(), engine.another().await, engine.another().await];
    let found = nodes.iter().map(|meta| StoreId::of(&**meta));
    let ids: Vec<StoreId> = futures::future::join_all(found).await.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

async fn a_copy_in_memory_follows_all_nodes(engine: Engine) {
    type Copy = BTreeMap<String, Versioned>;
    let (one, two) = (engine.meta(), engine.another().await);
    one.put("k/0", value("0"), Expect::Absent).await.unwrap();
    let copies = [
        Follower::open(one.clone(), &["k/"], Copy::new()).await.unwrap(),
        Follower::open(two.clone(), &["k/"], Copy::new()).await.unwrap(),
    ];
    for n in 1..40 {
        let (writer, reader) = (&copies[n % 2], &copies[(n + 1) % 2]);
        let version = writer.put(&format!("k/{n}"), value("v"), Expect::Absent).await.unwrap();
        assert!(writer.read().contains_key(&format!("k/{n}")), "the own copy has the own writes");
        reader.fresh().await.unwrap();
        assert_eq!(reader.read().get(&format!("k/{n}")).map(|found| found.version), Some(version));
        reader.delete(&format!("k/{n}"), Expect::Version(version)).await.unwrap();
        assert!(!reader.read().contains_key(&format!("k/{n}")));
        writer.fresh().await.unwrap();
        assert_eq!(writer.read().len(), 1);
    }
}

async fn closed_metadata_say_so(engine: Engine) {
    let meta = engine.meta();
    let mut watch = meta.watch("");
    engine.close().await;
    assert_eq!(watch.next().await, None);
    assert_eq!(meta.watch("").next().await, None);
    assert_eq!(meta.settle().await, Err(StoreError::Closed));
    assert_eq!(meta.get("k").await, Err(StoreError::Closed));
    assert_eq!(meta.put("k", value("v"), Expect::Any).await, Err(StoreError::Closed));
    assert_eq!(meta.put_many(vec![("k".into(), value("v"))], None).await, Err(StoreError::Closed));
    assert_eq!(meta.delete("k", Expect::Any).await, Err(StoreError::Closed));
}
