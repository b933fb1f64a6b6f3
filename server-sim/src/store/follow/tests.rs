//! Copies against what others write, in every order that matters.

use super::*;
use crate::store::StoreLink;
use crate::store::disk::{Disk, FaultDisk};
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::staged::{Call, Staged, When};

type Plain = BTreeMap<String, Versioned>;

async fn open() -> EmbeddedStore {
    let disk = Arc::new(FaultDisk::new()) as Arc<dyn Disk>;
    let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::default() };
    EmbeddedStore::open(disk, options).await.unwrap()
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(meta: &Arc<dyn MetaStore>, key: &str, text: &str) -> u64 {
    meta.put(key, value(text), Expect::Any).await.unwrap()
}

async fn follow(meta: Arc<dyn MetaStore>) -> Arc<Follower<Plain>> {
    Follower::open(meta, &["k/"], Plain::new()).await.unwrap()
}

fn texts(follower: &Follower<Plain>) -> Vec<String> {
    let copy = follower.read();
    copy.iter().map(|(key, found)| format!("{key}={}", String::from_utf8_lossy(&found.value))).collect()
}

/// What is remembered besides what is there.
fn remembered<M: Mirror>(follower: &Follower<M>) -> usize {
    let state = follower.state();
    state.known.values().filter(|known| !known.present).count() + state.removed.len() + state.asked.len()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn what_somebody_else_was_answered_is_in_the_copy() {
    let store = open().await;
    let meta = store.meta();
    put(&meta, "k/1", "before").await;
    put(&meta, "other", "x").await;
    let follower = follow(Arc::clone(&meta)).await;
    assert_eq!(texts(&follower), ["k/1=before"]);
    for round in 0..50 {
        let text = round.to_string();
        put(&meta, "k/2", &text).await;
        assert_eq!(texts(&follower), ["k/1=before".to_owned(), format!("k/2={text}")]);
        meta.delete("k/2", Expect::Any).await.unwrap();
        assert_eq!(texts(&follower), ["k/1=before"]);
    }
    assert_eq!(remembered(&follower), 0);
}

#[tokio::test]
async fn own_writes_are_in_the_copy_even_before_the_watch_brings_them() {
    let store = open().await;
    // Nothing comes through this watch, as if it were slow.
    let link = StoreLink::new(store.log(), store.meta(), None);
    let follower = Follower::open(store.meta(), &["k/"], Plain::new()).await.unwrap();
    let slow = Arc::new(Slow(store.meta(), link));
    let slow = Follower::open(slow as Arc<dyn MetaStore>, &["k/"], Plain::new()).await.unwrap();
    let version = slow.put("k/1", value("a"), Expect::Absent).await.unwrap();
    slow.put("k/2", value("b"), Expect::Absent).await.unwrap();
    assert_eq!(texts(&slow), ["k/1=a", "k/2=b"]);
    slow.delete("k/1", Expect::Version(version)).await.unwrap();
    assert_eq!(texts(&slow), ["k/2=b"]);
    // What it is shown then is not new.
    put(&store.meta(), "k/3", "c").await;
    assert_eq!(slow.fetch("k/3").await.unwrap().unwrap().value, value("c"));
    assert_eq!(texts(&slow), ["k/2=b", "k/3=c"]);
    assert_eq!(texts(&follower), ["k/2=b", "k/3=c"]);
}

/// Metadata whose watches show nothing.
#[derive(Debug)]
struct Slow(Arc<dyn MetaStore>, StoreLink);

#[async_trait::async_trait]
impl MetaStore for Slow {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.0.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.0.list(prefix).await
    }
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.0.put(key, value, expect).await
    }
    async fn put_many(&self, values: Vec<(String, Bytes)>, guard: Option<super::super::Guard>) -> Result<()> {
        self.0.put_many(values, guard).await
    }
    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.0.delete(key, expect).await
    }
    fn watch(&self, prefix: &str) -> MetaWatch {
        self.1.set_meta(false);
        self.1.meta().watch(prefix)
    }
}

