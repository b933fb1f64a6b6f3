//! Point 10: what a server answers becomes an error that tells what to do.

use crate::node_under_test::{TestNode, soon};
use hstream_testkit::RpcProxy;
use hstreamdb::{Client, ErrorKind, StreamOptions};

/// What an error must say.
struct Row {
    status: i32,
    /// The server's words: a body with this code, or plain text.
    code: Option<i32>,
    kind: ErrorKind,
    retryable: bool,
    /// Of a call that may do something only once.
    applied: bool,
}

const fn row(status: i32, code: Option<i32>, kind: ErrorKind, retryable: bool, applied: bool) -> Row {
    Row { status, code, kind, retryable, applied }
}

/// Every (status, code) that servers send.
const TABLE: &[Row] = &[
    // Unavailable: the store in plain text (it may have written), the node with a body (it has not).
    row(14, None, ErrorKind::OutcomeUnknown, false, true),
    row(14, Some(0), ErrorKind::Unavailable, true, false),
    // Not found: final.
    row(5, Some(200), ErrorKind::NotFound, false, false),
    row(5, Some(300), ErrorKind::NotFound, false, false),
    row(5, Some(400), ErrorKind::NotFound, false, false),
    row(5, Some(500), ErrorKind::NotFound, false, false),
    row(5, Some(600), ErrorKind::NotFound, false, false),
    row(5, Some(0), ErrorKind::NotFound, false, false),
    row(5, Some(905), ErrorKind::NotFound, false, false),
    row(5, None, ErrorKind::NotFound, false, false),
    // Already exists.
    row(6, Some(201), ErrorKind::AlreadyExists, false, false),
    row(6, Some(301), ErrorKind::AlreadyExists, false, false),
    row(6, Some(401), ErrorKind::AlreadyExists, false, false),
    row(6, Some(501), ErrorKind::AlreadyExists, false, false),
    row(6, Some(601), ErrorKind::AlreadyExists, false, false),
    row(6, Some(0), ErrorKind::AlreadyExists, false, false),
    // Failed precondition: only 800 is a matter of the node.
    row(9, Some(800), ErrorKind::Routing, true, false),
    row(9, Some(202), ErrorKind::FailedPrecondition, false, false),
    row(9, Some(302), ErrorKind::FailedPrecondition, false, false),
    row(9, Some(305), ErrorKind::FailedPrecondition, false, false),
    row(9, Some(0), ErrorKind::FailedPrecondition, false, false),
    row(9, Some(403), ErrorKind::FailedPrecondition, false, false),
    row(9, Some(407), ErrorKind::FailedPrecondition, false, false),
    row(9, Some(408), ErrorKind::FailedPrecondition, false, false),
    row(9, Some(604), ErrorKind::FailedPrecondition, false, false),
    row(9, None, ErrorKind::FailedPrecondition, false, false),
    // Invalid argument: final.
    row(3, Some(203), ErrorKind::InvalidArgument, false, false),
    row(3, Some(204), ErrorKind::InvalidArgument, false, false),
    row(3, Some(205), ErrorKind::InvalidArgument, false, false),
    row(3, Some(206), ErrorKind::InvalidArgument, false, false),
    row(3, Some(207), ErrorKind::InvalidArgument, false, false),
    row(3, Some(208), ErrorKind::InvalidArgument, false, false),
    row(3, Some(209), ErrorKind::InvalidArgument, false, false),
    row(3, Some(210), ErrorKind::InvalidArgument, false, false),
    row(3, Some(402), ErrorKind::InvalidArgument, false, false),
    row(3, Some(502), ErrorKind::InvalidArgument, false, false),
    row(3, Some(901), ErrorKind::InvalidArgument, false, false),
    row(3, Some(902), ErrorKind::InvalidArgument, false, false),
    row(3, None, ErrorKind::InvalidArgument, false, false),
    // Aborted.
    row(10, Some(0), ErrorKind::FailedPrecondition, true, false),
    row(10, Some(406), ErrorKind::FailedPrecondition, false, false),
    row(10, None, ErrorKind::OutcomeUnknown, false, true),
    // The others.
    row(1, None, ErrorKind::OutcomeUnknown, false, true),
    row(15, Some(903), ErrorKind::Internal, false, true),
    row(7, Some(904), ErrorKind::PermissionDenied, false, false),
    row(16, None, ErrorKind::Unauthenticated, false, false),
    row(8, None, ErrorKind::Overloaded, false, false),
    row(13, None, ErrorKind::Internal, false, true),
    row(13, Some(906), ErrorKind::Internal, false, true),
    row(2, None, ErrorKind::Internal, false, true),
    row(4, None, ErrorKind::OutcomeUnknown, false, true),
    row(12, None, ErrorKind::Unimplemented, false, false),
    // What is no status at all.
    row(99, None, ErrorKind::Internal, false, true),
];

