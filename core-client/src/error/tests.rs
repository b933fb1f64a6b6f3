use super::*;
use hstreamdb_proto::metadata::producer_error;
use tonic::{Code, Status};

fn with_body(code: Code, error: i32, message: &str, extra: Value) -> Error {
    let body = serde_json::json!({ "error": error, "message": message, "extra": extra });
    Error::from_status("append to", &Status::new(code, body.to_string()))
}

#[test]
fn statuses_become_kinds_by_their_table() {
    for (code, kind, retryable, unclear) in [
        (Code::Cancelled, ErrorKind::Cancelled, false, true),
        (Code::Unknown, ErrorKind::Internal, false, true),
        (Code::InvalidArgument, ErrorKind::InvalidArgument, false, false),
        (Code::DeadlineExceeded, ErrorKind::Timeout, true, true),
        (Code::NotFound, ErrorKind::NotFound, false, false),
        (Code::AlreadyExists, ErrorKind::AlreadyExists, false, false),
        (Code::PermissionDenied, ErrorKind::PermissionDenied, false, false),
        (Code::ResourceExhausted, ErrorKind::Overloaded, false, false),
        (Code::FailedPrecondition, ErrorKind::FailedPrecondition, false, false),
        (Code::Aborted, ErrorKind::FailedPrecondition, true, true),
        (Code::OutOfRange, ErrorKind::Overloaded, false, true),
        (Code::Unimplemented, ErrorKind::Unimplemented, false, false),
        (Code::Internal, ErrorKind::Internal, false, true),
        (Code::Unavailable, ErrorKind::Unavailable, true, true),
        (Code::DataLoss, ErrorKind::Internal, false, true),
        (Code::Unauthenticated, ErrorKind::Unauthenticated, false, false),
    ] {
        let error = Error::from_status("x", &Status::new(code, "words"));
        let seen = (error.kind(), error.is_retryable(), error.may_have_been_applied());
        assert_eq!(seen, (kind, retryable, unclear), "{code:?}");
        assert_eq!((error.status(), error.code()), (Some(code as i32 as u8), None));
        let words = if code == Code::OutOfRange { "words; raise max_receive_bytes" } else { "words" };
        assert_eq!(error.message(), words);
    }
}

#[test]
fn bodies_are_read_and_refine_the_kind() {
    let error = with_body(Code::NotFound, 200, "StreamNotFound", "orders".into());
    assert_eq!((error.code(), error.message()), (Some(200), "StreamNotFound"));
    assert_eq!(error.extra_json().unwrap(), "\"orders\"");

    let routing = with_body(Code::FailedPrecondition, 800, "WrongServer", Value::Null);
    assert!(
        routing.kind() == ErrorKind::Routing && routing.is_retryable() && !routing.may_have_been_applied()
    );

    let gap = with_body(Code::Aborted, 0, producer_error::SEQUENCE_GAP, Value::Null);
    assert!(gap.is_retryable() && !gap.may_have_been_applied());
    let deleting = with_body(Code::Aborted, 0, "SubscriptionIsDeleting", "s".into());
    assert!(!deleting.may_have_been_applied());

    let said = with_body(Code::Unavailable, 0, "NotReady", Value::Null);
    assert!(said.is_retryable() && !said.may_have_been_applied() && !said.is_transport());
}

#[test]
fn what_broke_on_the_way_is_unavailable_whatever_its_status() {
    let io = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "broken pipe");
    let error = Error::from_status("x", &Status::from_error(Box::new(io)));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_transport() && error.is_retryable() && error.may_have_been_applied());
    assert!(error.message().contains("broken pipe"), "{error}");
}

#[test]
fn the_text_is_one_line_with_everything_a_user_needs() {
    let error = Error::new(ErrorKind::Unavailable, "append to")
        .with_resource("stream \"orders\" shard 7")
        .with_node("10.0.0.3:6570")
        .with_message("connection refused")
        .with_tries(5, Duration::from_millis(3210));
    assert_eq!(
        error.to_string(),
        "append to stream \"orders\" shard 7 at 10.0.0.3:6570: unavailable after 5 tries in 3.2 s: connection refused"
    );
    let open = error.with_kind(ErrorKind::OutcomeUnknown);
    assert!(open.to_string().ends_with("; it may have been applied, check before repeating it"));
    assert!(!open.is_retryable());
}

#[test]
fn names_and_numbers_of_kinds_are_stable_and_unique() {
    for (index, kind) in ErrorKind::ALL.iter().enumerate() {
        assert_eq!(usize::from(kind.number()), index + 1);
        assert_eq!(ErrorKind::from_name(kind.name()), Some(*kind));
        let camel: String =
            kind.name().split('_').map(|part| part[..1].to_uppercase() + &part[1..]).collect();
        assert_eq!(kind.class_name(), format!("{camel}Error"));
        assert_eq!(format!("{kind:?}"), camel);
    }
}