#[tokio::test]
async fn an_old_answer_does_not_bring_back_what_was_removed_meanwhile() {
    let store = open().await;
    let direct = store.meta();
    let staged = Staged::over(store.meta());
    let follower = follow(staged.clone()).await;
    put(&direct, "k/1", "a").await;
    let mut stop = staged.stop(When::After, Call::Get, "k/");
    let fetch = tokio::spawn({
        let follower = follower.clone();
        async move { follower.fetch("k/1").await }
    });
    stop.reached().await;
    direct.delete("k/1", Expect::Any).await.unwrap();
    assert_eq!(texts(&follower), [""; 0]);
    stop.go();
    assert_eq!(fetch.await.unwrap().unwrap().unwrap().value, value("a"));
    assert_eq!(texts(&follower), [""; 0]);
    assert_eq!(remembered(&follower), 0);
    // The same for the answer to a write.
    let mut stop = staged.stop(When::After, Call::Put, "k/");
    let write = tokio::spawn({
        let follower = follower.clone();
        async move { follower.put("k/1", value("b"), Expect::Absent).await }
    });
    stop.reached().await;
    direct.delete("k/1", Expect::Any).await.unwrap();
    assert_eq!(texts(&follower), [""; 0]);
    stop.go();
    write.await.unwrap().unwrap();
    assert_eq!(texts(&follower), [""; 0]);
    assert_eq!(remembered(&follower), 0);
}

#[tokio::test]
async fn an_old_answer_does_not_hide_what_came_meanwhile() {
    let store = open().await;
    let direct = store.meta();
    let staged = Staged::over(store.meta());
    let follower = follow(staged.clone()).await;
    let mut stop = staged.stop(When::After, Call::Get, "k/");
    let fetch = tokio::spawn({
        let follower = follower.clone();
        async move { follower.fetch("k/1").await }
    });
    stop.reached().await;
    put(&direct, "k/1", "a").await;
    assert_eq!(texts(&follower), ["k/1=a"]);
    stop.go();
    assert_eq!(fetch.await.unwrap().unwrap(), None);
    assert_eq!(texts(&follower), ["k/1=a"]);
}

#[tokio::test]
async fn a_list_is_older_than_what_came_while_it_was_taken() {
    let store = open().await;
    let direct = store.meta();
    let staged = Staged::unsettled(store.meta());
    let follower = follow(staged.clone()).await;
    put(&direct, "k/stays", "a").await;
    put(&direct, "k/goes", "a").await;
    put(&direct, "k/changes", "a").await;
    let mut stop = staged.stop(When::After, Call::List, "k/");
    let fresh = tokio::spawn({
        let follower = follower.clone();
        async move { follower.fresh().await }
    });
    stop.reached().await;
    direct.delete("k/goes", Expect::Any).await.unwrap();
    put(&direct, "k/changes", "b").await;
    put(&direct, "k/new", "a").await;
    let expected = ["k/changes=b", "k/new=a", "k/stays=a"];
    assert_eq!(texts(&follower), expected);
    stop.go();
    fresh.await.unwrap().unwrap();
    assert_eq!(texts(&follower), expected);
    assert_eq!(remembered(&follower), 0);
}

#[tokio::test]
async fn what_was_missed_is_listed() {
    let store = open().await;
    let direct = store.meta();
    let link = StoreLink::new(store.log(), store.meta(), Some(Duration::from_millis(20)));
    let follower = follow(link.meta()).await;
    put(&direct, "k/1", "a").await;
    put(&direct, "k/2", "a").await;
    assert_eq!(texts(&follower).len(), 2);
    link.cut();
    direct.delete("k/1", Expect::Any).await.unwrap();
    put(&direct, "k/2", "b").await;
    put(&direct, "k/3", "c").await;
    // Old, and it knows.
    assert_eq!(texts(&follower), ["k/1=a", "k/2=a"]);
    assert!(matches!(follower.fresh().await, Err(StoreError::Unreachable(_))));
    link.heal();
    follower.fresh().await.unwrap();
    assert_eq!(texts(&follower), ["k/2=b", "k/3=c"]);
    // Without being asked, too.
    link.cut();
    put(&direct, "k/4", "d").await;
    link.heal();
    until("the copy has listed again", || texts(&follower).len() == 3).await;
    // One more list may be under way.
    until("nothing is remembered", || remembered(&follower) == 0).await;
}

