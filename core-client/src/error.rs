//! The one error of this crate: what was tried, on what, where, what came back, and whether it may have
//! been applied all the same.

use hstreamdb_proto::{api::ErrorCode, error_body::ErrorBody, metadata::producer_error};
use serde_json::Value;
use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};
use tonic::Code;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is. Names, class names and numbers never change their meaning.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No node could serve the call.
    Unavailable,
    /// The call reached a node that does not own the resource, also after looking the owner up again.
    Routing,
    /// The stream, shard, subscription or other resource does not exist.
    NotFound,
    /// A resource of that name exists already.
    AlreadyExists,
    /// The caller's input was refused; repeating it unchanged cannot succeed.
    InvalidArgument,
    /// The state of the resource does not allow the call.
    FailedPrecondition,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// The credentials do not allow the call.
    PermissionDenied,
    /// The deadline passed. For a call that changes something see also `OutcomeUnknown`.
    Timeout,
    /// The connection was lost or the deadline passed after a changing call was sent: it may have been applied.
    OutcomeUnknown,
    /// A limit was reached: flow control, a queue, or a quota of the server.
    Overloaded,
    /// The client, producer, consumer or reader was closed.
    Closed,
    /// The caller cancelled the call.
    Cancelled,
    /// Bytes could not be decoded or encoded.
    Codec,
    /// The server does not know the call, or was built without it.
    Unimplemented,
    /// The server failed, or answered something that cannot be.
    Internal,
}

