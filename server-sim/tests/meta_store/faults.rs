//! One node behind a bad network, and data that are not as they were written.

use crate::engines::{DEADLINE, all, namespace, nats, open, options, value};
use async_nats::HeaderMap;
use bytes::Bytes;
use hstream_server::store::jetstream::JetStreamStore;
use hstream_server::store::{Expect, Follower, Guard, MetaStore, Seen, StoreError, Versioned};
use hstream_testkit::{Ending, Flow, Link, Way, eventually};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A node whose network can be broken, and one with a good network.
struct Pair {
    name: String,
    link: Arc<Link>,
    far: Arc<dyn MetaStore>,
    near: Arc<dyn MetaStore>,
    _stores: [JetStreamStore; 2],
}

impl Pair {
    async fn start(timeout: Duration) -> Pair {
        let name = namespace();
        let link = Link::start(nats().port(0), 1).await.unwrap();
        let mut far = options(nats(), &name);
        far.url = format!("nats://{}/{name}", link.address()).parse().unwrap();
        far.timeout = timeout;
        let far = JetStreamStore::open(far).await.unwrap();
        let near = open(nats(), &name).await;
        Pair { name, link: Arc::new(link), far: far.meta(), near: near.meta(), _stores: [far, near] }
    }

    async fn works_again(&self) {
        eventually("an answer", DEADLINE, || async { self.far.get("k").await.ok() }).await;
    }
}

async fn client() -> async_nats::Client {
    async_nats::connect(nats().urls()).await.unwrap()
}

fn unreachable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    let Err(StoreError::Unreachable(text)) = result else { panic!("{result:?}") };
    text
}

