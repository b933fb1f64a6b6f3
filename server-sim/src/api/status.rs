//! Errors of the domain as statuses of the wire.

use crate::error::ServerError;
use serde_json::Value;
use tonic::Status;

/// Longest detail of an error in characters. Details quote what a client sent, and a status has to fit into
/// HTTP/2 headers; a valid name is never cut.
const MAX_DETAIL_CHARS: usize = 1000;

/// A domain error as it goes over the wire.
pub(crate) fn status(mut error: ServerError) -> Status {
    match &mut error {
        ServerError::Classified { extra: Value::String(text), .. } | ServerError::Plain { text, .. } => {
            if let Some((end, _)) = text.char_indices().nth(MAX_DETAIL_CHARS) {
                text.truncate(end);
            }
        }
        ServerError::Classified { .. } => {}
    }
    let (code, message) = error.to_wire();
    Status::new(code, message)
}