impl ErrorKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: &'static [ErrorKind] = &[
        ErrorKind::Unavailable,
        ErrorKind::Routing,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::InvalidArgument,
        ErrorKind::FailedPrecondition,
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied,
        ErrorKind::Timeout,
        ErrorKind::OutcomeUnknown,
        ErrorKind::Overloaded,
        ErrorKind::Closed,
        ErrorKind::Cancelled,
        ErrorKind::Codec,
        ErrorKind::Unimplemented,
        ErrorKind::Internal,
    ];

    /// Name in snake case: atoms in Erlang, string literals in TypeScript.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The kind of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Name of the exception class, such as `UnavailableError`.
    pub fn class_name(self) -> &'static str {
        self.row().2
    }

    /// One sentence for reference pages.
    pub fn doc(self) -> &'static str {
        self.row().3
    }

    /// Stable number, from 1.
    pub fn number(self) -> u16 {
        self.row().0
    }

    fn row(self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            ErrorKind::Unavailable => (1, "unavailable", "UnavailableError", "No node could serve the call."),
            ErrorKind::Routing => (
                2,
                "routing",
                "RoutingError",
                "The call reached a node that does not own the resource, also after a new lookup.",
            ),
            ErrorKind::NotFound => (3, "not_found", "NotFoundError", "The resource does not exist."),
            ErrorKind::AlreadyExists => {
                (4, "already_exists", "AlreadyExistsError", "A resource of that name exists already.")
            }
            ErrorKind::InvalidArgument => (
                5,
                "invalid_argument",
                "InvalidArgumentError",
                "The input was refused; repeating it unchanged cannot succeed.",
            ),
            ErrorKind::FailedPrecondition => (
                6,
                "failed_precondition",
                "FailedPreconditionError",
                "The state of the resource does not allow the call.",
            ),
            ErrorKind::Unauthenticated => {
                (7, "unauthenticated", "UnauthenticatedError", "Credentials are missing or wrong.")
            }
            ErrorKind::PermissionDenied => {
                (8, "permission_denied", "PermissionDeniedError", "The credentials do not allow the call.")
            }
            ErrorKind::Timeout => (9, "timeout", "TimeoutError", "The deadline passed."),
            ErrorKind::OutcomeUnknown => (
                10,
                "outcome_unknown",
                "OutcomeUnknownError",
                "The answer was lost after the call was sent: it may have been applied.",
            ),
            ErrorKind::Overloaded => (
                11,
                "overloaded",
                "OverloadedError",
                "A limit was reached: flow control, a queue, or a quota of the server.",
            ),
            ErrorKind::Closed => {
                (12, "closed", "ClosedError", "The client, producer, consumer or reader was closed.")
            }
            ErrorKind::Cancelled => (13, "cancelled", "CancelledError", "The caller cancelled the call."),
            ErrorKind::Codec => (14, "codec", "CodecError", "Bytes could not be decoded or encoded."),
            ErrorKind::Unimplemented => {
                (15, "unimplemented", "UnimplementedError", "The server does not offer the call.")
            }
            ErrorKind::Internal => {
                (16, "internal", "InternalError", "The server failed, or answered something that cannot be.")
            }
        }
    }

    /// The words in an error's text.
    fn words(self) -> &'static str {
        match self {
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Routing => "no owner found",
            ErrorKind::NotFound => "not found",
            ErrorKind::AlreadyExists => "already exists",
            ErrorKind::InvalidArgument => "invalid argument",
            ErrorKind::FailedPrecondition => "not possible in this state",
            ErrorKind::Unauthenticated => "not authenticated",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::Timeout => "timed out",
            ErrorKind::OutcomeUnknown => "outcome unknown",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::Closed => "closed",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Codec => "cannot decode or encode",
            ErrorKind::Unimplemented => "not offered by the server",
            ErrorKind::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure: cheap to clone, and its text is one line a user can act on.
///
/// ```
/// use hstreamdb::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::NotFound, "delete stream").with_resource("orders");
/// assert_eq!(error.to_string(), r#"delete stream "orders": not found"#);
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    resource: Option<String>,
    node: Option<String>,
    status: Option<u8>,
    code: Option<i32>,
    message: String,
    extra: Option<Value>,
    retryable: bool,
    may_have_been_applied: bool,
    transport: bool,
    tries: u32,
    elapsed: Duration,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, on an operation such as `create stream`.
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>) -> Self {
        Error(Arc::new(Inner {
            kind,
            operation: operation.into(),
            resource: None,
            node: None,
            status: None,
            code: None,
            message: String::new(),
            extra: None,
            retryable: matches!(kind, ErrorKind::Unavailable | ErrorKind::Routing | ErrorKind::Overloaded),
            may_have_been_applied: kind == ErrorKind::OutcomeUnknown,
            transport: false,
            tries: 1,
            elapsed: Duration::ZERO,
            source: None,
        }))
    }

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
            None => inner.message = plain_message(status),
        }
        error
    }

    /// With the stream, subscription or other thing it happened on.
    #[must_use]
    pub fn with_resource(mut self, resource: impl Into<String>) -> Self {
        self.inner_mut().resource = Some(resource.into());
        self
    }

    /// With the node it happened at, as `host:port`.
    #[must_use]
    pub fn with_node(mut self, node: impl fmt::Display) -> Self {
        self.inner_mut().node = Some(node.to_string());
        self
    }

    /// With what happened, in words.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.inner_mut().message = message.into();
        self
    }

    /// With another operation, for code that runs a call on behalf of something larger.
    #[must_use]
    pub fn with_operation(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        self.inner_mut().operation = operation.into();
        self
    }

    /// With another kind; the predicates stay as they are, except that `OutcomeUnknown` is never retryable.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        let inner = self.inner_mut();
        inner.kind = kind;
        if kind == ErrorKind::OutcomeUnknown {
            inner.may_have_been_applied = true;
            inner.retryable = false;
        }
        self
    }

    /// With the number of tries and the time they took together.
    #[must_use]
    pub fn with_tries(mut self, tries: u32, elapsed: Duration) -> Self {
        let inner = self.inner_mut();
        inner.tries = tries;
        inner.elapsed = elapsed;
        self
    }

    /// With the answer to [`may_have_been_applied`](Self::may_have_been_applied).
    #[must_use]
    pub fn with_may_have_been_applied(mut self, unclear: bool) -> Self {
        self.inner_mut().may_have_been_applied = unclear;
        self
    }

    /// With the answer to [`is_retryable`](Self::is_retryable).
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.inner_mut().retryable = retryable;
        self
    }

    /// With the answer to `is_transport`.
    #[must_use]
    pub(crate) fn with_transport(mut self, transport: bool) -> Self {
        self.inner_mut().transport = transport;
        self
    }

    /// With the error below this one.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.inner_mut().source = Some(Arc::new(source));
        self
    }

    /// With a server error code, for inputs refused here on the same grounds.
    #[must_use]
    pub fn with_code(mut self, code: i32) -> Self {
        self.inner_mut().code = Some(code);
        self
    }

    /// What kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was tried, such as `create stream`.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The stream, subscription or other thing it was tried on.
    pub fn resource(&self) -> Option<&str> {
        self.0.resource.as_deref()
    }

    /// gRPC status number, when a call failed.
    pub fn status(&self) -> Option<u8> {
        self.0.status
    }

    /// The server's error code, when it sent one.
    pub fn code(&self) -> Option<i32> {
        self.0.code
    }

    /// What happened: the server's words where it sent some. May be empty when the kind says it all.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Detail the server added: text, number or object.
    pub fn extra(&self) -> Option<&Value> {
        self.0.extra.as_ref()
    }

    /// [`extra`](Self::extra) as JSON text.
    pub fn extra_json(&self) -> Option<String> {
        self.0.extra.as_ref().map(Value::to_string)
    }

    /// The node it happened at, as `host:port`.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// How often it was tried.
    pub fn tries(&self) -> u32 {
        self.0.tries
    }

    /// Whether the same call may succeed later, without any change to its input.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether the call may have taken effect although it failed: repeating it could apply it twice.
    pub fn may_have_been_applied(&self) -> bool {
        self.0.may_have_been_applied
    }

    /// Whether the connection failed rather than the server refused.
    pub(crate) fn is_transport(&self) -> bool {
        self.0.transport
    }

    fn inner_mut(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.write_str(&inner.operation)?;
        match &inner.resource {
            // Composed resources such as `stream "orders" shard 7` bring their own quotes.
            Some(resource) if resource.contains('"') => write!(f, " {resource}")?,
            Some(resource) => write!(f, " {resource:?}")?,
            None => {}
        }
        if let Some(node) = &inner.node {
            write!(f, " at {node}")?;
        }
        write!(f, ": {}", inner.kind.words())?;
        if inner.tries > 1 {
            write!(f, " after {} tries in {:.1} s", inner.tries, inner.elapsed.as_secs_f64())?;
        }
        if !inner.message.is_empty() {
            write!(f, ": {}", inner.message)?;
        }
        match &inner.extra {
            Some(Value::String(text)) => write!(f, " ({text})")?,
            Some(other) => write!(f, " ({other})")?,
            None => {}
        }
        if inner.may_have_been_applied {
            f.write_str("; it may have been applied, check before repeating it")?;
        } else if inner.kind == ErrorKind::Unauthenticated {
            f.write_str("; check auth_token, or username and password")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("operation", &inner.operation)
            .field("resource", &inner.resource)
            .field("node", &inner.node)
            .field("status", &inner.status)
            .field("code", &inner.code)
            .field("message", &inner.message)
            .field("extra", &inner.extra)
            .field("retryable", &inner.retryable)
            .field("may_have_been_applied", &inner.may_have_been_applied)
            .field("tries", &inner.tries)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
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
        Code::Unavailable | Code::Aborted => true,
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

#[cfg(test)]
mod tests;
