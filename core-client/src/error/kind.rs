//! The kinds of failures, with their names in every language.

use std::fmt;

/// What kind of failure an [`Error`](super::Error) is. Names, class names and numbers never change their meaning.
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
    pub(super) fn words(self) -> &'static str {
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