/// Breaks connections at random moments until it is told to stop.
fn saboteur(link: Arc<Link>, mut rng: StdRng) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            // In the middle of an answer, or of a request.
            let way = if rng.random_bool(0.7) { Way::ToClient } else { Way::ToServer };
            let after = rng.random_range(0..1200);
            link.set(way, Flow { ends_after: Some((after, Ending::Reset)), ..Flow::default() });
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..40))).await;
            link.resume();
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..60))).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_a_write_is_found_out_or_left_open_and_never_told_wrong() {
    let pair = Pair::start(Duration::from_secs(5)).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let saboteur = saboteur(pair.link.clone(), StdRng::seed_from_u64(seed ^ 1));
    // Nobody else writes this key, so that a conflict could only be with an own write.
    let mut held: Option<Versioned> = None;
    let (mut open, mut done) = (0, 0);
    for n in 0..400 {
        let expect = held.as_ref().map_or(Expect::Absent, |held| Expect::Version(held.version));
        let expect = if rng.random_bool(0.2) { Expect::Any } else { expect };
        let next = (held.is_none() || rng.random_bool(0.8)).then(|| value(&n.to_string()));
        let outcome = match &next {
            Some(text) => pair.far.put("k", text.clone(), expect).await.map(Some),
            None => pair.far.delete("k", expect).await.map(|()| None),
        };
        let after = match outcome {
            Ok(version) => {
                done += 1;
                next.zip(version).map(|(value, version)| Versioned { value, version })
            }
            Err(StoreError::Unreachable(text)) => {
                open += 1;
                let found = pair.near.get("k").await.unwrap();
                if text.ends_with("nothing was changed") {
                    assert_eq!(found, held, "{text}");
                } else {
                    assert!(text.ends_with("not known"), "{text}");
                    let written = found.as_ref().map(|found| &found.value) == next.as_ref();
                    assert!(written || found == held, "{found:?}");
                }
                // A copy under way may still land; what is expected afterwards shuts it out.
                let version = pair.near.put("k", value("settled"), Expect::Any).await.unwrap();
                Some(Versioned { value: value("settled"), version })
            }
            Err(error) => panic!("write {n}, {done} done, {open} open: {error}"),
        };
        if n % 10 == 0 {
            assert_eq!(pair.near.get("k").await.unwrap(), after, "write {n}");
        }
        held = after;
    }
    saboteur.abort();
    println!("{done} done, {open} open, {:?}", pair.link.stats());
    assert!(done > 300 && pair.link.stats().broken > 10, "{done} done, {:?}", pair.link.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writes_that_were_overtaken_it_is_found_out_whether_they_came_first() {
    let pair = Pair::start(Duration::from_secs(5)).await;
    let seed = rand::random();
    println!("seed {seed}");
    let saboteur = saboteur(pair.link.clone(), StdRng::seed_from_u64(seed));
    // Two nodes count; every number that was answered is there once, and no number was both refused and written.
    let (mut sure, mut open) = (0, 0);
    let (near, stop) = (pair.near.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let other = tokio::spawn(async move {
        let mut counted = 0;
        while !stopped.load(Ordering::SeqCst) {
            let found = near.get("n").await.unwrap();
            let expect = found.as_ref().map_or(Expect::Absent, |found| Expect::Version(found.version));
            counted += u64::from(near.put("n", next_of(found.as_ref()), expect).await.is_ok());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        counted
    });
    let began = Instant::now();
    while (sure < 60 || pair.link.stats().broken < 20) && began.elapsed() < DEADLINE {
        let Ok(found) = pair.far.get("n").await else { continue };
        let expect = found.as_ref().map_or(Expect::Absent, |found| Expect::Version(found.version));
        match pair.far.put("n", next_of(found.as_ref()), expect).await {
            Ok(_) => sure += 1,
            Err(StoreError::Conflict { .. }) => {}
            Err(StoreError::Unreachable(_)) => open += 1,
            Err(error) => panic!("{error}"),
        }
    }
    saboteur.abort();
    stop.store(true, Ordering::SeqCst);
    let counted = other.await.unwrap();
    let count = pair.near.get("n").await.unwrap().unwrap();
    let count: u64 = std::str::from_utf8(&count.value).unwrap().parse().unwrap();
    println!("{count}: {counted} and {sure} sure, {open} open, {:?}", pair.link.stats());
    assert!(
        (counted + sure..=counted + sure + open).contains(&count),
        "{count}: {counted} and {sure}, {open} open"
    );
    assert!(sure >= 60, "{sure} sure, {:?}", pair.link.stats());
}

fn next_of(found: Option<&Versioned>) -> Bytes {
    let count: u64 = found.map_or(0, |found| std::str::from_utf8(&found.value).unwrap().parse().unwrap());
    value(&(count + 1).to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_in_time_while_the_store_is_silent_or_away_and_work_again_afterwards() {
    const TIMEOUT: Duration = Duration::from_millis(700);
    let pair = Pair::start(TIMEOUT).await;
    let version = pair.far.put("k", value("a"), Expect::Absent).await.unwrap();
    let break_it: [fn(&Link); 2] = [Link::freeze, |link: &Link| {
        link.refuse();
        link.cut(Ending::Reset);
    }];
    for break_it in break_it {
        break_it(&pair.link);
        let began = Instant::now();
        let guard = Some(Guard { key: "k".into(), version });
        let values = (0..200).map(|n| (format!("v/{n}"), value("x"))).collect();
        let far = &pair.far;
        let (get, list, put, many, delete, settle) = tokio::join!(
            far.get("k"),
            far.list(""),
            far.put("other", value("b"), Expect::Any),
            far.put_many(values, guard),
            far.delete("other2", Expect::Version(version)),
            far.settle(),
        );
        let took = began.elapsed();
        for text in [unreachable(get), unreachable(list), unreachable(settle)] {
            assert!(text.ends_with("nothing was changed") && text.contains("700ms"), "{text}");
        }
        for text in [unreachable(put), unreachable(many), unreachable(delete)] {
            assert!(text.contains("nothing was changed") || text.contains("not known"), "{text}");
        }
        assert!(took < TIMEOUT * 3, "{took:?}");
        pair.link.resume();
        pair.works_again().await;
        assert_eq!(pair.far.get("k").await.unwrap().unwrap().version, version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_sent_while_the_connection_was_down_is_not_sent_later() {
    let pair = Pair::start(Duration::from_millis(300)).await;
    pair.link.refuse();
    pair.link.cut(Ending::Reset);
    // Until the client has noticed.
    eventually("a loss that is noticed", DEADLINE, || async {
        let text = unreachable(pair.far.put("k", value("late"), Expect::Absent).await);
        text.ends_with("nothing was changed").then_some(())
    })
    .await;
    let before = pair.near.get("k").await.unwrap();
    for n in 0..20 {
        let key = format!("late/{n}");
        let text = unreachable(pair.far.put(&key, value("late"), Expect::Any).await);
        assert!(text.ends_with("nothing was changed"), "{text}");
    }
    pair.link.resume();
    pair.works_again().await;
    assert!(pair.far.settle().await.unwrap());
    assert_eq!(pair.near.list("late/").await.unwrap(), []);
    assert_eq!(pair.near.get("k").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_made_while_a_node_was_cut_off_come_to_its_watches_and_copies() {
    let pair = Pair::start(Duration::from_secs(2)).await;
    let near = &pair.near;
    for key in ["k/same", "k/changed", "k/removed", "k/purged", "k/back"] {
        near.put(key, value("before"), Expect::Absent).await.unwrap();
    }
    let copy = Follower::open(pair.far.clone(), &["k/"], BTreeMap::<String, Versioned>::new()).await.unwrap();
    let mut watch = pair.far.watch("k/");
    assert_eq!(copy.read().len(), 5);
    pair.link.refuse();
    pair.link.cut(Ending::Reset);
    near.put("k/changed", value("after"), Expect::Any).await.unwrap();
    near.put("k/new", value("after"), Expect::Any).await.unwrap();
    near.delete("k/removed", Expect::Any).await.unwrap();
    near.delete("k/back", Expect::Any).await.unwrap();
    near.put("k/back", value("after"), Expect::Absent).await.unwrap();
    // As if it had been removed so long ago that even the servers have forgotten it.
    near.delete("k/purged", Expect::Any).await.unwrap();
    let subject = format!("$KV.{0}_meta.k/purged", pair.name);
    let purge = format!("$JS.API.STREAM.PURGE.KV_{}_meta", pair.name);
    let answer = client().await.request(purge, format!("{{\"filter\":{subject:?}}}").into()).await.unwrap();
    assert!(std::str::from_utf8(&answer.payload).unwrap().contains("\"success\":true"), "{answer:?}");
    assert!(copy.read().contains_key("k/removed"), "it cannot know yet");
    pair.link.resume();
    // Without anybody asking: by what comes through the watch alone.
    let mut seen = BTreeMap::new();
    while seen.len() < 5 {
        match tokio::time::timeout(DEADLINE, watch.next()).await.expect("changes come") {
            Some(Seen::Change(change)) => {
                let before = seen.insert(change.key.clone(), (change.version, change.value));
                assert!(before.is_none_or(|(version, _)| version < change.version));
            }
            other => panic!("{other:?}"),
        }
    }
    let after = |key: &str| seen[key].1.clone();
    assert_eq!(after("k/changed"), Some(value("after")));
    assert_eq!(after("k/new"), Some(value("after")));
    assert_eq!(after("k/back"), Some(value("after")));
    assert_eq!((after("k/removed"), after("k/purged")), (None, None));
    eventually("a copy that is up to date", DEADLINE, || async {
        let keys: Vec<String> = copy.read().keys().cloned().collect();
        (keys == ["k/back", "k/changed", "k/new", "k/same"]).then_some(())
    })
    .await;
    assert_eq!(pair.far.list("k/").await.unwrap(), near.list("k/").await.unwrap());
    // A key that was purged can be made again.
    pair.far.put("k/purged", value("again"), Expect::Absent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_value_is_never_served_and_what_tools_write_is() {
    let pair = Pair::start(Duration::from_secs(5)).await;
    pair.near.put("k", value("right"), Expect::Absent).await.unwrap();
    let client = client().await;
    let subject = |key: &str| format!("$KV.{}_meta.{key}", pair.name);
    let mut headers = HeaderMap::new();
    headers.insert("Hstream-Crc32c", "00000001");
    let sent = client.request_with_headers(subject("k"), headers, "damaged".into()).await.unwrap();
    assert!(std::str::from_utf8(&sent.payload).unwrap().contains("\"seq\""));
    for meta in [&pair.far, &pair.near] {
        assert!(matches!(meta.get("k").await, Err(StoreError::Corrupt(_))));
        assert!(matches!(meta.list("").await, Err(StoreError::Corrupt(_))));
    }
    client.request(subject("k"), "by hand".into()).await.unwrap();
    let found = pair.far.get("k").await.unwrap().unwrap();
    assert_eq!(found.value, value("by hand"));
    pair.far.put("k", value("again"), Expect::Version(found.version)).await.unwrap();
    // What is no key of ours is nobody's business.
    client.request(subject("no=key"), "x".into()).await.unwrap();
    assert_eq!(all(&pair.near).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_does_not_fit_into_a_message_is_refused_and_others_go_on() {
    let pair = Pair::start(Duration::from_secs(5)).await;
    let big = Bytes::from(vec![0; 8 << 20]);
    let error = pair.far.put("big", big, Expect::Any).await.unwrap_err().to_string();
    assert!(error.contains("\"big\"") && error.contains("max_payload"), "{error}");
    let error = pair.far.put("", value("x"), Expect::Any).await.unwrap_err().to_string();
    assert!(error.contains("empty or too long"), "{error}");
    pair.far.put("k", value("x"), Expect::Any).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_do_not_pile_up() {
    let pair = Pair::start(Duration::from_secs(5)).await;
    for n in 0..20 {
        pair.far.put("same", value(&n.to_string()), Expect::Any).await.unwrap();
    }
    pair.far.delete("same", Expect::Any).await.unwrap();
    let client = client().await;
    let stored = async |key: &str| {
        let body = format!("{{\"last_by_subj\":\"$KV.{}_meta.{key}\"}}", pair.name);
        let subject = format!("$JS.API.STREAM.MSG.GET.KV_{}_meta", pair.name);
        let answer = client.request(subject, body.into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let headers = answer["message"]["hdrs"].as_str().unwrap_or_default().to_owned();
        use base64::Engine as _;
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(headers).unwrap()).unwrap()
    };
    let marker = stored("same").await;
    assert!(marker.contains("KV-Operation: DEL") && marker.contains("Nats-TTL: 600s"), "{marker}");
    let subject = format!("$JS.API.STREAM.INFO.KV_{}_meta", pair.name);
    let filter = format!("{{\"subjects_filter\":\"$KV.{}_meta.same\"}}", pair.name);
    let info = client.request(subject, filter.into()).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
    let messages: Vec<_> = info["state"]["subjects"].as_object().unwrap().values().collect();
    assert_eq!(messages, [1], "{info}");
}
