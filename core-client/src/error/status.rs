//! What a gRPC status means: its kind, whether a repeat may help, whether the call may have been applied.

use super::{Error, ErrorKind};
use hstreamdb_proto::{api::ErrorCode, error_body::ErrorBody, metadata::producer_error};
use std::{borrow::Cow, error::Error as StdError};
use tonic::Code;

impl Error {
    /// The error of a failed gRPC call: kind by status and server code, details from the JSON body if there is one.
    pub(crate) fn from_status(operation: impl Into<Cow<'static, str>>, status: &tonic::Status) -> Self {
        let body = ErrorBody::parse(status.message());
        let never_sent = never_sent(status);
        // What a server sent has no source; what broke on the way names it, under changing codes.
        let transport = status.source().is_some();
        let kind = match kind_of(status.code(), body.as_ref()) {
            ErrorKind::Timeout => ErrorKind::Timeout,
            _ if transport => ErrorKind::Unavailable,
            kind => kind,
        };
        let mut error = Error::new(kind, operation);
        let inner = error.inner_mut();
        inner.status = Some(status.code() as i32 as u8);
        inner.transport = transport;
        inner.retryable = transport || is_retryable(status.code(), body.as_ref());
        inner.may_have_been_applied = !never_sent && is_unclear(status.code(), body.as_ref());
        match body {
            Some(body) => {
                inner.code = Some(body.error);
                inner.message = body.message;
                if !body.extra.is_null() {
                    inner.extra = Some(body.extra);
                }
            }
            // Only this side sends it.
            None if status.code() == Code::OutOfRange => {
                inner.message = format!("{}; raise max_receive_bytes", plain_message(status));
            }
            None => inner.message = plain_message(status),
        }
        error
    }
}

/// The code of a routing error, the only `FAILED_PRECONDITION` that a new lookup cures.
fn is_wrong_server(body: Option<&ErrorBody>) -> bool {
    body.is_some_and(|body| body.error == ErrorCode::WrongServer as i32)
}

fn kind_of(code: Code, body: Option<&ErrorBody>) -> ErrorKind {
    match code {
        Code::Cancelled => ErrorKind::Cancelled,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        // No server sends it; here it says that a message is larger than `max_receive_bytes`.
        Code::OutOfRange => ErrorKind::Overloaded,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::FailedPrecondition if is_wrong_server(body) => ErrorKind::Routing,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Aborted => ErrorKind::FailedPrecondition,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ErrorKind::Internal,
    }
}

fn is_retryable(code: Code, body: Option<&ErrorBody>) -> bool {
    match code {
        // A query that does not run will not do so for being asked again.
        Code::Aborted => body.is_none_or(|body| body.error != ErrorCode::QueryNotRunning as i32),
        Code::Unavailable | Code::DeadlineExceeded => true,
        Code::FailedPrecondition => is_wrong_server(body),
        Code::ResourceExhausted => body.is_some_and(|body| body.message == producer_error::TABLE_FULL),
        _ => false,
    }
}

/// Whether a status leaves open if the call took effect. Refusals do not; what breaks on the way does.
fn is_unclear(code: Code, body: Option<&ErrorBody>) -> bool {
    match code {
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::OutOfRange
        | Code::DataLoss => true,
        // With a body a server said it; without one the connection may have broken after the call was sent.
        Code::Unavailable => body.is_none(),
        // With a body, too: a batch out of sequence, a subscription that somebody else is deleting.
        Code::Aborted => body.is_none(),
        _ => false,
    }
}

/// Whether the connection could not even be made, so that the server has seen nothing.
fn never_sent(status: &tonic::Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The words of a status without a body, with the innermost cause, which says more than "transport error".
fn plain_message(status: &tonic::Status) -> String {
    let mut innermost = None;
    let mut next = status.source();
    while let Some(error) = next {
        innermost = Some(error);
        next = error.source();
    }
    match innermost.map(ToString::to_string) {
        Some(cause) if !status.message().contains(&cause) && !status.message().is_empty() => {
            format!("{}: {cause}", status.message())
        }
        Some(cause) if status.message().is_empty() => cause,
        _ => status.message().to_owned(),
    }
}