#[tokio::test]
async fn p10_every_status_and_code_becomes_its_error() {
    let node = TestNode::start().await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = Client::builder().url(proxy.url()).retry_max_attempts(1).unwrap();
    let client = soon(client.connect()).await.unwrap();
    for expected in TABLE {
        let name = format!("({}, {:?})", expected.status, expected.code);
        let words = match expected.code {
            Some(code) => format!(r#"{{"error":{code},"message":"Words","extra":{{"a":1}}}}"#),
            None => "words of the store".to_owned(),
        };
        proxy.answer("CreateStream", expected.status, &words);
        let error = soon(client.create_stream("s", StreamOptions::new())).await.unwrap_err();
        assert_eq!(error.kind(), expected.kind, "{name}: {error}");
        assert_eq!(error.is_retryable(), expected.retryable, "{name}");
        assert_eq!(error.may_have_been_applied(), expected.applied, "{name}");
        assert_eq!(error.code(), expected.code, "{name}");
        let message = if expected.code.is_some() { "Words" } else { "words of the store" };
        assert_eq!(error.message(), message, "{name}");
        assert_eq!(error.extra_json(), expected.code.map(|_| r#"{"a":1}"#.to_owned()), "{name}");
        let status = if expected.status == 99 { 2 } else { expected.status };
        assert_eq!(error.status(), Some(u8::try_from(status).unwrap()), "{name}");
        assert_eq!(error.node(), Some(&*format!("127.0.0.1:{}", proxy.port())), "{name}");
        assert_eq!((error.operation(), error.resource(), error.tries()), ("create stream", Some("s"), 1));
    }
    // A node that refuses is well.
    assert_eq!(client.metrics().get("node_suspects"), Some(0));
}

#[tokio::test]
async fn p10_bodies_that_are_none_are_the_servers_words() {
    let node = TestNode::start().await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = soon(Client::connect(&proxy.url())).await.unwrap();
    for words in ["", "{}", "[1]", r#"{"error":"200","message":"x"}"#, r#"{"error":200}"#, "{broken", "null"]
    {
        proxy.answer("GetStream", 5, words);
        let error = soon(client.get_stream("s")).await.unwrap_err();
        assert_eq!((error.kind(), error.code(), error.message()), (ErrorKind::NotFound, None, words));
        assert!(!error.to_string().ends_with(": "), "{error:?}");
    }
}

#[tokio::test]
async fn p10_errors_say_what_to_do() {
    let node = TestNode::start().await;
    let proxy = RpcProxy::start(node.address().port()).await.unwrap();
    let client = Client::builder().url(proxy.url()).retry_max_attempts(1).unwrap();
    let client = soon(client.connect()).await.unwrap();
    for (status, code, advice) in [
        (9, 202, "delete its subscriptions first, or use force"),
        (9, 305, "stop its consumers first, or use force"),
        (3, 207, "lower batch_max_bytes"),
        (16, 0, "check auth_token, or username and password"),
        (7, 0, "use credentials that allow it"),
        (12, 0, "use a server that offers it"),
    ] {
        proxy.answer(
            "DeleteStream",
            status,
            &format!(r#"{{"error":{code},"message":"Words","extra":null}}"#),
        );
        let error = soon(client.delete_stream("s", Default::default())).await.unwrap_err();
        assert!(error.to_string().contains(advice), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}
