//! The one error of this crate: what was tried, on what, where, what came back, and whether it may have
//! been applied all the same.

mod advice;
mod kind;
mod status;

pub use kind::ErrorKind;

use serde_json::Value;
use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

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
        } else if let Some(advice) = advice::advice(inner.kind, inner.code) {
            write!(f, "; {advice}")?;
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

#[cfg(test)]
mod tests;
