//! What a user can do about an error, in a few words at the end of its text.

use super::ErrorKind;
use hstreamdb_proto::api::ErrorCode;

/// `None` where the message says it all, or nothing can be done.
pub(super) fn advice(kind: ErrorKind, code: Option<i32>) -> Option<&'static str> {
    let code = code.and_then(|code| ErrorCode::try_from(code).ok());
    match (kind, code) {
        (ErrorKind::Unauthenticated, _) => Some("check auth_token, or username and password"),
        (ErrorKind::PermissionDenied, _) => Some("use credentials that allow it"),
        (ErrorKind::Unimplemented, _) => Some("use a server that offers it"),
        (_, Some(ErrorCode::StreamFoundSubscription)) => Some("delete its subscriptions first, or use force"),
        (_, Some(ErrorCode::SubscriptionFoundActiveConsumers)) => {
            Some("stop its consumers first, or use force")
        }
        (_, Some(ErrorCode::SubscriptionCreationOnNonExistentStream)) => Some("create the stream first"),
        (_, Some(ErrorCode::StreamInvalidRecordSize)) => {
            Some("lower batch_max_bytes, or raise the server's max-record-size")
        }
        _ => None,
    }
}