#[tokio::test]
async fn a_list_that_fails_is_tried_again() {
    let store = open().await;
    let direct = store.meta();
    let link = StoreLink::new(store.log(), store.meta(), Some(Duration::from_millis(1)));
    let staged = Staged::over(link.meta());
    let follower = follow(staged.clone()).await;
    let mut stop = staged.stop(When::Before, Call::List, "k/");
    link.cut();
    put(&direct, "k/1", "a").await;
    link.heal();
    stop.reached().await;
    link.cut();
    let mut again = staged.stop(When::Before, Call::List, "k/");
    stop.go();
    put(&direct, "k/2", "a").await;
    // The first one has failed by then.
    again.reached().await;
    link.heal();
    again.go();
    until("the copy has listed again", || texts(&follower).len() == 2).await;
}

#[tokio::test]
async fn a_copy_that_lagged_lists_again() {
    let store = open().await;
    let direct = store.meta();
    let follower = follow(Arc::clone(&direct)).await;
    let many = (0..5000).map(|n| (format!("k/{n}"), value("a"))).collect();
    direct.put_many(many, None).await.unwrap();
    follower.fresh().await.unwrap();
    assert_eq!(follower.read().len(), 5000);
}

#[tokio::test]
async fn prefixes_are_taken_in_the_order_in_which_they_are_named() {
    // An entry moves from one prefix to another: written there first, removed here then.
    let store = open().await;
    let meta = store.meta();
    let follower = Follower::open(Arc::clone(&meta), &["from/", "to/"], Plain::new()).await.unwrap();
    let stop = CancellationToken::new();
    let reader = std::thread::spawn({
        let (follower, stop) = (follower.clone(), stop.clone());
        move || {
            let mut entries = 0;
            while !stop.is_cancelled() {
                let copy = follower.read();
                let there = |n: usize| {
                    copy.contains_key(&format!("from/{n}")) || copy.contains_key(&format!("to/{n}"))
                };
                assert!((0..entries).all(there), "one of {entries} entries is nowhere: {:?}", *copy);
                entries += usize::from(there(entries));
            }
            entries
        }
    });
    for n in 0..100 {
        put(&meta, &format!("from/{n}"), "x").await;
        put(&meta, &format!("to/{n}"), "x").await;
        meta.delete(&format!("from/{n}"), Expect::Any).await.unwrap();
    }
    stop.cancel();
    assert!(reader.join().unwrap() > 0);
}

#[tokio::test]
async fn an_entry_that_makes_no_sense_keeps_the_copy_from_opening_and_changes_nothing_later() {
    #[derive(Debug, Default)]
    struct Numbers {
        by_key: BTreeMap<String, u32>,
    }
    impl Mirror for Numbers {
        type Error = StoreError;
        fn apply(&mut self, key: &str, value: Option<&Versioned>) -> Result<()> {
            let Some(found) = value else {
                self.by_key.remove(key);
                return Ok(());
            };
            let number = std::str::from_utf8(&found.value).ok().and_then(|text| text.parse().ok());
            let number = number.ok_or_else(|| StoreError::Corrupt(key.to_owned()))?;
            self.by_key.insert(key.to_owned(), number);
            Ok(())
        }
    }
    let store = open().await;
    let meta = store.meta();
    put(&meta, "k/1", "1").await;
    let follower = Follower::open(Arc::clone(&meta), &["k/"], Numbers::default()).await.unwrap();
    put(&meta, "k/1", "x").await;
    put(&meta, "k/2", "2").await;
    assert_eq!(follower.read().by_key, BTreeMap::from([("k/1".to_owned(), 1), ("k/2".to_owned(), 2)]));
    let again = Follower::open(meta, &["k/"], Numbers::default()).await;
    assert_eq!(again.err(), Some(StoreError::Corrupt("k/1".into())));
}

#[tokio::test]
async fn who_waits_for_changes_is_told_after_they_can_be_read() {
    let store = open().await;
    let meta = store.meta();
    let follower = follow(Arc::clone(&meta)).await;
    let mut changes = follower.changes();
    let waits = tokio::spawn({
        let follower = follower.clone();
        async move {
            changes.changed().await.unwrap();
            texts(&follower)
        }
    });
    tokio::task::yield_now().await;
    put(&meta, "k/1", "a").await;
    assert_eq!(waits.await.unwrap(), ["k/1=a"]);
}
