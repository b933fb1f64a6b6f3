//! Point 6: a consumer comes back from everything that is not final.

use super::*;
use hstreamdb::{ConsumerState, ErrorKind};
use hstreamdb_proto::{api::ErrorCode, error_body::ErrorBody};

const OK: i32 = 0;
const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const ABORTED: i32 = 10;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

fn body(code: ErrorCode, class: &str) -> String {
    ErrorBody::new(code, class, "").to_json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_consumer_comes_back_from_everything_that_is_not_final() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let (proxy, client) = through_proxy(&node, Fault::None).await;
    let events = Events::default();
    let consumer = client.consumer("sub").on_event(events.listener()).start().await.unwrap();
    let invalid = body(ErrorCode::InternalError, "ConsumerInvalidError");
    let wrong = body(ErrorCode::WrongServer, "WrongServer");
    let nowhere = body(ErrorCode::InternalError, "NodesNotFound");
    // A normal end by the server is the first: it looks like nothing at all.
    for (method, status, message) in [
        ("StreamingFetch", OK, ""),
        ("StreamingFetch", UNAVAILABLE, "log not found"),
        ("StreamingFetch", ABORTED, &*invalid),
        ("StreamingFetch", CANCELLED, "somebody"),
        ("StreamingFetch", FAILED_PRECONDITION, &*wrong),
        ("StreamingFetch", INTERNAL, "rocks"),
        ("StreamingFetch", UNKNOWN, "rocks"),
        ("StreamingFetch", DEADLINE_EXCEEDED, "late"),
        ("LookupSubscription", UNAVAILABLE, "in backup mode"),
        ("LookupSubscription", NOT_FOUND, &*nowhere),
    ] {
        let before = (events.count("connected"), events.count("reconnecting"));
        proxy.answer(method, status, message);
        proxy.cut_connections();
        // The cut, and then one session that gets this answer.
        events.reach("reconnecting", before.1 + 2).await;
        assert_ne!(consumer.state(), ConsumerState::Closed, "{method} {status}");
        proxy.answer("nothing", OK, "");
        events.reach("connected", before.0 + 1).await;
        let ids = node.append_batches("s", shard, 1, 1).await;
        assert_eq!(receive(&consumer, 1).await, ids, "after {method} {status}");
    }
    assert!(consumer.stats().reconnects >= 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_every_try_looks_the_owner_up_and_waits_longer() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("sub", "s").await;
    let (proxy, client) = through_proxy(&node, Fault::None).await;
    let events = Events::default();
    let _consumer = client.consumer("sub").on_event(events.listener()).start().await.unwrap();
    let lookups = || client.metrics().duration("call_duration").unwrap().count;
    let before = lookups();
    proxy.answer("StreamingFetch", UNAVAILABLE, "not now");
    proxy.cut_connections();
    events.reach("reconnecting", 6).await;
    assert!(lookups() >= before + 5, "a lookup is a call, and each try has its own");
    let pauses = events.all().into_iter().filter_map(|event| match event {
        ConsumerEvent::Reconnecting { delay, .. } => Some(delay),
        _ => None,
    });
    for (step, pause) in [20, 40, 80, 160, 200, 200].into_iter().zip(pauses) {
        let step = Duration::from_millis(step);
        assert!(pause >= step / 2 && pause <= step, "{pause:?} for {step:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_what_is_final_ends_it_with_one_error() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("sub", "s").await;
    let deleting = body(ErrorCode::InternalError, "SubscriptionIsDeleting");
    let gone = body(ErrorCode::SubscriptionNotFound, "SubscriptionNotFound");
    for (status, message, kind) in [
        (NOT_FOUND, &*gone, ErrorKind::NotFound),
        (INVALID_ARGUMENT, "no", ErrorKind::InvalidArgument),
        (UNAUTHENTICATED, "no", ErrorKind::Unauthenticated),
        (PERMISSION_DENIED, "no", ErrorKind::PermissionDenied),
        (ABORTED, &*deleting, ErrorKind::FailedPrecondition),
    ] {
        let (proxy, client) = through_proxy(&node, Fault::None).await;
        let events = Events::default();
        let consumer = client.consumer("sub").on_event(events.listener()).start().await.unwrap();
        proxy.answer("StreamingFetch", status, message);
        proxy.cut_connections();
        let error = soon(consumer.next_batch()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(soon(consumer.next_batch()).await.unwrap().is_none(), "the error comes once");
        events.reach("closed", 1).await;
        assert_eq!(events.names(), ["connected", "reconnecting", "closed"]);
        assert_eq!(consumer.state(), ConsumerState::Closed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_the_same_name_first_and_a_suffix_when_it_stays_taken() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("sub", "s").await;
    for (refusals, renamed) in [(2, false), (3, true)] {
        let (proxy, client) = through_proxy(&node, Fault::None).await;
        let events = Events::default();
        let (record, remote) = (events.listener(), proxy.clone());
        let seen = events.clone();
        // As a server that sees the old session die only then.
        let listener = move |event: &ConsumerEvent| {
            record(event);
            if seen.count("reconnecting") > refusals {
                remote.answer("nothing", OK, "");
            }
        };
        let consumer = client.consumer("sub").name("worker").on_event(listener).start().await.unwrap();
        proxy.answer("StreamingFetch", ALREADY_EXISTS, &body(ErrorCode::InternalError, "ConsumerExists"));
        proxy.cut_connections();
        events.reach("connected", 2).await;
        assert_eq!(events.count("renamed"), usize::from(renamed), "{:?}", events.names());
        assert_eq!(consumer.name() != "worker", renamed, "{}", consumer.name());
        assert!(consumer.name() == "worker" || consumer.name().starts_with("worker-"));
        assert!(soon(consumer.stop(GRACE)).await.unwrap().clean);
    }
}

/// The peer's kernel goes on answering, so nothing below gRPC notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_server_that_froze_is_noticed() {
    let process = Process::start();
    let builder = Client::builder().url(process.server().url()).set("request_timeout_ms", 2000).unwrap();
    let client = builder.set("retry_max_ms", 300).unwrap().connect().await.unwrap();
    client.create_stream("s", hstreamdb::StreamOptions::new()).await.unwrap();
    subscription(&client, "sub", 600).await;
    let events = Events::default();
    let builder = client.consumer("sub").probe_interval(Duration::from_millis(200));
    let consumer = builder.on_event(events.listener()).start().await.unwrap();
    events.reach("connected", 1).await;
    let (lost, probes) = (events.count("reconnecting"), client.metrics().get("consumer_probes").unwrap());
    eventually("a few quiet intervals", GRACE, || async {
        (client.metrics().get("consumer_probes") > Some(probes + 5)).then_some(())
    })
    .await;
    assert_eq!(events.count("reconnecting"), lost, "a quiet session stays");
    process.signal("STOP");
    events.reach("reconnecting", lost + 1).await;
    process.signal("CONT");
    events.reach("connected", 2).await;
    let producer = client.producer("s").build().await.unwrap();
    let id = soon(producer.append(hstreamdb::Record::raw("x")).await.unwrap()).await.unwrap();
    assert_eq!(receive(&consumer, 1).await, [id]);
}

/// As behind a proxy that keeps our side of the call while the server's is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_session_that_the_server_knows_nothing_of_is_noticed() {
    let mut node = TestNode::start().await;
    let shard = node.stream("s", 1).await[0];
    node.subscription("sub", "s").await;
    let (proxy, client) = through_proxy(&node, Fault::None).await;
    proxy.set(Fault::EndlessConsumers);
    let events = Events::default();
    let builder = client.consumer("sub").probe_interval(Duration::from_millis(100));
    let consumer = builder.on_event(events.listener()).start().await.unwrap();
    events.reach("connected", 1).await;
    node.stop().await;
    node.start_again().await;
    let ids = node.append_batches("s", shard, 1, 1).await;
    assert_eq!(receive(&consumer, 1).await, ids);
    assert!(events.count("reconnecting") >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_reconnecting_can_be_limited() {
    let mut node = TestNode::start().await;
    node.stream("s", 1).await;
    node.subscription("sub", "s").await;
    let (proxy, client) = through_proxy(&node, Fault::None).await;
    let tries = client.consumer("sub").reconnect_max_attempts(2).start().await.unwrap();
    let time = client.consumer("sub").reconnect_timeout(Duration::from_millis(300)).start().await.unwrap();
    proxy.answer("StreamingFetch", UNAVAILABLE, "not now");
    proxy.cut_connections();
    let error = soon(tries.next_batch()).await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Unavailable, 3), "{error}");
    let error = soon(time.next_batch()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!error.may_have_been_applied(), "{error}");
    assert_eq!(tries.stats().reconnects, 2);
}
